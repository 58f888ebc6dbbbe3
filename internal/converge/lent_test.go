// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"context"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

// issueWithin gives the person a certificate for a new key, within limits.
func (w *world) issueWithin(p person, l sshca.Limits) store.UserCert {
	w.t.Helper()
	w.keystone.ForgetAll()
	cert, err := w.ca.IssueUser(w.t.Context(), sshca.Actor{UserID: p.user}, sshca.UserRequest{
		ProjectID: p.project, UserID: p.user, UserName: "somebody", PublicKey: newKey(w.t), Limits: l,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return cert
}

// robot makes an application credential of a person's who has the role "kept".
func (w *world) robot(p person) (credential store.Credential, path string) {
	w.t.Helper()
	administrator := w.token
	defer func() { w.token = administrator }()
	w.ask("PUT", "/projects/"+p.project+"/users/"+p.user+"/roles/"+w.role("kept"), nil)
	var err error
	if w.token, err = w.cloud.Identity.TokenOf(p.user, p.project); err != nil {
		w.t.Fatal(err)
	}
	path = "/users/" + p.user + "/application_credentials"
	made := w.ask("POST", path, map[string]any{"application_credential": map[string]any{"name": rand.Text()}})
	id := made["application_credential"].(map[string]any)["id"].(string)
	return store.Credential{Kind: string(keystone.ApplicationCredential), ID: id, Owner: p.user}, path + "/" + id
}

// When an application credential goes, what was asked for with it does, and
// nothing else: by the hint, and without it by the comparison.
func TestCredentialGoes(t *testing.T) {
	for _, how := range []string{"hinted", "compared"} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t)
			p, _ := w.newPerson()
			other, _ := w.newPerson()
			credential, path := w.robot(p)
			staying, _ := w.robot(p)
			w.ask("PUT", "/projects/"+other.project+"/users/"+other.user+"/roles/"+w.role("other"), nil)
			cert := w.issueWithin(p, sshca.Limits{Credential: credential})
			w.issueWithin(p, sshca.Limits{Credential: staying})
			w.issueWithin(p, sshca.Limits{})
			w.issueWithin(other, sshca.Limits{Credential: credential}) // an operator's credential, used in another's name
			find := func() converge.Report {
				if how == "compared" {
					return w.reconcile(converge.Order{})
				}
				w.hint(converge.Key{Kind: converge.Credential, ID: credential.ID}, converge.Key{Kind: converge.Credential, ID: staying.ID})
				return converge.Report{}
			}
			find()
			if got := len(w.live(p)) + len(w.live(other)); got != 4 {
				t.Fatalf("%d certificates are good while the credential is there, want 4", got)
			}
			w.ask("DELETE", path, nil)
			report := find()
			if live := w.live(p); len(live) != 2 {
				t.Errorf("certificates when it is gone: %v", live)
			}
			if live := w.live(other); len(live) != 0 {
				t.Errorf("certificates in another's name: %v", live)
			}
			w.inList(p.project, cert.Serial)
			if how == "compared" {
				if last := report.Kinds[4]; last.Kind != converge.Credential || last.Total != 2 || last.Remove != 1 {
					t.Errorf("reported: %+v", last)
				}
			}
		})
	}
}

// A role that goes takes the certificates of a credential with it, and they stay
// revoked when it comes back, and the credential with it.
func TestCredentialStaysWithoutRole(t *testing.T) {
	w := newWorld(t)
	p, _ := w.newPerson()
	credential, _ := w.robot(p)
	cert := w.issueWithin(p, sshca.Limits{Roles: []string{"kept"}, Credential: credential})
	path := "/projects/" + p.project + "/users/" + p.user + "/roles/" + w.role("kept")
	w.ask("DELETE", path, nil)
	w.hint(converge.GrantKey(p.user, p.project))
	w.ask("PUT", path, nil)
	w.hint(converge.GrantKey(p.user, p.project), converge.Key{Kind: converge.Credential, ID: credential.ID})
	w.reconcile(converge.Order{})
	if live := w.live(p); len(live) != 0 {
		t.Errorf("certificates after the role came back: %v", live)
	}
	w.inList(p.project, cert.Serial)
}

// unasked answers about credentials with an error.
type unasked struct {
	converge.Keystone
	err error
}

func (u unasked) CredentialEnds(context.Context, string, keystone.Credential) (time.Time, error) {
	return time.Time{}, u.err
}

// What cannot be asked about is not gone.
func TestCredentialNotShown(t *testing.T) {
	for _, err := range []error{keystone.ErrUnavailable, keystone.ErrForbidden} {
		w := newWorld(t)
		p, _ := w.newPerson()
		credential, _ := w.robot(p)
		w.issueWithin(p, sshca.Limits{Credential: credential})
		w.cfg.Keystone = unasked{w.keystone, err}
		w.restart()
		<-w.queue.Offer(t.Context(), []converge.Hint{{Key: converge.Key{Kind: converge.Credential, ID: credential.ID}}})
		if _, err := w.compare.Reconcile(t.Context(), converge.Order{}); err == nil {
			t.Error("the comparison took no notice")
		}
		if live := w.live(p); len(live) != 1 {
			t.Errorf("%v: certificates %v", err, live)
		}
		// One that Keystone does not find is gone only if Muster would see it.
		w.cfg.Keystone = blind{unasked{w.keystone, keystone.ErrNotFound}, keystone.ErrForbidden}
		w.restart()
		<-w.queue.Offer(t.Context(), []converge.Hint{{Key: converge.Key{Kind: converge.Credential, ID: credential.ID}}})
		if live := w.live(p); len(live) != 1 {
			t.Errorf("certificates %v were taken away without the right to see", live)
		}
	}
}

// mappedWays are those in which a group that a mapping fills has the role "lost".
var mappedWays = []struct {
	name string
	give func(w *world, p person, domain, group string) (assignment string)
}{
	{"in the project", func(w *world, p person, _, group string) string {
		return "/projects/" + p.project + "/groups/" + group + "/roles/" + w.role("lost")
	}},
	{"inherited from the domain", func(w *world, _ person, domain, group string) string {
		return "/OS-INHERIT/domains/" + domain + "/groups/" + group + "/roles/" + w.role("lost") + "/inherited_to_projects"
	}},
	{"inherited from a project", func(w *world, p person, domain, group string) string {
		above := w.create("project", map[string]any{"name": rand.Text(), "domain_id": domain})
		w.ask("PATCH", "/projects/"+p.project, map[string]any{"project": map[string]any{"parent_id": above}})
		return "/OS-INHERIT/projects/" + above + "/groups/" + group + "/roles/" + w.role("lost") + "/inherited_to_projects"
	}},
	{"implied", func(w *world, p person, _, group string) string {
		w.ask("PUT", "/roles/"+w.role("implying")+"/implies/"+w.role("lost"), nil)
		return "/projects/" + p.project + "/groups/" + group + "/roles/" + w.role("implying")
	}},
}

// Who is in a group by a mapping alone keeps a certificate as long as the group
// has the role.
func TestMappedPeople(t *testing.T) {
	for _, way := range mappedWays {
		for _, how := range []string{"hinted", "compared"} {
			t.Run(way.name+"/"+how, func(t *testing.T) {
				w := newWorld(t)
				p, domain := w.newPerson()
				group := w.create("group", map[string]any{"name": rand.Text(), "domain_id": domain})
				// Somewhere else it keeps a role.
				elsewhere, _ := w.newPerson()
				w.ask("PUT", "/projects/"+elsewhere.project+"/groups/"+group+"/roles/"+w.role("other"), nil)
				assignment := way.give(w, p, domain, group)
				w.ask("PUT", assignment, nil)
				cert := w.issueWithin(p, sshca.Limits{Roles: []string{"lost"}, GroupIDs: []string{group}, Until: time.Now().Add(time.Hour)})
				w.issueWithin(elsewhere, sshca.Limits{Roles: []string{"other"}, GroupIDs: []string{group}, Until: time.Now().Add(time.Hour)})
				find := func() converge.Report {
					if how == "compared" {
						return w.reconcile(converge.Order{})
					}
					w.hint(converge.Key{Kind: converge.Members, ID: p.project}, converge.Key{Kind: converge.Role, ID: w.role("lost")})
					return converge.Report{}
				}
				report := find()
				if live := w.live(p); len(live) != 1 {
					t.Fatalf("certificates while the group has the role: %v %+v", live, report)
				}
				if how == "compared" && report.Kinds[1].Remove != 0 {
					t.Errorf("the comparison suspects: %+v", report.Kinds[1])
				}
				// What is remembered of the group's grants is not what decides.
				if _, err := w.keystone.EffectiveRoles(t.Context(), p.user, p.project, group); err != nil {
					t.Fatal(err)
				}
				w.ask("DELETE", assignment, nil)
				find()
				if live := w.live(p); len(live) != 0 {
					t.Errorf("certificates when the group has lost the role: %v", live)
				}
				if diff := cmp.Diff([]string{"other"}, w.live(elsewhere)); diff != "" {
					t.Errorf("elsewhere: %s", diff)
				}
				w.inList(p.project, cert.Serial)
			})
		}
	}
}

// Keystone's list of all assignments leaves out what people have by groups that
// a mapping put them in. Many of them, with their application credentials, are
// no reason for the guard to think that the cloud is broken.
func TestMappedPeopleDoNotTripTheGuard(t *testing.T) {
	w := newWorld(t)
	p, domain := w.newPerson()
	group := w.create("group", map[string]any{"name": rand.Text(), "domain_id": domain})
	w.ask("PUT", "/projects/"+p.project+"/groups/"+group+"/roles/"+w.role("mapped"), nil)
	var lost person
	for range 25 {
		one := person{w.create("user", map[string]any{"name": rand.Text(), "domain_id": domain, "password": "secret"}), p.project}
		if err := w.cloud.Identity.MapIntoGroup(one.user, group); err != nil {
			t.Fatal(err)
		}
		w.issueWithin(one, sshca.Limits{})
		lost = one
	}
	report := w.reconcile(converge.Order{})
	if kind := report.Kinds[1]; kind.Total != 25 || kind.Remove != 0 || kind.Refused {
		t.Errorf("%+v", kind)
	}
	if live := w.live(lost); !slices.Equal(live, []string{"mapped"}) {
		t.Errorf("certificates %v", live)
	}
	w.ask("DELETE", "/groups/"+group, nil)
	if kind := w.reconcile(converge.Order{}).Kinds[1]; kind.Remove != 25 || !kind.Refused {
		t.Errorf("when all of them have lost it, the guard says %+v", kind)
	}
}
