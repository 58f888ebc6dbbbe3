// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/ipa"
)

// once returns a fault that strikes the first call of the command.
func once(command string, fault freeipa.Fault) func(string) freeipa.Fault {
	var struck atomic.Bool
	return func(name string) freeipa.Fault {
		if name == command && struck.CompareAndSwap(false, true) {
			return fault
		}
		return freeipa.Fault{}
	}
}

// TestFaults strikes one call with each kind of trouble, with a command that is safe to repeat and one that is not, at a
// lone server.
func TestFaults(t *testing.T) {
	page := freeipa.Fault{ContentType: "text/html; charset=utf-8", Body: []byte("<html>sorry</html>")}
	for _, test := range []struct {
		name       string
		fault      freeipa.Fault
		mayHaveRun bool
		want       error // found in the error's chain; nil if any will do
		repeated   bool  // a safe command succeeds in the end
	}{
		{"cut before it ran", freeipa.Fault{Cut: freeipa.CutBefore}, true, nil, true},
		{"cut in the middle of the answer", freeipa.Fault{Cut: freeipa.CutAfter}, true, nil, true},
		{"directory down", freeipa.Fault{Status: 500}, true, ipa.ErrBadAnswer, false},
		{"proxy refuses", freeipa.Fault{Status: 403}, false, ipa.ErrBadAnswer, false},
		{"redirect", freeipa.Fault{Status: 302}, false, ipa.ErrBadAnswer, false},
		{"HTML page", page, true, ipa.ErrBadAnswer, false},
		{"JSON called text", freeipa.Fault{ContentType: "text/plain"}, true, ipa.ErrBadAnswer, false},
		{"broken JSON", freeipa.Fault{Body: []byte(`{"result": {`)}, true, ipa.ErrBadAnswer, false},
		{"empty object", freeipa.Fault{Body: []byte(`{}`)}, true, ipa.ErrBadAnswer, false},
		{"another's answer", freeipa.Fault{Body: []byte(`{"result": {}, "error": null, "id": 999}`)}, true, ipa.ErrBadAnswer, false},
		{"oversize", freeipa.Fault{Padding: 200 << 10}, true, ipa.ErrTooLarge, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, freeipa.Config{})
			cfg := config(w)
			cfg.MaxAnswer = 100 << 10
			c := newClient(t, cfg)

			w.Inject(once("host_add", test.fault))
			_, err := c.HostAdd(t.Context(), "vm1.example.test", ipa.HostAttributes{Password: "otp"})
			var transport *ipa.TransportError
			if !errors.As(err, &transport) {
				t.Fatalf("host_add: %v, want a TransportError", err)
			}
			if transport.MayHaveRun != test.mayHaveRun || (test.want != nil && !errors.Is(err, test.want)) {
				t.Errorf("host_add: %v (may have run: %v)", err, transport.MayHaveRun)
			}
			if calls := w.Calls()["host_add"]; calls != 1 {
				t.Errorf("host_add was sent %d times", calls)
			}

			waitReady(t, c)
			w.Inject(once("host_show", test.fault))
			_, err = c.HostShow(t.Context(), "ipa.example.test")
			if (err == nil) != test.repeated {
				t.Errorf("host_show: %v, want success: %v", err, test.repeated)
			}
		})
	}
}

// waitReady waits until the client's back-off is over.
func waitReady(t *testing.T, c *ipa.Client) {
	t.Helper()
	for {
		_, err := c.Ping(t.Context())
		var away *ipa.UnavailableError
		if err == nil {
			return
		}
		if !errors.As(err, &away) {
			t.Fatal(err)
		}
	}
}

// TestFailover has the first of two servers refuse connections, then fail in the middle of answers: a command that may
// have run goes to the second server only if that is safe.
func TestFailover(t *testing.T) {
	first, second := newWorld(t, freeipa.Config{}), newWorld(t, freeipa.Config{})
	cfg := config(first, second)
	cfg.BackoffMin, cfg.BackoffMax = time.Hour, time.Hour
	now := time.Now()
	cfg.Now = func() time.Time { return now }
	c := newClient(t, cfg)
	ctx := t.Context()
	count := func(w *world, command string) int { return w.Calls()[command] }

	must(t, c.Run(ctx, ipa.Ping()))
	must(t, c.Run(ctx, ipa.Ping()))
	if count(first, "ping") != 2 || count(second, "ping") != 0 {
		t.Fatal("the first server is not preferred while it works")
	}
	first.Inject(func(command string) freeipa.Fault { return freeipa.Fault{Cut: freeipa.CutAfter} })
	_, err := c.HostAdd(ctx, "vm1.example.test", ipa.HostAttributes{})
	var transport *ipa.TransportError
	if !errors.As(err, &transport) || !transport.MayHaveRun || count(second, "host_add") != 0 {
		t.Fatalf("host_add that may have run: %v, at the second server %d times", err, count(second, "host_add"))
	}
	must(t, c.Run(ctx, ipa.Ping()))
	if count(second, "ping") != 1 || count(first, "ping") != 2 {
		t.Fatal("the server in back-off was asked, or the second was not")
	}

	// The second goes, the first is back and out of its back-off: new commands go there, host_add too.
	first.Inject(nil)
	second.stop()
	c.Close()
	now = now.Add(2 * time.Hour)
	_, err = c.HostAdd(ctx, "vm2.example.test", ipa.HostAttributes{})
	must(t, err)
	if count(first, "host_add") != 2 {
		t.Error("host_add was not sent to the other server although the first refused the connection")
	}
	must(t, c.Run(ctx, ipa.Ping()))
	if count(first, "ping") != 3 {
		t.Error("calls do not stay with the server that worked")
	}

	// Both away: no attempt at all until the back-off is over.
	first.stop()
	c.Close()
	if err := c.Run(ctx, ipa.Ping()); err == nil {
		t.Fatal("a call succeeds without servers")
	}
	var away *ipa.UnavailableError
	if err := c.Run(ctx, ipa.Ping()); !errors.As(err, &away) || away.RetryAfter <= 0 || ipa.ClassOf(err) != ipa.Repeatable {
		t.Fatalf("all in back-off: %v", err)
	}
}

// TestLogOfServers: the log says once that a server is away, which one takes over, and that the first is back.
func TestLogOfServers(t *testing.T) {
	first, second := newWorld(t, freeipa.Config{}), newWorld(t, freeipa.Config{})
	var log bytes.Buffer
	now := time.Now()
	cfg := config(first, second)
	cfg.Servers[1] = strings.Replace(cfg.Servers[1], "localhost", "127.0.0.1", 1)
	cfg.Now = func() time.Time { return now }
	cfg.BackoffMin, cfg.BackoffMax = time.Minute, time.Minute
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey || a.Key == slog.MessageKey || a.Key == "server" || a.Key == "before" {
			return a
		}
		return slog.Attr{}
	}}))
	c := newClient(t, cfg)
	must(t, c.Run(t.Context(), ipa.Ping()))
	away := freeipa.Fault{Status: 503}
	first.Inject(func(string) freeipa.Fault { return away })
	for range 3 { // the first of the calls is told so, and those after it go to the second server
		_ = c.Run(t.Context(), ipa.Ping())
		now = now.Add(2 * time.Minute)
	}
	second.Inject(func(string) freeipa.Fault { return away })
	first.Inject(nil)
	for range 3 {
		_ = c.Run(t.Context(), ipa.Ping())
		now = now.Add(2 * time.Minute)
	}
	want := []string{
		`level=WARN msg="Cannot use FreeIPA server localhost; will go on trying"`,
		`level=INFO msg="FreeIPA calls now go to another server" server=127.0.0.1 before=localhost`,
		`level=WARN msg="Cannot use FreeIPA server 127.0.0.1; will go on trying"`,
		`level=INFO msg="Can use FreeIPA server localhost again"`,
		`level=INFO msg="FreeIPA calls now go to another server" server=localhost before=127.0.0.1`,
	}
	if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(log.String()), "\n")); diff != "" {
		t.Error(diff)
	}
}

// TestOneLoginForAll ends all sessions under many callers: one new log-in serves them, none sees the 401.
func TestOneLoginForAll(t *testing.T) {
	w := newWorld(t, freeipa.Config{})
	cfg := config(w)
	cfg.MaxInFlight = 32
	c := newClient(t, cfg)
	must(t, c.Run(t.Context(), ipa.Ping()))
	for round := 2; round <= 4; round++ {
		w.EndSessions()
		w.Inject(once("login_password", freeipa.Fault{Delay: 100 * time.Millisecond}))
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				if err := c.Run(t.Context(), ipa.HostShow("ipa.example.test")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if logins := w.Calls()["login_password"]; logins != round {
			t.Fatalf("%d log-ins after %d ended sessions, want %d", logins, round-1, round)
		}
	}
}

// TestExpiredSession lets the server's clock run past the session.
func TestExpiredSession(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	w := newWorld(t, freeipa.Config{Now: clock, SessionLife: time.Minute})
	c := newClient(t, config(w))
	for want := 1; want <= 3; want++ {
		must(t, c.Run(t.Context(), ipa.Ping()))
		if logins := w.Calls()["login_password"]; logins != want {
			t.Fatalf("%d log-ins, want %d", logins, want)
		}
		mu.Lock()
		now = now.Add(2 * time.Minute)
		mu.Unlock()
	}
}

// TestHangUpEndsSession has the server hang up at each request with the first session's cookie.
func TestHangUpEndsSession(t *testing.T) {
	w := newWorld(t, freeipa.Config{})
	c := newClient(t, config(w))
	must(t, c.Run(t.Context(), ipa.Ping()))
	w.Inject(func(string) freeipa.Fault {
		if w.Calls()["login_password"] == 1 {
			return freeipa.Fault{Cut: freeipa.CutBefore}
		}
		return freeipa.Fault{}
	})
	var transport *ipa.TransportError
	if _, err := c.HostAdd(t.Context(), "vm1.example.test", ipa.HostAttributes{}); !errors.As(err, &transport) {
		t.Fatalf("got %v", err)
	}
	waitReady(t, c)
	_, err := c.HostAdd(t.Context(), "vm1.example.test", ipa.HostAttributes{})
	must(t, err)
}

// TestRestartedServer stops the server between two calls; connections and sessions are gone.
func TestRestartedServer(t *testing.T) {
	w := newWorld(t, freeipa.Config{})
	c := newClient(t, config(w))
	must(t, c.Run(t.Context(), ipa.Ping()))
	w.stop()
	w.EndSessions()
	w.start(t)
	must(t, c.Run(t.Context(), ipa.HostShow("ipa.example.test")))
	if logins := w.Calls()["login_password"]; logins != 2 {
		t.Errorf("%d log-ins, want 2", logins)
	}
}

// TestRefusedLogin sees that wrong credentials are an operator's business, tried rarely, and never at all servers.
func TestRefusedLogin(t *testing.T) {
	first, second := newWorld(t, freeipa.Config{}), newWorld(t, freeipa.Config{})
	var log bytes.Buffer
	cfg := config(first, second)
	cfg.Password = &ipa.Password{User: nova, Password: "wrong-password"}
	cfg.Logger = slog.New(slog.NewJSONHandler(&log, nil))
	now := time.Now()
	cfg.Now = func() time.Time { return now }
	c := newClient(t, cfg)
	var login *ipa.LoginError
	for range 5 {
		err := c.Run(t.Context(), ipa.Ping())
		if !errors.As(err, &login) || !login.Rejected || ipa.ClassOf(err) != ipa.Operator {
			t.Fatalf("got %v", err)
		}
		if strings.Contains(err.Error(), "wrong-password") {
			t.Error("the error shows the password")
		}
	}
	if tries := first.Calls()["login_password"] + second.Calls()["login_password"]; tries != 1 {
		t.Errorf("%d log-ins tried, want 1", tries)
	}
	now = now.Add(time.Hour)
	_ = c.Run(t.Context(), ipa.Ping())
	if tries := first.Calls()["login_password"] + second.Calls()["login_password"]; tries != 2 {
		t.Errorf("%d log-ins tried an hour later, want 2", tries)
	}
	if strings.Contains(log.String(), "wrong-password") {
		t.Error("the log shows the password")
	}
}

// TestSlowServer sees deadlines kept, and a silent server left for the other.
func TestSlowServer(t *testing.T) {
	w := newWorld(t, freeipa.Config{})
	c := newClient(t, config(w))
	must(t, c.Run(t.Context(), ipa.Ping()))
	w.Inject(func(command string) freeipa.Fault { return freeipa.Fault{Delay: time.Minute} })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	started := time.Now()
	err := c.Run(ctx, ipa.HostShow("ipa.example.test"))
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(started) > 50*time.Second {
		t.Errorf("after %v: %v", time.Since(started), err)
	}
	// The caller's impatience is not held against the server.
	w.Inject(nil)
	must(t, c.Run(t.Context(), ipa.Ping()))

	cfg := config(w)
	cfg.Timeout = 3 * time.Second
	cfg.BackoffMin, cfg.BackoffMax = time.Hour, time.Hour
	patient := newClient(t, cfg)
	w.Inject(once("ping", freeipa.Fault{Delay: time.Minute}))
	if err := patient.Run(t.Context(), ipa.Ping()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silent server: %v", err)
	}
	var away *ipa.UnavailableError
	if err := patient.Run(t.Context(), ipa.Ping()); !errors.As(err, &away) {
		t.Errorf("a server that was silent for over a second is asked again at once: %v", err)
	}

	cfg.LoginTimeout = 20 * time.Millisecond
	refused := newClient(t, cfg)
	w.Inject(once("login_password", freeipa.Fault{Delay: time.Minute}))
	var login *ipa.LoginError
	if err := refused.Run(t.Context(), ipa.Ping()); !errors.As(err, &login) || login.Rejected {
		t.Errorf("a log-in without an answer: %v", err)
	}
	if err := refused.Run(t.Context(), ipa.Ping()); !errors.As(err, &away) {
		t.Errorf("a server whose log-in does not answer is asked again at once: %v", err)
	}
}

// TestInFlightLimit counts the calls that a server works on at once, and sees one that waits in vain told so.
func TestInFlightLimit(t *testing.T) {
	w := newWorld(t, freeipa.Config{})
	cfg := config(w)
	cfg.MaxInFlight = 3
	c := newClient(t, cfg)
	must(t, c.Run(t.Context(), ipa.Ping()))
	var running, most atomic.Int32
	entered, release := make(chan struct{}, 20), make(chan struct{})
	w.Inject(func(command string) freeipa.Fault {
		now := running.Add(1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		entered <- struct{}{}
		<-release
		running.Add(-1)
		return freeipa.Fault{}
	})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if err := c.Run(t.Context(), ipa.HostShow("ipa.example.test")); err != nil {
				t.Error(err)
			}
		})
	}
	for range 3 {
		<-entered
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Run(ctx, ipa.Ping()); !errors.Is(err, ipa.ErrBusy) || ipa.ClassOf(err) != ipa.Repeatable {
		t.Errorf("with all places taken: %v", err)
	}
	close(release)
	wg.Wait()
	if most.Load() != 3 {
		t.Errorf("%d calls at once, want 3", most.Load())
	}
}

// TestTruthUnderTrouble has many callers add a host each, at two servers whose every other answer is trouble of some kind.
// What a caller is told must be true: success means that the host is there, "not carried out" that it is not, and no
// host_add is sent twice.
func TestTruthUnderTrouble(t *testing.T) {
	worlds := []*world{newWorld(t, freeipa.Config{}), newWorld(t, freeipa.Config{})}
	kinds := []freeipa.Fault{
		{Cut: freeipa.CutBefore}, {Cut: freeipa.CutAfter}, {Status: 500}, {Status: 503}, {Status: 403},
		{Body: []byte("no JSON")}, {ContentType: "text/html"}, {Padding: 300 << 10}, {Delay: 20 * time.Millisecond},
	}
	var turn atomic.Int64
	for _, w := range worlds {
		w.Inject(func(string) freeipa.Fault {
			n := int(turn.Add(1))
			if n%7 == 0 {
				w.EndSessions()
			}
			if n%2 == 0 {
				return freeipa.Fault{}
			}
			return kinds[n/2%len(kinds)]
		})
	}
	cfg := config(worlds...)
	cfg.MaxAnswer = 200 << 10
	cfg.BackoffMin, cfg.BackoffMax = time.Microsecond, time.Millisecond
	c := newClient(t, cfg)
	const callers = 300
	told := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			_, told[i] = c.HostAdd(t.Context(), fmt.Sprintf("vm%d.example.test", i), ipa.HostAttributes{Password: "otp"})
		})
	}
	wg.Wait()
	good := 0
	for i, err := range told {
		there := 0
		for _, w := range worlds {
			if _, ok := w.Host(fmt.Sprintf("vm%d.example.test", i)); ok {
				there++
			}
		}
		var transport *ipa.TransportError
		uncertain := errors.As(err, &transport) && transport.MayHaveRun
		switch {
		case err == nil && there == 1:
			good++
		case err == nil || there > 1 || (there == 1 && !uncertain):
			t.Errorf("vm%d is there %d times, its caller was told: %v", i, there, err)
		}
	}
	if good == 0 || good == callers {
		t.Errorf("%d of %d succeeded: the trouble proves nothing", good, callers)
	}
	t.Logf("%d of %d succeeded at once", good, callers)
}

// TestSecretInRefusal has the server quote the password in its refusals.
func TestSecretInRefusal(t *testing.T) {
	const otp = "s3cr3t-otp"
	w := newWorld(t, freeipa.Config{})
	c := newClient(t, config(w))
	quote := fmt.Sprintf(`{"result": null, "id": null, "error": {"code": 3009, "name": "ValidationError", "message": "invalid 'password': %s is bad"}}`, otp)
	w.Inject(func(command string) freeipa.Fault {
		if strings.HasPrefix(command, "login") {
			return freeipa.Fault{}
		}
		return freeipa.Fault{Body: []byte(quote)}
	})
	_, err := c.HostAdd(t.Context(), "vm1.example.test", ipa.HostAttributes{Password: otp})
	wantCode(t, err, ipa.ValidationError, ipa.Permanent)
	_, batchErr := c.Batch(t.Context(), ipa.HostAdd("vm1.example.test", ipa.HostAttributes{Password: otp}))
	wantCode(t, batchErr, ipa.ValidationError, ipa.Permanent)
	// FreeIPA's own message does not say which host it is about.
	if !strings.HasPrefix(err.Error(), "FreeIPA refuses host_add vm1.example.test: invalid") {
		t.Errorf("the refusal does not name the host: %v", err)
	}
	if strings.Contains(err.Error()+batchErr.Error(), otp) {
		t.Errorf("the refusal shows the password: %v; %v", err, batchErr)
	}
}

// gathered returns the counters and gauges, each named with the values of its labels.
func gathered(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	must(t, err)
	all := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, label := range metric.GetLabel() {
				name += " " + label.GetValue()
			}
			if metric.GetHistogram() == nil {
				all[name] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
			}
		}
	}
	return all
}

func TestMetrics(t *testing.T) {
	w := newWorld(t, freeipa.Config{})
	cfg := config(w)
	registry := prometheus.NewRegistry()
	cfg.Registerer = registry
	c := newClient(t, cfg)
	must(t, c.Run(t.Context(), ipa.Ping()))
	_ = c.Run(t.Context(), ipa.HostShow("nope.example.test"))
	_, err := c.Batch(t.Context(), ipa.HostShow("nope.example.test"), ipa.Ping())
	must(t, err)
	want := map[string]float64{
		"muster_freeipa_batch_items_total host_show NotFound": 1,
		"muster_freeipa_batch_items_total ping ok":            1,
		"muster_freeipa_calls_in_flight localhost":            0,
		"muster_freeipa_calls_total batch ok":                 1,
		"muster_freeipa_calls_total host_show NotFound":       1,
		"muster_freeipa_calls_total ping ok":                  1,
		"muster_freeipa_logins_total ok":                      1,
	}
	if diff := cmp.Diff(want, gathered(t, registry)); diff != "" {
		t.Error(diff)
	}
	if _, err := ipa.New(cfg); err == nil {
		t.Error("a second client with the same registry is not refused")
	}
}
