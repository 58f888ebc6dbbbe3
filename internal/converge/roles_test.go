// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"crypto/rand"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/converge"
)

// ways are all the ways in which a person loses the role "lost". Each gives
// the role, and returns how it is taken away again, and which key Keystone's
// notification names; without one, only the comparison finds out.
var ways = []struct {
	name string
	give func(w *world, p person, domain string) (take func(), key converge.Key)
}{
	{"unassigned", func(w *world, p person, _ string) (func(), converge.Key) {
		path := "/projects/" + p.project + "/users/" + p.user + "/roles/" + w.role("lost")
		w.ask("PUT", path, nil)
		return func() { w.ask("DELETE", path, nil) }, converge.GrantKey(p.user, p.project)
	}},
	{"inherited from the domain", func(w *world, p person, domain string) (func(), converge.Key) {
		path := "/OS-INHERIT/domains/" + domain + "/users/" + p.user + "/roles/" + w.role("lost") + "/inherited_to_projects"
		w.ask("PUT", path, nil)
		return func() { w.ask("DELETE", path, nil) }, converge.Key{Kind: converge.User, ID: p.user}
	}},
	{"unassigned from the group", func(w *world, p person, domain string) (func(), converge.Key) {
		group, path := w.groupOf(p, domain)
		return func() { w.ask("DELETE", path, nil) }, converge.Key{Kind: converge.Group, ID: group}
	}},
	{"unassigned from the group in the domain", func(w *world, p person, domain string) (func(), converge.Key) {
		group := w.create("group", map[string]any{"name": rand.Text(), "domain_id": domain})
		w.ask("PUT", "/groups/"+group+"/users/"+p.user, nil)
		path := "/OS-INHERIT/domains/" + domain + "/groups/" + group + "/roles/" + w.role("lost") + "/inherited_to_projects"
		w.ask("PUT", path, nil)
		return func() { w.ask("DELETE", "/groups/"+group+"/users/"+p.user, nil) }, converge.Key{Kind: converge.Group, ID: group}
	}},
	{"out of the group", func(w *world, p person, domain string) (func(), converge.Key) {
		group, _ := w.groupOf(p, domain)
		return func() { w.ask("DELETE", "/groups/"+group+"/users/"+p.user, nil) }, converge.Key{Kind: converge.Group, ID: group}
	}},
	{"group deleted", func(w *world, p person, domain string) (func(), converge.Key) {
		group, _ := w.groupOf(p, domain)
		return func() { w.ask("DELETE", "/groups/"+group, nil) }, converge.Key{Kind: converge.Group, ID: group}
	}},
	{"role deleted", func(w *world, p person, _ string) (func(), converge.Key) {
		w.ask("PUT", "/projects/"+p.project+"/users/"+p.user+"/roles/"+w.role("lost"), nil)
		role := w.role("lost")
		return func() { w.ask("DELETE", "/roles/"+role, nil) }, converge.Key{Kind: converge.Role, ID: role}
	}},
	{"no longer implied", func(w *world, p person, _ string) (func(), converge.Key) {
		w.ask("PUT", "/projects/"+p.project+"/users/"+p.user+"/roles/"+w.role("kept"), nil)
		path := "/roles/" + w.role("kept") + "/implies/" + w.role("lost")
		w.ask("PUT", path, nil)
		return func() { w.ask("DELETE", path, nil) }, converge.Key{Kind: converge.Role, ID: w.role("kept")}
	}},
	{"user deleted", func(w *world, p person, _ string) (func(), converge.Key) {
		w.ask("PUT", "/projects/"+p.project+"/users/"+p.user+"/roles/"+w.role("lost"), nil)
		return func() { w.ask("DELETE", "/users/"+p.user, nil) }, converge.Key{Kind: converge.User, ID: p.user}
	}},
	{"user disabled", func(w *world, p person, _ string) (func(), converge.Key) {
		w.ask("PUT", "/projects/"+p.project+"/users/"+p.user+"/roles/"+w.role("lost"), nil)
		return func() { w.disable("user", p.user) }, converge.Key{Kind: converge.User, ID: p.user}
	}},
	{"project deleted", func(w *world, p person, _ string) (func(), converge.Key) {
		w.ask("PUT", "/projects/"+p.project+"/users/"+p.user+"/roles/"+w.role("lost"), nil)
		return func() { w.ask("DELETE", "/projects/"+p.project, nil) }, converge.Key{Kind: converge.Project, ID: p.project}
	}},
	{"project disabled", func(w *world, p person, _ string) (func(), converge.Key) {
		w.ask("PUT", "/projects/"+p.project+"/users/"+p.user+"/roles/"+w.role("lost"), nil)
		return func() { w.disable("project", p.project) }, converge.Key{Kind: converge.Project, ID: p.project}
	}},
	{"domain disabled", func(w *world, p person, domain string) (func(), converge.Key) {
		w.ask("PUT", "/projects/"+p.project+"/users/"+p.user+"/roles/"+w.role("lost"), nil)
		return func() { w.disable("domain", domain) }, converge.Key{Kind: converge.Domain, ID: domain}
	}},
	{"domain deleted", func(w *world, p person, domain string) (func(), converge.Key) {
		w.ask("PUT", "/projects/"+p.project+"/users/"+p.user+"/roles/"+w.role("lost"), nil)
		return func() {
			w.disable("domain", domain)
			w.ask("DELETE", "/domains/"+domain, nil)
		}, converge.Key{Kind: converge.Domain, ID: domain}
	}},
}

// groupOf puts the person into a new group that has the role in the project.
func (w *world) groupOf(p person, domain string) (group, assignment string) {
	w.t.Helper()
	group = w.create("group", map[string]any{"name": rand.Text(), "domain_id": domain})
	w.ask("PUT", "/groups/"+group+"/users/"+p.user, nil)
	assignment = "/projects/" + p.project + "/groups/" + group + "/roles/" + w.role("lost")
	w.ask("PUT", assignment, nil)
	return group, assignment
}

// TestEveryWayToLoseARole: the hint, and without it the comparison, revokes
// the certificates of who lost the role, and nobody else's.
func TestEveryWayToLoseARole(t *testing.T) {
	for _, way := range ways {
		for _, how := range []string{"hinted", "compared"} {
			t.Run(way.name+"/"+how, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				other, _ := w.newPerson()
				w.ask("PUT", "/projects/"+other.project+"/users/"+other.user+"/roles/"+w.role("other"), nil)
				p, domain := w.newPerson()
				take, key := way.give(w, p, domain)
				cert := w.issue(p)
				w.issue(other)
				find := func() { w.hint(key) }
				if how == "compared" {
					find = func() { w.reconcile(converge.Order{}) }
				}
				find()
				if live := w.live(p); len(live) != 1 {
					t.Fatalf("certificates while the role is there: %v", live)
				}
				take()
				find()
				if live := w.live(p); len(live) != 0 {
					t.Errorf("certificates when the role is gone: %v", live)
				}
				if diff := cmp.Diff([]string{"other"}, w.live(other)); diff != "" {
					t.Errorf("somebody else's certificates: %s", diff)
				}
				w.inList(p.project, cert.Serial)
				if failed := w.pending(); failed != nil {
					t.Error(failed)
				}
			})
		}
	}
}

// inList fails the test unless the project's revocation list has the serial.
func (w *world) inList(project string, serial uint64) {
	w.t.Helper()
	entries, err := w.store.Revocations(w.t.Context(), project, 0, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.Serial == serial {
			if entry.By != "converge" || entry.Reason == "" {
				w.t.Errorf("revoked by %q because %q", entry.By, entry.Reason)
			}
			return
		}
	}
	w.t.Errorf("serial %d is not in the list: %+v", serial, entries)
}
