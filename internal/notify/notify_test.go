// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/muster-cloud/muster/internal/converge"
)

// queue stands in for what works on hints.
type queue struct {
	mu     sync.Mutex
	offers [][]converge.Hint
	fail   error         // what offers resolve with
	hold   chan struct{} // if set, offers wait until it is closed
	news   chan string   // gets the first key of each offer
}

func newQueue() *queue { return &queue{news: make(chan string, 100_000)} }

func (q *queue) offer(ctx context.Context, hints []converge.Hint) <-chan error {
	q.mu.Lock()
	q.offers = append(q.offers, hints)
	hold, fail := q.hold, q.fail
	q.mu.Unlock()
	q.news <- hints[0].Key.String()
	done := make(chan error, 1)
	go func() {
		if hold != nil {
			select {
			case <-hold:
			case <-ctx.Done():
				done <- ctx.Err()
				return
			}
		}
		done <- fail
	}()
	return done
}

func (q *queue) set(fail error, hold chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fail, q.hold = fail, hold
}

func (q *queue) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.offers)
}

func userDeleted(number int) string {
	return bare("identity.h", "identity.user.deleted", fmt.Sprintf(`{"resource_info": "%032x"}`, number))
}

func user(number int) string { return fmt.Sprintf("user %032x", number) }

func memoryListener(t *testing.T, q *queue, change func(*Config)) (*Listener, *Memory, *prometheus.Registry) {
	t.Helper()
	memory, registry := NewMemory(), prometheus.NewRegistry()
	cfg := Config{TransportURL: "memory://", Memory: memory, Topics: []string{"muster_notifications"}, Offer: q.offer, Registerer: registry}
	if change != nil {
		change(&cfg)
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l, memory, registry
}

func publish(t *testing.T, m *Memory, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		if err := m.Publish(t.Context(), "keystone", "muster_notifications.info", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		l, memory, registry := memoryListener(t, q, nil)
		publish(t, memory, userDeleted(1), "not JSON", bare("identity.h", "identity.authenticate", "{}"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		synctest.Wait()
		if q.count() != 1 || <-q.news != user(1) {
			t.Errorf("%d offers", q.count())
		}
		outcomes := map[Outcome]int{}
		for _, e := range l.Events(10) {
			outcomes[e.Outcome]++
			if e.Acknowledged.IsZero() || (e.Problem != "") != (e.Outcome == Unreadable) {
				t.Errorf("%+v", e)
			}
		}
		if outcomes[Hinted] != 1 || outcomes[Ignored] != 1 || outcomes[Unreadable] != 1 {
			t.Errorf("outcomes %v", outcomes)
		}
		if n, err := testutil.GatherAndCount(registry, "muster_notifications_received_total"); n != 3 || err != nil {
			t.Errorf("%d series, %v", n, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestOfferFails: what is not taken over is offered again, later and later, and
// holds up no other message.
func TestOfferFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.fail = errors.New("the database is gone")
		var said bytes.Buffer
		l, memory, _ := memoryListener(t, q, func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(&said, nil)) })
		publish(t, memory, userDeleted(1))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		time.Sleep(10 * time.Minute)
		tries := q.count()
		if tries < 20 || tries > 60 {
			t.Errorf("%d tries in 10 minutes", tries)
		}
		if e := l.Events(1)[0]; !e.Acknowledged.IsZero() || e.Problem == "" {
			t.Errorf("%+v", e)
		}
		q.set(nil, nil)
		time.Sleep(time.Minute)
		if e := l.Events(1)[0]; e.Acknowledged.IsZero() || e.Problem != "" {
			t.Errorf("%+v", e)
		}
		if q.count() != tries+1 {
			t.Errorf("%d tries after it went well", q.count()-tries)
		}
		if text := said.String(); strings.Count(text, "Cannot have notifications") != 1 || strings.Count(text, "Can have notifications") != 1 {
			t.Errorf("not said once that it began and once that it ended:\n%s", text)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestPrefetch: no more messages are taken than may be unacknowledged.
func TestPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		hold := make(chan struct{})
		q.hold = hold
		l, memory, _ := memoryListener(t, q, func(c *Config) { c.Prefetch = 3 })
		for i := range 10 {
			publish(t, memory, userDeleted(i))
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		synctest.Wait()
		if q.count() != 3 {
			t.Errorf("%d offers under way", q.count())
		}
		close(hold)
		synctest.Wait()
		if q.count() != 10 {
			t.Errorf("%d offers", q.count())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestMemoryFull(t *testing.T) {
	m := NewMemory()
	for range memorySize {
		publish(t, m, "{}")
	}
	if err := m.Publish(t.Context(), "", "", nil); !errors.Is(err, ErrFull) {
		t.Errorf("error %v", err)
	}
}

func TestJournal(t *testing.T) {
	var j journal
	at := time.Unix(0, 0)
	for i := range 1000 {
		outcome := Ignored
		if i < 5 {
			outcome = Unreadable
		}
		j.add(&Event{At: at.Add(time.Duration(i)), Outcome: outcome})
	}
	all := j.events(1000)
	if len(all) != journalSize+5 || all[0].At != at.Add(999) || all[journalSize].Outcome != Unreadable {
		t.Errorf("%d events, the first %+v", len(all), all[0])
	}
	if len(j.events(7)) != 7 {
		t.Error("the limit does not count")
	}
}

func TestNewRefuses(t *testing.T) {
	good := Config{TransportURL: "rabbit://u:hunter2@h/", Topics: []string{"t"}, Offer: newQueue().offer}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no offer":  func(c *Config) { c.Offer = nil },
		"no topics": func(c *Config) { c.Topics = nil },
		"no URL":    func(c *Config) { c.TransportURL = "" },
		"no memory": func(c *Config) { c.TransportURL = "memory://" },
		"option":    func(c *Config) { c.TransportURL = "rabbit://h/?ssl=perhaps" },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Error(name, "is accepted")
		}
	}
}
