// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openssh

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/demo/openssh"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/test/deployment"
)

// TestEveryAlgorithm: authorities, hosts and people of every kind of key.
func TestEveryAlgorithm(t *testing.T) {
	hostKeys := map[string]string{
		"ed25519": "ed25519", "ecdsa-p256": "ecdsa-256", "ecdsa-p384": "ecdsa-521", "rsa-3072": "rsa-3072", "rsa-4096": "ed25519",
	}
	for algorithm, hostKey := range hostKeys {
		t.Run(algorithm, func(t *testing.T) {
			if testing.Short() && algorithm != "ed25519" {
				t.Skip("SKIPPED in short mode: making keys takes its time")
			}
			t.Parallel()
			s := newSite(t, deployment.Settings{"ssh": {"ca_algorithm": algorithm, "host_domains": "example.com"}}, hostKey)
			for _, keyType := range []string{"ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048", "rsa-3072"} {
				s.mustLogin(t, algorithm+" signs "+keyType, s.newMember(t, "alpha", keyType, "member"))
			}
			stranger := s.newMember(t, "demo", "ed25519", "member")
			s.mustRefuse(t, "a member of another project", stranger, "Failed publickey")
		})
	}
}

// TestRolesRestrict: what the configuration says of a role, sshd enforces.
func TestRolesRestrict(t *testing.T) {
	t.Parallel()
	s := newSite(t, deployment.Settings{
		"role:archivist": {"force_command": "echo forced"},
		"role:near":      {"source_address": "127.0.0.0/8"},
		"role:far":       {"source_address": "192.0.2.0/24"},
	}, "ed25519")
	if out, err := s.login(t, s.newMember(t, "alpha", "ed25519", "archivist"), "echo free"); err != nil || out != "forced" {
		t.Errorf("with a forced command: %q %v", out, err)
	}
	s.mustLogin(t, "from an address that is allowed", s.newMember(t, "alpha", "ed25519", "near"))
	s.mustRefuse(t, "from another address", s.newMember(t, "alpha", "ed25519", "far"), "not from a permitted source address")
}

// TestBareKeyIsRefused: without a certificate nobody gets in.
func TestBareKeyIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, "ed25519")
	m := s.newMember(t, "alpha", "ed25519", "member")
	s.mustLogin(t, "with the certificate", m)
	if err := os.Remove(m.certificate); err != nil {
		t.Fatal(err)
	}
	m.certificate = ""
	s.mustRefuse(t, "without the certificate", m, "Failed publickey")
}

// directory answers for Keystone: everybody is a member.
type directory struct{}

func (directory) GrantedGroups(context.Context, string, []string) ([]string, error) { return nil, nil }

func (directory) EffectiveRoles(context.Context, string, string, ...string) ([]string, error) {
	return []string{"member"}, nil
}

func (directory) Project(_ context.Context, id string) (keystone.Project, error) {
	return keystone.Project{ID: id, Enabled: true}, nil
}

// TestExpired: another replica of the same Muster, whose clock is yesterday's,
// issues a certificate that has ended by now.
func TestExpired(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, "ed25519")
	m := s.newMember(t, "alpha", "ed25519", "member")
	yesterday := s.authorityAt(t, time.Now().Add(-24*time.Hour))
	for name, test := range map[string]struct {
		lifetime time.Duration
		expired  bool
	}{"ended": {23 * time.Hour, true}, "still good": {25 * time.Hour, false}} {
		key := s.newKey(t, strings.ReplaceAll(name, " ", "-"), "ed25519")
		cert, err := yesterday.IssueUser(t.Context(), sshca.Actor{}, sshca.UserRequest{
			ProjectID: s.project, UserID: m.ID, UserName: m.Name, PublicKey: s.read(t, key+".pub"), Lifetime: test.lifetime,
		})
		if err != nil {
			t.Fatal(err)
		}
		old := member{Person: m.Person, key: key, certificate: s.write(t, filepath.Base(key)+"-cert.pub", cert.Cert+"\n")}
		if test.expired {
			s.mustRefuse(t, name, old, "Certificate invalid: expired")
		} else {
			s.mustLogin(t, name, old)
		}
	}
}

// authorityAt is the domain half of a replica whose clock stands still.
func (s *site) authorityAt(t *testing.T, now time.Time) *sshca.Service {
	t.Helper()
	cfg, records := s.OpenStore(t)
	keyring, err := custody.ParseKeyring(strings.NewReader(string(cfg.Custody.MasterKey)))
	if err != nil {
		t.Fatal(err)
	}
	service, err := sshca.New(sshca.Config{
		Store: records, Custody: custody.NewSealed(keyring), Sealer: keyring, Directory: directory{},
		Algorithm: custody.Ed25519, Now: func() time.Time { return now },
		User: sshca.UserRules{Lifetime: 12 * time.Hour, MaxLifetime: 48 * time.Hour},
		Host: sshca.HostRules{Lifetime: time.Hour, TokenLifetime: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// TestRevocations: each way to revoke ends the logins that it names, and no others.
func TestRevocations(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, "ed25519", "beta")
	stays := s.newMember(t, "alpha", "ed25519", "member")
	other := s.newMember(t, "beta", "ed25519", "member")
	name := func(how string, of func(member) any) func(*testing.T) {
		return func(t *testing.T) {
			m := s.newMember(t, "alpha", "ecdsa-256", "member")
			s.mustLogin(t, "before", m)
			s.root.Want(t, http.StatusOK, "POST", "/v1/revocations", deployment.Object{"auth_id": s.project, how: of(m), "reason": "test"}, nil)
			s.fetchList(t)
			s.mustRefuse(t, "after", m, "revoked")
			s.mustLogin(t, "somebody else", stays)
			s.mustLogin(t, "another project", other)
		}
	}
	t.Run("serial", name("serial", func(m member) any { return m.cert.Serial }))
	t.Run("public key", name("pub_key", func(m member) any { return s.read(t, m.key+".pub") }))
	t.Run("user", name("user_id", func(m member) any { return m.ID }))
	t.Run("key ID", name("key_id", func(m member) any {
		cert, err := deployment.Certificate(m.cert.Cert)
		if err != nil {
			t.Fatal(err)
		}
		return cert.KeyId
	}))
	t.Run("generation", func(t *testing.T) {
		var list struct {
			Generations []struct{ ID, Role string } `json:"generations"`
		}
		s.root.Want(t, http.StatusOK, "GET", "/v1/authorities/"+s.project+"/generations", nil, &list)
		for _, generation := range list.Generations {
			if generation.Role == "user" {
				s.root.Want(t, http.StatusOK, "POST", "/v1/revocations",
					deployment.Object{"auth_id": s.project, "generation_id": generation.ID}, nil)
			}
		}
		s.fetchList(t)
		s.mustRefuse(t, "everybody of the project", stays, "revoked")
		s.mustLogin(t, "another project", other)
	})
}

// TestRevokedHost: when an instance has ended, ssh no longer trusts its key.
func TestRevokedHost(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, "ed25519")
	m := s.newMember(t, "alpha", "ed25519", "member")
	client := openssh.Client{
		Account: s.account, Key: m.key, Certificate: m.certificate, HostName: hostName, Command: "true",
		KnownHosts:   s.write(t, "known_hosts", "@cert-authority * "+s.authority(t, s.project).Host+"\n"),
		RevokedHosts: filepath.Join(s.folder, "krl"),
	}
	if _, err := s.server.Login(t.Context(), client); err != nil {
		t.Fatalf("before: %v", err)
	}
	s.root.Want(t, http.StatusNoContent, "DELETE", "/v1/hosts/"+s.instance, nil, nil)
	s.fetchList(t)
	if _, err := s.server.Login(t.Context(), client); !errors.Is(err, openssh.ErrHostRefused) {
		t.Errorf("after: %v, want ssh to refuse the host", err)
	}
	// ssh-keygen says the same of the certificate itself.
	out, err := exec.CommandContext(t.Context(), s.programs.Keygen, "-Q", "-f", client.RevokedHosts, filepath.Join(s.folder, "host-cert.pub")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "REVOKED") {
		t.Errorf("ssh-keygen -Q: %v %s", err, out)
	}
}
