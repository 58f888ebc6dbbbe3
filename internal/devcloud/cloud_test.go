// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package devcloud_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/devcloud/devcloudtest"
)

// target is a vendordata service that remembers what it was asked.
type target struct {
	*httptest.Server
	mu      sync.Mutex
	headers []http.Header
	bodies  []map[string]any
	answer  http.HandlerFunc
}

func newTarget(t *testing.T, answer http.HandlerFunc) *target {
	one := &target{answer: answer}
	one.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		var body map[string]any
		_ = json.Unmarshal(raw, &body)
		one.mu.Lock()
		one.headers, one.bodies = append(one.headers, r.Header), append(one.bodies, body)
		one.mu.Unlock()
		one.answer(w, r)
	}))
	t.Cleanup(one.Close)
	return one
}

func answerWith(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func (o *target) calls() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.bodies)
}

func boot(t *testing.T, cloud *devcloud.Cloud) string {
	t.Helper()
	user, project := cloud.Identity.UserID("demo"), cloud.Identity.ProjectID("demo")
	id, err := cloud.Compute.Boot(t.Context(), compute.Server{Name: "web1", ProjectID: project, UserID: user,
		ImageID: "4787d9c3-9dbe-4704-a3c9-3fad9c9a0a1d", UserData: "IyEvYmluL3NoCmVjaG8gaGkK",
		Metadata: map[string]string{"ipa_enroll": "True", "ipa_hostclass": "web"}})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A boot asks as the real Nova did when it was recorded.
func TestBootAsksAsNovaDoes(t *testing.T) {
	one := newTarget(t, answerWith(201, `{"token": "x"}`))
	cloud := devcloudtest.Start(t, devcloud.Config{VendordataTargets: []string{"tatu@" + one.URL}})
	id := boot(t, cloud)
	if one.calls() != 5 {
		t.Errorf("%d calls, want the five of a config drive", one.calls())
	}
	raw, err := os.ReadFile("testdata/vendordata-request.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct {
		Headers [][2]string
		Body    map[string]any
	}
	if err := json.Unmarshal(raw, &recorded); err != nil {
		t.Fatal(err)
	}
	recorded.Body["project-id"], recorded.Body["instance-id"] = cloud.Identity.ProjectID("demo"), id
	recorded.Body["boot-roles"] = "member,reader"
	if diff := cmp.Diff(recorded.Body, one.bodies[0]); diff != "" {
		t.Error(diff)
	}
	for _, header := range recorded.Headers {
		got := one.headers[0].Get(header[0])
		switch header[0] {
		case "User-Agent", "Accept", "Content-Type":
			if got != header[1] {
				t.Errorf("%s: got %q, want %q", header[0], got, header[1])
			}
		case "X-Auth-Token":
			caller, ok := cloud.Identity.Caller(got)
			if !ok || caller.UserID != cloud.Identity.UserID("nova") || !slices.Contains(caller.Roles, "service") {
				t.Errorf("the token is of %+v", caller)
			}
		}
	}
}

// What the real Nova made of each answer is in the recorded matrix.
func TestAnswersOfTargets(t *testing.T) {
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   string
		calls  int
	}{
		{"200", answerWith(200, `{"a":1}`), `{"a":1}`, 1},
		{"201", answerWith(201, `{"a":1}`), `{"a":1}`, 1},
		{"204", answerWith(204, ``), `{}`, 1},
		{"empty", answerWith(200, ``), `{}`, 1},
		{"300", answerWith(300, `{"a":1}`), `{"a":1}`, 1},
		{"400", answerWith(400, `{"a":1}`), `{}`, 1},
		{"401", answerWith(401, `{"a":1}`), `{}`, 2},
		{"403", answerWith(403, `{"a":1}`), `{}`, 1},
		{"503", answerWith(503, `{"a":1}`), `{}`, 1},
		{"not JSON", answerWith(200, `oops`), `{}`, 1},
		{"list", answerWith(200, `[1,2]`), `[1,2]`, 1},
		{"too slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, `{}`, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			one := newTarget(t, test.answer)
			limit := time.Minute
			if test.name == "too slow" {
				limit = 200 * time.Millisecond
			}
			cloud := devcloudtest.Start(t, devcloud.Config{VendordataTimeout: limit})
			id := boot(t, cloud)
			if err := cloud.Compute.SetVendordataTargets("one@" + one.URL); err != nil {
				t.Fatal(err)
			}
			got, err := cloud.Compute.Vendordata(t.Context(), id)
			if err != nil || string(got["one"]) != test.want || one.calls() != test.calls {
				t.Errorf("got %s, %v after %d calls, want %s after %d", got["one"], err, one.calls(), test.want, test.calls)
			}
		})
	}
}

func TestMetadataService(t *testing.T) {
	one := newTarget(t, answerWith(200, `{"a":1}`))
	cloud := devcloudtest.Start(t, devcloud.Config{VendordataTargets: []string{"one@" + one.URL}, MetadataSecret: "secret"})
	id := boot(t, cloud)
	project := cloud.Identity.ProjectID("demo")
	for _, test := range []struct {
		name, id, tenant, signature string
		status                      int
	}{
		{"right", id, project, cloud.Compute.Sign(id), 200},
		{"no signature", id, project, "", 403},
		{"signature of another", id, project, cloud.Compute.Sign(project), 403},
		{"other project", id, cloud.Identity.ProjectID("admin"), cloud.Compute.Sign(id), 404},
		{"no instance", "", project, cloud.Compute.Sign(""), 400},
	} {
		before := one.calls()
		request, _ := http.NewRequestWithContext(t.Context(), "GET", cloud.MetadataURL()+"/openstack/latest/vendor_data2.json", nil)
		request.Header.Set("X-Instance-ID", test.id)
		request.Header.Set("X-Tenant-ID", test.tenant)
		request.Header.Set("X-Forwarded-For", "10.0.0.9")
		request.Header.Set("X-Instance-ID-Signature", test.signature)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != test.status {
			t.Errorf("%s: got %d, want %d", test.name, response.StatusCode, test.status)
		}
		if test.status == 200 && (string(bytes.TrimSpace(body)) != `{"one":{"a":1}}` || one.calls() != before+1) {
			t.Errorf("%s: got %s", test.name, body)
		}
	}
}

// api makes a request and returns the status and the answer.
func api(t *testing.T, method, url, token string, body any) (int, map[string]any) {
	t.Helper()
	text, _ := json.Marshal(body)
	request, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Auth-Token", token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer map[string]any
	_ = json.NewDecoder(response.Body).Decode(&answer) // some answers have no body
	return response.StatusCode, answer
}

func TestServers(t *testing.T) {
	one := newTarget(t, answerWith(200, `{}`))
	cloud := devcloudtest.Start(t, devcloud.Config{VendordataTargets: []string{"one@" + one.URL}})
	token := func(user, project string) string {
		made, err := cloud.Identity.Token(user, cloud.Identity.Password(user), project)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	demo, admin := token("demo", "demo"), token("admin", "admin")
	servers := cloud.ComputeURL() + "/servers"
	var ids []string
	for _, name := range []string{"First One", "second.example"} {
		status, answer := api(t, "POST", servers, demo, map[string]any{"server": map[string]any{
			"name": name, "flavorRef": "1", "imageRef": "", "networks": "none", "metadata": map[string]string{"k": "v"}}})
		if status != 202 {
			t.Fatalf("create: %d %v", status, answer)
		}
		ids = append(ids, answer["server"].(map[string]any)["id"].(string))
	}
	cloud.Compute.Wait()
	if one.calls() != 10 {
		t.Errorf("%d calls, want 10", one.calls())
	}
	var names []string
	for _, body := range one.bodies {
		if name := body["hostname"].(string); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if want := []string{"first-one", "second-example"}; !slices.Equal(names, want) {
		t.Errorf("host names: got %v, want %v", names, want)
	}
	status, page := api(t, "GET", servers+"?limit=1", demo, nil)
	list := page["servers"].([]any)
	if status != 200 || len(list) != 1 || list[0].(map[string]any)["id"] != ids[1] {
		t.Fatalf("first page: %d %v", status, page)
	}
	next := page["servers_links"].([]any)[0].(map[string]any)["href"].(string)
	if _, page = api(t, "GET", next, demo, nil); page["servers"].([]any)[0].(map[string]any)["id"] != ids[0] || page["servers_links"] != nil {
		t.Errorf("second page: %v", page)
	}
	for _, test := range []struct {
		name, method, url, token string
		status, count            int
	}{
		{"no token", "GET", servers, "", 401, 0},
		{"own", "GET", servers + "/detail", demo, 200, 2},
		{"other project", "GET", servers + "/detail", admin, 200, 0},
		{"all projects", "GET", servers + "/detail?all_tenants=1", admin, 200, 2},
		{"all projects, no admin", "GET", servers + "?all_tenants=1", token("muster", "service"), 200, 2},
		{"bad marker", "GET", servers + "?marker=nobody", demo, 400, 0},
		{"delete", "DELETE", servers + "/" + ids[0], demo, 204, 0},
		{"delete again", "DELETE", servers + "/" + ids[0], demo, 404, 0},
		{"one left", "GET", servers, demo, 200, 1},
		{"foreign", "GET", servers + "/" + ids[1], token("nova", "service"), 200, 0},
	} {
		status, answer := api(t, test.method, test.url, test.token, nil)
		list, _ := answer["servers"].([]any)
		if status != test.status || len(list) != test.count {
			t.Errorf("%s: got %d with %d servers, want %d with %d", test.name, status, len(list), test.status, test.count)
		}
	}
}

func TestKeystoneGuardsItsCalls(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	demo, err := cloud.Identity.Token("demo", cloud.Identity.Password("demo"), "demo")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		method, path, token string
		status              int
	}{
		{"GET", "/users", "", 401}, {"GET", "/users", "unknown", 401}, {"GET", "/users", demo, 403},
		{"POST", "/users", demo, 403}, {"GET", "/role_assignments", demo, 403}, {"GET", "/auth/projects", demo, 200},
		{"GET", "/users/" + cloud.Identity.UserID("demo"), demo, 200},
		{"GET", "/users/" + cloud.Identity.UserID("admin"), demo, 403},
		{"GET", "/projects/" + cloud.Identity.ProjectID("demo"), demo, 200},
		{"GET", "/auth/tokens", demo, 404}, {"GET", "", "", 200}, {"GET", "/nothing", demo, 404},
		{"POST", "/auth/tokens", "", 400},
	} {
		if status, answer := api(t, test.method, cloud.AuthURL()+test.path, test.token, nil); status != test.status {
			t.Errorf("%s %s: got %d %v, want %d", test.method, test.path, status, answer, test.status)
		}
	}
}

// TestVersionDocuments: clients ask at the address in the catalogue, as it stands
// there. Statuses are those of the real services.
func TestVersionDocuments(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	asked := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for address, want := range map[string]struct {
		status int
		key    string
	}{
		cloud.AuthURL(): {http.StatusOK, "version"}, strings.TrimSuffix(cloud.AuthURL(), "/v3"): {http.StatusMultipleChoices, "versions"},
		cloud.ComputeURL(): {http.StatusOK, "version"}, cloud.NetworkURL(): {http.StatusOK, "versions"},
		cloud.ImageURL(): {http.StatusMultipleChoices, "versions"},
	} {
		for _, slash := range []string{"", "/"} {
			response, err := asked.Get(address + slash)
			if err != nil {
				t.Fatal(err)
			}
			var document map[string]any
			err = json.NewDecoder(response.Body).Decode(&document)
			response.Body.Close()
			if err != nil || response.StatusCode != want.status || document[want.key] == nil {
				t.Errorf("%s: %d, %v, %v", address+slash, response.StatusCode, document, err)
			}
		}
	}
}

// TestASlowClientHoldsNobodyUp: while the body of a request is still to come,
// others are answered.
func TestASlowClientHoldsNobodyUp(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	token, err := cloud.Identity.Token("demo", cloud.Identity.Password("demo"), "demo")
	if err != nil {
		t.Fatal(err)
	}
	for path, ask := range map[string]func(){
		"/identity/v3/auth/tokens": func() { cloud.Identity.UserID("demo") },
		"/network/v2.0/ports":      func() { cloud.Network.NetworkID("private") },
	} {
		slow, err := net.Dial("tcp", strings.TrimPrefix(cloud.MetadataURL(), "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(slow, "POST %s HTTP/1.1\r\nHost: cloud\r\nX-Auth-Token: %s\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n", path, token)
		// The server says so when the body is read, and not before.
		line, err := bufio.NewReader(slow).ReadString('\n')
		if err != nil || !strings.Contains(line, "100 Continue") {
			t.Fatalf("%q, %v", line, err)
		}
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			ask()
		}()
		select {
		case <-answered:
		case <-time.After(time.Minute):
			t.Errorf("%s: nobody is answered", path)
		}
		slow.Close()
	}
}

func TestCloseWithoutRun(t *testing.T) {
	cloud, err := devcloud.New(devcloud.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := cloud.Close(); err != nil {
		t.Error(err)
	}
	if _, err := devcloud.New(devcloud.Config{VendordataTargets: []string{"no-url"}}); err == nil {
		t.Error("a target without URL was taken")
	}
}
