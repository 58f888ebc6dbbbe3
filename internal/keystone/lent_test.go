// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone_test

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/keystone"
)

// These are scenarios too: what narrows a token, or lends it to somebody else.
var lentScenarios = []scenario{
	{"narrow application credential", func(t *testing.T, w *world) {
		w.grant(t, "member")
		w.grant(t, "tester")
		// Of the roles that "member" implies a credential has none that it does not name.
		token := w.wantValid(t, w.byCredential(t, w.newCredential(t, object{"roles": []object{{"name": "member"}}})), "member")
		if token.OwnLogin() {
			t.Error("it passes for a login of its user's own")
		}
		w.wantValid(t, w.byCredential(t, w.newCredential(t, object{})), "member", "reader", "tester")
		w.wantValid(t, w.byCredential(t, w.newCredential(t, object{"unrestricted": true, "roles": []object{{"name": "reader"}}})), "reader")
	}},
	{"application credential that ends", func(t *testing.T, w *world) {
		w.grant(t, "member")
		ends := time.Now().UTC().Add(20 * time.Minute).Truncate(time.Second)
		made := w.newCredential(t, object{"expires_at": ends.Format("2006-01-02T15:04:05")})
		token := w.wantValid(t, w.byCredential(t, made), "member", "reader")
		if !token.ExpiresAt.Equal(ends) {
			t.Errorf("the token ends at %v, the credential at %v", token.ExpiresAt, ends)
		}
		w.wantEnds(t, token, ends)
		w.wantEnds(t, w.wantValid(t, w.byCredential(t, w.newCredential(t, object{})), "member", "reader"), time.Time{})
		w.call(t, "DELETE", "/users/"+w.user+"/application_credentials/"+made.id, w.token(t), nil)
		w.wantGone(t, token)
	}},
	{"application credential whose owner loses the role", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		w.grant(t, "member")
		text := w.byCredential(t, w.newCredential(t, object{"roles": []object{{"name": "tester"}}}))
		token := w.wantValid(t, text, "tester")
		w.do(t, "DELETE", "/projects/"+w.project+"/users/"+w.user+"/roles/"+w.roles["tester"])
		w.wantInvalid(t, text)
		w.wantEnds(t, token, time.Time{}) // it stays
		w.step(11 * time.Second)          // refused tokens are remembered for 10 s
		w.grant(t, "tester")
		w.wantValid(t, text, "tester")
	}},
	{"application credential with access rules", func(t *testing.T, w *world) {
		w.grant(t, "member")
		got := w.wantValid(t, w.byCredential(t, w.newCredential(t, object{"access_rules": []object{
			{"service": "ssh", "method": "POST", "path": "/v1/usercerts"}}})), "member", "reader")
		if want := []keystone.AccessRule{{Service: "ssh", Method: "POST", Path: "/v1/usercerts"}}; !slices.Equal(got.AccessRules, want) {
			t.Errorf("access rules %+v, want %+v", got.AccessRules, want)
		}
		// Keystone takes an empty list for none at all.
		if got := w.wantValid(t, w.byCredential(t, w.newCredential(t, object{"access_rules": []object{}})), "member", "reader"); got.AccessRules != nil {
			t.Errorf("access rules %+v of a credential without any", got.AccessRules)
		}
	}},
	{"trust", func(t *testing.T, w *world) {
		w.grant(t, "member")
		w.grant(t, "tester")
		ends := time.Now().UTC().Add(20 * time.Minute).Truncate(time.Second)
		taker, trust := w.newTrust(t, object{"impersonation": true, "roles": []object{{"name": "member"}}, "expires_at": ends.Format("2006-01-02T15:04:05.000000Z")})
		got := w.wantValid(t, w.byTrust(t, taker, trust), "member", "reader")
		// Keystone 22 gives it the life of any token, and refuses it when the trust ends.
		if got.UserID != w.user || got.ProjectID != w.project || got.OwnLogin() ||
			got.Credential != (keystone.Credential{Kind: keystone.Trust, ID: trust}) {
			t.Errorf("got %+v", got)
		}
		w.wantEnds(t, got, ends)
		taker, trust = w.newTrust(t, object{"impersonation": false, "roles": []object{{"name": "tester"}}})
		text := w.byTrust(t, taker, trust)
		got = w.wantValid(t, text, "tester")
		if got.UserID != taker || got.ProjectID != w.project || got.OwnLogin() {
			t.Errorf("without impersonation: %+v", got)
		}
		w.wantEnds(t, got, time.Time{})
		w.call(t, "DELETE", "/OS-TRUST/trusts/"+trust, w.token(t), nil)
		w.wantInvalid(t, text)
		w.wantGone(t, got)
	}},
	// Keystone answers 403 then, which is not about Muster's rights.
	{"trust whose giver loses a role", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		w.grant(t, "member")
		text := w.lent(t, "tester")
		w.wantValid(t, text, "tester")
		w.do(t, "DELETE", "/projects/"+w.project+"/users/"+w.user+"/roles/"+w.roles["tester"])
		w.wantStatus(t, text, http.StatusForbidden)
		w.wantInvalid(t, text)
	}},
	{"trust whose giver is disabled", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		text := w.lent(t, "tester")
		w.wantValid(t, text, "tester")
		w.enable(t, "user", w.user, false)
		w.wantInvalid(t, text)
	}},
	{"trust whose giver is gone", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		text := w.lent(t, "tester")
		w.do(t, "DELETE", "/users/"+w.user)
		w.wantInvalid(t, text)
	}},
	{"trust whose taker is disabled", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		taker, trust := w.newTrustOf(t, "tester")
		text := w.byTrust(t, taker, trust)
		w.enable(t, "user", taker, false)
		w.wantInvalid(t, text)
	}},
	{"trust that is passed on", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		taker, first := w.newTrust(t, object{"impersonation": true, "allow_redelegation": true, "roles": []object{{"name": "tester"}}})
		third := w.create(t, "user", object{"name": "third-" + w.user, "domain_id": "default", "password": "secret"})
		answer, _ := w.call(t, "POST", "/OS-TRUST/trusts", w.byTrust(t, taker, first), object{"trust": object{
			"trustor_user_id": w.user, "trustee_user_id": third, "project_id": w.project, "impersonation": true, "roles": []object{{"name": "tester"}}}})
		second := answer["trust"].(object)["id"].(string)
		text := w.byTrust(t, third, second)
		got := w.wantValid(t, text, "tester")
		if got.UserID != w.user || got.Credential.ID != second {
			t.Errorf("got %+v", got)
		}
		w.call(t, "DELETE", "/OS-TRUST/trusts/"+first, w.token(t), nil)
		w.wantInvalid(t, text)
		w.wantGone(t, got)
	}},
	{"a token from a token", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		again := func(token string) object { return object{"methods": []string{"token"}, "token": object{"id": token}} }
		got := w.wantValid(t, w.login(t, again(w.login(t, byPassword(w.user, "secret"), nil)), inProject(w.project)), "tester")
		if !got.OwnLogin() || !slices.Contains(got.Methods, "password") {
			t.Errorf("got %+v", got)
		}
		// One that is lent makes no other.
		lent := w.byCredential(t, w.newCredential(t, object{}))
		w.refusedWith(t, "POST", "/auth/tokens", object{"auth": object{"identity": again(lent), "scope": inProject(w.project)}}, http.StatusForbidden)
	}},
	{"roles of a group without members", func(t *testing.T, w *world) {
		group := w.create(t, "group", object{"name": "mapped-" + w.user, "domain_id": "default"})
		other := w.create(t, "group", object{"name": "other-" + w.user, "domain_id": "default"})
		above := w.project
		w.project = w.create(t, "project", object{"name": "below-" + w.user, "domain_id": "default", "parent_id": above})
		w.do(t, "PUT", "/projects/"+w.project+"/groups/"+group+"/roles/"+w.roles["member"])
		w.do(t, "PUT", "/projects/"+above+"/groups/"+other+"/roles/"+w.roles["admin"]) // which is not inherited
		below := "/OS-INHERIT/projects/" + above + "/groups/" + group + "/roles/" + w.roles["tester"] + "/inherited_to_projects"
		w.do(t, "PUT", below)
		domain := "/OS-INHERIT/domains/default/groups/" + other + "/roles/" + w.create(t, "role", object{"name": "all-" + w.user}) + "/inherited_to_projects"
		w.do(t, "PUT", domain)
		defer w.do(t, "DELETE", domain)
		w.wantProjectRoles(t, "all-"+w.user, "member", "reader", "tester")
		w.wantRoles(t)
		got, err := w.client.EffectiveRoles(t.Context(), w.user, w.project, group)
		if want := []string{"member", "reader", "tester"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("roles with the group: %v, %v, want %v", got, err, want)
		}
		groups, err := w.client.GrantedGroups(t.Context(), w.project, []string{"0123456789abcdef0123456789abcdef", other, group})
		if want := []string{other, group}; err != nil || !slices.Equal(groups, want) {
			t.Errorf("granted groups: %v, %v, want %v", groups, err, want)
		}
		var granted []keystone.GroupGrant
		err = w.client.EachGroupGrant(t.Context(), func(g keystone.GroupGrant) error {
			if g.GroupID == group {
				slices.Sort(g.Roles)
				granted = append(granted, g)
			}
			return nil
		})
		slices.SortFunc(granted, func(a, b keystone.GroupGrant) int { return len(b.Roles) - len(a.Roles) })
		want := []keystone.GroupGrant{{GroupID: group, ProjectID: w.project, Roles: []string{"member", "reader"}},
			{GroupID: group, ProjectID: above, Inherited: true, Roles: []string{"tester"}}}
		if diff := cmp.Diff(want, granted); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
		w.do(t, "DELETE", below)
		w.wantProjectRoles(t, "all-"+w.user, "member", "reader")
		w.enable(t, "user", w.user, false)
		if got, err := w.client.EffectiveRoles(t.Context(), w.user, w.project, group); err != nil || len(got) != 0 {
			t.Errorf("roles of somebody disabled: %v, %v", got, err)
		}
	}},
}

// made is an application credential.
type made struct{ id, secret string }

func (w *world) newCredential(t *testing.T, fields object) made {
	t.Helper()
	w.named++
	all := object{"name": "robot-" + string(rune('a'+w.named))}
	for name, value := range fields {
		all[name] = value
	}
	answer, _ := w.call(t, "POST", "/users/"+w.user+"/application_credentials", w.token(t), object{"application_credential": all})
	credential := answer["application_credential"].(object)
	return made{credential["id"].(string), credential["secret"].(string)}
}

func (w *world) byCredential(t *testing.T, m made) (token string) {
	t.Helper()
	return w.login(t, object{"methods": []string{"application_credential"}, "application_credential": object{"id": m.id, "secret": m.secret}}, nil)
}

// newTrust has the scenario's user lend something to a new one.
func (w *world) newTrust(t *testing.T, fields object) (taker, trust string) {
	t.Helper()
	w.named++
	taker = w.create(t, "user", object{"name": "taker-" + string(rune('a'+w.named)) + w.user, "domain_id": "default", "password": "secret"})
	all := object{"trustor_user_id": w.user, "trustee_user_id": taker, "project_id": w.project}
	for name, value := range fields {
		all[name] = value
	}
	answer, _ := w.call(t, "POST", "/OS-TRUST/trusts", w.token(t), object{"trust": all})
	return taker, answer["trust"].(object)["id"].(string)
}

func (w *world) newTrustOf(t *testing.T, role string) (taker, trust string) {
	t.Helper()
	return w.newTrust(t, object{"impersonation": true, "roles": []object{{"name": role}}})
}

func (w *world) byTrust(t *testing.T, taker, trust string) (token string) {
	t.Helper()
	return w.login(t, byPassword(taker, "secret"), object{"OS-TRUST:trust": object{"id": trust}})
}

// lent is the token of somebody to whom the scenario's user lends a role.
func (w *world) lent(t *testing.T, role string) (token string) {
	t.Helper()
	taker, trust := w.newTrustOf(t, role)
	return w.byTrust(t, taker, trust)
}

func (w *world) wantEnds(t *testing.T, token *keystone.Token, want time.Time) {
	t.Helper()
	got, err := w.client.CredentialEnds(t.Context(), token.UserID, token.Credential)
	if err != nil || !got.Equal(want) {
		t.Errorf("%v ends at %v, %v, want %v", token.Credential, got, err, want)
	}
}

func (w *world) wantGone(t *testing.T, token *keystone.Token) {
	t.Helper()
	w.client.ForgetCredential(token.Credential.ID)
	if _, err := w.client.CredentialEnds(t.Context(), token.UserID, token.Credential); !errors.Is(err, keystone.ErrNotFound) {
		t.Errorf("%v: got error %v, want ErrNotFound", token.Credential, err)
	}
}

// wantStatus looks at what Keystone itself answers about the token.
func (w *world) wantStatus(t *testing.T, token string, want int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+"/auth/tokens", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Auth-Token", w.admin.token)
	request.Header.Set("X-Subject-Token", token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != want {
		t.Errorf("Keystone answers %d, want %d", response.StatusCode, want)
	}
}

func (w *world) wantProjectRoles(t *testing.T, want ...string) {
	t.Helper()
	w.client.ForgetProjectRoles(w.project)
	w.step(time.Minute) // for the lists of roles and of what they imply
	got, err := w.client.ProjectRoles(t.Context(), w.project)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("roles in the project: got %v, %v, want %v", got, err, want)
	}
}
