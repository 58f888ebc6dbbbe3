// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recorded is one request to a real FreeIPA 4.9.11, and what it answered, in the order of the recording.
type recorded struct {
	N         string            `json:"n"`
	Name      string            `json:"name"`
	Who       string            `json:"who"`
	Method    string            `json:"method"`
	Path      string            `json:"path"`
	Headers   map[string]string `json:"headers"`
	Request   string            `json:"request"`
	Status    int               `json:"status"`
	Type      []string          `json:"type"`
	Negotiate []string          `json:"negotiate"`
	Answer    any               `json:"answer"`
	Command   string            `json:"command"` // instead of a request: ipa-join or klist
	RC        int               `json:"rc"`
}

const novaPrincipal = "nova/undercloud.example.test"

// TestRecorded replays the recording: the same requests in the same order against the same directory must be answered
// the same, apart from IDs, times, made-up passwords and the order in lists.
func TestRecorded(t *testing.T) {
	s := newTestServer(t, Config{Passwords: map[string]string{"admin": "Secret123", novaPrincipal: "nova-password"}})
	seedAsRecorded(t, s)
	handler := s.Handler()
	cookies := map[string]string{
		"admin": passwordLogin(t, handler, "admin", "Secret123"),
		"nova":  passwordLogin(t, handler, novaPrincipal, "nova-password"),
	}
	for _, sample := range readRecorded(t) {
		if sample.Path == "/ipa/session/login_kerberos" {
			continue // needs a key distribution centre, which the Kerberos tests of internal/ipa have
		}
		t.Run(sample.N+"-"+sample.Name, func(t *testing.T) {
			if sample.Command != "" {
				replayCommand(t, s, sample)
				return
			}
			replay(t, handler, sample, cookies)
		})
	}
}

func replay(t *testing.T, handler http.Handler, sample recorded, cookies map[string]string) {
	r := httptest.NewRequest(sample.Method, "https://ipa.example.test"+sample.Path, strings.NewReader(sample.Request))
	for name, value := range sample.Headers {
		r.Header.Set(name, value)
	}
	if cookie := cookies[sample.Who]; cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	switch sample.Who {
	case "bad cookie":
		r.Header.Set("Cookie", "ipa_session=MagBearerToken=deadbeef")
	case "garbage":
		r.Header.Set("Authorization", "Negotiate Z2FyYmFnZQ==")
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code != sample.Status {
		t.Fatalf("status %d, recorded %d", w.Code, sample.Status)
	}
	if w.Code == http.StatusUnauthorized {
		if got := w.Header().Get("WWW-Authenticate") != ""; got != (len(sample.Negotiate) > 0) {
			t.Errorf("WWW-Authenticate: %v, recorded %v", got, sample.Negotiate)
		}
	}
	if sample.Answer == nil {
		return
	}
	if got := w.Header().Get("Content-Type"); got != sample.Type[0] {
		t.Errorf("Content-Type %q, recorded %q", got, sample.Type[0])
	}
	var got any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("answer is not JSON: %v: %s", err, w.Body)
	}
	if diff := cmp.Diff(comparable(sample.Answer), comparable(got)); diff != "" {
		t.Errorf("request %s\nrecorded (-), now (+):\n%s", sample.Request, diff)
	}
}

// replayCommand plays what ipa-join did on the client's side.
func replayCommand(t *testing.T, s *Server, sample recorded) {
	words := strings.Fields(sample.Command)
	if words[0] != "ipa-join" {
		if h, _ := s.Host("vm5.example.test"); !h.HasKeytab {
			t.Error("the host has no keytab, the recorded one has")
		}
		return
	}
	otp := words[slices.Index(words, "-w")+1]
	fqdn := words[slices.Index(words, "-h")+1]
	err := s.Join(fqdn, otp)
	if (err == nil) != (sample.RC == 0) {
		t.Errorf("Join: %v, recorded exit code %d", err, sample.RC)
	}
}

// comparable removes from an answer what differs from run to run, and sorts its lists.
func comparable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, value := range v {
			switch name {
			case "ipauniqueid", "ipaUniqueID", "idnssoaserial", "randompassword":
				out[name] = "varies"
			case "usercertificate", "subject", "serial_number", "serial_number_hex", "issuer", "valid_not_before", "valid_not_after",
				"sha1_fingerprint", "sha256_fingerprint":
				// Certificates are not played.
			case "results":
				items := []any{}
				for _, item := range value.([]any) {
					items = append(items, comparable(item))
				}
				out[name] = items
			default:
				out[name] = comparable(value)
			}
		}
		return out
	case []any:
		out := make([]any, 0, len(v))
		for _, item := range v {
			out = append(out, comparable(item))
		}
		slices.SortFunc(out, func(a, b any) int { return strings.Compare(asText(a), asText(b)) })
		return out
	}
	return v
}

func asText(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func readRecorded(t *testing.T) []recorded {
	t.Helper()
	file, err := os.Open("testdata/recorded.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var all []recorded
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var sample recorded
		if err := json.Unmarshal(lines.Bytes(), &sample); err != nil {
			t.Fatal(err)
		}
		all = append(all, sample)
	}
	if len(all) < 200 {
		t.Fatalf("only %d samples read", len(all))
	}
	return all
}

// seedAsRecorded makes the directory what it was when the recording began.
func seedAsRecorded(t *testing.T, s *Server) {
	t.Helper()
	for _, err := range []error{
		s.AddHost("undercloud.example.test", ""),
		s.AddHost("c1.example.test", "waiting"),
		s.AddService(novaPrincipal),
		s.asAdmin("host_mod", []any{"undercloud.example.test"}, map[string]any{"description": "Undercloud host"}),
		s.asAdmin("dnsrecord_add", []any{"example.test.", "undercloud"}, map[string]any{"arecord": "192.168.77.1"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func newTestServer(t *testing.T, cfg Config) *Server {
	t.Helper()
	cfg.Domain = "example.test"
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// passwordLogin returns the Cookie header of a new session.
func passwordLogin(t *testing.T, handler http.Handler, user, password string) string {
	t.Helper()
	form := url.Values{"user": {user}, "password": {password}}
	r := httptest.NewRequest(http.MethodPost, "https://ipa.example.test/ipa/session/login_password", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Referer", "https://ipa.example.test/ipa")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		body, _ := io.ReadAll(w.Body)
		t.Fatalf("login of %s: %d %s", user, w.Code, body)
	}
	cookie, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	return cookie
}
