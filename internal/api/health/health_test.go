// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-cloud/muster/internal/api"
)

func serve(log *strings.Builder, checks ...Check) http.Handler {
	logger := slog.New(slog.NewTextHandler(log, nil))
	return api.NewRouter(api.RouterConfig{
		Logger: slog.New(slog.DiscardHandler), Metrics: api.NewMetrics(prometheus.NewRegistry()),
	}, New(logger, checks...))
}

func get(t *testing.T, handler http.Handler, path string, status int, body string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest("GET", path, nil))
	if recorder.Code != status || recorder.Body.String() != body {
		t.Errorf("%s: %d %s, want %d %s", path, recorder.Code, recorder.Body, status, body)
	}
}

func works(context.Context) error { return nil }

func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestReadiness(t *testing.T) {
	fails := func(context.Context) error { return errors.New("10.0.0.1 refused") }
	for _, test := range []struct {
		name   string
		try    func(context.Context) error
		status int
		body   string
	}{
		{"works", works, 200, `{"database": "ok", "keystone": "ok"}`},
		{"fails", fails, 503, `{"database": "ok", "keystone": "ill"}`},
		{"hangs", hangs, 503, `{"database": "ok", "keystone": "ill"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				handler := serve(&log, Check{Name: "database", Try: works}, Check{Name: "keystone", Try: test.try})
				get(t, handler, "/readyz", test.status, test.body)
				get(t, handler, "/healthz", 200, `{"status": "ok"}`)
				if told := strings.Contains(log.String(), "part=keystone"); told != (test.status == 503) {
					t.Errorf("log: %s", &log)
				}
			})
		})
	}
}

// Strangers do not make Muster ask its peers as often as they like.
func TestAnswersAreRepeatedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		handler := serve(new(strings.Builder), Check{Name: "database", Try: func(context.Context) error { asked++; return nil }})
		for range 3 {
			get(t, handler, "/readyz", 200, `{"database": "ok"}`)
		}
		time.Sleep(checkEvery)
		get(t, handler, "/readyz", 200, `{"database": "ok"}`)
		if asked != 2 {
			t.Errorf("asked %d times, want 2", asked)
		}
	})
}

// All who ask meanwhile wait for one look, and who goes away does not wait.
func TestOneLookServesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, answer := 0, make(chan bool)
		handler := serve(new(strings.Builder), Check{Name: "database", Try: func(context.Context) error { asked++; <-answer; return nil }})
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { get(t, handler, "/readyz", 200, `{"database": "ok"}`) })
		}
		synctest.Wait()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(gone, "GET", "/readyz", nil))
		answer <- true
		all.Wait()
		if asked != 1 {
			t.Errorf("asked %d times, want 1", asked)
		}
	})
}

// An optional part is told about, but nobody waits for it, and Muster is ready
// without it.
func TestOptionalParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		var asked atomic.Int32
		answers := make(chan error)
		handler := serve(&log, Check{Name: "database", Try: works}, Check{Name: "ipa", Optional: true, Try: func(ctx context.Context) error {
			asked.Add(1)
			select {
			case err := <-answers:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}})
		started := time.Now()
		get(t, handler, "/readyz", 200, `{"database": "ok", "ipa": "unknown"}`)
		answers <- nil
		synctest.Wait()
		get(t, handler, "/readyz", 200, `{"database": "ok", "ipa": "ok"}`)

		for range 2 { // it hangs, and is not asked again meanwhile
			time.Sleep(checkEvery)
			get(t, handler, "/readyz", 200, `{"database": "ok", "ipa": "ok"}`)
		}
		synctest.Wait()
		if waited := time.Since(started); waited != 2*checkEvery || asked.Load() != 2 {
			t.Errorf("waited %v, asked %d times", waited, asked.Load())
		}
		time.Sleep(checkTimeout)
		synctest.Wait()
		get(t, handler, "/readyz", 200, `{"database": "ok", "ipa": "ill"}`)
		synctest.Wait()
		if asked.Load() != 3 || !strings.Contains(log.String(), "part=ipa needed=false") {
			t.Errorf("asked %d times; log: %s", asked.Load(), &log)
		}
		answers <- nil
	})
}
