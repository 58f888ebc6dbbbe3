// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// testEngine is a kind of database.
type testEngine struct {
	name string
	make func(testing.TB) string // makes an empty one and returns its URL
	// apart: connections come to several nodes, which know nothing of each other's locks.
	apart bool
}

// onEachWithLocks is onEach where one transaction waits for another.
func onEachWithLocks(t *testing.T, test func(t *testing.T, f *fixture)) {
	all := slices.DeleteFunc(slices.Clone(engines), func(e testEngine) bool { return e.apart })
	onEachOf(t, all, test)
}

// onEach runs a test on every kind of database: alone, and again with a second replica, to which every other call goes.
func onEach(t *testing.T, test func(t *testing.T, f *fixture)) { onEachOf(t, engines, test) }

func onEachOf(t *testing.T, engines []testEngine, test func(t *testing.T, f *fixture)) {
	for _, e := range engines {
		for _, replicas := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s/%d", e.name, replicas), func(t *testing.T) {
				t.Parallel()
				test(t, newFixture(t, e.make(t), replicas))
			})
		}
	}
}

// clock is a time that tests step.
type clock struct{ now atomic.Int64 }

func (c *clock) Now() time.Time       { return time.UnixMicro(c.now.Load()).UTC() }
func (c *clock) step(d time.Duration) { c.now.Add(d.Microseconds()) }
func id(n int) string                 { return fmt.Sprintf("%032x", n) }
func fingerprint(n int) string        { return fmt.Sprintf("SHA256:%043d", n) }
func hash(token string) string        { return hex.EncodeToString([]byte(token)) }
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// fixture is a database with its replicas.
type fixture struct {
	url    string
	clock  *clock
	stores []*Store
	calls  atomic.Int64
}

// store returns the replicas in turn.
func (f *fixture) store() *Store { return f.stores[int(f.calls.Add(1))%len(f.stores)] }

func newFixture(t testing.TB, url string, replicas int) *fixture {
	f := &fixture{url: url, clock: &clock{}}
	f.clock.now.Store(time.Date(2026, 7, 1, 12, 0, 0, 123456000, time.UTC).UnixMicro())
	for i := range replicas {
		s := open(t, Config{URL: url, Now: f.clock.Now})
		f.stores = append(f.stores, s)
		if i == 0 {
			must(s.Upgrade(t.Context()))(t)
		}
		run(t, s)
	}
	return f
}

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s := must(Open(t.Context(), cfg))(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// run runs the store's committers until the test ends.
func run(t testing.TB, s *Store) {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
}

// authority is project n's, with keys 10n (user) and 10n+1 (host).
func (f *fixture) authority(t testing.TB, n int) Authority {
	t.Helper()
	a := Authority{ProjectID: id(n), Name: "Projekt Ü", CreatedAt: f.clock.Now(), Keys: []AuthorityKey{
		{ID: id(10*n + 1), ProjectID: id(n), Role: RoleHost, Generation: 1, Algorithm: "ed25519", PublicKey: "ssh-ed25519 B",
			Handle: []byte{0, 1, 255}, CreatedAt: f.clock.Now(), State: KeyActive},
		{ID: id(10 * n), ProjectID: id(n), Role: RoleUser, Generation: 1, Algorithm: "ed25519", PublicKey: "ssh-ed25519 A",
			CreatedAt: f.clock.Now(), State: KeyActive},
	}}
	if err := f.store().CreateAuthority(t.Context(), a, Audit{Action: "authority:create", ProjectID: a.ProjectID}); err != nil {
		t.Fatal(err)
	}
	return a
}

// userCert is a certificate of a user for a key in a project, not yet recorded.
func (f *fixture) userCert(t testing.TB, project, user, key int) UserCert {
	t.Helper()
	serial := must(f.store().NextSerial(t.Context()))(t)
	return UserCert{Serial: serial, ProjectID: id(project), UserID: id(user), UserName: "jörg", Principals: []string{"member", "reader"},
		Fingerprint: fingerprint(key), MD5: "MD5:" + id(key)[16:], KeyID: fmt.Sprintf("jörg_%d", serial), AuthorityKeyID: id(10 * project),
		Cert: "ssh-ed25519-cert-v01@openssh.com " + strings.Repeat("A", 600), CreatedAt: f.clock.Now(),
		ExpiresAt: f.clock.Now().Add(12 * time.Hour), Profile: "p"}
}

func (f *fixture) hostCert(t testing.TB, project, instance, key int) HostCert {
	t.Helper()
	serial := must(f.store().NextSerial(t.Context()))(t)
	return HostCert{Serial: serial, ProjectID: id(project), InstanceID: id(instance), Hostname: "web", Principals: []string{"web"},
		Fingerprint: fingerprint(key), MD5: "MD5:" + id(key)[16:], KeyID: fmt.Sprintf("web_%d", serial), AuthorityKeyID: id(10*project + 1),
		Cert: "ssh-ed25519-cert-v01@openssh.com " + strings.Repeat("A", 600), CreatedAt: f.clock.Now(),
		ExpiresAt: f.clock.Now().AddDate(1, 0, 0)}
}

func (f *fixture) insert(t testing.TB, c UserCert) UserCert {
	t.Helper()
	if err := f.store().InsertUserCert(t.Context(), c, f.entry("usercert:create", c.ProjectID)); err != nil {
		t.Fatal(err)
	}
	return c
}

func (f *fixture) instance(t testing.TB, project, n int) Instance {
	t.Helper()
	i := Instance{ID: id(n), ProjectID: id(project), Hostname: "web", State: InstanceLive, CreatedAt: f.clock.Now(), Token: f.token(n)}
	stored, created, err := f.store().CreateInstance(t.Context(), i, f.entry("instance:create", i.ProjectID))
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	return stored
}

// token is instance n's first.
func (f *fixture) token(n int) HostToken {
	return HostToken{Hash: hash(fmt.Sprint("token", n)), Sealed: []byte{1, 2}, CreatedAt: f.clock.Now(), ExpiresAt: f.clock.Now().Add(time.Hour)}
}

func (f *fixture) entry(action, project string) Audit {
	return Audit{At: f.clock.Now(), Action: action, Outcome: "ok", ProjectID: project}
}

// audited counts a project's entries for an action.
func (f *fixture) audited(t testing.TB, action, project string) int {
	t.Helper()
	return len(must(f.store().Audits(t.Context(), AuditFilter{Action: action, ProjectID: project}, Page{Limit: MaxPageLimit}))(t))
}
