// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca/krl"
	"github.com/muster-cloud/muster/internal/store"
)

const (
	blue, red  = "0000000000000000000000000000b1ee", "00000000000000000000000000000ded"
	alice, bob = "0000000000000000000000000000a11c", "00000000000000000000000000000b0b"
	web1, web2 = "000000000000000000000000000000e1", "000000000000000000000000000000e2"
)

var nova = Actor{UserID: "000000000000000000000000000000aa", UserName: "nova", RequestID: "req-1"}

// directory is a Keystone of two projects.
type directory struct {
	mu    sync.Mutex
	roles map[string][]string // by user and project
	err   error
}

func (d *directory) EffectiveRoles(_ context.Context, userID, projectID string, groupIDs ...string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	roles := slices.Clone(d.roles[userID+projectID])
	for _, id := range groupIDs {
		roles = append(roles, d.roles[id+projectID]...)
	}
	return roles, d.err
}

func (d *directory) GrantedGroups(_ context.Context, projectID string, groupIDs []string) (granted []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range groupIDs {
		if len(d.roles[id+projectID]) > 0 {
			granted = append(granted, id)
		}
	}
	return granted, d.err
}

func (d *directory) Project(_ context.Context, id string) (keystone.Project, error) {
	if id != blue && id != red {
		return keystone.Project{}, keystone.ErrNotFound
	}
	return keystone.Project{ID: id, Name: "project " + id[28:], Enabled: true}, d.err
}

func (d *directory) grant(userID, projectID string, roles ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.roles[userID+projectID] = roles
}

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a service with everything that it talks to.
type world struct {
	*Service
	store     *store.Store
	directory *directory
	clock     *clock
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	w := &world{directory: &directory{roles: map[string][]string{}}, clock: &clock{now: time.Date(2026, 3, 14, 18, 27, 58, 0, time.UTC)}}
	database, err := store.Open(t.Context(), store.Config{URL: "sqlite:///" + filepath.Join(t.TempDir(), "muster.db"), Now: w.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := database.Upgrade(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.store = database
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- database.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-stopped, database.Close()); err != nil {
			t.Error(err)
		}
	})
	w.Service = w.replica(t, change...)
	return w
}

// replica returns another service on the same database.
func (w *world) replica(t *testing.T, change ...func(*Config)) *Service {
	t.Helper()
	cfg := Config{
		Store: w.store, Custody: custody.NewSealed(masterKey), Sealer: masterKey, Directory: w.directory,
		Algorithm: custody.Ed25519, ClockSkew: 5 * time.Minute, Now: w.clock.Now,
		User: UserRules{Lifetime: 12 * time.Hour, MaxLifetime: 24 * time.Hour},
		Host: HostRules{Lifetime: 365 * 24 * time.Hour, TokenLifetime: time.Hour},
	}
	for _, c := range change {
		c(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var masterKey = func() *custody.Keyring {
	ring, err := custody.ParseKeyring(strings.NewReader(custody.NewMasterKey()))
	if err != nil {
		panic(err)
	}
	return ring
}()

func newKey(t *testing.T) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func parseCert(t *testing.T, line string) *ssh.Certificate {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ssh.Certificate)
}

func wantKind(t *testing.T, err error, kind problem.Kind) {
	t.Helper()
	var refusal *problem.Problem
	if !errors.As(err, &refusal) || refusal.Kind != kind {
		t.Errorf("err = %v, want a problem of kind %d", err, kind)
	}
}

// audited returns the actions and outcomes that were recorded, oldest first.
func (w *world) audited(t *testing.T) []string {
	t.Helper()
	entries, err := w.store.Audits(t.Context(), store.AuditFilter{}, store.Page{})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, entry := range slices.Backward(entries) {
		lines = append(lines, entry.Action+" "+entry.Outcome)
	}
	return lines
}

func TestUserCertificateSaysWhatWasAsked(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "reader", "member", "My Role")
	key := newKey(t)
	cert, err := w.IssueUser(t.Context(), Actor{UserID: alice}, UserRequest{ProjectID: blue, UserID: alice, UserName: "alice", PublicKey: key + " alice@desk"})
	if err != nil {
		t.Fatal(err)
	}
	got := parseCert(t, cert.Cert)
	authority, err := w.store.Authority(t.Context(), blue)
	if err != nil {
		t.Fatal(err)
	}
	now := w.clock.Now().Unix()
	want := &ssh.Certificate{
		Serial: cert.Serial, CertType: ssh.UserCert, KeyId: fmt.Sprintf("alice_%d", cert.Serial),
		ValidPrincipals: []string{"member", "reader"},
		ValidAfter:      uint64(now - 300), ValidBefore: uint64(now + 12*3600),
		Permissions: ssh.Permissions{CriticalOptions: map[string]string{}, Extensions: map[string]string{
			"permit-X11-forwarding": "", "permit-agent-forwarding": "", "permit-port-forwarding": "", "permit-pty": "", "permit-user-rc": "",
		}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(ssh.Certificate{}, "Nonce", "Key", "SignatureKey", "Signature"), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("certificate (-want +got):\n%s", diff)
	}
	if certified := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(got.Key))); certified != key {
		t.Errorf("certified %s, want %s", certified, key)
	}
	if signer := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(got.SignatureKey))); signer != ActiveKey(authority, store.RoleUser) {
		t.Errorf("signed by %s, want the project's user CA", signer)
	}
	stored, err := w.store.UserCert(t.Context(), cert.Serial)
	if err != nil || stored.Cert != cert.Cert {
		t.Errorf("recorded %v, %v; want what was given out", stored, err)
	}
	// Both are of the same moment, so their order is open.
	if diff := cmp.Diff([]string{"authority.create ok", "usercert.issue ok"}, slices.Sorted(slices.Values(w.audited(t)))); diff != "" {
		t.Errorf("audit (-want +got):\n%s", diff)
	}
}

func TestUserCertificateRefused(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.User.Roles = map[string]RoleRule{
			"near": {SourceAddress: prefixes("192.0.2.0/24")}, "far": {SourceAddress: prefixes("198.51.100.0/24")},
			"backup": {ForceCommand: "backup"}, "restore": {ForceCommand: "restore"}, "admin": {Lifetime: time.Hour},
		}
	})
	tests := []struct {
		name     string
		roles    []string
		key      string
		lifetime time.Duration
		project  string
		kind     problem.Kind
	}{
		{"no role", nil, "", 0, blue, problem.Forbidden},
		{"no usable role", []string{"root", "../x"}, "", 0, blue, problem.Forbidden},
		{"not a key", []string{"member"}, "hello", 0, blue, problem.Invalid},
		{"longer than allowed", []string{"member"}, "", 25 * time.Hour, blue, problem.Invalid},
		{"longer than the role allows", []string{"member", "admin"}, "", 2 * time.Hour, blue, problem.Invalid},
		{"too short to use", []string{"member"}, "", time.Second, blue, problem.Invalid},
		{"addresses exclude each other", []string{"near", "far"}, "", 0, blue, problem.Forbidden},
		{"two commands", []string{"backup", "restore"}, "", 0, blue, problem.Forbidden},
		{"unknown project", []string{"member"}, "", 0, "000000000000000000000000000000ff", problem.NotFound},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w.directory.grant(bob, tt.project, tt.roles...)
			key := tt.key
			if key == "" {
				key = newKey(t)
			}
			_, err := w.IssueUser(t.Context(), Actor{UserID: bob}, UserRequest{ProjectID: tt.project, UserID: bob, UserName: "bob", PublicKey: key, Lifetime: tt.lifetime})
			wantKind(t, err, tt.kind)
		})
	}
	certs, err := w.store.UserCerts(t.Context(), store.Filter{}, store.Page{})
	if err != nil || len(certs) != 0 {
		t.Errorf("refusals left records: %v, %v", certs, err)
	}
}

func TestKeystoneAwayIsNoRefusal(t *testing.T) {
	w := newWorld(t)
	w.directory.err = &keystone.UnavailableError{Err: errors.New("connection refused")}
	_, err := w.IssueUser(t.Context(), Actor{UserID: alice}, UserRequest{ProjectID: blue, UserID: alice, UserName: "alice", PublicKey: newKey(t)})
	if !errors.Is(err, keystone.ErrUnavailable) {
		t.Errorf("err = %v, want ErrUnavailable", err)
	}
}

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

func TestRestrictionsOfAllRolesApply(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.User.Roles = map[string]RoleRule{
			"admin":  {Lifetime: time.Hour, SourceAddress: prefixes("10.1.0.0/16", "2001:db8::/32")},
			"member": {SourceAddress: prefixes("10.0.0.0/8", "2001:db8:1::/48"), Extensions: []string{"permit-pty", "permit-user-rc"}},
			"reader": {ForceCommand: "uptime"},
		}
	})
	w.directory.grant(alice, blue, "admin", "member", "reader")
	cert, err := w.IssueUser(t.Context(), Actor{UserID: alice}, UserRequest{ProjectID: blue, UserID: alice, UserName: "alice", PublicKey: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	got := parseCert(t, cert.Cert)
	want := ssh.Permissions{
		CriticalOptions: map[string]string{"force-command": "uptime", "source-address": "10.1.0.0/16,2001:db8:1::/48"},
		Extensions:      map[string]string{"permit-pty": "", "permit-user-rc": ""},
	}
	if diff := cmp.Diff(want, got.Permissions, cmpopts.IgnoreFields(ssh.Permissions{}, "ExtraData")); diff != "" {
		t.Errorf("permissions (-want +got):\n%s", diff)
	}
	if life := got.ValidBefore - uint64(w.clock.Now().Unix()); life != 3600 {
		t.Errorf("lives for %d s, want the shortest of the roles' limits", life)
	}
}

func TestSameCertificateWhileItIsGood(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	w.directory.grant(alice, red, "member")
	key := newKey(t)
	issue := func(s *Service, project, publicKey string) store.UserCert {
		t.Helper()
		cert, err := s.IssueUser(t.Context(), Actor{UserID: alice}, UserRequest{ProjectID: project, UserID: alice, UserName: "alice", PublicKey: publicKey})
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	first := issue(w.Service, blue, key)
	if again := issue(w.Service, blue, key); again.Cert != first.Cert {
		t.Error("the same request got another certificate")
	}
	if again := issue(w.replica(t), blue, key); again.Cert != first.Cert {
		t.Error("another replica gave another certificate")
	}
	if other := issue(w.Service, red, key); other.Serial == first.Serial {
		t.Error("another project got the same certificate")
	}
	if other := issue(w.Service, blue, newKey(t)); other.Serial == first.Serial {
		t.Error("another key got the same certificate")
	}
	w.clock.advance(5 * time.Hour)
	if again := issue(w.Service, blue, key); again.Serial != first.Serial {
		t.Error("with most of its life left the certificate was replaced")
	}
	w.clock.advance(2 * time.Hour)
	second := issue(w.Service, blue, key)
	if second.Serial == first.Serial {
		t.Error("with less than half of its life left the certificate was given again")
	}
	w.directory.grant(alice, blue, "member", "reader")
	third := issue(w.Service, blue, key)
	if diff := cmp.Diff([]string{"member", "reader"}, third.Principals); diff != "" {
		t.Errorf("a new role does not show (-want +got):\n%s", diff)
	}
	if _, err := w.Revoke(t.Context(), Actor{UserID: bob}, store.RevocationOrder{ProjectID: blue, Serial: third.Serial}); err != nil {
		t.Fatal(err)
	}
	if fourth := issue(w.Service, blue, key); fourth.Serial == third.Serial {
		t.Error("a revoked certificate was given again")
	}
}

func TestSimultaneousRequestsGetOneCertificate(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	key := newKey(t)
	const callers = 20
	var group sync.WaitGroup
	certs := make([]store.UserCert, callers)
	errs := make([]error, callers)
	for i := range callers {
		group.Go(func() {
			certs[i], errs[i] = w.IssueUser(t.Context(), Actor{UserID: alice}, UserRequest{ProjectID: blue, UserID: alice, UserName: "alice", PublicKey: key})
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, cert := range certs {
		if cert.Serial != certs[0].Serial {
			t.Fatalf("serials %d and %d", cert.Serial, certs[0].Serial)
		}
	}
}

func TestHostTokenIsTheSameEverywhere(t *testing.T) {
	w := newWorld(t)
	other := w.replica(t)
	req := InstanceRequest{InstanceID: web1, ProjectID: blue, Hostname: "web1"}
	var group sync.WaitGroup
	tokens := make([]string, 20)
	for i := range tokens {
		group.Go(func() {
			service := []*Service{w.Service, other}[i%2]
			boot, err := service.HostToken(t.Context(), nova, req)
			if err != nil {
				t.Error(err)
			}
			tokens[i] = boot.Token
		})
	}
	group.Wait()
	if distinct := slices.Compact(slices.Sorted(slices.Values(tokens))); len(distinct) != 1 {
		t.Fatalf("%d different tokens", len(distinct))
	}
	if raw, err := hex.DecodeString(tokens[0]); err != nil || len(raw) != 16 {
		t.Errorf("token %q is not 128 bits in hexadecimal", tokens[0])
	}
	instance, err := w.store.Instance(t.Context(), web1)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(instance.Token.Sealed, []byte(tokens[0])) || instance.Token.Hash == tokens[0] {
		t.Error("the token is stored in clear")
	}
	w.clock.advance(2 * time.Hour)
	renewed, err := other.HostToken(t.Context(), nova, req)
	if err != nil || renewed.Token == tokens[0] {
		t.Errorf("an expired token was answered again (%v)", err)
	}
}

func TestHostTokenOfAnotherProject(t *testing.T) {
	w := newWorld(t)
	if _, err := w.HostToken(t.Context(), nova, InstanceRequest{InstanceID: web1, ProjectID: blue, Hostname: "web1"}); err != nil {
		t.Fatal(err)
	}
	_, err := w.HostToken(t.Context(), nova, InstanceRequest{InstanceID: web1, ProjectID: red, Hostname: "web1"})
	wantKind(t, err, problem.Conflict)
	for _, hostname := range []string{"", "a b", "x\ny", "-web", strings.Repeat("a", 254), "grö ße"} {
		_, err := w.HostToken(t.Context(), nova, InstanceRequest{InstanceID: web2, ProjectID: blue, Hostname: hostname})
		wantKind(t, err, problem.Invalid)
	}
}

// TestHostTokenOfANameBeyondASCII: Nova leaves such names to instances.
func TestHostTokenOfANameBeyondASCII(t *testing.T) {
	for hostname, want := range map[string]string{
		"b\u00fcro-s\u00fcd": "xn--bro-sd-3yae", "Server-\u00c9": "xn--server--hya", "a\u00bdb_c": "a-b_c", "\u00bd": "xn--12-c6t",
		strings.Repeat("\u00df", 63): "server-" + web1, strings.Repeat("x", 62) + "\u00e9": strings.Repeat("x", 62),
	} {
		w := newWorld(t)
		boot, err := w.HostToken(t.Context(), nova, InstanceRequest{InstanceID: web1, ProjectID: blue, Hostname: hostname})
		if err != nil || boot.Instance.Hostname != want {
			t.Errorf("%q: got %q, %v, want %q", hostname, boot.Instance.Hostname, err, want)
		}
	}
}

func TestHostCertificate(t *testing.T) {
	w := newWorld(t)
	boot, err := w.HostToken(t.Context(), nova, InstanceRequest{InstanceID: web1, ProjectID: blue, Hostname: "Web1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.HostToken(t.Context(), nova, InstanceRequest{InstanceID: web2, ProjectID: blue, Hostname: "web2"}); err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	_, err = w.IssueHost(t.Context(), Actor{}, HostRequest{Token: strings.Repeat("0", 32), InstanceID: web1, PublicKey: key})
	wantKind(t, err, problem.NotFound)
	_, err = w.IssueHost(t.Context(), Actor{}, HostRequest{Token: boot.Token, InstanceID: web2, PublicKey: key})
	wantKind(t, err, problem.Conflict)

	cert, err := w.IssueHost(t.Context(), Actor{}, HostRequest{Token: boot.Token, InstanceID: web1, PublicKey: key})
	if err != nil {
		t.Fatal(err)
	}
	got := parseCert(t, cert.Cert)
	if got.CertType != ssh.HostCert || got.KeyId != fmt.Sprintf("Web1_%d", got.Serial) || got.Serial == 0 || !slices.Equal(got.ValidPrincipals, []string{"web1"}) {
		t.Errorf("certificate type %d, key ID %s, principals %v", got.CertType, got.KeyId, got.ValidPrincipals)
	}
	w.clock.advance(2 * time.Hour) // the token's life is over, but it was used
	again, err := w.IssueHost(t.Context(), Actor{}, HostRequest{Token: boot.Token, InstanceID: web1, PublicKey: key})
	if err != nil || again.Cert != cert.Cert {
		t.Errorf("the same token and key got %v, %v", again, err)
	}
	_, err = w.IssueHost(t.Context(), Actor{}, HostRequest{Token: boot.Token, InstanceID: web1, PublicKey: newKey(t)})
	wantKind(t, err, problem.Conflict)
	if log := w.audited(t); log[len(log)-1] != "hostcert.issue refused" {
		t.Errorf("the stolen token was not recorded: %v", log)
	}
	if boot2, err := w.HostToken(t.Context(), nova, InstanceRequest{InstanceID: web1, ProjectID: blue, Hostname: "Web1"}); err != nil || boot2.Token != boot.Token {
		t.Errorf("after its use the token is answered differently: %v", err)
	}
}

// TestTatuNamesWhatTheAgentDoes: a certificate that is asked for through Tatu's call has the names of
// the agent's. One without principals is for those who say so: OpenSSH 10.3 takes it for no host.
func TestTatuNamesWhatTheAgentDoes(t *testing.T) {
	for unnamed, want := range map[bool][]string{false: {"web1", "web1.example.com", "192.0.2.1"}, true: nil} {
		w := newWorld(t, func(c *Config) {
			c.Host.Unnamed = unnamed
			c.Names = fixedNames{"web1", "web1.example.com", "192.0.2.1"}
		})
		boot, err := w.HostToken(t.Context(), nova, InstanceRequest{InstanceID: web1, ProjectID: blue, Hostname: "web1"})
		if err != nil {
			t.Fatal(err)
		}
		cert, err := w.IssueHost(t.Context(), Actor{}, HostRequest{Token: boot.Token, InstanceID: web1, PublicKey: newKey(t)})
		if err != nil {
			t.Fatal(err)
		}
		if got := parseCert(t, cert.Cert).ValidPrincipals; !slices.Equal(got, want) {
			t.Errorf("without names %t: principals %v, want %v", unnamed, got, want)
		}
	}
}

// fixedNames are every instance's.
type fixedNames []string

func (f fixedNames) Names(context.Context, store.Instance) ([]string, error) { return f, nil }

func TestExpiredToken(t *testing.T) {
	w := newWorld(t)
	boot, err := w.HostToken(t.Context(), nova, InstanceRequest{InstanceID: web1, ProjectID: blue, Hostname: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	w.clock.advance(time.Hour)
	_, err = w.IssueHost(t.Context(), Actor{}, HostRequest{Token: boot.Token, InstanceID: web1, PublicKey: newKey(t)})
	wantKind(t, err, problem.NotFound)
}

func TestSharedHostKeys(t *testing.T) {
	for rule, refused := range map[SharedKeys][2]bool{ // in the same project, in another one
		"": {false, true}, ShareInProject: {false, true}, ShareAnywhere: {false, false}, ShareNowhere: {true, true},
	} {
		t.Run(string(rule), func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.Host.SharedKeys = rule })
			key := newKey(t)
			issue := func(id, project string) error {
				t.Helper()
				boot, err := w.HostToken(t.Context(), nova, InstanceRequest{InstanceID: id, ProjectID: project, Hostname: "web"})
				if err != nil {
					t.Fatal(err)
				}
				_, err = w.IssueHost(t.Context(), Actor{}, HostRequest{Token: boot.Token, InstanceID: id, PublicKey: key})
				return err
			}
			if err := issue(web1, blue); err != nil {
				t.Fatal(err)
			}
			for i, err := range []error{issue(web2, blue), issue(web2[:31]+"3", red)} {
				if refused[i] {
					wantKind(t, err, problem.Conflict)
				} else if err != nil {
					t.Error(err)
				}
			}
			shared := slices.DeleteFunc(w.audited(t), func(line string) bool { return !strings.HasPrefix(line, "hostkey.shared") })
			if len(shared) != 2 {
				t.Errorf("the shared key was recorded %d times", len(shared))
			}
		})
	}
}

// TestSharedKeyAfterManyCertificates: an instance's own certificates for a key
// do not hide that another one has it too.
func TestSharedKeyAfterManyCertificates(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Host.SharedKeys = ShareNowhere })
	key := newKey(t)
	issue := func(id string) error {
		t.Helper()
		boot, err := w.HostToken(t.Context(), nova, InstanceRequest{InstanceID: id, ProjectID: blue, Hostname: "web"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.IssueHosts(t.Context(), Actor{}, HostSetRequest{Token: boot.Token, InstanceID: id, PublicKeys: []string{key}})
		return err
	}
	for range 3 {
		if err := issue(web1); err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.RenewToken(t.Context(), nova, web1); err != nil {
			t.Fatal(err)
		}
	}
	w.Service = w.replica(t, func(c *Config) { c.Host.SharedKeys = ShareAnywhere })
	if err := issue(web2); err != nil {
		t.Fatal(err)
	}
	w.Service = w.replica(t, func(c *Config) { c.Host.SharedKeys = ShareNowhere })
	wantKind(t, issue(web1), problem.Conflict)
}

func TestRevocationReachesTheList(t *testing.T) {
	w := newWorld(t)
	issue := func(user string) store.UserCert {
		t.Helper()
		w.directory.grant(user, blue, "member")
		cert, err := w.IssueUser(t.Context(), Actor{UserID: user}, UserRequest{ProjectID: blue, UserID: user, UserName: "u", PublicKey: newKey(t)})
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	kept := issue(alice)
	bySerial, byKey, byKeyID := issue(alice), issue(alice), issue(alice)
	byUser1, byUser2 := issue(bob), issue(bob)
	empty, err := w.Feed().Current(t.Context(), blue)
	if err != nil {
		t.Fatal(err)
	}
	for _, order := range []store.RevocationOrder{
		{Serial: bySerial.Serial}, {Fingerprint: byKey.Fingerprint}, {KeyID: byKeyID.KeyID}, {UserID: bob},
	} {
		order.ProjectID, order.Reason = blue, "test"
		result, err := w.Revoke(t.Context(), Actor{UserID: alice}, order)
		if err != nil || result.Already {
			t.Fatalf("%+v: %+v, %v", order, result, err)
		}
		if result, err = w.Revoke(t.Context(), Actor{UserID: alice}, order); err != nil || !result.Already {
			t.Errorf("again %+v: %+v, %v; want Already", order, result, err)
		}
	}
	// What this process committed shows at once.
	snapshot, err := w.Feed().Current(t.Context(), blue)
	if err != nil || snapshot.ETag == empty.ETag || snapshot.Version <= empty.Version {
		t.Fatalf("the list did not change: %v", err)
	}
	list, err := krl.Parse(snapshot.Raw)
	if err != nil {
		t.Fatal(err)
	}
	for name, cert := range map[string]store.UserCert{"serial": bySerial, "key": byKey, "key ID": byKeyID, "user 1": byUser1, "user 2": byUser2} {
		if !list.Revoked(parseCert(t, cert.Cert)) {
			t.Errorf("revoked by %s, but not in the list", name)
		}
	}
	if list.Revoked(parseCert(t, kept.Cert)) {
		t.Error("a certificate that was not revoked is in the list")
	}
	if same, err := w.replica(t).Feed().Current(t.Context(), blue); err != nil || same.ETag != snapshot.ETag {
		t.Errorf("another replica builds another list: %v", err)
	}
	_, err = w.Revoke(t.Context(), Actor{}, store.RevocationOrder{ProjectID: red, Serial: kept.Serial})
	wantKind(t, err, problem.NotFound)
	_, err = w.Feed().Current(t.Context(), red)
	wantKind(t, err, problem.NotFound)

	// Entries of expired certificates leave the list; a revoked key stays.
	w.clock.advance(14 * time.Hour)
	later, err := w.Feed().Current(t.Context(), blue)
	if err != nil {
		t.Fatal(err)
	}
	if list, err = krl.Parse(later.Raw); err != nil {
		t.Fatal(err)
	}
	if list.Revoked(parseCert(t, bySerial.Cert)) {
		t.Error("an expired certificate is still in the list")
	}
	if !list.Revoked(parseCert(t, byKey.Cert)) {
		t.Error("a revoked key left the list")
	}
}

func TestRevokedKeyIsNotCertifiedAgain(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	key := newKey(t)
	req := UserRequest{ProjectID: blue, UserID: alice, UserName: "alice", PublicKey: key}
	cert, err := w.IssueUser(t.Context(), Actor{UserID: alice}, req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Revoke(t.Context(), Actor{}, store.RevocationOrder{ProjectID: blue, Fingerprint: cert.Fingerprint}); err != nil {
		t.Fatal(err)
	}
	_, err = w.IssueUser(t.Context(), Actor{UserID: alice}, req)
	wantKind(t, err, problem.Forbidden)
}

func TestRevokedGenerationSignsNoMore(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	req := UserRequest{ProjectID: blue, UserID: alice, UserName: "alice", PublicKey: newKey(t)}
	cert, err := w.IssueUser(t.Context(), Actor{UserID: alice}, req)
	if err != nil {
		t.Fatal(err)
	}
	other := w.replica(t) // which has the generation in memory
	if _, err := other.IssueUser(t.Context(), Actor{UserID: alice}, req); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Revoke(t.Context(), Actor{}, store.RevocationOrder{ProjectID: blue, AuthorityKeyID: cert.AuthorityKeyID}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Service{w.Service, other} {
		fresh := req
		fresh.PublicKey = newKey(t)
		_, err = s.IssueUser(t.Context(), Actor{UserID: alice}, fresh)
		wantKind(t, err, problem.Conflict)
	}
	snapshot, err := w.Feed().Current(t.Context(), blue)
	if err != nil {
		t.Fatal(err)
	}
	list, err := krl.Parse(snapshot.Raw)
	if err != nil || !list.Revoked(parseCert(t, cert.Cert)) {
		t.Errorf("the generation's certificate is not revoked (%v)", err)
	}
}

func TestDeletedInstance(t *testing.T) {
	w := newWorld(t)
	boot, err := w.HostToken(t.Context(), nova, InstanceRequest{InstanceID: web1, ProjectID: blue, Hostname: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	cert, err := w.IssueHost(t.Context(), Actor{}, HostRequest{Token: boot.Token, InstanceID: web1, PublicKey: key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Feed().Current(t.Context(), blue); err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteInstance(t.Context(), nova, web1, "gone"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, w.DeleteInstance(t.Context(), nova, web1, "gone"), problem.NotFound)
	snapshot, err := w.Feed().Current(t.Context(), blue)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := krl.Parse(snapshot.Raw); err != nil || !list.Revoked(parseCert(t, cert.Cert)) {
		t.Errorf("the host certificate is not revoked (%v)", err)
	}
	_, err = w.IssueHost(t.Context(), Actor{}, HostRequest{Token: boot.Token, InstanceID: web1, PublicKey: key})
	wantKind(t, err, problem.NotFound)
	_, err = w.HostToken(t.Context(), nova, InstanceRequest{InstanceID: web1, ProjectID: blue, Hostname: "web1"})
	wantKind(t, err, problem.Conflict)
	wantKind(t, w.DeleteInstance(t.Context(), nova, web2, "gone"), problem.NotFound)
}

func TestWaitersHearOfAChange(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	cert, err := w.IssueUser(t.Context(), Actor{UserID: alice}, UserRequest{ProjectID: blue, UserID: alice, UserName: "alice", PublicKey: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	other := w.replica(t)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, s := range []*Service{w.Service, other} {
		running.Go(func() { _ = s.Feed().Run(ctx) })
	}
	defer running.Wait()
	defer stop()
	before, err := w.Feed().Current(t.Context(), blue)
	if err != nil {
		t.Fatal(err)
	}
	type heard struct {
		snapshot *Snapshot
		err      error
	}
	answers := make(chan heard, 10)
	for i := range cap(answers) {
		go func() {
			s := []*Service{w.Service, other}[i%2]
			snapshot, err := s.Feed().Wait(ctx, blue, before.ETag)
			answers <- heard{snapshot, err}
		}()
	}
	if _, err := w.Revoke(t.Context(), Actor{}, store.RevocationOrder{ProjectID: blue, Serial: cert.Serial}); err != nil {
		t.Fatal(err)
	}
	for range cap(answers) {
		answer := <-answers
		if answer.err != nil || answer.snapshot.ETag == before.ETag {
			t.Fatalf("a waiter heard nothing new: %v", answer.err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	now, err := w.Feed().Current(t.Context(), blue)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := w.Feed().Wait(ended, blue, now.ETag); err != nil || same.ETag != now.ETag {
		t.Errorf("a wait that ends: %v, %v; want the list as it is", same, err)
	}
}

func TestNoCertificateOutlivesItsCA(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.CALifetime = 24 * time.Hour })
	w.directory.grant(alice, blue, "member")
	issue := func() (store.UserCert, error) {
		return w.IssueUser(t.Context(), Actor{UserID: alice}, UserRequest{ProjectID: blue, UserID: alice, UserName: "alice", PublicKey: newKey(t)})
	}
	made := w.clock.Now()
	if _, err := issue(); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(20 * time.Hour)
	cert, err := issue()
	if err != nil || !cert.ExpiresAt.Equal(made.Add(24*time.Hour)) {
		t.Errorf("expires %v, %v; want the CA's end", cert.ExpiresAt, err)
	}
	w.clock.advance(4 * time.Hour)
	_, err = issue()
	wantKind(t, err, problem.Conflict)
}

func TestKeyIDIsOneCleanLine(t *testing.T) {
	for name, want := range map[string]string{
		"alice": "alice_7", "a\nb": "a?b_7", "ä\x00": "ä?_7", strings.Repeat("é", 200): strings.Repeat("é", 119) + "_7",
	} {
		if got := keyID(name, 7); got != want {
			t.Errorf("keyID(%q) = %q, want %q", name, got, want)
		}
	}
}

// TestRetiredAuthority: it issues nothing, and says so, until the project is back.
func TestRetiredAuthority(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	w.issueFor(t, newKey(t))
	boot, err := w.HostToken(t.Context(), Actor{}, InstanceRequest{InstanceID: web1, ProjectID: blue, Hostname: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.ProjectGone(t.Context(), Actor{}, blue, "the project was deleted", 0); err != nil {
		t.Fatal(err)
	}
	issue := map[string]func() error{
		"user": func() error {
			_, err := w.IssueUser(t.Context(), Actor{}, UserRequest{ProjectID: blue, UserID: alice, UserName: "alice", PublicKey: newKey(t)})
			return err
		},
		"host": func() error {
			_, err := w.IssueHost(t.Context(), Actor{}, HostRequest{Token: boot.Token, InstanceID: web1, PublicKey: newKey(t)})
			return err
		},
	}
	for kind, try := range issue {
		err := try()
		wantKind(t, err, problem.Conflict)
		if err != nil && !strings.Contains(err.Error(), "retired") {
			t.Errorf("%s: %v, want that the authority was retired", kind, err)
		}
	}
	if err := w.ProjectBack(t.Context(), Actor{}, blue); err != nil {
		t.Fatal(err)
	}
	for kind, try := range issue {
		if err := try(); err != nil {
			t.Errorf("%s, after the project is back: %v", kind, err)
		}
	}
}
