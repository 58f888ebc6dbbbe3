// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/devcloudtest"
	"github.com/muster-cloud/muster/internal/devcloud/identity"
	"github.com/muster-cloud/muster/internal/keystone"
)

// rig is a client with a Keystone behind a proxy that counts, breaks and delays.
type rig struct {
	*keystone.Client
	identity *identity.Service
	url      string
	counts   sync.Map // "METHOD path" to *atomic.Int64
	hook     atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]

	stepClock
}

// stepClock stands still until it is stepped.
type stepClock struct {
	mu  sync.Mutex
	now time.Time
}

func (s *stepClock) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *stepClock) step(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

// intercept sets what is done with each request; true: it has been answered.
func (r *rig) intercept(hook func(http.ResponseWriter, *http.Request) bool) { r.hook.Store(&hook) }

// fail makes Keystone answer everything with the status.
func (r *rig) fail(status int) {
	r.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(status)
		return true
	})
}

func (r *rig) heal() { r.hook.Store(nil) }

func (r *rig) count(call string) int64 {
	n, ok := r.counts.Load(call)
	if !ok {
		return 0
	}
	return n.(*atomic.Int64).Load()
}

const validation, logins = "GET /identity/v3/auth/tokens", "POST /identity/v3/auth/tokens"

func newRig(t testing.TB, change func(*keystone.Config)) *rig {
	t.Helper()
	r := &rig{stepClock: stepClock{now: time.Now()}}
	cloud := devcloudtest.Start(t, devcloud.Config{Now: r.clock})
	r.identity = cloud.Identity
	target, err := url.Parse(cloud.AuthURL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: target.Host})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		n, _ := r.counts.LoadOrStore(q.Method+" "+q.URL.Path, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		if hook := r.hook.Load(); hook != nil && (*hook)(w, q) {
			return
		}
		proxy.ServeHTTP(w, q)
	}))
	t.Cleanup(front.Close)
	r.url = front.URL + "/identity"
	cfg := keystone.Config{AuthURL: r.url, Username: "muster", Password: cloud.Identity.Password("muster"),
		UserDomainName: "Default", ProjectName: "service", ProjectDomainName: "Default", Now: r.clock}
	if change != nil {
		change(&cfg)
	}
	r.Client, err = keystone.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) token(t testing.TB) string {
	t.Helper()
	token, err := r.identity.Token("demo", r.identity.Password("demo"), "demo")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (r *rig) want(t testing.TB, token string, want error) {
	t.Helper()
	if _, err := r.Validate(t.Context(), token); !errors.Is(err, want) || want == nil && err != nil {
		t.Errorf("Validate: got error %v, want %v", err, want)
	}
}

func TestNewRefusesWhatDoesNotFit(t *testing.T) {
	good := keystone.Config{AuthURL: "http://127.0.0.1:5000", Username: "muster", Password: "x",
		UserDomainName: "Default", ProjectName: "service", ProjectDomainName: "Default"}
	if _, err := keystone.New(good); err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(*keystone.Config){
		"auth_url":            func(c *keystone.Config) { c.AuthURL = "keystone:5000" },
		"v2.0":                func(c *keystone.Config) { c.AuthURL = "http://keystone/v2.0" },
		"no user name":        func(c *keystone.Config) { c.AuthURL = "http://me:secret@keystone" },
		"user_domain_name":    func(c *keystone.Config) { c.UserDomainName = "" },
		"password":            func(c *keystone.Config) { c.Password = "" },
		"project_name":        func(c *keystone.Config) { c.ProjectName = "" },
		"project_domain_name": func(c *keystone.Config) { c.ProjectDomainName = "" },
		"auth_type":           func(c *keystone.Config) { c.AuthType = "v3kerberos" },
		"credential_secret":   func(c *keystone.Config) { c.ApplicationCredentialID = "0a" },
		"credential_id":       func(c *keystone.Config) { c.AuthType, c.ApplicationCredentialSecret = "v3applicationcredential", "x" },
		"cafile":              func(c *keystone.Config) { c.CAFile = "/nonexistent" },
		"token cache time":    func(c *keystone.Config) { c.TokenCacheTime = time.Hour },
		"role cache time":     func(c *keystone.Config) { c.RoleCacheTime = time.Hour },
		"cache size":          func(c *keystone.Config) { c.TokenCacheSize = -1 },
	}
	for want, change := range tests {
		cfg := good
		change(&cfg)
		if _, err := keystone.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one about %q", err, want)
		} else if strings.Contains(err.Error(), "secret@") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

func TestTokenIsAskedForOnceAndCached(t *testing.T) {
	r := newRig(t, nil)
	token := r.token(t)
	release := make(chan struct{})
	r.intercept(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodGet {
			<-release
		}
		return false
	})
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() { r.want(t, token, nil) })
	}
	close(release)
	group.Wait()
	if n := r.count(validation); n != 1 {
		t.Errorf("Keystone was asked %d times, want once", n)
	}
	if n := r.count(logins); n != 1 {
		t.Errorf("%d logins, want one", n)
	}
	r.step(5*time.Minute - time.Second)
	r.want(t, token, nil)
	if n := r.count(validation); n != 1 {
		t.Errorf("after 4:59: asked %d times, want once", n)
	}
	r.step(2 * time.Second)
	r.want(t, token, nil)
	if n := r.count(validation); n != 2 {
		t.Errorf("after 5:01: asked %d times, want twice", n)
	}
}

// The first caller gives up while Keystone thinks; those who wait with it, or
// come later, must not notice.
func TestCancelledFirstCaller(t *testing.T) {
	r := newRig(t, nil)
	token := r.token(t)
	asked, release := make(chan struct{}), make(chan struct{})
	r.intercept(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodGet {
			asked <- struct{}{}
			<-release
		}
		return false
	})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := r.Validate(ctx, token)
		first <- err
	}()
	<-asked
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want that of the context", err)
	}
	go func() {
		for range asked { // only if it is asked again
		}
	}()
	close(release)
	r.want(t, token, nil)
	if n := r.count(validation); n != 1 {
		t.Errorf("Keystone was asked %d times, want once", n)
	}
	r.heal()
	close(asked)
}

func TestCachedTokenEndsWithItsExpiry(t *testing.T) {
	r := newRig(t, nil)
	token := r.token(t)
	r.step(time.Hour - 30*time.Second)
	r.want(t, token, nil)
	r.step(31 * time.Second)
	r.want(t, token, keystone.ErrInvalidToken)
}

func TestRefusalIsCachedBriefly(t *testing.T) {
	r := newRig(t, nil)
	for range 5 {
		r.want(t, "gAAAAAnobodys", keystone.ErrInvalidToken)
	}
	if n := r.count(validation); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	r.step(11 * time.Second)
	r.want(t, "gAAAAAnobodys", keystone.ErrInvalidToken)
	if n := r.count(validation); n != 2 {
		t.Errorf("after 11 s: asked %d times, want twice", n)
	}
}

func TestImpossibleTokensAreNotAskedFor(t *testing.T) {
	r := newRig(t, nil)
	for _, token := range []string{"", strings.Repeat("a", 16<<10+1), "a b", "a\nb", "tök", "a\x00", "\x7f"} {
		r.want(t, token, keystone.ErrInvalidToken)
	}
	if n := r.count(validation) + r.count(logins); n != 0 {
		t.Errorf("Keystone was asked %d times", n)
	}
}

func TestKeystoneAway(t *testing.T) {
	for _, status := range []int{500, 502, 503, 504, 429, 401, 403, 404, 302, 200} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			r := newRig(t, nil)
			known, other := r.token(t), r.token(t)
			r.want(t, known, nil)
			r.fail(status)
			r.want(t, known, nil)
			r.want(t, other, keystone.ErrUnavailable)
			if _, err := r.EffectiveRoles(t.Context(), r.identity.UserID("demo"), r.identity.ProjectID("demo")); !errors.Is(err, keystone.ErrUnavailable) {
				t.Errorf("EffectiveRoles: got error %v, want ErrUnavailable", err)
			}
			var detail *keystone.UnavailableError
			if _, err := r.User(t.Context(), r.identity.UserID("demo")); !errors.As(err, &detail) || detail.RetryAfter < time.Second {
				t.Errorf("User: got error %v, want one with a time to retry after", err)
			}
			r.heal()
			r.step(time.Minute)
			r.want(t, other, nil)
		})
	}
}

func TestSilentKeystone(t *testing.T) {
	r := newRig(t, func(c *keystone.Config) { c.Timeout = 50 * time.Millisecond })
	token := r.token(t)
	release := make(chan struct{})
	defer close(release)
	r.intercept(func(http.ResponseWriter, *http.Request) bool { <-release; return true })
	r.want(t, token, keystone.ErrUnavailable)
}

func TestRetryAfterIsPassedOnWithinBounds(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": time.Second, "-5": time.Second, "99999999999": time.Minute,
		"9999": time.Minute, "soon": 5 * time.Second, "": 5 * time.Second,
	} {
		r := newRig(t, nil)
		r.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", header)
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		})
		var detail *keystone.UnavailableError
		if _, err := r.Validate(t.Context(), "gAAAAAsome"); !errors.As(err, &detail) || detail.RetryAfter != want {
			t.Errorf("Retry-After %q: got %v, want %v", header, err, want)
		}
	}
}

func TestOwnTokenIsRenewedOnce(t *testing.T) {
	r := newRig(t, nil)
	r.want(t, r.token(t), nil)
	if err := r.identity.EnableUser(r.identity.UserID("muster"), false); err != nil {
		t.Fatal(err)
	}
	if err := r.identity.EnableUser(r.identity.UserID("muster"), true); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 20 {
		token := r.token(t)
		group.Go(func() { r.want(t, token, nil) })
	}
	group.Wait()
	if n := r.count(logins); n != 2 {
		t.Errorf("%d logins, want one more for all 20", n)
	}
}

func TestRefusedLoginIsNotHammered(t *testing.T) {
	r := newRig(t, func(c *keystone.Config) { c.Password = "wrong" })
	for range 20 {
		r.want(t, r.token(t), keystone.ErrUnavailable)
	}
	if n := r.count(logins); n != 1 {
		t.Errorf("%d logins, want one", n)
	}
	r.step(6 * time.Second)
	r.want(t, r.token(t), keystone.ErrUnavailable)
	if n := r.count(logins); n != 2 {
		t.Errorf("%d logins after the pause, want two", n)
	}
}

func TestForget(t *testing.T) {
	for name, forget := range map[string]func(*rig){
		"user":    func(r *rig) { r.ForgetUser(r.identity.UserID("demo")) },
		"project": func(r *rig) { r.ForgetProject(r.identity.ProjectID("demo")) },
		"so many that the ledger overflows": func(r *rig) {
			r.ForgetUser(r.identity.UserID("demo"))
			for i := range 5000 {
				r.ForgetUser(fmt.Sprintf("%032x", i))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			token := r.token(t)
			r.want(t, token, nil)
			r.identity.RevokeToken(token)
			r.want(t, token, nil)
			forget(r)
			r.want(t, token, keystone.ErrInvalidToken)
		})
	}
}

func TestForgetOthersKeepsTheToken(t *testing.T) {
	r := newRig(t, nil)
	token := r.token(t)
	r.want(t, token, nil)
	r.ForgetUser(r.identity.UserID("nova"))
	r.ForgetProject(r.identity.ProjectID("admin"))
	r.ForgetCredential(strings.Repeat("a", 32))
	r.want(t, token, nil)
	if n := r.count(validation); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

// A user is forgotten after Keystone has said yes and before that has arrived.
func TestForgetDuringValidation(t *testing.T) {
	r := newRig(t, nil)
	r.want(t, r.token(t), nil) // so that only the validation is intercepted
	token := r.token(t)
	var once sync.Once
	r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
		answered := false
		once.Do(func() {
			body, _ := json.Marshal(map[string]any{"token": map[string]any{
				"user":       map[string]any{"id": r.identity.UserID("demo")},
				"expires_at": r.clock().Add(time.Hour).UTC().Format(time.RFC3339)}})
			r.identity.RevokeToken(token)
			r.ForgetUser(r.identity.UserID("demo"))
			_, _ = w.Write(body)
			answered = true
		})
		return answered
	})
	r.want(t, token, keystone.ErrInvalidToken)
	r.want(t, token, keystone.ErrInvalidToken)
}

// TestForgetTrust: a token that was made with a trust ends with it. The answer
// has the form of the Identity API's OS-TRUST extension.
func TestForgetTrust(t *testing.T) {
	r := newRig(t, nil)
	trust, deleted := strings.Repeat("b", 32), false
	r.want(t, r.token(t), nil) // so that only the validation is intercepted
	r.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		if deleted {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"error": {"code": 404, "message": "Could not find token.", "title": "Not Found"}}`)
			return true
		}
		body, _ := json.Marshal(map[string]any{"token": map[string]any{
			"user":           map[string]any{"id": r.identity.UserID("demo")},
			"expires_at":     r.clock().Add(time.Hour).UTC().Format(time.RFC3339),
			"OS-TRUST:trust": map[string]any{"id": trust, "impersonation": true}}})
		_, _ = w.Write(body)
		return true
	})
	r.want(t, "a-token-by-trust", nil)
	deleted = true
	r.want(t, "a-token-by-trust", nil)
	r.ForgetCredential(trust)
	r.want(t, "a-token-by-trust", keystone.ErrInvalidToken)
}

func TestRolesAreCachedForSeconds(t *testing.T) {
	r := newRig(t, nil)
	user, project := r.identity.UserID("demo"), r.identity.ProjectID("demo")
	want := func(roles ...string) {
		t.Helper()
		got, err := r.EffectiveRoles(t.Context(), user, project)
		if err != nil || !slices.Equal(got, roles) {
			t.Errorf("got %v, %v, want %v", got, err, roles)
		}
	}
	want("member", "reader")
	if err := r.identity.Ungrant(user, project, "member"); err != nil {
		t.Fatal(err)
	}
	want("member", "reader")
	r.step(5 * time.Second)
	want()
	if err := r.identity.Grant(user, project, "manager"); err != nil {
		t.Fatal(err)
	}
	want()
	r.ForgetUser(user)
	want("manager", "member", "reader")
	if err := r.identity.EnableProject(project, false); err != nil {
		t.Fatal(err)
	}
	r.ForgetProject(project)
	want()
	if n := r.count("GET /identity/v3/role_assignments"); n != 4 {
		t.Errorf("asked %d times, want 4", n)
	}
}

func TestProjectRolesAreAskedForOnce(t *testing.T) {
	r := newRig(t, nil)
	project := r.identity.ProjectID("demo")
	var group sync.WaitGroup
	for range 30 {
		group.Go(func() {
			got, err := r.ProjectRoles(t.Context(), project)
			if want := []string{"member", "reader"}; err != nil || !slices.Equal(got, want) {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
		})
	}
	group.Wait()
	r.step(29 * time.Second)
	if _, err := r.ProjectRoles(t.Context(), project); err != nil {
		t.Error(err)
	}
	// Once for the project's own assignments, once for what it inherits from its domain.
	if n := r.count("GET /identity/v3/role_assignments"); n != 2 {
		t.Errorf("asked %d times, want once each of two places", n)
	}
}

// TestProjectRolesThatTheListLacks: a role is named though the list of roles at
// hand is older than it, or only a part.
func TestProjectRolesThatTheListLacks(t *testing.T) {
	r := newRig(t, nil)
	if _, err := r.ProjectRoles(t.Context(), r.identity.ProjectID("admin")); err != nil { // reads the list
		t.Fatal(err)
	}
	if err := r.identity.Grant(r.identity.UserID("demo"), r.identity.ProjectID("demo"), "newcomer"); err != nil {
		t.Fatal(err)
	}
	got, err := r.ProjectRoles(t.Context(), r.identity.ProjectID("demo"))
	if want := []string{"member", "newcomer", "reader"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if n := r.count("GET /identity/v3/roles"); n != 1 {
		t.Errorf("the list was asked for %d times, want once", n)
	}
}

// TestProjectRolesAreForgotten: alone, with nothing else of the project.
func TestProjectRolesAreForgotten(t *testing.T) {
	r := newRig(t, nil)
	user, project := r.identity.UserID("demo"), r.identity.ProjectID("demo")
	token := r.token(t)
	want := func(roles ...string) {
		t.Helper()
		if got, err := r.ProjectRoles(t.Context(), project); err != nil || !slices.Equal(got, roles) {
			t.Errorf("got %v, %v, want %v", got, err, roles)
		}
		if _, err := r.Validate(t.Context(), token); err != nil {
			t.Error(err)
		}
	}
	want("member", "reader")
	if err := r.identity.Grant(user, project, "manager"); err != nil {
		t.Fatal(err)
	}
	want("member", "reader")
	r.ForgetProjectRoles(project)
	want("manager", "member", "reader")
	if n := r.count(validation); n != 1 {
		t.Errorf("the token was validated %d times", n)
	}
}

func TestBadIDsNeverReachAPath(t *testing.T) {
	r := newRig(t, nil)
	for _, id := range []string{"", "../users", "a/b", "a?b", "%2e", strings.Repeat("a", 65), "é"} {
		if _, err := r.User(t.Context(), id); !errors.Is(err, keystone.ErrNotFound) {
			t.Errorf("User(%q): got error %v, want ErrNotFound", id, err)
		}
		if roles, err := r.EffectiveRoles(t.Context(), id, id); err != nil || len(roles) > 0 {
			t.Errorf("EffectiveRoles(%q): got %v, %v", id, roles, err)
		}
	}
	if n := r.count(logins); n != 0 {
		t.Errorf("Keystone was asked")
	}
}

func TestErrorsShowNoToken(t *testing.T) {
	r := newRig(t, nil)
	r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodPost {
			return false
		}
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "trouble with %s", q.Header.Get("X-Subject-Token"))
		return true
	})
	token := r.token(t)
	if _, err := r.Validate(t.Context(), token); err == nil || strings.Contains(err.Error(), token) {
		t.Errorf("got error %v", err)
	}
}

func TestMetricsAreRegistered(t *testing.T) {
	registry := prometheus.NewRegistry()
	r := newRig(t, func(c *keystone.Config) { c.Registerer = registry })
	token := r.token(t)
	r.want(t, token, nil)
	r.want(t, token, nil)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, family := range families {
		names = append(names, family.GetName())
	}
	want := []string{"muster_keystone_request_seconds", "muster_keystone_token_lookups_total"}
	if !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

func BenchmarkValidateCached(b *testing.B) {
	r := newRig(b, func(c *keystone.Config) { c.Now = time.Now })
	token := r.token(b)
	r.want(b, token, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Validate(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzKeystoneAnswers feeds the client answers that are no Keystone's.
func FuzzKeystoneAnswers(f *testing.F) {
	f.Add(200, []byte(`{"token": {"user": {"id": "a"}, "expires_at": "2999-01-01T00:00:00.000000Z", "roles": null}}`))
	f.Add(200, []byte(`{"token": {"roles": [{}], "expires_at": 5}}`))
	f.Add(200, []byte(`[]`))
	f.Add(200, []byte(`{"role_assignments": [{"role": {"name": "x"}}], "user": {"id": "demo"}, "roles": [{"id": "1"}]}`))
	f.Add(300, []byte(``))
	f.Add(404, []byte(`<html>`))
	var status atomic.Int64
	var answer atomic.Pointer[[]byte]
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Subject-Token", "gAAAAA")
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write(*answer.Load())
	}))
	f.Cleanup(front.Close)
	f.Fuzz(func(t *testing.T, code int, body []byte) {
		if code < 200 || code > 599 {
			return
		}
		status.Store(int64(code))
		answer.Store(&body)
		client, err := keystone.New(keystone.Config{AuthURL: front.URL, UserID: "a", Password: "a", ProjectID: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if token, err := client.Validate(t.Context(), "gAAAAA"); err == nil && (token.UserID == "" || token.ExpiresAt.IsZero()) {
			t.Errorf("accepted a token of nobody: %+v", token)
		}
		if user, err := client.User(t.Context(), "demo"); err == nil && user.ID != "demo" {
			t.Errorf("got somebody else: %+v", user)
		}
		_, _ = client.EffectiveRoles(t.Context(), "demo", "demo")
		_, _ = client.ProjectRoles(t.Context(), "demo")
	})
}
