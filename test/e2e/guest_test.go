// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/demo/openssh"
	"github.com/muster-cloud/muster/test/cloud"
	"github.com/muster-cloud/muster/test/deployment"
)

// guest plays what runs in an instance: it reads its metadata as through
// Neutron's proxy, gets its host certificate, and runs a real sshd. Nova's fake
// driver starts no machine.
type guest struct {
	site     *site
	id       string // with dashes, as Nova writes it
	project  string
	owner    *cloud.Session
	folder   string
	metadata identity
	cert     deployment.HostCert
	sshd     *openssh.Server
	programs openssh.Programs
	account  string        // who may log in: an unprivileged sshd serves only its own account
	changed  chan struct{} // gets a value after the revocation list has changed
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
	return &guest{site: s, id: id, project: owner.ProjectID, owner: owner, folder: t.TempDir(), changed: make(chan struct{}, 1)}
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

// setUp does what a boot script does, and starts sshd, in which members of the
// project may log in.
func (g *guest) setUp(t testing.TB) {
	t.Helper()
	var err error
	if g.programs, err = openssh.Find(); err != nil {
		t.Fatal(err)
	}
	who, err := user.Current()
	must(t, err)
	g.account = who.Username
	g.metadata = g.read(t)["muster"]
	public, err := g.programs.NewKey(t.Context(), g.path("host"), "")
	must(t, err)
	nobody := deployment.As(g.metadata.Endpoint, deployment.Person{})
	nobody.Want(t, http.StatusOK, "POST", "/noauth/hostcerts",
		deployment.Object{"token_id": g.metadata.Token, "host_id": g.id, "pub_key": public}, &g.cert)
	write(t, g.path("host-cert.pub"), strings.TrimSpace(g.cert.Cert)+"\n")
	write(t, g.path("user_ca.pub"), strings.TrimSpace(g.metadata.UserCA)+"\n")
	g.followList(t, nobody)
	g.sshd, err = openssh.StartServer(t.Context(), openssh.ServerConfig{Programs: g.programs, Dir: g.folder,
		HostKey: g.path("host"), HostCertificate: g.path("host-cert.pub"),
		TrustedUserCAKeys: g.path("user_ca.pub"), RevokedKeys: g.path("revoked_keys"),
		Principals: map[string][]string{g.account: {"member"}}})
	must(t, err)
	t.Cleanup(func() { must(t, g.sshd.Close()) })
	var authority struct {
		HostCA string `json:"host_pub_key"`
	}
	g.site.operator.Want(t, http.StatusOK, "GET", "/v1/authorities/"+g.project, nil, &authority)
	write(t, g.path("known_hosts"), "@cert-authority * "+authority.HostCA+"\n")
}

// followList keeps the project's revocation list in a file, by long polls, until
// the test ends.
func (g *guest) followList(t testing.TB, nobody *deployment.Client) {
	t.Helper()
	etag, err := g.updateList(t.Context(), nobody, 0, "")
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	t.Cleanup(func() {
		stop()
		<-ended
	})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			next, err := g.updateList(ctx, nobody, 20*time.Second, etag)
			if err == nil {
				etag = next
				continue
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond): // Muster may be down in a scenario
			}
		}
	}()
}

// updateList asks for a list that is not the one at hand, and replaces the file
// in one step. It returns the list's ETag.
func (g *guest) updateList(ctx context.Context, nobody *deployment.Client, wait time.Duration, etag string) (string, error) {
	path := fmt.Sprintf("/noauth/revokeduserkeys/%s?wait=%d", g.project, int(wait.Seconds()))
	answer, err := nobody.Call(ctx, http.MethodGet, path, nil, "Accept", "application/octet-stream", "If-None-Match", etag)
	if err != nil || answer.Status == http.StatusNotModified {
		return etag, err
	}
	if answer.Status != http.StatusOK {
		return etag, fmt.Errorf("the revocation list: status %d", answer.Status)
	}
	if err := os.WriteFile(g.path("revoked_keys.new"), answer.Body, 0o600); err != nil {
		return etag, err
	}
	if err := os.Rename(g.path("revoked_keys.new"), g.path("revoked_keys")); err != nil {
		return etag, err
	}
	select {
	case g.changed <- struct{}{}:
	default: // the news before this is still unread
	}
	return answer.Header.Get("Etag"), nil
}

// login logs a person in. openssh.ErrRefused: sshd does not want to.
func (g *guest) login(ctx context.Context, p *person) error {
	said, err := g.sshd.Login(ctx, openssh.Client{Account: g.account, Key: p.key, Certificate: p.key + "-cert.pub",
		KnownHosts: g.path("known_hosts"), Command: "echo hello"})
	if err == nil && said != "hello\n" {
		err = fmt.Errorf("the login says %q", said)
	}
	return err
}

// awaitRefusal returns how long after a moment sshd refused a person for the
// first time. It tries whenever the list has changed.
func (g *guest) awaitRefusal(t testing.TB, p *person, since time.Time) time.Duration {
	t.Helper()
	deadline := time.After(patience)
	for {
		err := g.login(t.Context(), p)
		if errors.Is(err, openssh.ErrRefused) {
			took := time.Since(since)
			if revoked, err := g.programs.Revoked(t.Context(), g.path("revoked_keys"), p.key+"-cert.pub"); err != nil || !revoked {
				t.Errorf("sshd refuses, and the list does not say why: revoked=%v, %v", revoked, err)
			}
			return took
		}
		must(t, err)
		select {
		case <-g.changed:
		case <-deadline:
			t.Fatalf("%v after the role is gone sshd still lets the person in", patience)
		}
	}
}

// forgetNews forgets changes of the list that were before.
func (g *guest) forgetNews() {
	select {
	case <-g.changed:
	default:
	}
}
