// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/store"
)

// life has an instance with services enrol, be rebuilt and go, and returns what FreeIPA refuses on the way.
func life(t *testing.T, w *world, r *replica, n int, name string) error {
	t.Helper()
	failure := func(reached store.EnrolmentState) error {
		e := r.until(t, n, func(e store.Enrolment) bool { return e.State == reached && !r.claimed(e) || e.LastError != "" })
		if e.LastError != "" {
			return errors.New(e.LastError)
		}
		return nil
	}
	services := "HTTP/" + name + ".internalapi.example.test"
	_, err := r.Enrol(t.Context(), operator, request(n, "web", name, "compact_service_HTTP", `["internalapi"]`, "managed_service_x", "HTTP/vip-"+name+".example.test"))
	must(t, err)
	if err := failure(store.EnrolmentCreated); err != nil {
		return err
	}
	if err := r.dns.Set(t.Context(), id(n), name+".example.test", []netip.Addr{address(t, "10.1.1.1"), address(t, "10.1.1.2")}); err != nil {
		return err
	}
	must(t, w.ipa.Join(name+".example.test", r.enrol(t, request(n, "web", name)).OTP))
	r.joined(t, n)
	must(t, w.ipa.TakeKeytab(services))
	must(t, r.Rebuild(t.Context(), operator, id(n), w.now()))
	if err := failure(store.EnrolmentCreated); err != nil {
		return err
	}
	must(t, r.Leave(t.Context(), operator, id(n)))
	return failure(store.EnrolmentGone)
}

// documented are the permissions of the page.
func documented(t *testing.T) (all []string) {
	for _, line := range strings.Split(strings.ReplaceAll(commandsOfThePage(t), "\\\n", " "), "\n") {
		if !strings.HasPrefix(line, "ipa privilege-add-permission ") {
			continue
		}
		for _, option := range strings.Split(line, "--permissions='")[1:] {
			name, _, _ := strings.Cut(option, "'")
			all = append(all, name)
		}
	}
	return all
}

// TestEachRight takes each right of the page away in turn. Without one that is needed the instance's life does not succeed, and the check says which
// one lacks; the others are for FreeIPA's own CA, which is not played here. A real FreeIPA 4.9.11 was asked the same by hand.
func TestEachRight(t *testing.T) {
	t.Parallel()
	all := documented(t)
	for _, n := range needs {
		if !contains(all, n.permission) {
			t.Errorf("the page lacks %s", n.permission)
		}
	}
	for _, permission := range all {
		t.Run(permission, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			must(t, w.ipa.AddZone("10.in-addr.arpa"))
			r := w.replica(t)
			lacking := func() (names []string) {
				t.Helper()
				standing, err := r.ipa.Standing(t.Context())
				must(t, err)
				for _, right := range Rights(standing, true) {
					if right.Verdict != Granted {
						names = append(names, right.Permission)
					}
				}
				return names
			}
			w.ipa.Forbid(permission)
			err := life(t, w, r, 1, "a")
			if contains(harmless, permission) {
				must(t, err)
				equal(t, len(lacking()), 0)
				return
			}
			if err == nil {
				t.Fatal("the life of an instance succeeds")
			}
			equal(t, lacking(), []string{permission})
			w.ipa.Allow(permission)
			equal(t, len(lacking()), 0)
			must(t, life(t, w, r, 2, "b"))
		})
	}
}

// TestRights: what is said of each right is no more than FreeIPA shows.
func TestRights(t *testing.T) {
	t.Parallel()
	verdicts := func(s ipa.Standing) map[Verdict]int {
		count := map[Verdict]int{}
		for _, r := range Rights(s, true) {
			count[r.Verdict]++
			if (r.Command == "") != (r.Verdict == Granted) {
				t.Errorf("%+v", r)
			}
		}
		return count
	}
	const service = "muster/muster.example.test@EXAMPLE.TEST"
	of := func(s ipa.Standing, permission string) Right {
		for _, r := range Rights(s, true) {
			if r.Permission == permission {
				return r
			}
		}
		t.Fatal(permission)
		return Right{}
	}
	equal(t, verdicts(ipa.Standing{Principal: service, Listed: true, Admin: true}), map[Verdict]int{Granted: len(needs)})
	nothing := ipa.Standing{Principal: service, Listed: true}
	equal(t, verdicts(nothing), map[Verdict]int{Lacking: len(needs)})
	equal(t, of(nothing, "System: Add Hosts").Command,
		"ipa role-add-member 'Muster Host Manager' --services=muster/muster.example.test (the role is made as docs/enrolment.md says)")
	equal(t, verdicts(ipa.Standing{Principal: service}), map[Verdict]int{Unseen: len(needs)})
	// Somebody has given a right under another name.
	own := ipa.Standing{Principal: service, Listed: true, Privileges: []string{"It's ours"}, Permissions: []string{"Ours"},
		Host: ipa.Writable{"userpassword": true, "krbprincipalkey": false}}
	equal(t, of(own, "Modify host password").Verdict, Granted)
	equal(t, of(own, "System: Manage Host Keytab").Verdict, Lacking)
	equal(t, of(own, "System: Manage Host Keytab").Command,
		`ipa privilege-add-permission 'It'\''s ours' --permissions='System: Manage Host Keytab'`)
	add := of(own, "System: Add Hosts")
	equal(t, add.Verdict, Unseen)
	if !strings.Contains(add.Reason, "Ours") {
		t.Errorf("%+v", add)
	}
	equal(t, of(nothing, "Modify host password").Verdict, Lacking)
	equal(t, of(own, "Modify service managedBy attribute").Command, "ipa permission-add 'Modify service managedBy attribute' --right=write "+
		`--type=service --attrs=managedby; ipa privilege-add-permission 'It'\''s ours' --permissions='Modify service managedBy attribute'`)
	equal(t, len(Rights(nothing, false)), len(needs)-4)
}
