// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/store"
)

// update tells what an instance's metadata is now, and waits until FreeIPA has it.
func (r *replica) update(t *testing.T, n int, metadata ...string) store.Enrolment {
	t.Helper()
	u := Update{InstanceID: id(n), ProjectDomain: inDefault, Metadata: request(n, "", "", metadata...).Metadata}
	must(t, r.Update(t.Context(), operator, u))
	return r.until(t, n, func(e store.Enrolment) bool { return e.State != store.EnrolmentWanted && !r.claimed(e) })
}

func inDefault(context.Context, string) (string, error) { return "default", nil }

// TestUpdate adds services to an instance that has joined, in all spellings, and takes none away.
func TestUpdate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.replica(t)
	req := request(1, "web", "a", "compact_service_HTTP", `["x"]`)
	must(t, w.ipa.Join("a.example.test", r.enrol(t, req).OTP))
	r.joined(t, 1)
	e := r.update(t, 1, "compact_services", `{"HTTP": ["y"]}`, "compact_service_mysql", `["y"]`, "managed_service_a", "haproxy/vip-1.example.test")
	equal(t, e.State, store.EnrolmentEnrolled)
	hosts, services := w.entries()
	equal(t, hosts, []string{"a.example.test", "a.x.example.test", "a.y.example.test", "vip-1.example.test"})
	equal(t, services, []string{"HTTP/a.x.example.test", "HTTP/a.y.example.test", "haproxy/vip-1.example.test", "mysql/a.y.example.test"})

	before := w.ipa.Calls()
	for range 3 {
		equal(t, r.update(t, 1, "compact_service_mysql", `["y"]`).Version, e.Version)
	}
	if after := w.ipa.Calls(); !maps.Equal(before, after) {
		t.Errorf("FreeIPA was called for nothing: %v, before %v", after, before)
	}
	must(t, r.Update(t.Context(), operator, Update{InstanceID: id(7)}))
	r.leave(t, 1)
	must(t, r.Update(t.Context(), operator, Update{InstanceID: id(1), ProjectDomain: inDefault, Metadata: map[string]string{"compact_service_HTTP": `["x"]`}}))
	hosts, services = w.entries()
	equal(t, append(hosts, services...), []string(nil))
}

// TestUpdateRefused: what is malformed or forbidden changes nothing, and the reason is there to be seen until it is mended.
func TestUpdateRefused(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]struct{ key, value, reason string }{
		"no JSON":               {"compact_service_mysql", `["y"`, "compact_service_mysql: is not a JSON list"},
		"no service":            {"managed_service_a", "vip-1.example.test", "managed_service_a:"},
		"protected":             {"managed_service_a", "HTTP/vault1.example.test", "protected"},
		"forbidden":             {"managed_service_a", "HTTP/elsewhere.example.test", "not allowed in project"},
		"another instance's":    {"compact_service_mysql", `["taken"]`, "belongs to another instance"},
		"another project's":     {"managed_service_a", "HTTP/vip-b.example.test", "another project"},
		"reserved":              {"managed_service_a", "host/a.example.test", "not a service that an instance may have"},
		"good and bad together": {"compact_services", `{"HTTP": ["y"], "mysql": ["-"]}`, "compact_services:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := w.replica(t)
			r.enrol(t, request(1, "web", "a", "compact_service_HTTP", `["x"]`))
			r.enrol(t, request(2, "other", "a.taken.example.test"))
			r.enrol(t, request(3, "other", "vip-b"))
			hosts, services := w.entries()
			was := r.reach(t, 1, store.EnrolmentCreated)
			var e store.Enrolment
			for range 2 {
				e = r.update(t, 1, "compact_service_ldap", `["good"]`, refusal.key, refusal.value)
			}
			if e.State != store.EnrolmentCreated || e.Want != was.Want || !strings.Contains(e.LastError, refusal.reason) {
				t.Errorf("%+v", e)
			}
			hostsNow, servicesNow := w.entries()
			equal(t, hostsNow, hosts)
			equal(t, servicesNow, services)
			audits, err := r.store.Audits(t.Context(), store.AuditFilter{Action: "enrolment.update", ObjectID: id(1)}, store.Page{})
			must(t, err)
			equal(t, len(audits), 1)
			equal(t, audits[0].Outcome, "refused")
			if strings.HasSuffix(name, "JSON") && r.Differs(e, request(1, "", "", refusal.key, refusal.value).Metadata) {
				t.Error("what is known to be malformed is looked at again")
			}
			if !r.Differs(e, map[string]string{"compact_service_HTTP": `["x"]`}) {
				t.Error("a mended metadata is not noticed")
			}
			equal(t, r.update(t, 1, "compact_service_HTTP", `["x"]`).LastError, "")
		})
	}
}

// TestUpdateRemoves what is named no longer, where that is configured, and brings it back when it is named again.
func TestUpdateRemoves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.replica(t, func(c *Config) { c.RemoveUnnamed = true })
	named := []string{"compact_service_HTTP", `["x", "y"]`, "managed_service_a", "haproxy/vip.example.test"}
	r.enrol(t, request(1, "tripleo", "a", named...))
	r.enrol(t, request(2, "tripleo", "b", "managed_service_a", "haproxy/vip.example.test"))
	all, allServices := w.entries()

	r.update(t, 1)
	hosts, services := w.entries()
	equal(t, hosts, []string{"a.example.test", "b.example.test", "vip.example.test"})
	equal(t, services, []string{"haproxy/vip.example.test"})
	objects, err := r.store.Objects(t.Context(), id(1))
	must(t, err)
	equal(t, len(objects), 1)
	// The name is free: another instance may have it.
	r.enrol(t, request(3, "other", "a.x.example.test"))
	r.leave(t, 3)

	r.update(t, 1, named...)
	hosts, services = w.entries()
	equal(t, hosts, all)
	equal(t, services, allServices)
	r.leave(t, 2)
	hosts, _ = w.entries()
	equal(t, hosts, []string{"a.example.test", "a.x.example.test", "a.y.example.test", "vip.example.test"})
	r.update(t, 1, "managed_service_b", "mysql/vip.example.test")
	hosts, services = w.entries()
	equal(t, hosts, []string{"a.example.test", "vip.example.test"})
	equal(t, services, []string{"mysql/vip.example.test"})
	r.leave(t, 1)
	hosts, services = w.entries()
	equal(t, append(hosts, services...), []string(nil))
}

// TestLateRebuild: the news of a rebuild may come when the instance has its password already, or has used it. What works then is left alone.
func TestLateRebuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.replica(t)
	req := request(1, "web", "a")
	first := r.enrol(t, req).OTP
	rebuilt := w.now()
	w.skew.Add(int64(time.Minute))
	// The rebuilt instance reads its metadata before Muster has heard of the rebuild. Nobody has used the password: it is good.
	equal(t, r.enrol(t, req).OTP, first)
	must(t, r.Rebuild(t.Context(), operator, id(1), rebuilt))
	equal(t, r.enrol(t, req).OTP, first)
	must(t, w.ipa.Join("a.example.test", first))
	r.joined(t, 1)
	must(t, r.Rebuild(t.Context(), operator, id(1), rebuilt))
	r.reach(t, 1, store.EnrolmentEnrolled)
	host, _ := w.ipa.Host("a.example.test")
	if !host.HasKeytab {
		t.Fatal("a living host was cut off")
	}

	// Another rebuild, of which Muster hears at once, before the instance is there again; and twice more when it is.
	w.skew.Add(int64(time.Minute))
	rebuilt = w.now()
	must(t, r.Rebuild(t.Context(), operator, id(1), rebuilt))
	r.reach(t, 1, store.EnrolmentCreated)
	second := r.enrol(t, req).OTP
	if second == first {
		t.Error("the one-time password of before")
	}
	must(t, r.Rebuild(t.Context(), operator, id(1), rebuilt))
	must(t, r.Rebuild(t.Context(), operator, id(1), rebuilt.Add(-time.Hour)))
	equal(t, r.enrol(t, req).OTP, second)
	must(t, w.ipa.Join("a.example.test", second))

	// One that was read by the old incarnation only is no good for the new one.
	w.skew.Add(int64(time.Minute))
	must(t, r.Rebuild(t.Context(), operator, id(1), w.now()))
	r.reach(t, 1, store.EnrolmentCreated)
	third := r.enrol(t, req).OTP
	if third == second {
		t.Error("the one-time password of before")
	}
	must(t, w.ipa.Join("a.example.test", third))
}
