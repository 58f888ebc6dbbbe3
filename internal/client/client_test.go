// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/devcloudtest"
)

// serve is a client of a Muster that the test plays.
func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	muster := httptest.NewServer(handler)
	t.Cleanup(muster.Close)
	base, err := baseURL(muster.URL + "/v1/")
	if err != nil {
		t.Fatal(err)
	}
	return &Client{http: muster.Client(), base: base, token: "t0ken"}
}

// TestAuditPages: links are followed by their markers, and never to their hosts.
func TestAuditPages(t *testing.T) {
	stranger := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a stranger was asked, with token %q", r.Header.Get("X-Auth-Token"))
	}))
	defer stranger.Close()
	var asked []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RequestURI())
		if r.Header.Get("X-Auth-Token") != "t0ken" || r.Header.Get("X-Auth-Sudo-Project-ID") != "p" {
			t.Errorf("headers: %v", r.Header)
		}
		marker := r.URL.Query().Get("marker")
		links := `{"self": "` + stranger.URL + `/v1/audit"}` // all that the last page has
		if next := map[string]string{"": "2", "2": "3"}[marker]; next != "" {
			links = `{"self": "", "next": "` + stranger.URL + `/v1/audit?marker=` + next + `"}`
		}
		fmt.Fprintf(w, `{"audit": [{"id": "after-%s"}], "links": %s}`, marker, links)
	})
	var ids []string
	query := AuditQuery{ProjectID: "p", Action: "a b", Since: time.Date(2026, 11, 22, 13, 0, 0, 0, time.FixedZone("", 3600))}
	for page, err := range c.Audit(t.Context(), query) {
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range page {
			ids = append(ids, entry.ID)
		}
		if len(ids) > 10 {
			t.Fatalf("the list has no end: %v", ids)
		}
	}
	if want := []string{"after-", "after-2", "after-3"}; !slices.Equal(ids, want) {
		t.Errorf("got %v, want %v", ids, want)
	}
	want := "/v1/audit?action=a+b&marker=2&since=2026-11-22T12%3A00%3A00Z"
	if len(asked) != 3 || asked[1] != want {
		t.Errorf("asked %v, want the second to be %s", asked, want)
	}
}

// TestPagesInACircle: whoever answers such links is not Muster, and is not
// asked for ever.
func TestPagesInACircle(t *testing.T) {
	asked := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked > 10 {
			t.Error("asked on and on")
			return
		}
		next := map[string]string{"": "2", "2": "3", "3": "2"}[r.URL.Query().Get("marker")]
		fmt.Fprintf(w, `{"queue": [{"id": "x"}], "links": {"next": "/v1/queue?marker=%s"}}`, next)
	})
	var last error
	for _, err := range c.Queue(t.Context()) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), "/v1/queue leads round in a circle") || asked != 3 {
		t.Errorf("got %v after %d questions", last, asked)
	}
}

// TestNoAddress: only an interface is missing, or all.
func TestNoAddress(t *testing.T) {
	catalog := []tokens.CatalogEntry{
		{Type: "compute", Endpoints: []tokens.Endpoint{{Interface: "internal", Region: "one"}}},
		{Type: "ssh", Endpoints: []tokens.Endpoint{{Interface: "public", Region: "one"}, {Interface: "admin", RegionID: "one"}}},
	}
	internal := gophercloud.EndpointOpts{Region: "one", Availability: gophercloud.AvailabilityInternal}
	for want, catalog := range map[string][]tokens.CatalogEntry{
		"has no internal address of Muster, but: admin, public; see OS_INTERFACE": catalog,
		"has no service of type ssh for you; give Muster's address with --url":    catalog[:1],
	} {
		if err := noAddress(catalog, internal); !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for _, c := range []struct {
		name    string
		answer  http.HandlerFunc
		want    string
		refusal bool
	}{
		{"refusal", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Openstack-Request-Id", "req-1")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"title": "Forbidden", "description": "the rule does not allow this"}`)
		}, "Muster answers 403 Forbidden: the rule does not allow this (req-1)", true},
		{"proxy", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(w, "<html>")
		}, "Muster answers 502 Bad Gateway", true},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		}, "Muster answers 302 Found", true},
		{"page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
			"is the address right?", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := serve(t, c.answer)
			client.http.CheckRedirect = newHTTP(nil).CheckRedirect
			_, err := client.Revoke(t.Context(), Revocation{Serial: 1})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			var refusal *Refusal
			if errors.As(err, &refusal) != c.refusal {
				t.Errorf("got %T", err)
			}
		})
	}
}

func TestRevokeSendsOnlyWhatIsSet(t *testing.T) {
	var got map[string]any
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		fmt.Fprint(w, `{"auth_id": "p", "version": 7, "certificates": 2, "already": false}`)
	})
	outcome, err := c.Revoke(t.Context(), Revocation{ProjectID: "p", KeyID: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"auth_id": "p", "key_id": "k"}, got); diff != "" {
		t.Error(diff)
	}
	if want := (Outcome{ProjectID: "p", Version: 7, Certificates: 2}); outcome != want {
		t.Errorf("got %+v, want %+v", outcome, want)
	}
}

func TestBaseURL(t *testing.T) {
	for address, want := range map[string]string{
		"http://a:1": "http://a:1", "http://a:1/": "http://a:1", "https://a/ssh/v1/": "https://a/ssh", "https://a/v1": "https://a",
		"a:1": "", "ftp://a": "", "http://": "", "http://u:p@a": "", "http://a/?x": "", "http://a/#x": "", "": "", "http://%": "",
	} {
		got, err := baseURL(address)
		if (err == nil) != (want != "") || (err == nil && got.String() != want) {
			t.Errorf("%q: %v, %v; want %q", address, got, err, want)
		}
	}
}

// TestLogin logs in to a Keystone in each way that people have.
func TestLogin(t *testing.T) {
	// All that YAML and JSON have a meaning for.
	cloud := devcloudtest.Start(t, devcloud.Config{Passwords: map[string]string{"demo": "p\"\\ <é: #'{$&\t"}})
	cloud.Identity.AddService("ssh", "muster", "http://muster.example.com:18322/v1")
	password := cloud.Identity.Password("demo")
	project := cloud.Identity.ProjectID("demo")
	token, err := cloud.Identity.Token("demo", password, "demo")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "clouds.yaml")
	text := fmt.Sprintf("clouds:\n  mine:\n    auth:\n      auth_url: %s\n      username: demo\n      password: %q\n"+
		"      user_domain_id: default\n      project_id: %s\n", cloud.AuthURL(), password, project)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(folder, name, "clouds.yaml")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("home/.config/openstack", text)
	split := write("split", "clouds:\n  mine:\n    auth: {username: demo, project_name: demo}\n")
	secure := fmt.Sprintf("clouds:\n  mine:\n    auth: {auth_url: %q, password: %q}\n", cloud.AuthURL(), password)
	if err := os.WriteFile(filepath.Join(filepath.Dir(split), "secure.yaml"), []byte(secure), 0o600); err != nil {
		t.Fatal(err)
	}
	unscoped, err := cloud.Identity.Token("demo", password, "")
	if err != nil {
		t.Fatal(err)
	}
	dead, err := cloud.Identity.Token("demo", password, "demo")
	if err != nil {
		t.Fatal(err)
	}
	cloud.Identity.RevokeToken(dead)
	url := "OS_AUTH_URL=" + cloud.AuthURL()
	for _, c := range []struct {
		name    string
		cfg     Config
		project string
	}{
		{"names", Config{Environ: []string{url, "OS_USERNAME=demo", "OS_PASSWORD=" + password, "OS_USER_DOMAIN_NAME=Default",
			"OS_PROJECT_NAME=demo", "OS_PROJECT_DOMAIN_NAME=Default"}}, project},
		{"IDs", Config{Environ: []string{url, "OS_USER_ID=" + cloud.Identity.UserID("demo"), "OS_PASSWORD=" + password,
			"OS_PROJECT_ID=" + project, "OS_INTERFACE=internal", "OS_REGION_NAME=RegionOne"}}, project},
		{"token", Config{Environ: []string{url, "OS_TOKEN=" + token, "OS_PROJECT_ID=" + project}}, project},
		{"token as it is", Config{Environ: []string{url, "OS_TOKEN=" + token}}, project},
		{"token in an openrc file", Config{Environ: []string{url, "OS_TOKEN=" + token, "OS_USERNAME=demo", "OS_USER_DOMAIN_NAME=Default",
			"OS_PROJECT_NAME=demo", "OS_PROJECT_DOMAIN_NAME=Default"}}, project},
		{"token and domain IDs", Config{Environ: []string{url, "OS_TOKEN=" + token, "OS_USER_ID=x", "OS_USER_DOMAIN_ID=default",
			"OS_PROJECT_NAME=demo", "OS_PROJECT_DOMAIN_ID=default"}}, project},
		// python-openstackclient: "--os-default-domain ... Default domain ID, default=default (Env: OS_DEFAULT_DOMAIN)".
		{"names without domains", Config{Environ: []string{url, "OS_USERNAME=demo", "OS_PASSWORD=" + password, "OS_PROJECT_NAME=demo"}}, project},
		{"ID and name", Config{Environ: []string{url, "OS_USER_ID=" + cloud.Identity.UserID("demo"), "OS_USERNAME=demo", "OS_PASSWORD=" + password,
			"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_ID=" + project, "OS_PROJECT_NAME=demo"}}, project},
		{"domain by ID and name", Config{Environ: []string{url, "OS_USERNAME=demo", "OS_PASSWORD=" + password,
			"OS_USER_DOMAIN_NAME=Default", "OS_USER_DOMAIN_ID=default", "OS_PROJECT_ID=" + project}}, project},
		{"secure.yaml", Config{Cloud: "mine", Environ: []string{"OS_CLIENT_CONFIG_FILE=" + split}}, project},
		{"clouds.yaml at home", Config{Cloud: "mine", Environ: []string{"HOME=" + filepath.Join(folder, "home")}}, project},
		{"the system", Config{Environ: []string{url, "OS_USERNAME=admin", "OS_PASSWORD=" + cloud.Identity.Password("admin"),
			"OS_USER_DOMAIN_ID=default", "OS_SYSTEM_SCOPE=all"}}, ""},
		{"clouds.yaml by flag", Config{Cloud: "mine", Environ: []string{"OS_CLIENT_CONFIG_FILE=" + file, "OS_CLOUD=other"}}, project},
		{"clouds.yaml by variable", Config{Environ: []string{"OS_CLIENT_CONFIG_FILE=" + file, "OS_CLOUD=mine"}}, project},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, err := Login(t.Context(), c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			if client.ProjectID() != c.project || client.token == "" || client.base.String() != "http://muster.example.com:18322" {
				t.Errorf("project %q at %s", client.ProjectID(), client.base)
			}
		})
	}
	for _, c := range []struct {
		name, want string
		cfg        Config
	}{
		{"nobody", "who are you? Set OS_CLOUD", Config{}},
		{"unknown cloud", file + ` has no cloud "other", but: mine`, Config{Cloud: "other", Environ: []string{"OS_CLIENT_CONFIG_FILE=" + file}}},
		{"no clouds.yaml", "there is no clouds.yaml; looked for /nowhere/clouds.yaml",
			Config{Cloud: "mine", Environ: []string{"OS_CLIENT_CONFIG_FILE=/nowhere/clouds.yaml"}}},
		{"broken clouds.yaml", filepath.Join(folder, "broken", "clouds.yaml") + ": yaml: line 3",
			Config{Cloud: "mine", Environ: []string{"OS_CLIENT_CONFIG_FILE=" + write("broken", "clouds:\n  mine:\n\tauth: s3cret\n")}}},
		{"clouds.yaml of another kind", filepath.Join(folder, "kind", "clouds.yaml") + ": yaml: unmarshal errors:",
			Config{Cloud: "mine", Environ: []string{"OS_CLIENT_CONFIG_FILE=" + write("kind", "clouds:\n  mine:\n    auth: s3cret\n")}}},
		{"no auth_url", "The cloud has no auth_url",
			Config{Cloud: "mine", Environ: []string{"OS_CLIENT_CONFIG_FILE=" + write("bare", "clouds:\n  mine:\n    auth: {username: demo}\n")}}},
		{"wrong password", "log in to Keystone: it refuses (401); see user, password", Config{Environ: []string{url, "OS_USERNAME=demo", "OS_PASSWORD=s3cret",
			"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_ID=" + project}}},
		{"another default domain", "log in to Keystone: it refuses (401); see user, password", Config{Environ: []string{url, "OS_USERNAME=demo",
			"OS_PASSWORD=" + password, "OS_PROJECT_ID=" + project, "OS_DEFAULT_DOMAIN=other"}}},
		{"dead token", "the token (OS_TOKEN) has expired or was revoked", Config{Environ: []string{url, "OS_TOKEN=" + dead}}},
		{"dead token for a project", "the token (OS_TOKEN) has expired or was revoked", Config{Environ: []string{url, "OS_TOKEN=" + dead, "OS_PROJECT_ID=" + project}}},
		{"wrong credential", "see the application credential's ID", Config{Environ: []string{url, "OS_APPLICATION_CREDENTIAL_ID=x",
			"OS_APPLICATION_CREDENTIAL_SECRET=s3cret"}}},
		{"not a Keystone", "log in to Keystone: it answers 404; is OS_AUTH_URL", Config{Environ: []string{url + "/x/v3", "OS_USERNAME=demo", "OS_PASSWORD=s3cret",
			"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_ID=" + project}}},
		{"no project", "the log-in is for no project", Config{URL: "http://muster.example.com", Environ: []string{url, "OS_USERNAME=demo", "OS_PASSWORD=" + password}}},
		{"token for no project", "the log-in is for no project", Config{Environ: []string{url, "OS_TOKEN=" + unscoped}}},
		{"no such region", `has no Muster in region "RegionTwo", but in: RegionOne; see OS_REGION_NAME`, Config{Environ: []string{url, "OS_TOKEN=" + token, "OS_REGION_NAME=RegionTwo"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Login(t.Context(), c.cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
