// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent"
	"github.com/muster-cloud/muster/internal/agent/metadata"
	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/demo/openssh"
	"github.com/muster-cloud/muster/internal/demo/standin"
	"github.com/muster-cloud/muster/test/cloud"
	"github.com/muster-cloud/muster/test/deployment"
)

// guest is an instance, of which Nova's fake driver starts no machine. What runs
// in it runs here: the real agent, which finds the metadata through what
// Neutron's proxy does, and a real sshd.
type guest struct {
	site     *site
	id       string // with dashes, as Nova writes it
	name     string // by which ssh knows it
	project  string
	owner    *cloud.Session
	folder   string
	metadata identity
	cert     deployment.HostCert
	machine  *standin.Machine
	sshd     *openssh.Server
	programs openssh.Programs
	account  string // who may log in: an unprivileged sshd serves only its own account
}

// identity is what Muster tells an instance by one of its three calls.
type identity struct {
	Token    string `json:"token"`
	UserCA   string `json:"auth_pub_key_user"`
	Endpoint string `json:"api_endpoint"`
	FQDN     string `json:"hostname"`
	Realm    string `json:"krb_realm"`
	OTP      string `json:"ipaotp"`
	Refusal  string `json:"ipa_error"`
}

// boot boots an instance, and returns when Nova has built it.
func (s *site) boot(t testing.TB, owner *cloud.Session, name string, metadata map[string]string) *guest {
	t.Helper()
	return s.bootOf(t, owner, s.image, name, metadata)
}

func (s *site) bootOf(t testing.TB, owner *cloud.Session, image, name string, metadata map[string]string) *guest {
	t.Helper()
	id, err := owner.Boot(t.Context(), cloud.Server{Name: name, Image: image, Flavor: s.flavor, Network: s.network, Metadata: metadata})
	must(t, err)
	must(t, owner.AwaitActive(t.Context(), id, patience))
	return &guest{site: s, id: id, name: name, project: owner.ProjectID, owner: owner, folder: t.TempDir()}
}

// read reads what Muster tells the instance, by all three calls, until all that
// is wanted has answered: on a busy machine Nova does not wait for every answer,
// and an instance reads again.
func (g *guest) read(t testing.TB, wanted ...func(map[string]identity) bool) map[string]identity {
	t.Helper()
	var told map[string]identity
	eventually(t, func(ctx context.Context) error {
		var err error
		told, err = g.fetch(ctx)
		for _, fits := range append(wanted, hasTokens) {
			if err == nil && !fits(told) {
				err = fmt.Errorf("not all of the metadata are there: %+v", told)
			}
		}
		return err
	})
	return told
}

func hasTokens(told map[string]identity) bool {
	return told["muster"].Token != "" && told["tatu"].Token != ""
}

func hasPasswords(told map[string]identity) bool {
	return told["muster"].OTP != "" && told["join"].OTP != ""
}

func (g *guest) fetch(ctx context.Context) (map[string]identity, error) {
	answers, err := cloud.Vendordata(ctx, g.site.metadataURL, g.site.metadataSecret, g.id, g.project)
	if err != nil {
		return nil, err
	}
	found := map[string]identity{}
	for _, name := range []string{"muster", "tatu", "join"} {
		var one identity
		if err := json.Unmarshal(answers[name], &one); err != nil {
			return nil, fmt.Errorf("%s in vendor_data2.json: %w", name, err)
		}
		found[name] = one
	}
	return found, nil
}

func (g *guest) path(name string) string { return filepath.Join(g.folder, name) }

// canonical is the instance's ID as Muster's API writes it.
func (g *guest) canonical() string { return strings.ReplaceAll(g.id, "-", "") }

// setUp lets the agent set the instance up, and starts the sshd, in which members
// of the project may log in. The agent goes on until the test ends.
func (g *guest) setUp(t testing.TB) {
	t.Helper()
	g.prepare(t)
	g.machine = standin.New(standin.Config{
		Programs: g.programs, Dir: g.folder, HostKeys: g.newHostKeys(t), Account: g.account,
		Join: func(_ context.Context, to agentapi.IPA, password string) error {
			return g.site.ipa.Join(to.FQDN, password)
		},
		Finder: metadata.New(metadata.Config{Root: g.folder, Addresses: []string{g.metadataProxy(t)}}),
	})
	a, err := g.machine.NewAgent()
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	t.Cleanup(func() {
		stop()
		<-ended
	})
	go func() {
		defer close(ended)
		_ = a.Run(ctx) // it ends with its context only
	}()
	must(t, g.machine.AwaitSetUp(t.Context(), patience))
	g.sshd, err = g.machine.StartServer(t.Context())
	must(t, err)
	t.Cleanup(func() { must(t, g.sshd.Close()) })
}

// prepare finds OpenSSH, and tells ssh the authority of the project's hosts.
func (g *guest) prepare(t testing.TB) {
	t.Helper()
	var err error
	g.programs, err = openssh.Find()
	must(t, err)
	who, err := user.Current()
	must(t, err)
	g.account = who.Username
	g.metadata = g.read(t)["muster"]
	var authority struct {
		HostCA string `json:"host_pub_key"`
	}
	g.site.operator.Want(t, http.StatusOK, "GET", "/v1/authorities/"+g.project, nil, &authority)
	write(t, g.path("known_hosts"), "@cert-authority * "+authority.HostCA+"\n")
}

// newHostKeys makes host keys of all kinds, as distributions do.
func (g *guest) newHostKeys(t testing.TB) []agent.HostKey {
	t.Helper()
	folder := g.path("etc/ssh")
	must(t, os.MkdirAll(folder, 0o755))
	out, err := exec.CommandContext(t.Context(), g.programs.Keygen, "-A", "-f", g.folder).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	var keys []agent.HostKey
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		path := filepath.Join(folder, "ssh_host_"+kind+"_key")
		line, err := os.ReadFile(path + ".pub")
		must(t, err)
		public, _, _, _, err := ssh.ParseAuthorizedKey(line)
		must(t, err)
		keys = append(keys, agent.HostKey{Path: path, Public: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))})
	}
	return keys
}

// metadataProxy serves the instance's metadata until the test ends, and returns
// where.
func (g *guest) metadataProxy(t testing.TB) string {
	t.Helper()
	proxy, err := cloud.MetadataProxy(g.site.metadataURL, g.site.metadataSecret, g.id, g.project)
	must(t, err)
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return server.URL
}

// login logs a person in. openssh.ErrRefused: sshd does not want to.
func (g *guest) login(ctx context.Context, p *person) error { return g.loginBy(ctx, p, "") }

// loginBy is login where the host has to prove itself by a certificate of a kind.
func (g *guest) loginBy(ctx context.Context, p *person, algorithm string) error {
	return g.loginTo(ctx, p, g.name, algorithm)
}

// loginTo is loginBy where the person calls the host by a name.
func (g *guest) loginTo(ctx context.Context, p *person, name, algorithm string) error {
	said, err := g.sshd.Login(ctx, openssh.Client{Account: g.account, Key: p.key, Certificate: p.key + openssh.CertificateSuffix,
		KnownHosts: g.path("known_hosts"), HostName: name, HostKeyAlgorithm: algorithm, Command: "echo hello"})
	if err == nil && said != "hello\n" {
		err = fmt.Errorf("the login says %q", said)
	}
	return err
}

// awaitRefusal returns how long after a moment sshd refused a person for the
// first time. It tries when the agent has brought a list: a login that begins
// before would only be in the way of the next one.
func (g *guest) awaitRefusal(t testing.TB, p *person, since time.Time) time.Duration {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		if err := g.machine.AwaitList(t.Context(), time.Until(deadline)); err != nil {
			t.Fatalf("after the role is gone sshd still lets the person in: %v", err)
		}
		err := g.login(t.Context(), p)
		if errors.Is(err, openssh.ErrRefused) {
			took := time.Since(since)
			g.wantRevoked(t, p)
			return took
		}
		must(t, err)
	}
}

// wantRevoked expects that the list is why sshd refuses a person.
func (g *guest) wantRevoked(t testing.TB, p *person) {
	t.Helper()
	revoked, err := g.programs.Revoked(t.Context(), g.path(standin.RevokedFile), p.key+openssh.CertificateSuffix)
	if err != nil || !revoked {
		t.Errorf("sshd refuses, and the list does not say why: revoked=%v, %v", revoked, err)
	}
}
