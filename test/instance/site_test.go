// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package instance proves the agent in real machines: a Debian with systemd,
// sshd, sudo and cloud-init boots beside a Muster and a small cloud, and
// people log in to it with the real ssh.
package instance

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/dev"
	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/machine"
)

// atOnce is how many tests run at the same time: most of what they do is waiting.
const atOnce = "4"

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", atOnce); err != nil {
		panic(err)
	}
	os.Exit(machine.Main(m))
}

// projectName is the project of all instances.
const projectName = "orchard"

// site is a Muster with its cloud, in which there is a project.
type site struct {
	env     *dev.Environment
	folder  string
	project string // its ID
	owner   string // the ID of the user who boots instances
	admin   *deployment.Client
	// metadata is what users say of the instances that they boot.
	metadata map[string]string
}

// newSite starts Muster. The settings are added to its configuration, in the
// form of its file.
func newSite(t *testing.T, settings string) *site {
	t.Helper()
	machine.Need(t)
	s := &site{folder: t.TempDir()}
	extra := filepath.Join(s.folder, "muster.conf.d")
	if err := os.Mkdir(extra, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(extra, "test.conf"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	s.env, err = dev.New(t.Context(), dev.Config{Dir: s.folder, Listen: machine.Outside().String() + ":0", Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.env.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	identity := s.env.Cloud.Identity
	if s.project, err = identity.CreateProject(projectName); err != nil {
		t.Fatal(err)
	}
	s.owner = identity.UserID("admin")
	token, err := identity.Token("admin", identity.Password("admin"), "admin")
	if err != nil {
		t.Fatal(err)
	}
	s.admin = deployment.As(s.env.MusterURL, deployment.Person{Token: token})
	// The controller makes one, too, and may be first.
	answer, err := s.admin.Call(t.Context(), "POST", "/v1/authorities", deployment.Object{"auth_id": s.project})
	if err != nil || answer.Status != http.StatusCreated && answer.Status != http.StatusConflict {
		t.Fatalf("making the project's authority: %d %s %v", answer.Status, answer.Body, err)
	}
	return s
}

// logger shows Muster's warnings in the test's log.
func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// boot makes an instance of the machine, which may boot from then on. The change
// is of what the metadata service says of it.
func (s *site) boot(t *testing.T, m *machine.Machine, change func(*served)) served {
	t.Helper()
	id, err := s.env.Cloud.Compute.Boot(t.Context(), compute.Server{
		Name: m.Name, ProjectID: s.project, UserID: s.owner, Metadata: s.metadata,
	})
	if err != nil {
		t.Fatal(err)
	}
	one := served{id: id, project: s.project, name: m.Name, cloud: s.env.Cloud, vendordata: json.RawMessage("{}")}
	if change != nil {
		change(&one)
	}
	service, err := metadata()
	if err != nil {
		t.Fatal(err)
	}
	service.set(m.Address, one)
	return one
}

// knownHosts is the one line by which ssh knows all of the project's instances.
func (s *site) knownHosts(t *testing.T) string {
	t.Helper()
	var authority struct {
		Host string `json:"host_pub_key"`
	}
	s.admin.Want(t, http.StatusOK, "GET", "/v1/authorities/"+s.project, nil, &authority)
	return "@cert-authority * " + strings.TrimSpace(authority.Host) + "\n"
}

// newPerson makes a user with roles in the project.
func (s *site) newPerson(t *testing.T, name string, roles ...string) *person {
	t.Helper()
	identity := s.env.Cloud.Identity
	password := rand.Text()
	id, err := identity.CreateUser(name, password)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{name: name, id: id, folder: t.TempDir()}
	for _, role := range roles {
		s.grant(t, p, role)
	}
	token, err := identity.Token(name, password, projectName)
	if err != nil {
		t.Fatal(err)
	}
	p.client = deployment.As(s.env.MusterURL, deployment.Person{Token: token})
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", p.key())
	p.write(t, "known_hosts", s.knownHosts(t))
	return p
}

func (s *site) grant(t *testing.T, p *person, role string) {
	t.Helper()
	if err := s.env.Cloud.Identity.Grant(p.id, s.project, role); err != nil {
		t.Fatal(err)
	}
}

func (s *site) ungrant(t *testing.T, p *person, role string) {
	t.Helper()
	if err := s.env.Cloud.Identity.Ungrant(p.id, s.project, role); err != nil {
		t.Fatal(err)
	}
}

// certify gives the person a certificate for today's roles.
func (s *site) certify(t *testing.T, p *person) deployment.UserCert {
	t.Helper()
	cert, err := s.tryCertify(t, p)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (s *site) tryCertify(t *testing.T, p *person) (cert deployment.UserCert, err error) {
	t.Helper()
	answer, err := p.client.Call(t.Context(), "POST", "/v1/usercerts", deployment.Object{
		"user_id": p.id, "auth_id": s.project, "pub_key": p.read(t, "key.pub"),
	})
	if err == nil && answer.Status != http.StatusCreated {
		err = fmt.Errorf("a certificate for %s: status %d: %s", p.name, answer.Status, answer.Body)
	}
	if err == nil {
		err = answer.Decode(&cert)
	}
	if err == nil {
		p.write(t, "key-cert.pub", cert.Cert+"\n")
	}
	return cert, err
}
