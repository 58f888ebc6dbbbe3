// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// face registers the endpoints of a test.
type face map[string]Endpoint

func (face) Name() string { return "test" }

func (f face) Register(router *Router) {
	for pattern, endpoint := range f {
		router.Handle(pattern, endpoint)
	}
}

func newRouter(log io.Writer, endpoints face, change ...func(*RouterConfig)) *Router {
	cfg := RouterConfig{
		Logger: slog.New(slog.NewTextHandler(log, nil)), Metrics: NewMetrics(prometheus.NewRegistry()),
		KeystoneURL: "https://keystone.example:5000",
	}
	for _, c := range change {
		c(&cfg)
	}
	return NewRouter(cfg, endpoints)
}

func ask(router http.Handler, method, path, body string) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	router.ServeHTTP(recorder, httptest.NewRequest(method, path, strings.NewReader(body)))
	return recorder
}

func TestErrorsBecomeStatuses(t *testing.T) {
	tests := []struct {
		name       string
		err        error
		status     int
		retryAfter string
		hidden     bool // the error's own text must not reach the caller
	}{
		{"invalid", problem.InField("pub_key", "is missing"), 400, "", false},
		{"unauthorized", problem.New(problem.Unauthorized, "no token"), 401, "", false},
		{"forbidden", problem.New(problem.Forbidden, "no"), 403, "", false},
		{"not found", problem.New(problem.NotFound, "no"), 404, "", false},
		{"conflict", problem.New(problem.Conflict, "no"), 409, "", false},
		{"too large", problem.New(problem.TooLarge, "no"), 413, "", false},
		{"too many", problem.New(problem.TooMany, "no"), 429, "1", false},
		{"wrapped", fmt.Errorf("while: %w", problem.New(problem.Conflict, "no")), 409, "", false},
		{"bad token", fmt.Errorf("x: %w", keystone.ErrInvalidToken), 401, "", true},
		{"Keystone away", &keystone.UnavailableError{RetryAfter: 1500 * time.Millisecond, Err: errors.New("dial tcp 10.0.0.1: refused")}, 503, "2", true},
		{"our user may not", fmt.Errorf("%w: needs the role admin", keystone.ErrForbidden), 503, "60", true},
		{"our user may not, as the client says it", &keystone.UnavailableError{RetryAfter: 5 * time.Second, Err: fmt.Errorf("show user: %w (403)", keystone.ErrForbidden)}, 503, "60", true},
		{"token bound to a certificate", keystone.ErrBoundToken, 401, "", false},
		{"database away", fmt.Errorf("%w: dial tcp 10.0.0.2", store.ErrUnavailable), 503, "5", true},
		{"too slow", context.DeadlineExceeded, 503, "5", true},
		{"given up, though the client waits", fmt.Errorf("x: %w", context.Canceled), 503, "5", true},
		{"anything else", errors.New("secret detail"), 500, "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			router := newRouter(&log, face{"GET /x": func(*Request) (Response, error) { return Response{}, tt.err }})
			got := ask(router, "GET", "/x", "")
			var body struct{ Title, Description, Message string }
			if err := json.Unmarshal(got.Body.Bytes(), &body); err != nil {
				t.Fatalf("%v in %s", err, got.Body)
			}
			if got.Code != tt.status || body.Title != http.StatusText(tt.status) || body.Description == "" || body.Message != body.Description {
				t.Errorf("answer %d %+v, want %d with title, description and message", got.Code, body, tt.status)
			}
			if after := got.Header().Get("Retry-After"); after != tt.retryAfter {
				t.Errorf("Retry-After %q, want %q", after, tt.retryAfter)
			}
			if tt.hidden && strings.Contains(got.Body.String(), tt.err.Error()) {
				t.Errorf("the caller sees the cause: %s", got.Body)
			}
			if id := got.Header().Get("X-Openstack-Request-Id"); !strings.HasPrefix(id, "req-") || !strings.Contains(log.String(), id) {
				t.Errorf("request ID %q is not in the log: %s", id, &log)
			}
			if !strings.Contains(log.String(), "error=") || strings.Count(log.String(), "msg=request") != 1 {
				t.Errorf("want one record with the cause, got: %s", &log)
			}
			if header := got.Header().Get("WWW-Authenticate"); (header != "") != (tt.status == 401) {
				t.Errorf("WWW-Authenticate %q with %d", header, tt.status)
			}
		})
	}
}

func TestPanicIsOneRequests(t *testing.T) {
	var log bytes.Buffer
	router := newRouter(&log, face{"GET /x": func(*Request) (Response, error) { panic("secret detail") }})
	got := ask(router, "GET", "/x", "")
	if got.Code != 500 || strings.Contains(got.Body.String(), "secret") || !json.Valid(got.Body.Bytes()) {
		t.Errorf("answer %d %s", got.Code, got.Body)
	}
	if !strings.Contains(log.String(), "secret detail") {
		t.Error("the log does not tell what panicked")
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	ok := func(*Request) (Response, error) { return Response{Body: "ok"}, nil }
	router := newRouter(io.Discard, face{"GET /a": ok, "POST /a": ok, "GET /a/{id}": ok})
	tests := []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/a", 200, ""}, {"GET", "/a/", 200, ""}, {"HEAD", "/a", 200, ""}, {"GET", "/a/1/", 200, ""},
		{"DELETE", "/a", 405, "GET, HEAD, POST"}, {"PUT", "/a/", 405, "GET, HEAD, POST"},
		{"GET", "/b", 404, ""}, {"GET", "/", 404, ""}, {"GET", "/a/1/2", 404, ""}, {"GET", "//a", 404, ""}, {"GET", "/a/../a", 404, ""},
	}
	for _, tt := range tests {
		got := ask(router, tt.method, tt.path, "")
		if got.Code != tt.status || got.Header().Get("Allow") != tt.allow {
			t.Errorf("%s %s: %d, Allow %q; want %d, %q", tt.method, tt.path, got.Code, got.Header().Get("Allow"), tt.status, tt.allow)
		}
		if tt.method != "HEAD" && (!json.Valid(got.Body.Bytes()) || got.Header().Get("Content-Type") != "application/json") {
			t.Errorf("%s %s: %s is no JSON", tt.method, tt.path, got.Body)
		}
	}
}

func TestJSONIsSpelledAsTheBootScriptsReadIt(t *testing.T) {
	body := struct {
		Key  string   `json:"key"`
		Port int      `json:"ssh_port"`
		List []string `json:"list"`
	}{`a "quoted: text", with \ and <>&`, 22, []string{"a:b", "c,d"}}
	router := newRouter(io.Discard, face{"GET /x": func(*Request) (Response, error) { return Response{Body: body}, nil }})
	want := `{"key": "a \"quoted: text\", with \\ and <>&", "ssh_port": 22, "list": ["a:b", "c,d"]}`
	if got := ask(router, "GET", "/x", "").Body.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestDecode(t *testing.T) {
	tests := []struct {
		body, want string
		status     int
	}{
		{`{"name": "x", "n": 1, "unknown": true}`, "ok", 200},
		{``, "needs a JSON body", 400},
		{`  `, "needs a JSON body", 400},
		{`{"name": "x"`, "not valid JSON", 400},
		{`{"name": "x"} {}`, "not valid JSON", 400},
		{`{"name": "ssh-ed25519 AAAA CORP\user@PC"}`, "has a backslash, which must be written twice", 400},
		{`[1]`, "want an object", 400},
		{`{"name": 1}`, "name: is a JSON number, want a string", 400},
		{`{"n": "1"}`, "n: is a JSON string, want a number", 400},
		{`{"name": "` + strings.Repeat("x", 2000) + `"}`, "larger than 1024 bytes", 413},
		{"{\"name\": \"\xff\"}", "ok", 200},
	}
	router := newRouter(io.Discard, face{"POST /x": func(r *Request) (Response, error) {
		var body struct {
			Name string `json:"name"`
			N    int    `json:"n"`
		}
		return Response{Body: "ok"}, r.Decode(&body)
	}}, func(c *RouterConfig) { c.MaxBody = 1024 })
	for _, tt := range tests {
		got := ask(router, "POST", "/x", tt.body)
		if got.Code != tt.status || !strings.Contains(got.Body.String(), tt.want) {
			t.Errorf("%.40q: %d %s; want %d, %q", tt.body, got.Code, got.Body, tt.status, tt.want)
		}
	}
}

func TestRemoteAddress(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	tests := []struct {
		peer, forwarded, want string
	}{
		{"192.0.2.1:1000", "", "192.0.2.1"},
		{"192.0.2.1:1000", "203.0.113.5", "192.0.2.1"}, // a stranger's word
		{"10.0.0.1:1000", "203.0.113.5", "203.0.113.5"},
		{"10.0.0.1:1000", "1.2.3.4, 203.0.113.5, 10.0.0.2", "203.0.113.5"},
		{"10.0.0.1:1000", "", "10.0.0.1"},
		{"10.0.0.1:1000", "nonsense", "10.0.0.1"},
		{"[::ffff:192.0.2.7]:1000", "", "192.0.2.7"},
		{"@", "203.0.113.5", "unix"},
	}
	router := newRouter(io.Discard, face{"GET /x": func(r *Request) (Response, error) { return Response{Body: r.Remote}, nil }},
		func(c *RouterConfig) { c.TrustedProxies = proxies })
	for _, tt := range tests {
		r := httptest.NewRequest("GET", "/x", nil)
		r.RemoteAddr = tt.peer
		if tt.forwarded != "" {
			r.Header.Set("X-Forwarded-For", tt.forwarded)
		}
		recorder := httptest.NewRecorder()
		router.ServeHTTP(recorder, r)
		if got := strings.Trim(recorder.Body.String(), `"`); got != tt.want {
			t.Errorf("%s forwarding %q: %s, want %s", tt.peer, tt.forwarded, got, tt.want)
		}
	}
}

func TestLinksFollowTheClientsScheme(t *testing.T) {
	router := newRouter(io.Discard, face{"GET /x": func(r *Request) (Response, error) { return Response{Body: r.BaseURL()}, nil }},
		func(c *RouterConfig) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	for peer, want := range map[string]string{"10.0.0.1:9": `"https://muster.example"`, "192.0.2.1:9": `"http://muster.example"`} {
		r := httptest.NewRequest("GET", "http://muster.example/x", nil)
		r.RemoteAddr = peer
		r.Header.Set("X-Forwarded-Proto", "https")
		recorder := httptest.NewRecorder()
		router.ServeHTTP(recorder, r)
		if got := recorder.Body.String(); got != want {
			t.Errorf("behind %s: %s, want %s", peer, got, want)
		}
	}
}

func TestRateLimitIsPerAddress(t *testing.T) {
	limiter := NewRateLimiter(0.001, 2)
	router := newRouter(io.Discard, face{"GET /x": limiter.Limited(func(*Request) (Response, error) { return Response{Body: "ok"}, nil })})
	statuses := map[string][]int{}
	for _, address := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"} {
		r := httptest.NewRequest("GET", "/x", nil)
		r.RemoteAddr = address + ":99"
		recorder := httptest.NewRecorder()
		router.ServeHTTP(recorder, r)
		statuses[address] = append(statuses[address], recorder.Code)
	}
	if got := fmt.Sprint(statuses); got != "map[192.0.2.1:[200 200 429] 192.0.2.2:[200]]" {
		t.Error(got)
	}
}

func TestLogsKeepSecrets(t *testing.T) {
	var log bytes.Buffer
	router := newRouter(&log, face{"POST /x": func(r *Request) (Response, error) {
		var body struct{}
		return Response{}, r.Decode(&body)
	}})
	r := httptest.NewRequest("POST", "/x?token=querysecret", strings.NewReader(`{"user-data": "bodysecret"`))
	r.Header.Set("X-Auth-Token", "tokensecret")
	recorder := httptest.NewRecorder()
	router.ServeHTTP(recorder, r)
	// The Location that a new token comes with.
	ask(router, "GET", "/hosttokens/locationsecret", "")
	ask(router, "GET", "/v1/hosttokens/locationsecret/", "")
	for _, secret := range []string{"querysecret", "bodysecret", "tokensecret", "locationsecret"} {
		if strings.Contains(log.String()+recorder.Body.String(), secret) {
			t.Errorf("%s leaks: %s %s", secret, &log, recorder.Body)
		}
	}
}

// TestCausesAreLogged: why something was refused, beyond what its caller may know, is in the log alone.
func TestCausesAreLogged(t *testing.T) {
	var log bytes.Buffer
	router := newRouter(&log, face{"GET /x": func(*Request) (Response, error) {
		return Response{}, &problem.Problem{Kind: problem.Unavailable, Reason: "try again later", Cause: errors.New("the peer hung up")}
	}})
	answer := ask(router, "GET", "/x", "")
	if text := log.String(); !strings.Contains(text, "try again later: the peer hung up") {
		t.Errorf("the log lacks the cause: %s", text)
	}
	if text := answer.Body.String(); !strings.Contains(text, "try again later") || strings.Contains(text, "the peer hung up") {
		t.Errorf("the caller was told %s", text)
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("plain", "a:b,c")
	f.Add(`"`, `\"`)
	f.Add("\x00\xff", "\u2028{}[]")
	f.Fuzz(func(t *testing.T, key, value string) {
		in := map[string]string{key: value}
		var out bytes.Buffer
		if err := encode(&out, in); err != nil {
			t.Fatal(err)
		}
		plain, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := json.Unmarshal(out.Bytes(), &a); err != nil {
			t.Fatalf("%v: %q", err, out.String())
		}
		if err := json.Unmarshal(plain, &b); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(a) != fmt.Sprint(b) || bytes.ContainsAny(out.Bytes(), "\n\r") {
			t.Fatalf("%q says something else than %q", out.String(), plain)
		}
	})
}
