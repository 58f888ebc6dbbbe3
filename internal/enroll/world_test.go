// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/dns"
	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/store"
)

const (
	nova          = "nova/undercloud.example.test"
	adminPassword = "secret of the administrator"
)

// patience is the limit of what always comes, on a machine that is busy, too.
const patience = 3 * time.Minute

var operator = Actor{UserID: strings.Repeat("a", 32), UserName: "admin"}

// world is a FreeIPA server and a database with the replicas of Muster on them.
type world struct {
	ipa     *freeipa.Server
	address string
	url     string
	keys    string

	skew atomic.Int64 // by which all clocks are ahead
}

// newWorld has a FreeIPA server where Muster may do all that it needs.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := newBareWorld(t)
	must(t, w.ipa.GrantHostManagement(nova))
	return w
}

// newBareWorld has one where Muster has no rights yet.
func newBareWorld(t testing.TB) *world {
	t.Helper()
	server, err := freeipa.New(freeipa.Config{Domain: "example.test", Passwords: map[string]string{nova: "secret", "admin": adminPassword}})
	must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	w := &world{ipa: server, address: "localhost:" + port, keys: custody.NewMasterKey(),
		url: "sqlite:///" + filepath.Join(t.TempDir(), "muster.db")}
	background(t, func(ctx context.Context) error { return server.Serve(ctx, listener) })
	return w
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }

// background runs something until the test ends, or stop is called.
func background(t testing.TB, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("background: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// replica is one process of Muster.
type replica struct {
	*Service
	store *store.Store
	ipa   *ipa.Client
	dns   *dns.Service
	world *world
}

// rules are those that most tests have.
func rules() Rules {
	return Rules{Domain: "example.test", Protected: []string{"vault*.example.test"}, Projects: map[string]ProjectRules{
		"tripleo": {AllowedClasses: []string{"*"}, AnyServiceHost: true},
		"web":     {AllowedClasses: []string{"frontend"}, ServiceHosts: []string{"vip-*.example.test"}},
	}}
}

// replica starts one more process, whose configuration change may adjust.
func (w *world) replica(t testing.TB, change ...func(*Config)) *replica {
	t.Helper()
	r := w.idle(t, change...)
	r.run(t)
	return r
}

// idle makes a replica that works on nothing before run.
func (w *world) idle(t testing.TB, change ...func(*Config)) *replica {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{URL: w.url, Now: w.now})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	_, err = s.Upgrade(t.Context())
	must(t, err)
	background(t, s.Run)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.ipa.CA())
	client, err := ipa.New(ipa.Config{Servers: []string{w.address}, RootCAs: pool, Password: &ipa.Password{User: nova, Password: "secret"},
		BackoffMin: time.Millisecond, BackoffMax: 20 * time.Millisecond, DialTimeout: patience, LoginTimeout: patience, Timeout: patience})
	must(t, err)
	t.Cleanup(client.Close)
	keyring, err := custody.ParseKeyring(strings.NewReader(w.keys))
	must(t, err)
	records, err := dns.New(dns.Config{Objects: s, Provider: dns.NewFreeIPA(client)})
	must(t, err)
	cfg := Config{Store: s, Directory: client, Sealer: keyring, Now: w.now, DNS: records, Rules: rules(), Realm: "EXAMPLE.TEST",
		Servers:     func() []string { return []string{w.ipa.HostName()} },
		AttemptTime: patience, AnswerWithin: patience, PollEvery: 10 * time.Millisecond, BackoffMin: 10 * time.Millisecond, BackoffMax: 50 * time.Millisecond}
	for _, f := range change {
		f(&cfg)
	}
	service, err := New(cfg)
	must(t, err)
	return &replica{Service: service, store: s, ipa: client, dns: records, world: w}
}

func (r *replica) run(t testing.TB) (stop func()) { return background(t, r.Service.Run) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func id(n int) string { return fmt.Sprintf("%032x", n) }

// request is instance n's, of a project by name.
func request(n int, project, hostname string, metadata ...string) Request {
	r := Request{InstanceID: id(n), ProjectID: projectID(project), ProjectName: project, Hostname: hostname, OS: "debian 12",
		Metadata: map[string]string{"ipa_enroll": "True"}}
	for i := 0; i < len(metadata); i += 2 {
		r.Metadata[metadata[i]] = metadata[i+1]
	}
	return r
}

func projectID(name string) string { return fmt.Sprintf("%032x", name) }

// reach waits until an enrolment has a state. It fails the test if that never comes.
func (r *replica) reach(t testing.TB, n int, state store.EnrolmentState) store.Enrolment {
	t.Helper()
	return r.until(t, n, func(e store.Enrolment) bool { return e.State == state && !r.claimed(e) })
}

func (r *replica) until(t testing.TB, n int, ok func(store.Enrolment) bool) store.Enrolment {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		e, err := r.store.Enrolment(ctx, id(n))
		if err == nil && ok(e) {
			return e
		}
		if !pause(ctx, 2*time.Millisecond) {
			t.Fatalf("instance %d: %+v, %v", n, e, err)
		}
	}
}

// enrol expects an answer with a one-time password.
func (r *replica) enrol(t testing.TB, req Request) Answer {
	t.Helper()
	answer, err := r.Enrol(t.Context(), operator, req)
	must(t, err)
	if answer.OTP == "" {
		e, err := r.store.Enrolment(t.Context(), req.InstanceID)
		t.Fatalf("no one-time password: %+v, %+v, %v", answer, e, err)
	}
	return answer
}

// joined lets an instance report that it has joined, until that is known: the
// service looks for a second at the most, and a busy machine may take longer.
func (r *replica) joined(t testing.TB, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		e, err := r.Report(ctx, Actor{}, Report{InstanceID: id(n), Joined: true})
		must(t, err)
		if e.State == store.EnrolmentEnrolled {
			return
		}
		if !pause(ctx, 2*time.Millisecond) {
			t.Fatalf("instance %d: %+v", n, e)
		}
	}
}

// leave lets an instance leave and waits for it.
func (r *replica) leave(t testing.TB, n int) {
	t.Helper()
	must(t, r.Leave(t.Context(), operator, id(n)))
	r.reach(t, n, store.EnrolmentGone)
}

// entries are the hosts and services that FreeIPA has beside its own.
func (w *world) entries() (hosts, services []string) {
	for _, h := range w.ipa.Hosts() {
		if h.FQDN != w.ipa.HostName() && h.FQDN != "undercloud.example.test" {
			hosts = append(hosts, h.FQDN)
		}
	}
	for _, v := range w.ipa.Services() {
		name, _, _ := strings.Cut(v.Principal, "@")
		if _, host, _ := strings.Cut(name, "/"); host != w.ipa.HostName() && host != "undercloud.example.test" {
			services = append(services, name)
		}
	}
	return hosts, services
}

func address(t testing.TB, text string) netip.Addr {
	t.Helper()
	a, err := netip.ParseAddr(text)
	must(t, err)
	return a
}
