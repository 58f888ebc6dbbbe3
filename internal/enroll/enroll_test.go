// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

func equal(t testing.TB, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("wanted -, got +:\n%s", diff)
	}
}

// refused expects a problem of the kind whose text holds some words.
func refused(t testing.TB, err error, kind problem.Kind, words ...string) {
	t.Helper()
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok || p.Kind != kind {
		t.Fatalf("%v, wanted a problem of kind %d", err, kind)
	}
	for _, word := range words {
		if !strings.Contains(p.Error(), word) {
			t.Errorf("%q does not say %q", p, word)
		}
	}
}

// TestLife walks an instance from its first call until it is gone.
func TestLife(t *testing.T) {
	w := newWorld(t)
	r := w.replica(t)
	req := request(1, "web", "Web1", "ipa_hostclass", "frontend", "ipa_host_location", "rack 7",
		"managed_service_www", "HTTP/web1.example.test",
		"compact_service_mysql", "[\"internal\",\n \"storage\"]",
		"compact_services", `{"haproxy": ["internal"]}`)
	answer := r.enrol(t, req)
	equal(t, answer, Answer{FQDN: "web1.example.test", Realm: "EXAMPLE.TEST", OTP: answer.OTP})
	if len(answer.OTP) != 32 || strings.Trim(answer.OTP, "0123456789abcdef") != "" {
		t.Errorf("one-time password %q", answer.OTP)
	}
	hosts, services := w.entries()
	equal(t, hosts, []string{"web1.example.test", "web1.internal.example.test", "web1.storage.example.test"})
	equal(t, services, []string{"HTTP/web1.example.test", "haproxy/web1.internal.example.test", "mysql/web1.internal.example.test",
		"mysql/web1.storage.example.test"})
	for _, v := range w.ipa.Services() {
		if strings.Contains(v.Principal, "web1") && !slices.Contains(v.ManagedBy, "web1.example.test") {
			t.Errorf("%s is managed by %v", v.Principal, v.ManagedBy)
		}
	}
	host, _ := w.ipa.Host("web1.example.test")
	equal(t, host.Attributes, map[string][]string{"description": {"OpenStack instance " + id(1)}, "userclass": {"frontend"},
		"nshostlocation": {"rack 7"}, "nsosversion": {"debian 12"}})
	equal(t, r.reach(t, 1, store.EnrolmentCreated).LastError, "")
	equal(t, r.enrol(t, req), answer)

	must(t, w.ipa.Join("web1.example.test", answer.OTP))
	r.joined(t, 1)
	r.joined(t, 1)
	e := r.reach(t, 1, store.EnrolmentEnrolled)
	equal(t, len(e.OTPSealed), 0)
	again, err := r.Enrol(t.Context(), operator, req)
	must(t, err)
	equal(t, again, Answer{FQDN: "web1.example.test", Realm: "EXAMPLE.TEST"})

	must(t, r.Rebuild(t.Context(), operator, id(1), w.now()))
	must(t, r.Rebuild(t.Context(), operator, id(1), w.now()))
	r.reach(t, 1, store.EnrolmentCreated)
	rebuilt := r.enrol(t, req)
	if rebuilt.OTP == answer.OTP {
		t.Error("the rebuilt instance got the old one-time password")
	}
	must(t, w.ipa.Join("web1.example.test", rebuilt.OTP))
	if err := w.ipa.Join("web1.example.test", answer.OTP); !errors.Is(err, freeipa.ErrInvalidCredentials) {
		t.Error(err)
	}

	r.leave(t, 1)
	must(t, r.Leave(t.Context(), operator, id(1)))
	must(t, r.Leave(t.Context(), operator, id(99)))
	must(t, r.Rebuild(t.Context(), operator, id(1), w.now()))
	hosts, services = w.entries()
	equal(t, append(hosts, services...), []string(nil))
	_, err = r.Enrol(t.Context(), operator, req)
	refused(t, err, problem.Conflict, "has left")
	// The name is free again.
	r.enrol(t, request(2, "other", "web1"))
}

// TestRoundTrips counts what one enrolment costs.
func TestRoundTrips(t *testing.T) {
	for _, services := range []int{0, 20} {
		t.Run(fmt.Sprint(services), func(t *testing.T) {
			w := newWorld(t)
			r := w.replica(t)
			_, err := r.ipa.Ping(t.Context())
			must(t, err)
			calls := func() int {
				n := 0
				for _, count := range w.ipa.Calls() {
					n += count
				}
				return n
			}
			req := request(1, "web", "web1")
			for n := range services {
				req.Metadata[fmt.Sprint("compact_service_s", n)] = fmt.Sprintf(`["net%d"]`, n%3)
			}
			before := calls()
			r.enrol(t, req)
			equal(t, calls()-before, min(2, 1+services))
			r.enrol(t, req)
			equal(t, calls()-before, min(2, 1+services))
			_, made := w.entries()
			equal(t, len(made), services)
		})
	}
}

// TestOneOwner refuses a second instance with a name, in any project.
func TestOneOwner(t *testing.T) {
	w := newWorld(t)
	r := w.replica(t)
	first := r.enrol(t, request(1, "web", "db", "compact_service_mysql", `["internal"]`))
	for n, req := range []Request{request(2, "other", "DB"), request(2, "web", "db.example.test."), request(2, "other", "db.internal.example.test")} {
		_, err := r.Enrol(t.Context(), operator, req)
		refused(t, err, problem.Conflict, "belongs to another instance")
		must(t, r.Leave(t.Context(), operator, id(2)))
		if t.Failed() {
			t.Fatal(n)
		}
	}
	equal(t, r.enrol(t, request(1, "web", "db", "compact_service_mysql", `["internal"]`)), first)
	_, err := r.Enrol(t.Context(), operator, request(1, "other", "db"))
	refused(t, err, problem.Conflict, "another project")
	must(t, w.ipa.Join("db.example.test", first.OTP))
	audits, err := r.store.Audits(t.Context(), store.AuditFilter{Action: "enrolment.create", ObjectID: id(2)}, store.Page{})
	must(t, err)
	var times int64 // in one entry, unless a minute ended meanwhile
	for _, a := range audits {
		times += a.Times
	}
	equal(t, times, int64(3))
	refusal := audits[len(audits)-1]
	equal(t, refusal.Outcome, "refused")
	equal(t, refusal.Details, map[string]string{"fqdn": "db.example.test", "owner": id(1)})
}

// TestForeignEntry leaves alone what was there before, until an operator lets the instance have it.
func TestForeignEntry(t *testing.T) {
	w := newWorld(t)
	must(t, w.ipa.AddHost("db.example.test", "theirs"))
	must(t, w.ipa.AddHost("db.internal.example.test", ""))
	r := w.replica(t)
	req := request(1, "web", "db", "compact_service_mysql", `["internal"]`)
	for range 2 {
		_, err := r.Enrol(t.Context(), operator, req)
		refused(t, err, problem.Conflict, "that Muster did not make", "muster enrolment adopt "+id(1))
	}
	_, services := w.entries()
	equal(t, len(services), 0)
	r.leave(t, 1)
	hosts, _ := w.entries()
	equal(t, hosts, []string{"db.example.test", "db.internal.example.test"})

	req.InstanceID = id(2)
	_, err := r.Adopt(t.Context(), operator, id(2))
	refused(t, err, problem.NotFound)
	_, err = r.Enrol(t.Context(), operator, req)
	refused(t, err, problem.Conflict)
	must(t, w.ipa.Join("db.example.test", "theirs"))
	_, err = r.Adopt(t.Context(), operator, id(2))
	must(t, err)
	r.reach(t, 2, store.EnrolmentEnrolled)
	host, _ := w.ipa.Host("db.example.test")
	equal(t, host.HasKeytab, true)
	_, err = r.Adopt(t.Context(), operator, id(2))
	refused(t, err, problem.Conflict)
	r.leave(t, 2)
	hosts, _ = w.entries()
	equal(t, len(hosts), 0)
}

// TestForeignSubHost makes no service on a host that happens to have the name of a sub-host.
func TestForeignSubHost(t *testing.T) {
	w := newWorld(t)
	must(t, w.ipa.AddHost("www.prod.example.test", ""))
	r := w.replica(t)
	req := request(1, "web", "www", "compact_service_HTTP", `["prod"]`)
	// The host itself is the instance's: it may join.
	r.enrol(t, req)
	e := r.reach(t, 1, store.EnrolmentFailed)
	if !strings.Contains(e.LastError, "www.prod.example.test that Muster did not make") {
		t.Error(e.LastError)
	}
	_, services := w.entries()
	equal(t, len(services), 0)
	r.leave(t, 1)
	hosts, _ := w.entries()
	equal(t, hosts, []string{"www.prod.example.test"})
}

// TestRefused asks for what the rules forbid. Nothing is made, and nothing recorded.
func TestRefused(t *testing.T) {
	w := newWorld(t)
	r := w.replica(t)
	r.enrol(t, request(50, "other", "vip-taken"))
	for name, test := range map[string]struct {
		req   Request
		kind  problem.Kind
		words string
	}{
		"the FreeIPA server":       {request(1, "web", "ipa"), problem.Forbidden, "ipa.example.test is protected"},
		"the CA's alias":           {request(1, "web", "ipa-ca"), problem.Forbidden, "protected"},
		"a protected pattern":      {request(1, "web", "Vault7"), problem.Forbidden, "vault7.example.test is protected"},
		"another domain":           {request(1, "web", "a.example.org"), problem.Invalid, "hostname"},
		"class":                    {request(1, "web", "a", "ipa_hostclass", "backend"), problem.Forbidden, "ipa_hostclass"},
		"class, unknown project":   {request(1, "", "a", "ipa_hostclass", "backend"), problem.Invalid, "ipa_hostclass"},
		"class, project w/o rules": {request(1, "other", "a", "ipa_hostclass", "frontend"), problem.Forbidden, "ipa_hostclass"},
		"a service of FreeIPA":     {request(1, "tripleo", "a", "managed_service_x", "HTTP/ipa.example.test"), problem.Forbidden, "protected"},
		"a service elsewhere":      {request(1, "other", "a", "managed_service_x", "HTTP/b.example.test"), problem.Forbidden, "b.example.test"},
		"not in the patterns":      {request(1, "web", "a", "managed_service_x", "HTTP/b.example.test"), problem.Forbidden, "b.example.test"},
		"another project's host":   {request(1, "web", "a", "managed_service_x", "HTTP/vip-taken.example.test"), problem.Forbidden, "another project"},
		"the host's own principal": {request(1, "web", "a", "managed_service_x", "host/a.example.test"), problem.Forbidden, "managed_service_x"},
		"half of it is malformed": {request(1, "web", "a", "compact_service_HTTP", `["x"]`, "compact_service_mysql", `["x"`), problem.Invalid,
			"compact_service_mysql"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Enrol(t.Context(), operator, test.req)
			refused(t, err, test.kind, test.words)
			_, err = r.store.Enrolment(t.Context(), id(1))
			if !errors.Is(err, store.ErrNotFound) {
				t.Error(err)
			}
		})
	}
	hosts, services := w.entries()
	equal(t, hosts, []string{"vip-taken.example.test"})
	equal(t, len(services), 0)
}

// TestSharedService lets several instances manage a service on a virtual address, and removes it with the last one.
func TestSharedService(t *testing.T) {
	w := newWorld(t)
	r := w.replica(t)
	const principal = "haproxy/vip-1.example.test"
	for n := range 3 {
		r.enrol(t, request(n, "web", fmt.Sprint("node", n), "managed_service_x", principal))
	}
	managers := func() []string {
		for _, v := range w.ipa.Services() {
			if strings.HasPrefix(v.Principal, principal) {
				return v.ManagedBy
			}
		}
		return nil
	}
	equal(t, managers(), []string{"node0.example.test", "node1.example.test", "node2.example.test", "vip-1.example.test"})
	r.leave(t, 0)
	equal(t, managers(), []string{"node1.example.test", "node2.example.test", "vip-1.example.test"})
	must(t, r.Leave(t.Context(), operator, id(1)))
	must(t, r.Leave(t.Context(), operator, id(2)))
	r.reach(t, 1, store.EnrolmentGone)
	r.reach(t, 2, store.EnrolmentGone)
	hosts, services := w.entries()
	equal(t, append(hosts, services...), []string(nil))
}

// TestForeignServiceSurvives uses a service that was there before, where the project may.
func TestForeignServiceSurvives(t *testing.T) {
	w := newWorld(t)
	must(t, w.ipa.AddHost("lb.example.test", ""))
	must(t, w.ipa.AddService("HTTP/lb.example.test"))
	r := w.replica(t)
	r.enrol(t, request(1, "tripleo", "a", "managed_service_x", "HTTP/lb.example.test", "managed_service_y", "mysql/lb.example.test"))
	r.leave(t, 1)
	hosts, services := w.entries()
	equal(t, hosts, []string{"lb.example.test"})
	equal(t, services, []string{"HTTP/lb.example.test"})
}

// TestMoreServices adds services by a later call, and takes none away.
func TestMoreServices(t *testing.T) {
	w := newWorld(t)
	r := w.replica(t)
	answer := r.enrol(t, request(1, "web", "a", "compact_service_HTTP", `["x"]`))
	must(t, w.ipa.Join("a.example.test", answer.OTP))
	r.joined(t, 1)
	_, err := r.Enrol(t.Context(), operator, request(1, "web", "a", "compact_service_mysql", `["y"]`))
	must(t, err)
	e := r.reach(t, 1, store.EnrolmentEnrolled)
	equal(t, e.OTPState, store.OTPUsed)
	_, services := w.entries()
	equal(t, services, []string{"HTTP/a.x.example.test", "mysql/a.y.example.test"})
	r.leave(t, 1)
	hosts, services := w.entries()
	equal(t, append(hosts, services...), []string(nil))
}

// TestManyFirstCalls has the same instance asking two replicas at once, many times.
func TestManyFirstCalls(t *testing.T) {
	w := newWorld(t)
	replicas := []*replica{w.replica(t), w.replica(t)}
	answers := make([]Answer, 16)
	var wg sync.WaitGroup
	for n := range answers {
		wg.Go(func() {
			var err error
			answers[n], err = replicas[n%2].Enrol(t.Context(), operator, request(1, "web", "a", "compact_service_HTTP", `["x"]`))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, answer := range answers {
		equal(t, answer, answers[0])
	}
	must(t, w.ipa.Join("a.example.test", answers[0].OTP))
	hosts, services := w.entries()
	equal(t, append(hosts, services...), []string{"a.example.test", "a.x.example.test", "HTTP/a.x.example.test"})
}

// TestRecords removes an instance's DNS records when it leaves, and only those that were made for it.
func TestRecords(t *testing.T) {
	w := newWorld(t)
	must(t, w.ipa.AddZone("77.168.192.in-addr.arpa."))
	r := w.replica(t)
	r.enrol(t, request(1, "web", "a"))
	must(t, r.dns.Set(t.Context(), id(1), "a.example.test", []netip.Addr{address(t, "192.168.77.5")}))
	equal(t, w.ipa.Records("example.test")["a"], map[string][]string{"arecord": {"192.168.77.5"}})
	equal(t, w.ipa.Records("77.168.192.in-addr.arpa")["5"], map[string][]string{"ptrrecord": {"a.example.test."}})
	r.leave(t, 1)
	if records := w.ipa.Records("example.test")["a"]; len(records) > 0 {
		t.Error(records)
	}
	if records := w.ipa.Records("77.168.192.in-addr.arpa")["5"]; len(records) > 0 {
		t.Error(records)
	}
	objects, err := r.store.Objects(t.Context(), id(1))
	must(t, err)
	equal(t, len(objects), 0)
}

// TestSharedServiceOnItsWayOut waits with a service that is just being removed for another instance, and then makes it anew.
func TestSharedServiceOnItsWayOut(t *testing.T) {
	w := newWorld(t)
	r := w.replica(t)
	r.enrol(t, request(1, "web", "a", "managed_service_x", "HTTP/vip-1.example.test"))
	_, err := r.store.ReleaseObjects(t.Context(), id(1))
	must(t, err)
	// The host is the instance's own: it may join already.
	_, err = r.Enrol(t.Context(), operator, request(2, "web", "b", "managed_service_x", "HTTP/vip-1.example.test"))
	must(t, err)
	e := r.until(t, 2, func(e store.Enrolment) bool { return e.LastError != "" })
	if e.State != store.EnrolmentWanted || !strings.Contains(e.LastError, "being removed for another instance") {
		t.Errorf("%+v", e)
	}
	r.leave(t, 1)
	r.reach(t, 2, store.EnrolmentCreated)
	_, services := w.entries()
	equal(t, services, []string{"HTTP/vip-1.example.test"})
	r.leave(t, 2)
	hosts, services := w.entries()
	equal(t, append(hosts, services...), []string(nil))
}

// meeting is a directory whose batches with a command in them meet others'.
type meeting struct {
	Directory
	command       string
	before, after func()
}

func (m meeting) Batch(ctx context.Context, commands ...ipa.Command) ([]ipa.Result, error) {
	there := slices.ContainsFunc(commands, func(c ipa.Command) bool { return c.Name() == m.command })
	if there {
		m.before()
	}
	results, err := m.Directory.Batch(ctx, commands...)
	if there {
		m.after()
	}
	return results, err
}

// TestSharedServiceRemovedMeanwhile: one replica has decided to remove a service that its instance names no longer and nobody else had; another
// one finds it there for its own. Then it goes, and with it the record that it was leaving. Those of whole instances cannot come to that: the
// host of the service leaves with them, and who comes waits for that.
func TestSharedServiceRemovedMeanwhile(t *testing.T) {
	w := newWorld(t)
	removes, found := make(chan bool), make(chan bool)
	leaver := w.replica(t, func(c *Config) {
		c.RemoveUnnamed = true
		c.Directory = meeting{c.Directory, "service_del", func() { close(removes); <-found }, func() {}}
	})
	leaver.enrol(t, request(1, "web", "a", "managed_service_x", "HTTP/vip-1.example.test", "managed_service_y", "mysql/vip-1.example.test"))
	less := request(1, "web", "a", "managed_service_y", "mysql/vip-1.example.test")
	must(t, leaver.Update(t.Context(), operator, Update{InstanceID: id(1), Metadata: less.Metadata,
		ProjectDomain: inDefault}))
	<-removes
	var comer *replica
	wait := sync.OnceFunc(func() {
		close(found)
		comer.until(t, 1, func(e store.Enrolment) bool {
			objects, err := comer.store.ObjectUsers(t.Context(), store.ObjectService, []string{"HTTP/vip-1.example.test"})
			return err == nil && len(objects) == 1 && !comer.claimed(e)
		})
	})
	comer = w.idle(t, func(c *Config) { c.Directory = meeting{c.Directory, "service_add", func() {}, wait} })
	comer.run(t)
	_, err := comer.Enrol(t.Context(), operator, request(2, "web", "b", "managed_service_x", "HTTP/vip-1.example.test"))
	must(t, err)
	comer.reach(t, 2, store.EnrolmentCreated)
	_, services := w.entries()
	equal(t, services, []string{"HTTP/vip-1.example.test", "mysql/vip-1.example.test"})
}

// TestOneNameForHostAndService keeps an instance off the host that carries another project's services.
func TestOneNameForHostAndService(t *testing.T) {
	w := newWorld(t)
	r := w.replica(t)
	r.enrol(t, request(1, "web", "a", "managed_service_x", "HTTP/vip-1.example.test"))
	req := request(2, "other", "vip-1")
	_, err := r.Enrol(t.Context(), operator, req)
	refused(t, err, problem.Conflict, "that Muster did not make")
	// Another attempt of the first one's must not make it the second one's.
	_, err = r.Enrol(t.Context(), operator, request(1, "web", "a", "managed_service_y", "mysql/vip-1.example.test"))
	must(t, err)
	_, err = r.Retry(t.Context(), operator, id(2))
	must(t, err)
	r.reach(t, 2, store.EnrolmentFailed)
	r.leave(t, 2)
	hosts, services := w.entries()
	equal(t, append(hosts, services...), []string{"a.example.test", "vip-1.example.test", "HTTP/vip-1.example.test", "mysql/vip-1.example.test"})
}

// TestStricterRules keeps what an instance has when the rules no longer allow it, and allows no more of it.
func TestStricterRules(t *testing.T) {
	w := newWorld(t)
	before := w.idle(t)
	stop := before.run(t)
	req := request(1, "web", "a", "ipa_hostclass", "frontend", "managed_service_x", "HTTP/vip-1.example.test")
	answer := before.enrol(t, req)
	stop()
	r := w.replica(t, func(c *Config) { c.Rules = Rules{Domain: "example.test", Protected: []string{"a.*", "vip-*"}} })
	equal(t, r.enrol(t, req), answer)
	req.Metadata["managed_service_y"] = "HTTP/vip-2.example.test"
	_, err := r.Enrol(t.Context(), operator, req)
	refused(t, err, problem.Forbidden, "vip-2.example.test")
}
