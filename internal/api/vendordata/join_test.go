// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package vendordata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

const (
	projectID  = "6ef4f4fe7cbc467f9cea4ac6428173a5"
	instanceID = "c65eb6614472402eac3ac112fd82693f"
	otp        = "0123456789abcdef0123456789abcdef"
)

// world stands for everybody behind the faces.
type world struct {
	policyFile string
	token      keystone.Token
	refused    []store.Audit
	properties map[string]string
	glance     error
	hang       bool // Glance does not answer
	asked      int  // of Glance
	project    error
	enrolled   []enroll.Request
	by         enroll.Actor
	enrolment  error
	answer     enroll.Answer
	within     time.Duration // that the enrolment was given
}

func newWorld() *world {
	return &world{
		token:  keystone.Token{UserID: "n", UserName: "nova", Roles: []string{"service"}, ProjectID: "s"},
		answer: enroll.Answer{FQDN: "web1.example.test", Realm: "EXAMPLE.TEST", OTP: otp},
	}
}

func (w *world) Validate(_ context.Context, token string) (*keystone.Token, error) {
	if token != "good" {
		return nil, keystone.ErrInvalidToken
	}
	return &w.token, nil
}

func (w *world) AppendRefusal(_ context.Context, entry store.Audit, _ string) error {
	w.refused = append(w.refused, entry)
	return nil
}

func (w *world) Properties(ctx context.Context, _ string) (map[string]string, error) {
	w.asked++
	if w.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return w.properties, w.glance
}

func (w *world) Project(_ context.Context, id string) (keystone.Project, error) {
	return keystone.Project{ID: id, Name: "shop", DomainID: "default", Enabled: true}, w.project
}

func (w *world) Enrol(ctx context.Context, by enroll.Actor, req enroll.Request) (enroll.Answer, error) {
	deadline, _ := ctx.Deadline()
	w.within = time.Until(deadline)
	w.by, w.enrolled = by, append(w.enrolled, req)
	return w.answer, w.enrolment
}

func (w *world) HostToken(context.Context, sshca.Actor, sshca.InstanceRequest) (sshca.Boot, error) {
	return sshca.Boot{Token: strings.Repeat("f", 32), UserCA: "ssh-ed25519 AAAA"}, nil
}

func (w *world) Accounts(roles []string) ([]string, []sshca.LeftOut) { return roles, nil }

func (w *world) ForgetProjectRoles(string) {}

func (w *world) ProjectRoles(context.Context, string) ([]string, error) {
	return []string{"admin", "member"}, nil
}

// router serves all faces that Nova knows, beside a version document as Tatu's.
func (w *world) router(t *testing.T, log io.Writer, strict bool) http.Handler {
	t.Helper()
	rules, err := policy.Load(w.policyFile, policy.Defaults())
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	guard := api.NewGuard(w, rules, w, nil)
	enrolment, err := NewEnrolment(EnrolmentConfig{
		Enroller: w, Images: w, Projects: w, AnswerWithin: 4 * time.Second, Strict: strict, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	return api.NewRouter(api.RouterConfig{Logger: logger, Metrics: api.NewMetrics(prometheus.NewRegistry()), KeystoneURL: "http://k"},
		NewJoin(guard, enrolment), New(Config{Guard: guard, Hosts: w, Accounts: &Accounts{Names: w, Directory: w, SudoRoles: []string{"admin"}}, Enrolment: enrolment, SSHPort: 22}), version{})
}

type version struct{}

func (version) Name() string { return "tatu" }

func (version) Register(router *api.Router) {
	router.Handle("GET /v1", func(*api.Request) (api.Response, error) { return api.Response{Body: "version"}, nil })
}

func post(handler http.Handler, path, token, body string) *httptest.ResponseRecorder {
	request := httptest.NewRequest("POST", path, strings.NewReader(body))
	if token != "" {
		request.Header.Set("X-Auth-Token", token)
	}
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	return recorder
}

// recorded is what the real Nova sent to both its targets.
func recorded(t *testing.T) (body string, headers http.Header) {
	t.Helper()
	text, err := os.ReadFile("testdata/nova-requests.json")
	if err != nil {
		t.Fatal(err)
	}
	var requests []struct {
		Line    string      `json:"request_line"`
		Headers [][2]string `json:"headers"`
		Body    string      `json:"body_raw"`
	}
	if err := json.Unmarshal(text, &requests); err != nil {
		t.Fatal(err)
	}
	if requests[0].Line != "POST /v1/ HTTP/1.1" {
		t.Fatal(requests[0].Line)
	}
	headers = http.Header{}
	for _, header := range requests[0].Headers {
		headers.Set(header[0], header[1])
	}
	return requests[0].Body, headers
}

// with changes a field of the recorded body; nil takes it out.
func with(t *testing.T, changes map[string]any) string {
	t.Helper()
	text, _ := recorded(t)
	var body map[string]any
	if err := json.Unmarshal([]byte(text), &body); err != nil {
		t.Fatal(err)
	}
	for name, value := range changes {
		body[name] = value
		if value == nil {
			delete(body, name)
		}
	}
	changed, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(changed)
}

func TestRecordedRequestOfNova(t *testing.T) {
	body, headers := recorded(t)
	w := newWorld()
	router := w.router(t, io.Discard, false)
	for _, path := range []string{"/v1/", "/v1"} {
		request := httptest.NewRequest("POST", path, strings.NewReader(body))
		request.Header = headers.Clone()
		request.Header.Set("X-Auth-Token", "good")
		recorder := httptest.NewRecorder()
		router.ServeHTTP(recorder, request)
		want := `{"hostname": "web1.example.test", "krb_realm": "EXAMPLE.TEST", "ipaotp": "` + otp + `"}`
		if recorder.Code != 200 || recorder.Body.String() != want {
			t.Errorf("%s: %d %s", path, recorder.Code, recorder.Body)
		}
		if kind := recorder.Header().Get("Content-Type"); kind != "application/json" {
			t.Errorf("%s: %s", path, kind)
		}
	}
	want := enroll.Request{
		InstanceID: instanceID, ProjectID: projectID, ProjectName: "shop", ProjectDomainID: "default", Hostname: "web1",
		Metadata: map[string]string{"ipa_enroll": "True", "ipa_hostclass": "web"},
	}
	if diff := cmp.Diff([]enroll.Request{want, want}, w.enrolled); diff != "" {
		t.Error(diff)
	}
	if w.by.UserName != "nova" || w.by.Remote == "" || w.by.RequestID == "" || w.asked != 0 {
		t.Errorf("by %+v, %d requests to Glance", w.by, w.asked)
	}
	if w.within <= 0 || w.within > 4*time.Second {
		t.Errorf("the enrolment may take %v", w.within)
	}
}

// The table of the protocol, row by row.
func TestJoin(t *testing.T) {
	member := keystone.Token{UserID: "u", UserName: "alice", Roles: []string{"member"}, ProjectID: projectID}
	asks := map[string]any{"ipa_enroll": "TRUE"}
	silent := map[string]any{"metadata": map[string]any{"role": "web"}}
	tests := []struct {
		name   string
		token  string
		body   string
		change func(*world)
		status int
		want   string // the answer, or the name of the error and a piece of its message
	}{
		{"no token", "", with(t, nil), nil, 401, "unauthorized X-Auth-Token"},
		{"bad token", "bad", with(t, nil), nil, 401, "unauthorized not valid"},
		{"token not allowed", "good", with(t, nil), func(w *world) { w.token = member }, 403, "forbidden join:create"},
		{"operator", "good", with(t, nil), func(w *world) { w.token.Roles = []string{"admin"} }, 200, "otp"},
		{"no body", "good", "", nil, 400, "badRequest needs a JSON body"},
		{"no JSON", "good", "user-data=x", nil, 400, "badRequest not valid JSON"},
		{"a list", "good", "[]", nil, 400, "badRequest want an object"},
		{"no hostname", "good", with(t, map[string]any{"hostname": nil}), nil, 400, "badRequest hostname: is missing"},
		{"empty hostname", "good", with(t, map[string]any{"hostname": ""}), nil, 400, "badRequest hostname: is missing"},
		{"no instance", "good", with(t, map[string]any{"instance-id": nil}), nil, 400, "badRequest instance-id: is missing"},
		{"odd instance", "good", with(t, map[string]any{"instance-id": "{c65eb661-4472-402e-ac3a-c112fd82693f}"}), nil, 400, "badRequest instance-id"},
		{"no project", "good", with(t, map[string]any{"project-id": nil}), nil, 400, "badRequest project-id: is missing"},
		{"metadata of another type", "good", with(t, map[string]any{"metadata": []any{}}), nil, 400, "badRequest metadata"},
		{"too large", "good", with(t, map[string]any{"user-data": strings.Repeat("A", 300<<10)}), nil, 413, "overLimit larger than"},
		{"not asked, from a volume, empty", "good", with(t, map[string]any{"metadata": map[string]any{}, "image-id": ""}), nil, 200, "{}"},
		{"not asked, from a volume, null", "good", strings.Replace(with(t, map[string]any{"metadata": map[string]any{}, "image-id": "X"}), `"X"`, "null", 1), nil, 200, "{}"},
		{"not asked, no metadata at all", "good", with(t, map[string]any{"metadata": nil, "image-id": nil}), nil, 200, "{}"},
		{"asked, from a volume", "good", with(t, map[string]any{"metadata": asks, "image-id": nil}), nil, 200, "otp"},
		{"not asked, the image does not", "good", with(t, silent), nil, 200, "{}"},
		{"not asked, the image says no", "good", with(t, silent), func(w *world) { w.properties = map[string]string{"ipa_enroll": "no"} }, 200, "{}"},
		{"the image asks", "good", with(t, silent), func(w *world) { w.properties = map[string]string{"ipa_enroll": "true"} }, 200, "otp"},
		{"says no, the image asks", "good", with(t, map[string]any{"metadata": map[string]any{"ipa_enroll": "False"}}),
			func(w *world) { w.properties = map[string]string{"ipa_enroll": "tRUe"} }, 200, "otp"},
		{"image unknown", "good", with(t, silent), func(w *world) { w.glance = fmt.Errorf("x: %w", openstack.ErrNotFound) }, 400, "badRequest knows no such image"},
		{"image forbidden", "good", with(t, silent), func(w *world) { w.glance = fmt.Errorf("x: %w", openstack.ErrForbidden) }, 400, "badRequest does not show this image"},
		{"Glance away", "good", with(t, silent), func(w *world) { w.glance = openstack.ErrUnavailable }, 503, "serviceUnavailable the image service"},
		{"class, project unknown", "good", with(t, nil), func(w *world) { w.project = keystone.ErrNotFound }, 400, "badRequest no such project"},
		{"Keystone away", "good", with(t, nil), func(w *world) { w.project = &keystone.UnavailableError{Err: errors.New("10.0.0.1")} }, 503, "serviceUnavailable Keystone"},
		{"class not allowed", "good", with(t, nil), func(w *world) { w.enrolment = problem.New(problem.Forbidden, "class web") }, 403, "forbidden class web"},
		{"key malformed", "good", with(t, nil), func(w *world) { w.enrolment = problem.InField("managed_service_x", "want y") }, 400, "badRequest managed_service_x: want y"},
		{"name taken", "good", with(t, nil), func(w *world) { w.enrolment = problem.New(problem.Conflict, "taken") }, 409, "conflictingRequest taken"},
		{"FreeIPA away", "good", with(t, nil), func(w *world) { w.enrolment = problem.New(problem.Unavailable, "away") }, 503, "serviceUnavailable away"},
		{"a fault of ours", "good", with(t, nil), func(w *world) { w.enrolment = errors.New("secret detail") }, 500, "computeFault the log has it under req-"},
		{"enrolled already", "good", with(t, nil), func(w *world) { w.answer.OTP = "" }, 200, `{"hostname": "web1.example.test", "krb_realm": "EXAMPLE.TEST"}`},
		{"enrolled", "good", with(t, nil), nil, 200, "otp"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			if tt.change != nil {
				tt.change(w)
			}
			var log strings.Builder
			got := post(w.router(t, &log, false), "/v1/", tt.token, tt.body)
			if got.Code != tt.status {
				t.Fatalf("%d %s, want %d", got.Code, got.Body, tt.status)
			}
			if strings.Contains(log.String(), "boots from a volume does not ask") != strings.HasPrefix(tt.name, "not asked, from a volume") &&
				tt.name != "not asked, no metadata at all" {
				t.Errorf("the log does not say why nobody is enrolled, or says it of another: %s", &log)
			}
			if strings.Contains(log.String(), otp) || strings.Contains(log.String(), "IyEvYmluL3NoCmVjaG8gaGkK") {
				t.Errorf("the log tells a secret: %s", &log)
			}
			if tt.status == 200 {
				checkAnswer(t, got.Body.String(), tt.want)
				return
			}
			checkError(t, got, tt.want)
			if len(w.enrolled) > 0 && w.enrolment == nil {
				t.Error("it was enrolled all the same")
			}
			if (len(w.refused) == 1) != (tt.name == "token not allowed") {
				t.Errorf("audit: %+v", w.refused)
			}
		})
	}
}

func checkAnswer(t *testing.T, got, want string) {
	t.Helper()
	if want == "otp" {
		want = `{"hostname": "web1.example.test", "krb_realm": "EXAMPLE.TEST", "ipaotp": "` + otp + `"}`
	}
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// checkError reads novajoin's shape: one object, under the error's name.
func checkError(t *testing.T, got *httptest.ResponseRecorder, want string) {
	t.Helper()
	name, piece, _ := strings.Cut(want, " ")
	var body map[string]struct {
		Code    int
		Message string
	}
	if err := json.Unmarshal(got.Body.Bytes(), &body); err != nil {
		t.Fatalf("%v in %s", err, got.Body)
	}
	if e := body[name]; len(body) != 1 || e.Code != got.Code || !strings.Contains(e.Message, piece) {
		t.Errorf("got %s, want %s with %q", got.Body, name, piece)
	}
	if header := got.Header().Get("WWW-Authenticate"); (header != "") != (got.Code == 401) {
		t.Errorf("WWW-Authenticate %q", header)
	}
}

func TestJoinSharesItsPathWithTheVersionDocument(t *testing.T) {
	router := newWorld().router(t, io.Discard, false)
	ask := func(method, path string) *httptest.ResponseRecorder {
		recorder := httptest.NewRecorder()
		router.ServeHTTP(recorder, httptest.NewRequest(method, path, nil))
		return recorder
	}
	if got := ask("GET", "/v1"); got.Code != 200 || got.Body.String() != `"version"` {
		t.Errorf("GET: %d %s", got.Code, got.Body)
	}
	got := ask("PUT", "/v1/")
	if got.Code != 405 || got.Header().Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("PUT: %d, Allow %q", got.Code, got.Header().Get("Allow"))
	}
	checkError(t, got, "badMethod PUT")
	if got := ask("POST", "/v1/vendordata"); !strings.Contains(got.Body.String(), `"title": "Unauthorized"`) {
		t.Errorf("another path: %s", got.Body)
	}
}

// The image tells the operating system, as far as it knows it.
func TestImageTellsTheOperatingSystem(t *testing.T) {
	for want, properties := range map[string]map[string]string{
		"":          {"ipa_enroll": "true"},
		"debian":    {"ipa_enroll": "true", "os_distro": "debian"},
		"12":        {"ipa_enroll": "true", "os_version": "12"},
		"debian 12": {"ipa_enroll": "true", "os_distro": "debian", "os_version": "12"},
	} {
		w := newWorld()
		w.properties = properties
		got := post(w.router(t, io.Discard, false), "/v1", "good", with(t, map[string]any{"metadata": nil}))
		if got.Code != 200 || len(w.enrolled) != 1 || w.enrolled[0].OS != want {
			t.Errorf("%v: %d %+v", properties, got.Code, w.enrolled)
		}
	}
}

// Muster's own call gives both halves. The SSH half goes out without the other
// one, with the reason, unless the operator wants the boot to fail.
func TestBothHalvesInOneCall(t *testing.T) {
	const ssh = `{"token": "ffffffffffffffffffffffffffffffff", "auth_pub_key_user": "ssh-ed25519 AAAA", "root_principals": "", ` +
		`"users": "admin,member", "sudoers": "admin", "ssh_port": 22, "pam_sudo": false, "api_endpoint": "http://example.com"`
	silent := with(t, map[string]any{"metadata": nil, "image-id": nil})
	tests := []struct {
		name   string
		body   string
		change func(*world)
		want   string // behind the SSH half
		strict int    // the status when enrolment must not fail
	}{
		{"not asked", silent, nil, `}`, 200},
		{"enrolled", with(t, nil), nil, `, "hostname": "web1.example.test", "krb_realm": "EXAMPLE.TEST", "ipaotp": "` + otp + `"}`, 200},
		{"FreeIPA away", with(t, nil), func(w *world) { w.answer.OTP = "" }, `, "hostname": "web1.example.test", "krb_realm": "EXAMPLE.TEST"}`, 200},
		{"refused", with(t, nil), func(w *world) { w.enrolment = problem.New(problem.Conflict, "the name is taken") },
			`, "ipa_error": "the name is taken"}`, 409},
		{"image unknown", with(t, map[string]any{"metadata": nil}), func(w *world) { w.glance = openstack.ErrNotFound },
			`, "ipa_error": "image-id: the image service knows no such image"}`, 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			if tt.change != nil {
				tt.change(w)
			}
			whole := ssh + strings.TrimSuffix(tt.want, "}") + `, "project_id": "` + projectID + `", "instance_id": "` + instanceID + `"}`
			if got := post(w.router(t, io.Discard, false), "/v1/vendordata", "good", tt.body); got.Code != 200 || got.Body.String() != whole {
				t.Errorf("%d %s", got.Code, got.Body)
			}
			if got := post(w.router(t, io.Discard, true), "/v1/vendordata", "good", tt.body); got.Code != tt.strict {
				t.Errorf("strict: %d %s, want %d", got.Code, got.Body, tt.strict)
			}
			if got := post(w.router(t, io.Discard, false), "/v1/novavendordata", "good", tt.body); got.Code != 201 || got.Body.String() != ssh+"}" {
				t.Errorf("Tatu's call: %d %s", got.Code, got.Body)
			}
		})
	}
}

// Who may not enrol instances gets the SSH half alone.
func TestSSHHalfWithoutTheRightToEnrol(t *testing.T) {
	w := newWorld()
	w.policyFile = filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(w.policyFile, []byte("\"join:create\": \"!\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	router := w.router(t, io.Discard, true)
	if got := post(router, "/v1/vendordata", "good", with(t, nil)); got.Code != 200 || strings.Contains(got.Body.String(), "krb_realm") {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	if got := post(router, "/v1/", "good", with(t, nil)); got.Code != 403 || len(w.enrolled) != 0 {
		t.Errorf("%d %s, %d enrolled", got.Code, got.Body, len(w.enrolled))
	}
}

// A fault that is not the caller's is told by the request's ID alone.
func TestFaultsStayInTheLog(t *testing.T) {
	w := newWorld()
	w.enrolment = errors.New("secret detail")
	var log strings.Builder
	got := post(w.router(t, &log, false), "/v1/vendordata", "good", with(t, nil))
	id := got.Header().Get("X-Openstack-Request-Id")
	if got.Code != 200 || strings.Contains(got.Body.String(), "secret") || !strings.Contains(got.Body.String(), `"ipa_error": "enrolment failed; Muster's log has it under `+id) {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	if !strings.Contains(log.String(), "secret detail") || !strings.Contains(log.String(), instanceID) {
		t.Errorf("the log does not tell: %s", &log)
	}
}

// When there is no time left, the instance learns that it may read again.
func TestNoTimeLeft(t *testing.T) {
	w := newWorld()
	w.project = fmt.Errorf("Keystone: %w", context.DeadlineExceeded)
	router := w.router(t, io.Discard, false)
	if got := post(router, "/v1/", "good", with(t, nil)); got.Code != http.StatusServiceUnavailable {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	if got := post(router, "/v1/vendordata", "good", with(t, nil)); got.Code != 200 || !strings.Contains(got.Body.String(), "read the metadata again") {
		t.Errorf("%d %s", got.Code, got.Body)
	}
}

func TestNewEnrolmentNeedsAllItsParts(t *testing.T) {
	w := newWorld()
	whole := EnrolmentConfig{Enroller: w, Images: w, Projects: w, AnswerWithin: time.Second, Logger: slog.New(slog.DiscardHandler)}
	for name, change := range map[string]func(*EnrolmentConfig){
		"enroller": func(c *EnrolmentConfig) { c.Enroller = nil }, "images": func(c *EnrolmentConfig) { c.Images = nil },
		"projects": func(c *EnrolmentConfig) { c.Projects = nil }, "time": func(c *EnrolmentConfig) { c.AnswerWithin = 0 },
		"logger": func(c *EnrolmentConfig) { c.Logger = nil },
	} {
		cfg := whole
		change(&cfg)
		if _, err := NewEnrolment(cfg); err == nil {
			t.Errorf("without %s: accepted", name)
		}
	}
}

// A Glance that does not answer takes no more than the time there is.
func TestSlowGlance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.hang = true
		router := w.router(t, io.Discard, false)
		started := time.Now()
		got := post(router, "/v1/", "good", with(t, map[string]any{"metadata": nil}))
		if took := time.Since(started); got.Code != 503 || took > 3600*time.Millisecond || took < 3*time.Second {
			t.Errorf("%d after %v", got.Code, took)
		}
		got = post(router, "/v1/vendordata", "good", with(t, map[string]any{"metadata": nil}))
		if got.Code != 200 || !strings.Contains(got.Body.String(), `"ipa_error": "image-id: the image service could not be asked`) {
			t.Errorf("%d %s", got.Code, got.Body)
		}
	})
}

// FuzzJoin: whatever is sent, the answer is JSON, and no fault of ours.
func FuzzJoin(f *testing.F) {
	f.Add(`{"hostname":"a","project-id":"` + projectID + `","instance-id":"` + instanceID + `","metadata":{"ipa_enroll":"true"}}`)
	f.Add(`{"hostname":1}`)
	f.Add(`{"metadata":{"a":{}}}`)
	f.Add("null")
	rules, err := policy.Load("", policy.Defaults())
	if err != nil {
		f.Fatal(err)
	}
	w := newWorld()
	logger := slog.New(slog.DiscardHandler)
	guard := api.NewGuard(w, rules, w, nil)
	enrolment, err := NewEnrolment(EnrolmentConfig{Enroller: w, Images: w, Projects: w, AnswerWithin: time.Second, Logger: logger})
	if err != nil {
		f.Fatal(err)
	}
	router := api.NewRouter(api.RouterConfig{Logger: logger, Metrics: api.NewMetrics(prometheus.NewRegistry())}, NewJoin(guard, enrolment))
	f.Fuzz(func(t *testing.T, body string) {
		got := post(router, "/v1/", "good", body)
		if got.Code >= 500 || !json.Valid(got.Body.Bytes()) {
			t.Errorf("%d %s", got.Code, got.Body)
		}
	})
}
