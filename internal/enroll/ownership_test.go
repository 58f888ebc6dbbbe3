// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"database/sql"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/store"
)

const (
	subName    = "a.internalapi.example.test"
	subService = "HTTP/" + subName
	vip        = "vip-1.example.test"
	vipService = "HTTP/" + vip
)

// enrolWithServices has an instance with a service on a name of its own, and one on a name that instances share.
func enrolWithServices(t *testing.T, r *replica) Answer {
	t.Helper()
	return r.enrol(t, request(1, "web", "a", "compact_service_HTTP", `["internalapi"]`, "managed_service_x", vipService))
}

// TestReplacedEntries: what an administrator deleted and made anew under the same name stays when the instance goes, and all else goes.
func TestReplacedEntries(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		replaced        string
		hosts, services []string // that stay
	}{
		{"a.example.test", []string{"a.example.test"}, nil},
		{subName, []string{subName}, nil},
		{vip, []string{vip}, nil},
		{vipService, []string{vip}, []string{vipService}}, // its host carries it
	} {
		t.Run(row.replaced, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := w.replica(t)
			enrolWithServices(t, r)
			must(t, w.ipa.Replace(row.replaced))
			r.leave(t, 1)
			hosts, services := w.entries()
			equal(t, hosts, row.hosts)
			equal(t, services, row.services)
		})
	}
}

// TestRecordsWithoutIdentity: what was recorded before identities were is removed by its name, as it was.
func TestRecordsWithoutIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.replica(t)
	enrolWithServices(t, r)
	db, err := sql.Open("sqlite", strings.TrimPrefix(w.url, "sqlite:///"))
	must(t, err)
	result, err := db.Exec("UPDATE external_object SET identity = '' WHERE identity <> ''")
	must(t, err)
	n, err := result.RowsAffected()
	must(t, err)
	equal(t, n, int64(5)) // three hosts and two services
	must(t, db.Close())
	r.leave(t, 1)
	hosts, services := w.entries()
	equal(t, len(hosts)+len(services), 0)
}

// TestReplacedWhileJoining: an entry that was made anew is not the instance's, until somebody says so. Then it goes with the instance.
func TestReplacedWhileJoining(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.replica(t)
	req := request(1, "web", "a")
	old := r.enrol(t, req).OTP
	must(t, w.ipa.Replace("a.example.test"))
	w.skew.Add(int64(lookEvery))
	_, err := r.Enrol(t.Context(), operator, req)
	if err == nil || !strings.Contains(err.Error(), "FreeIPA has a host entry a.example.test that Muster did not make") {
		t.Fatal(err)
	}
	_, err = r.Adopt(t.Context(), operator, id(1))
	must(t, err)
	r.reach(t, 1, store.EnrolmentCreated)
	if r.enrol(t, req).OTP == old {
		t.Error("the new entry has the password of the old one")
	}
	r.leave(t, 1)
	hosts, _ := w.entries()
	equal(t, len(hosts), 0)
}

// TestRebuildOfReplaced: a rebuild cuts off no host that somebody else has made.
func TestRebuildOfReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.replica(t)
	must(t, w.ipa.Join("a.example.test", r.enrol(t, request(1, "web", "a")).OTP))
	r.joined(t, 1)
	must(t, w.ipa.Remove("a.example.test"))
	must(t, w.ipa.AddHost("a.example.test", "theirs"))
	must(t, w.ipa.Join("a.example.test", "theirs"))
	must(t, r.Rebuild(t.Context(), operator, id(1), w.now()))
	e := r.reach(t, 1, store.EnrolmentFailed)
	if !strings.Contains(e.LastError, "that Muster did not make") {
		t.Errorf("%+v", e)
	}
	if host, _ := w.ipa.Host("a.example.test"); !host.HasKeytab || host.HasPassword {
		t.Errorf("%+v", host)
	}
}

// TestRebuildKeytabs: after a rebuild no keytab is good that the instance had before, also of services on other names, which FreeIPA's
// host_disable leaves. What another instance has too, or somebody else has made, stays.
func TestRebuildKeytabs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, w.ipa.AddHost("theirs.example.test", ""))
	must(t, w.ipa.AddService(foreignService))
	r := w.replica(t)
	const both = "HTTP/vip-2.example.test"
	r.enrol(t, request(1, "tripleo", "a", "compact_service_HTTP", `["internalapi"]`, "managed_service_x", vipService,
		"managed_service_y", both, "managed_service_z", foreignService))
	r.enrol(t, request(2, "tripleo", "b", "managed_service_y", both))
	for _, principal := range []string{subService, vipService, both, foreignService} {
		must(t, w.ipa.TakeKeytab(principal))
	}
	must(t, r.Rebuild(t.Context(), operator, id(1), w.now()))
	r.until(t, 1, func(e store.Enrolment) bool { return e.State == store.EnrolmentCreated && !r.claimed(e) })
	valid := map[string]bool{}
	for _, s := range w.ipa.Services() {
		name, _, _ := strings.Cut(s.Principal, "@")
		valid[name] = s.HasKeytab
	}
	for principal, want := range map[string]bool{subService: false, vipService: false, both: true, foreignService: true} {
		if valid[principal] != want {
			t.Errorf("%s: the keytab is valid: %v", principal, valid[principal])
		}
	}
}

// TestOrdersAfterRemoval: an instance whose entry somebody removed gets another one, with another password, by either order.
func TestOrdersAfterRemoval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.replica(t)
	for n, order := range []func(id string) error{
		func(id string) error { return r.Rebuild(t.Context(), operator, id, time.Time{}) },
		func(id string) error { _, err := r.Retry(t.Context(), operator, id); return err },
	} {
		name := string(rune('a' + n))
		req := request(n+1, "web", name)
		old := r.enrol(t, req).OTP
		must(t, w.ipa.Remove(name+".example.test"))
		w.skew.Add(int64(lookEvery))
		_, err := r.Enrol(t.Context(), operator, req)
		if err == nil || !strings.Contains(err.Error(), "somebody removed the host entry") {
			t.Fatal(err)
		}
		must(t, order(req.InstanceID))
		r.reach(t, n+1, store.EnrolmentCreated)
		if again := r.enrol(t, req).OTP; again == old {
			t.Errorf("order %d: the password that somebody may know is good again", n)
		}
	}
}

// TestAstray: what somebody removed from FreeIPA is found, and comes back, but for an instance's own entry, which is an operator's matter.
func TestAstray(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.replica(t)
	answer := enrolWithServices(t, r)
	must(t, w.ipa.Join("a.example.test", answer.OTP))
	r.joined(t, 1)
	r.enrol(t, request(2, "web", "b"))
	astray := func() []string {
		t.Helper()
		all, err := r.store.Enrolments(t.Context(), store.EnrolmentFilter{}, store.Page{})
		must(t, err)
		found, err := r.Astray(t.Context(), all)
		must(t, err)
		return found
	}
	for _, removed := range [][]string{{subService}, {vipService}, {subName}, {vipService, vip}} {
		equal(t, len(astray()), 0)
		for _, name := range removed {
			must(t, w.ipa.Remove(name))
		}
		equal(t, astray(), []string{id(1)})
		must(t, r.Mend(t.Context(), operator, id(1)))
		r.until(t, 1, func(e store.Enrolment) bool { return e.State == store.EnrolmentEnrolled && !r.claimed(e) })
		hosts, services := w.entries()
		slices.Sort(hosts)
		equal(t, hosts, []string{"a.example.test", subName, "b.example.test", vip})
		equal(t, services, []string{subService, vipService})
	}
	if host, _ := w.ipa.Host("a.example.test"); !host.HasKeytab {
		t.Error("mending cut the host off")
	}

	must(t, w.ipa.Remove("a.example.test"))
	must(t, w.ipa.Replace("b.example.test"))
	found := astray()
	slices.Sort(found)
	equal(t, found, []string{id(1), id(2)})
	for n, reason := range map[int]string{1: "somebody removed the host entry", 2: "that Muster did not make"} {
		must(t, r.Mend(t.Context(), operator, id(n)))
		if e := r.reach(t, n, store.EnrolmentFailed); !strings.Contains(e.LastError, reason) {
			t.Errorf("%+v", e)
		}
	}
	equal(t, len(astray()), 0) // it was said
	must(t, r.Mend(t.Context(), operator, id(3)))
}

// TestAstrayWithoutFreeIPA: a FreeIPA that is away says nothing of anybody.
func TestAstrayWithoutFreeIPA(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.replica(t)
	enrolWithServices(t, r)
	w.ipa.Inject(func(string) freeipa.Fault { return freeipa.Fault{Status: 503} })
	all, err := r.store.Enrolments(t.Context(), store.EnrolmentFilter{}, store.Page{})
	must(t, err)
	if found, err := r.Astray(t.Context(), all); err == nil || found != nil {
		t.Errorf("%v, %v", found, err)
	}
}
