// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package openssh lets the real sshd and ssh judge what Muster hands out:
// certificates, their options, and revocation lists.
package openssh

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/demo/openssh"
	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

// hostName is what the instance is called.
const hostName = "vm-1"

// site is an instance of one project that runs sshd, beside its Muster.
type site struct {
	*deployment.Deployment
	programs openssh.Programs
	url      string
	folder   string
	project  string
	instance string
	nova     *deployment.Client
	root     *deployment.Client
	server   *openssh.Server
	account  string // of the machine, in which all logins end
	people   int
}

func newSite(t *testing.T, settings deployment.Settings, hostKeyType string, trusted ...string) *site {
	t.Helper()
	programs, err := openssh.Find()
	if errors.Is(err, openssh.ErrMissing) {
		err = errors.Join(err, services.ErrMissing)
	}
	services.Need(t, err)
	us, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	d := deployment.New(t, deployment.Options{Settings: settings})
	s := &site{Deployment: d, programs: programs, folder: t.TempDir(), account: us.Username, instance: deployment.NewID()}
	s.project = d.Project(t, "alpha")
	s.url = d.Start(t).URL
	s.nova, s.root = deployment.As(s.url, d.Nova(t)), deployment.As(s.url, d.Operator(t))
	s.boot(t, hostKeyType, trusted)
	return s
}

// boot does what the boot script of an instance does, and starts its sshd.
func (s *site) boot(t *testing.T, hostKeyType string, projects []string) {
	t.Helper()
	var data struct {
		Token  string `json:"token"`
		UserCA string `json:"auth_pub_key_user"`
	}
	s.nova.Want(t, http.StatusCreated, "POST", "/v1/novavendordata", deployment.Object{
		"project-id": s.project, "instance-id": s.instance, "hostname": hostName,
	}, &data)
	key := s.newKey(t, "host", hostKeyType)
	var cert deployment.HostCert
	deployment.As(s.url, deployment.Person{}).Want(t, http.StatusOK, "POST", "/noauth/hostcerts", deployment.Object{
		"token_id": data.Token, "host_id": s.instance, "pub_key": s.read(t, key+".pub"),
	}, &cert)
	trusted := data.UserCA + "\n"
	for _, name := range projects {
		trusted += s.authority(t, s.Project(t, name)).User + "\n"
	}
	s.write(t, "host"+openssh.CertificateSuffix, cert.Cert+"\n")
	s.fetchList(t)
	server, err := openssh.StartServer(t.Context(), openssh.ServerConfig{
		Programs: s.programs, Dir: s.folder, HostKeys: []string{key},
		TrustedUserCAKeys: s.write(t, "user-ca.pub", trusted), RevokedKeys: filepath.Join(s.folder, "krl"),
		Principals: map[string][]string{s.account: {"member", "archivist", "near", "far"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	s.server = server
}

type authority struct {
	User string `json:"user_pub_key"`
	Host string `json:"host_pub_key"`
}

// authority returns a project's authority, and makes it if there is none.
func (s *site) authority(t *testing.T, project string) (a authority) {
	t.Helper()
	answer, err := s.root.Call(t.Context(), "POST", "/v1/authorities", deployment.Object{"auth_id": project})
	if err != nil || answer.Status != http.StatusCreated && answer.Status != http.StatusConflict {
		t.Fatalf("%d %s %v", answer.Status, answer.Body, err)
	}
	s.root.Want(t, http.StatusOK, "GET", "/v1/authorities/"+project, nil, &a)
	return a
}

// fetchList writes the project's revocation list where sshd looks for it.
func (s *site) fetchList(t *testing.T) {
	t.Helper()
	answer := s.root.Want(t, http.StatusOK, "GET", "/noauth/revokeduserkeys/"+s.project, nil, nil, "Accept", "application/octet-stream")
	s.write(t, "krl", string(answer.Body))
}

// member is a person with a key and a certificate.
type member struct {
	deployment.Person
	key, certificate string // paths
	cert             deployment.UserCert
}

// newMember makes a person with a role in the project, and a certificate for a
// new key of the type.
func (s *site) newMember(t *testing.T, project, keyType, role string) member {
	t.Helper()
	s.people++
	name := fmt.Sprintf("user%d", s.people)
	m := member{Person: s.Person(t, name, project, role), key: s.newKey(t, name, keyType)}
	deployment.As(s.url, m.Person).Want(t, http.StatusCreated, "POST", "/v1/usercerts", m.OwnCert(s.read(t, m.key+".pub")), &m.cert)
	m.certificate = s.write(t, name+"-cert.pub", m.cert.Cert+"\n")
	return m
}

// login runs a command on the instance, trusting nothing but the project's host CA.
func (s *site) login(t *testing.T, m member, command string) (string, error) {
	t.Helper()
	hosts := s.write(t, "known_hosts", "@cert-authority * "+s.authority(t, s.project).Host+"\n")
	out, err := s.server.Login(t.Context(), openssh.Client{
		Account: s.account, Key: m.key, Certificate: m.certificate, KnownHosts: hosts, HostName: hostName, Command: command,
	})
	return strings.TrimSpace(out), err
}

func (s *site) mustLogin(t *testing.T, what string, m member) {
	t.Helper()
	if out, err := s.login(t, m, "echo in"); err != nil || out != "in" {
		t.Errorf("%s: %q %v", what, out, err)
	}
}

// mustRefuse checks that sshd refuses, and that its log says why.
func (s *site) mustRefuse(t *testing.T, what string, m member, why string) {
	t.Helper()
	_, err := s.login(t, m, "echo in")
	var refusal *openssh.LoginError
	if !errors.Is(err, openssh.ErrRefused) || !errors.As(err, &refusal) {
		t.Errorf("%s: %v, want sshd to refuse", what, err)
		return
	}
	if !strings.Contains(refusal.ServerLog, why) {
		t.Errorf("%s: sshd doesn't say %q:\n%s", what, why, refusal.ServerLog)
	}
}

// newKey makes a key pair as people do. The type is as in "rsa-3072".
func (s *site) newKey(t *testing.T, name, keyType string) string {
	t.Helper()
	path := filepath.Join(s.folder, name)
	kind, bits, sized := strings.Cut(keyType, "-")
	arguments := []string{"-q", "-t", kind, "-N", "", "-C", name, "-f", path}
	if sized {
		arguments = append(arguments, "-b", bits)
	}
	if out, err := exec.CommandContext(t.Context(), s.programs.Keygen, arguments...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func (s *site) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(s.folder, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *site) read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
