// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/devcloudtest"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/test/services"
)

// The same scenarios run against the in-process cloud and the real Keystone:
// they judge the client, and the first by the second.

func TestDevcloud(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{Passwords: map[string]string{"admin": "admin-password"}})
	scenarios(t, cloud.AuthURL(), "admin-password")
}

func TestRealKeystone(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: starting Keystone takes 12 s")
	}
	server := services.Keystone(t)
	scenarios(t, server.AuthURL, server.AdminPassword)
}

// admin administers a Keystone by HTTP.
type admin struct {
	url   string
	token string
	roles map[string]string
}

type object = map[string]any

// call makes a request and returns the answer, its status and its headers.
func (a *admin) call(t *testing.T, method, path, token string, body any) (object, *http.Response) {
	t.Helper()
	var text []byte
	if body != nil {
		text, _ = json.Marshal(body)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, a.url+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Auth-Token", token)
	if subject, ok := strings.CutPrefix(path, "/auth/tokens#"); ok {
		request.Header.Set("X-Subject-Token", subject)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, _ := io.ReadAll(response.Body)
	var answer object
	_ = json.Unmarshal(raw, &answer) // some answers have no body
	if response.StatusCode >= 300 {
		t.Fatalf("%s %s: %d %s", method, path, response.StatusCode, raw)
	}
	return answer, response
}

// refused makes a request that Keystone must answer with the status.
func (a *admin) refused(t *testing.T, method, path string, status int) {
	t.Helper()
	a.refusedWith(t, method, path, nil, status)
}

func (a *admin) refusedWith(t *testing.T, method, path string, body object, status int) {
	t.Helper()
	var text []byte
	if body != nil {
		text, _ = json.Marshal(body)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, a.url+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Auth-Token", a.token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != status {
		t.Errorf("%s %s: %d, want %d", method, path, response.StatusCode, status)
	}
}

func (a *admin) do(t *testing.T, method, path string) {
	t.Helper()
	a.call(t, method, path, a.token, nil)
}

func (a *admin) create(t *testing.T, kind string, fields object) string {
	t.Helper()
	answer, _ := a.call(t, "POST", "/"+kind+"s", a.token, object{kind: fields})
	return answer[kind].(object)["id"].(string)
}

func (a *admin) enable(t *testing.T, kind, id string, enabled bool) {
	t.Helper()
	a.call(t, "PATCH", "/"+kind+"s/"+id, a.token, object{kind: object{"enabled": enabled}})
}

func (a *admin) login(t *testing.T, identity, scope object) string {
	t.Helper()
	auth := object{"identity": identity}
	if scope != nil {
		auth["scope"] = scope
	}
	_, response := a.call(t, "POST", "/auth/tokens", "", object{"auth": auth})
	return response.Header.Get("X-Subject-Token")
}

func byPassword(userID, password string) object {
	return object{"methods": []string{"password"},
		"password": object{"user": object{"id": userID, "password": password}}}
}

func inProject(id string) object { return object{"project": object{"id": id}} }

// world is one user with one project, made for one scenario.
type world struct {
	*admin
	user, project string
	client        *keystone.Client
	named         int // things that needed a name of their own
	stepClock
}

func (w *world) grant(t *testing.T, role string) {
	t.Helper()
	w.do(t, "PUT", "/projects/"+w.project+"/users/"+w.user+"/roles/"+w.roles[role])
}

func (w *world) token(t *testing.T) string {
	t.Helper()
	return w.login(t, byPassword(w.user, "secret"), inProject(w.project))
}

func (w *world) wantRoles(t *testing.T, want ...string) {
	t.Helper()
	got, err := w.client.EffectiveRoles(t.Context(), w.user, w.project)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("effective roles: got %v, want %v", got, want)
	}
}

func (w *world) wantValid(t *testing.T, token string, roles ...string) *keystone.Token {
	t.Helper()
	got, err := w.client.Validate(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(slices.Values(got.Roles))
	if !slices.Equal(names, roles) {
		t.Errorf("roles in the token: got %v, want %v", names, roles)
	}
	return got
}

func (w *world) wantInvalid(t *testing.T, token string) {
	t.Helper()
	if _, err := w.client.Validate(t.Context(), token); !errors.Is(err, keystone.ErrInvalidToken) {
		t.Errorf("got error %v, want ErrInvalidToken", err)
	}
}

func scenarios(t *testing.T, authURL, password string) {
	a := &admin{url: authURL, roles: map[string]string{}}
	a.token = a.login(t, object{"methods": []string{"password"}, "password": object{"user": object{
		"name": "admin", "domain": object{"name": "Default"}, "password": password}}},
		object{"project": object{"name": "admin", "domain": object{"id": "default"}}})
	answer, _ := a.call(t, "GET", "/roles", a.token, nil)
	for _, r := range answer["roles"].([]any) {
		a.roles[r.(object)["name"].(string)] = r.(object)["id"].(string)
	}
	a.roles["tester"] = a.create(t, "role", object{"name": "tester"})

	for _, s := range slices.Concat(scenarioTable, lentScenarios) {
		t.Run(s.name, func(t *testing.T) {
			w := &world{admin: a, stepClock: stepClock{now: time.Now()}}
			unique := strings.ReplaceAll(s.name, " ", "-")
			w.project = a.create(t, "project", object{"name": unique, "domain_id": "default"})
			w.user = a.create(t, "user", object{"name": unique, "domain_id": "default", "password": "secret"})
			var err error
			w.client, err = keystone.New(keystone.Config{AuthURL: authURL, Username: "admin", Password: password,
				UserDomainName: "Default", ProjectName: "admin", ProjectDomainName: "Default",
				// Nothing is cached, so that each step sees what Keystone says now.
				TokenCacheTime: 1, RoleCacheTime: 1, Timeout: 20 * time.Second,
				Now: func() time.Time { w.step(time.Microsecond); return w.clock() }})
			if err != nil {
				t.Fatal(err)
			}
			s.play(t, w)
		})
	}
}

type scenario struct {
	name string
	play func(t *testing.T, w *world)
}

var scenarioTable = []scenario{
	{"whole lists", wholeLists},
	{"token without scope", func(t *testing.T, w *world) {
		token := w.wantValid(t, w.login(t, byPassword(w.user, "secret"), nil))
		if token.UserID != w.user || token.ProjectID != "" || token.SystemScope {
			t.Errorf("got %+v", token)
		}
		w.wantRoles(t)
	}},
	{"token for a project", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		got := w.wantValid(t, w.token(t), "tester")
		want := &keystone.Token{UserID: w.user, UserName: "token-for-a-project", UserDomainID: "default",
			ProjectID: w.project, ProjectName: "token-for-a-project", ProjectDomainID: "default", IsAdminProject: true,
			Roles: []string{"tester"}, ExpiresAt: got.ExpiresAt, Methods: []string{"password"}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if left := got.ExpiresAt.Sub(w.clock()); left < 30*time.Minute || left > 5*time.Hour {
			t.Errorf("the token expires in %v", left)
		}
	}},
	{"token for a domain and the system", func(t *testing.T, w *world) {
		w.do(t, "PUT", "/domains/default/users/"+w.user+"/roles/"+w.roles["tester"])
		w.do(t, "PUT", "/system/users/"+w.user+"/roles/"+w.roles["tester"])
		domain := object{"domain": object{"id": "default"}}
		if got := w.wantValid(t, w.login(t, byPassword(w.user, "secret"), domain), "tester"); got.DomainID != "default" {
			t.Errorf("got %+v", got)
		}
		system := object{"system": object{"all": true}}
		if got := w.wantValid(t, w.login(t, byPassword(w.user, "secret"), system), "tester"); !got.SystemScope {
			t.Errorf("got %+v", got)
		}
		w.wantRoles(t) // neither counts in a project
		answer, _ := w.call(t, "GET", "/role_assignments?effective&user.id="+w.user, w.admin.token, nil)
		for _, one := range answer["role_assignments"].([]any) {
			if scope := one.(object)["scope"].(object); scope["system"] != nil {
				t.Errorf("Keystone counts %v as effective", scope)
			}
		}
	}},
	{"expired token", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		token := w.token(t)
		w.step(w.wantValid(t, token, "tester").ExpiresAt.Sub(w.clock()))
		w.wantInvalid(t, token)
	}},
	{"unknown token", func(t *testing.T, w *world) {
		w.wantInvalid(t, "gAAAAABrAmEunknown")
		w.wantInvalid(t, "0123456789abcdef0123456789abcdef")
	}},
	{"revoked token", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		token := w.token(t)
		w.wantValid(t, token, "tester")
		w.call(t, "DELETE", "/auth/tokens#"+token, w.admin.token, nil)
		w.wantInvalid(t, token)
	}},
	{"disabled user", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		token := w.token(t)
		w.wantRoles(t, "tester")
		w.enable(t, "user", w.user, false)
		w.wantInvalid(t, token)
		w.wantRoles(t)
		w.enable(t, "user", w.user, true)
		w.wantInvalid(t, token)
		w.wantRoles(t, "tester")
	}},
	{"deleted user", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		token := w.token(t)
		w.do(t, "DELETE", "/users/"+w.user)
		w.wantInvalid(t, token)
		w.wantRoles(t)
		if _, err := w.client.User(t.Context(), w.user); !errors.Is(err, keystone.ErrNotFound) {
			t.Errorf("got error %v, want ErrNotFound", err)
		}
	}},
	{"disabled project", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		token := w.token(t)
		w.enable(t, "project", w.project, false)
		w.wantRoles(t)
		w.wantInvalid(t, token)
		project, err := w.client.Project(t.Context(), w.project)
		want := keystone.Project{ID: w.project, Name: "disabled-project", DomainID: "default", ParentID: "default"}
		if err != nil || project != want {
			t.Errorf("got %+v, %v, want %+v", project, err, want)
		}
	}},
	{"deleted project", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		w.do(t, "DELETE", "/projects/"+w.project)
		w.wantRoles(t)
		if _, err := w.client.Project(t.Context(), w.project); !errors.Is(err, keystone.ErrNotFound) {
			t.Errorf("got error %v, want ErrNotFound", err)
		}
	}},
	{"disabled domain", func(t *testing.T, w *world) {
		domain := w.create(t, "domain", object{"name": "gone"})
		w.user = w.create(t, "user", object{"name": "exile", "domain_id": domain, "password": "secret"})
		w.grant(t, "tester")
		token := w.token(t)
		w.wantRoles(t, "tester")
		w.enable(t, "domain", domain, false)
		w.wantRoles(t)
		w.wantInvalid(t, token)
	}},
	{"deleted domain", func(t *testing.T, w *world) {
		domain := w.create(t, "domain", object{"name": "doomed"})
		user, upper := w.user, w.create(t, "project", object{"name": "upper", "domain_id": domain})
		lower := w.create(t, "project", object{"name": "lower", "domain_id": domain, "parent_id": upper})
		w.project = lower
		w.grant(t, "tester")
		w.user = w.create(t, "user", object{"name": "exile", "domain_id": domain, "password": "secret"})
		w.grant(t, "tester")
		w.wantRoles(t, "tester")
		w.refused(t, "DELETE", "/domains/"+domain, http.StatusForbidden)
		w.refused(t, "DELETE", "/projects/"+upper, http.StatusForbidden)
		w.enable(t, "domain", domain, false)
		w.do(t, "DELETE", "/domains/"+domain)
		for _, project := range []string{upper, lower} {
			if _, err := w.client.Project(t.Context(), project); !errors.Is(err, keystone.ErrNotFound) {
				t.Errorf("a project of the domain: got error %v, want ErrNotFound", err)
			}
		}
		if _, err := w.client.User(t.Context(), w.user); !errors.Is(err, keystone.ErrNotFound) {
			t.Errorf("a user of the domain: got error %v, want ErrNotFound", err)
		}
		if _, err := w.client.Domain(t.Context(), domain); !errors.Is(err, keystone.ErrNotFound) {
			t.Errorf("the domain: got error %v, want ErrNotFound", err)
		}
		if _, err := w.client.User(t.Context(), user); err != nil {
			t.Errorf("a user of another domain: %v", err)
		}
	}},
	{"a domain is no project", func(t *testing.T, w *world) {
		w.project = w.create(t, "domain", object{"name": "no project"})
		answer, _ := w.call(t, "GET", "/projects/"+w.project, w.admin.token, nil)
		if shown := answer["project"].(object); shown["is_domain"] != true || shown["domain_id"] != nil {
			t.Errorf("Keystone shows %v", shown)
		}
		if _, err := w.client.Project(t.Context(), w.project); !errors.Is(err, keystone.ErrNotFound) {
			t.Errorf("got error %v, want ErrNotFound", err)
		}
		w.wantRoles(t)
	}},
	{"role through a group", func(t *testing.T, w *world) {
		group := w.create(t, "group", object{"name": "group", "domain_id": "default"})
		w.do(t, "PUT", "/projects/"+w.project+"/groups/"+group+"/roles/"+w.roles["tester"])
		w.wantRoles(t)
		w.do(t, "PUT", "/groups/"+group+"/users/"+w.user)
		w.wantRoles(t, "tester")
		w.wantValid(t, w.token(t), "tester")
		w.do(t, "DELETE", "/groups/"+group+"/users/"+w.user)
		w.wantRoles(t)
	}},
	{"inherited role", func(t *testing.T, w *world) {
		path := "/OS-INHERIT/domains/default/users/" + w.user + "/roles/" + w.roles["tester"] + "/inherited_to_projects"
		w.do(t, "PUT", path)
		w.wantRoles(t, "tester")
		w.wantValid(t, w.token(t), "tester")
		w.do(t, "DELETE", path)
		w.wantRoles(t)
	}},
	{"role inherited from the project above", func(t *testing.T, w *world) {
		above := w.project
		w.project = w.create(t, "project", object{"name": "below", "domain_id": "default", "parent_id": above})
		path := "/OS-INHERIT/projects/" + above + "/users/" + w.user + "/roles/" + w.roles["tester"] + "/inherited_to_projects"
		w.do(t, "PUT", path)
		w.wantRoles(t, "tester")
		w.project = above
		w.wantRoles(t) // not where it is inherited from
	}},
	{"implied roles", func(t *testing.T, w *world) {
		w.grant(t, "member")
		w.wantRoles(t, "member", "reader")
		w.wantValid(t, w.token(t), "member", "reader")
		w.do(t, "PUT", "/roles/"+w.roles["reader"]+"/implies/"+w.roles["tester"])
		w.wantRoles(t, "member", "reader", "tester")
		w.do(t, "DELETE", "/roles/"+w.roles["reader"]+"/implies/"+w.roles["tester"])
		w.wantRoles(t, "member", "reader")
	}},
	{"role taken", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		w.grant(t, "reader")
		token := w.token(t)
		w.wantValid(t, token, "reader", "tester")
		w.do(t, "DELETE", "/projects/"+w.project+"/users/"+w.user+"/roles/"+w.roles["tester"])
		w.wantRoles(t, "reader")
		w.do(t, "DELETE", "/projects/"+w.project+"/users/"+w.user+"/roles/"+w.roles["reader"])
		w.wantRoles(t)
		w.wantInvalid(t, token)
	}},
	{"deleted role", func(t *testing.T, w *world) {
		w.roles["doomed"] = w.create(t, "role", object{"name": "doomed"})
		w.grant(t, "doomed")
		w.wantRoles(t, "doomed")
		w.do(t, "DELETE", "/roles/"+w.roles["doomed"])
		w.wantRoles(t)
	}},
	{"application credential", func(t *testing.T, w *world) {
		w.grant(t, "member")
		answer, _ := w.call(t, "POST", "/users/"+w.user+"/application_credentials", w.token(t), object{
			"application_credential": object{"name": "robot", "roles": []object{{"name": "reader"}}}})
		made := answer["application_credential"].(object)
		id, secret := made["id"].(string), made["secret"].(string)
		token := w.login(t, object{"methods": []string{"application_credential"},
			"application_credential": object{"id": id, "secret": secret}}, nil)
		got := w.wantValid(t, token, "reader")
		if got.Credential != (keystone.Credential{Kind: keystone.ApplicationCredential, ID: id}) || got.ProjectID != w.project || got.UserID != w.user {
			t.Errorf("got %+v", got)
		}
		w.call(t, "DELETE", "/users/"+w.user+"/application_credentials/"+id, w.token(t), nil)
		w.client.ForgetCredential(id)
		w.wantInvalid(t, token)
	}},
	{"log in by application credential", func(t *testing.T, w *world) {
		w.grant(t, "admin")
		answer, _ := w.call(t, "POST", "/users/"+w.user+"/application_credentials", w.token(t),
			object{"application_credential": object{"name": "muster"}})
		made := answer["application_credential"].(object)
		client, err := keystone.New(keystone.Config{AuthURL: w.url, ApplicationCredentialID: made["id"].(string),
			ApplicationCredentialSecret: made["secret"].(string)})
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Check(t.Context()); err != nil {
			t.Error(err)
		}
		user, err := client.User(t.Context(), w.user)
		want := keystone.User{ID: w.user, Name: "log-in-by-application-credential", DomainID: "default", Enabled: true}
		if err != nil || user != want {
			t.Errorf("got %+v, %v, want %+v", user, err, want)
		}
	}},
	{"service user without rights", func(t *testing.T, w *world) {
		w.grant(t, "member")
		client, err := keystone.New(keystone.Config{AuthURL: w.url, UserID: w.user, Password: "secret", ProjectID: w.project})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Validate(t.Context(), w.admin.token)
		if !errors.Is(err, keystone.ErrForbidden) || !errors.Is(err, keystone.ErrUnavailable) {
			t.Errorf("got error %v, want ErrForbidden and ErrUnavailable", err)
		}
	}},
	{"service user with a wrong password", func(t *testing.T, w *world) {
		client, err := keystone.New(keystone.Config{AuthURL: w.url, UserID: w.user, Password: "wrong", ProjectID: w.project})
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Check(t.Context()); !errors.Is(err, keystone.ErrUnavailable) {
			t.Errorf("got error %v, want ErrUnavailable", err)
		}
	}},
	{"roles in a project", func(t *testing.T, w *world) {
		w.grant(t, "tester")
		group := w.create(t, "group", object{"name": "others", "domain_id": "default"})
		other := w.create(t, "user", object{"name": "other", "domain_id": "default"})
		w.do(t, "PUT", "/groups/"+group+"/users/"+other)
		w.do(t, "PUT", "/projects/"+w.project+"/groups/"+group+"/roles/"+w.roles["member"])
		got, err := w.client.ProjectRoles(t.Context(), w.project)
		if want := []string{"member", "reader", "tester"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
		none, err := w.client.ProjectRoles(t.Context(), "0123456789abcdef0123456789abcdef")
		if err != nil || len(none) != 0 {
			t.Errorf("unknown project: got %v, %v", none, err)
		}
	}},
}
