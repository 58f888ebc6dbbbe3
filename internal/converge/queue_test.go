// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/store"
)

// memory is a database of pending keys.
type memory struct {
	mu   sync.Mutex
	keys map[converge.Key]store.PendingKey
	err  error
	late bool // another replica claims each key before
}

func newMemory() *memory { return &memory{keys: map[converge.Key]store.PendingKey{}} }

func keyOf(p store.PendingKey) converge.Key {
	return converge.Key{Kind: converge.Kind(p.Kind), ID: p.ID}
}

func (m *memory) DeferKey(_ context.Context, p store.PendingKey) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.keys[keyOf(p)] = p
	}
	return m.err
}

func (m *memory) DueKeys(_ context.Context, longest time.Duration, limit int) (due []store.PendingKey, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.keys {
		if (!p.NextAt.After(time.Now()) || p.NextAt.After(time.Now().Add(longest))) && len(due) < limit {
			due = append(due, p)
		}
	}
	return due, m.err
}

func (m *memory) ClaimKey(_ context.Context, p store.PendingKey, until time.Time) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	there, ok := m.keys[keyOf(p)]
	if !ok || !there.NextAt.Equal(p.NextAt) || m.late {
		return false, m.err
	}
	there.NextAt = until
	m.keys[keyOf(p)] = there
	return true, m.err
}

func (m *memory) FailingKey(_ context.Context, kind, id string) (store.PendingKey, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.keys[converge.Key{Kind: converge.Kind(kind), ID: id}]
	if m.err == nil && p.Attempts == 0 {
		return p, store.ErrNotFound
	}
	return p, m.err
}

func (m *memory) FailingKeys(context.Context) (map[string]store.FailingKeys, error) {
	failing := make(map[string]store.FailingKeys)
	for _, p := range m.all() {
		if p.Attempts > 0 {
			failing[p.Kind] = store.FailingKeys{Count: failing[p.Kind].Count + 1, Since: p.Since}
		}
	}
	return failing, m.err
}

func (m *memory) SettleKey(_ context.Context, p store.PendingKey, until time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keys[keyOf(p)].NextAt.Equal(until) {
		delete(m.keys, keyOf(p))
	}
	return m.err
}

func (m *memory) all() []store.PendingKey {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []store.PendingKey
	for _, p := range m.keys {
		all = append(all, p)
	}
	return all
}

// controller notes its work, and does what the test says.
type controller struct {
	mu     sync.Mutex
	worked []string
	at     []time.Time
	forgot int
	do     func(context.Context, converge.Hint) ([]converge.Key, error)
}

func (c *controller) Converge(ctx context.Context, hint converge.Hint) ([]converge.Key, error) {
	c.mu.Lock()
	c.worked, c.at = append(c.worked, hint.Key.String()), append(c.at, time.Now())
	c.mu.Unlock()
	if c.do == nil {
		return nil, nil
	}
	return c.do(ctx, hint)
}

func (c *controller) Forget(converge.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgot++
}

func (c *controller) done() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.worked)
}

// inQueue runs a test with a queue on a clock of its own.
func inQueue(t *testing.T, cfg converge.QueueConfig, test func(*testing.T, *converge.Queue, *controller, *memory)) {
	synctest.Test(t, func(t *testing.T) {
		c, m := &controller{}, newMemory()
		cfg.Controller, cfg.Pending = c, m
		cfg.Jitter = func() float64 { return 0.5 } // none
		q, err := converge.NewQueue(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- q.Run(ctx) }()
		test(t, q, c, m)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func user(id string) converge.Hint {
	return converge.Hint{Key: converge.Key{Kind: converge.User, ID: id}}
}

// settled tells what an offer came to, if it did.
func settled(offered <-chan error) (err error, ok bool) {
	synctest.Wait()
	select {
	case err := <-offered:
		return err, true
	default:
		return nil, false
	}
}

// TestHintedAgain: a key that is hinted while it is worked on is worked on
// exactly once more, and only that settles the later hints.
func TestHintedAgain(t *testing.T) {
	inQueue(t, converge.QueueConfig{}, func(t *testing.T, q *converge.Queue, c *controller, _ *memory) {
		goOn := make(chan struct{})
		c.do = func(context.Context, converge.Hint) ([]converge.Key, error) { <-goOn; return nil, nil }
		first := q.Offer(t.Context(), []converge.Hint{user("a")})
		synctest.Wait()
		var later []<-chan error
		for range 3 {
			later = append(later, q.Offer(t.Context(), []converge.Hint{user("a")}))
		}
		synctest.Wait()
		if n := len(c.done()); n != 1 {
			t.Fatalf("worked on %d times at once", n)
		}
		goOn <- struct{}{}
		if err, ok := settled(first); !ok || err != nil {
			t.Fatal("the first hint is not settled", err)
		}
		for _, offered := range later {
			if _, ok := settled(offered); ok {
				t.Fatal("a later hint is settled by work that began before it")
			}
		}
		goOn <- struct{}{}
		for _, offered := range later {
			if err, ok := settled(offered); !ok || err != nil {
				t.Fatal("a later hint is not settled", err)
			}
		}
		if n := len(c.done()); n != 2 {
			t.Errorf("worked on %d times", n)
		}
	})
}

// TestBooted: that an instance booted holds for a key as long as nothing else is
// said of it, also when it is tried again.
func TestBooted(t *testing.T) {
	inQueue(t, converge.QueueConfig{FirstRetry: time.Second, PollInterval: time.Millisecond}, func(t *testing.T, q *converge.Queue, c *controller, _ *memory) {
		booted, changed := converge.Hint{Key: converge.Key{Kind: converge.Instance, ID: "a"}, Booted: true}, converge.Hint{}
		changed.Key = booted.Key
		var seen []bool
		goOn := make(chan error)
		c.do = func(_ context.Context, hint converge.Hint) ([]converge.Key, error) {
			seen = append(seen, hint.Booted)
			return nil, <-goOn
		}
		q.Offer(t.Context(), []converge.Hint{booted})
		synctest.Wait()
		goOn <- errors.New("Nova is down")
		goOn <- nil // a second later
		q.Offer(t.Context(), []converge.Hint{booted})
		synctest.Wait()
		q.Offer(t.Context(), []converge.Hint{booted})
		q.Offer(t.Context(), []converge.Hint{changed})
		goOn <- nil
		goOn <- nil
		if synctest.Wait(); !slices.Equal(seen, []bool{true, true, true, false}) {
			t.Errorf("booted: %v", seen)
		}
	})
}

// TestPutOffByWrongClock: a key that a replica with a wrong clock put off for
// years is tried, and one for which somebody must act waits as long as it should.
func TestPutOffByWrongClock(t *testing.T) {
	inQueue(t, converge.QueueConfig{LastRetry: time.Minute}, func(t *testing.T, _ *converge.Queue, c *controller, m *memory) {
		for id, pause := range map[string]time.Duration{"years": 10 * 365 * 24 * time.Hour, "minutes": 6 * time.Minute} {
			must(t, m.DeferKey(t.Context(), store.PendingKey{Kind: string(converge.User), ID: id, NextAt: time.Now().Add(pause)}))
		}
		time.Sleep(5 * time.Second)
		if done := c.done(); !slices.Equal(done, []string{"user years"}) {
			t.Errorf("worked on %v", done)
		}
	})
}

// TestNewerKind: a key of a kind that only a newer version knows is left to it.
func TestNewerKind(t *testing.T) {
	inQueue(t, converge.QueueConfig{}, func(t *testing.T, _ *converge.Queue, c *controller, m *memory) {
		recorded := time.Now()
		for _, kind := range []string{"newer", string(converge.User)} {
			must(t, m.DeferKey(t.Context(), store.PendingKey{Kind: kind, ID: "a", NextAt: recorded}))
		}
		time.Sleep(time.Minute)
		if done := c.done(); !slices.Equal(done, []string{"user a"}) {
			t.Errorf("worked on %v", done)
		}
		if left := m.all(); len(left) != 1 || !left[0].NextAt.Equal(recorded) {
			t.Errorf("the newer version finds %+v", left)
		}
	})
}

// TestBackOff: a key that fails is settled for who hinted it once it is
// recorded, and is tried again after growing pauses.
func TestBackOff(t *testing.T) {
	inQueue(t, converge.QueueConfig{FirstRetry: time.Second, LastRetry: 10 * time.Second, PollInterval: time.Millisecond},
		func(t *testing.T, q *converge.Queue, c *controller, m *memory) {
			failures := 6
			c.do = func(context.Context, converge.Hint) ([]converge.Key, error) {
				if failures--; failures >= 0 {
					return nil, errors.New("Keystone is down")
				}
				return nil, nil
			}
			if err := <-q.Offer(t.Context(), []converge.Hint{user("a")}); err != nil {
				t.Fatal(err)
			}
			if kept := m.all(); len(kept) != 1 || kept[0].Attempts != 1 || kept[0].LastError != "Keystone is down" {
				t.Fatalf("recorded: %+v", kept)
			}
			time.Sleep(time.Minute)
			if kept := m.all(); len(kept) != 0 {
				t.Errorf("still recorded after it converged: %+v", kept)
			}
			var pauses []time.Duration
			for i := 1; i < len(c.at); i++ {
				pauses = append(pauses, c.at[i].Sub(c.at[i-1]).Round(100*time.Millisecond))
			}
			want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second}
			if !slices.Equal(pauses, want) {
				t.Errorf("pauses %v, want %v", pauses, want)
			}
			if c.forgot != 1+6 {
				t.Errorf("caches dropped %d times, want at the hint and each retry", c.forgot)
			}
		})
}

// TestBackOffHinted: hints about a key that goes on failing do not make its
// pauses short again; success does.
func TestBackOffHinted(t *testing.T) {
	inQueue(t, converge.QueueConfig{FirstRetry: time.Hour, LastRetry: 8 * time.Hour}, func(t *testing.T, q *converge.Queue, c *controller, m *memory) {
		down := errors.New("Keystone is down")
		c.do = func(context.Context, converge.Hint) ([]converge.Key, error) { return nil, down }
		pause := func() time.Duration {
			t.Helper()
			if err := <-q.Offer(t.Context(), []converge.Hint{user("a")}); err != nil {
				t.Fatal(err)
			}
			return time.Until(m.all()[0].NextAt).Round(time.Hour)
		}
		for n, want := range []time.Duration{time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 8 * time.Hour} {
			if got := pause(); got != want || m.all()[0].Attempts != n+1 {
				t.Errorf("pause %d: %v, want %v; recorded: %+v", n, got, want, m.all())
			}
		}
		down = nil
		if err := <-q.Offer(t.Context(), []converge.Hint{user("a")}); err != nil {
			t.Fatal(err)
		}
		down = errors.New("Keystone is down")
		if got := pause(); got != time.Hour {
			t.Errorf("after a success: %v", got)
		}
	})
}

// TestSolved: a key that failed, and converges when somebody hints it long before it is tried again, is not listed as failing any more, whichever
// replica recorded it. Nothing of what it was hinted for then is forgotten.
func TestSolved(t *testing.T) {
	inQueue(t, converge.QueueConfig{}, func(t *testing.T, q *converge.Queue, c *controller, m *memory) {
		record := store.PendingKey{Kind: "instance", ID: "a", Rebuilt: true, Attempts: 2, NextAt: time.Now().Add(time.Hour), LastError: "somebody must act"}
		if err := m.DeferKey(t.Context(), record); err != nil {
			t.Fatal(err)
		}
		var hints []converge.Hint
		failure := errors.New("not solved yet")
		c.do = func(_ context.Context, hint converge.Hint) ([]converge.Key, error) {
			hints = append(hints, hint)
			return nil, failure
		}
		hint := converge.Hint{Key: converge.Key{Kind: converge.Instance, ID: "a"}}
		if err := <-q.Offer(t.Context(), []converge.Hint{hint}); err != nil {
			t.Fatal(err)
		}
		if kept := m.all(); len(kept) != 1 || kept[0].Attempts != 3 || kept[0].LastError != "not solved yet" || !kept[0].Rebuilt {
			t.Errorf("after another failure: %+v", kept)
		}
		failure = nil
		if err := <-q.Offer(t.Context(), []converge.Hint{hint}); err != nil {
			t.Fatal(err)
		}
		if kept := m.all(); len(kept) != 0 {
			t.Errorf("still recorded: %+v", kept)
		}
		hint.Rebuilt = true
		if want := []converge.Hint{hint, hint}; !slices.Equal(hints, want) {
			t.Errorf("worked on %+v, want %+v", hints, want)
		}
	})
}

// TestNotRecorded: what neither converges nor can be recorded is an error for
// who hinted it, who will offer it again.
func TestNotRecorded(t *testing.T) {
	inQueue(t, converge.QueueConfig{}, func(t *testing.T, q *converge.Queue, c *controller, m *memory) {
		down := errors.New("database is down")
		m.err = down
		c.do = func(context.Context, converge.Hint) ([]converge.Key, error) {
			return nil, errors.New("Keystone is down")
		}
		if err := <-q.Offer(t.Context(), []converge.Hint{user("a"), user("b")}); !errors.Is(err, down) {
			t.Errorf("error %v", err)
		}
		m.mu.Lock()
		m.err = nil
		m.mu.Unlock()
	})
}

// TestDatabaseAwayIsSaidOnce: that it cannot be looked for recorded keys, nor
// recorded what failed, is said when it begins and when it ends, and not each time.
func TestDatabaseAwayIsSaidOnce(t *testing.T) {
	var log bytes.Buffer
	inQueue(t, converge.QueueConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(t *testing.T, q *converge.Queue, c *controller, m *memory) {
		c.do = func(context.Context, converge.Hint) ([]converge.Key, error) {
			return nil, errors.New("Keystone is down")
		}
		for _, err := range []error{errors.New("database is down"), nil} {
			m.mu.Lock()
			m.err = err
			m.mu.Unlock()
			for range 10 {
				if got := <-q.Offer(t.Context(), []converge.Hint{user("a")}); !errors.Is(got, err) {
					t.Error(got)
				}
				time.Sleep(time.Second)
			}
		}
	})
	for _, text := range []string{"Cannot look for keys", "Can look for keys", "Cannot record keys", "Can record keys"} {
		if got := strings.Count(log.String(), text); got != 1 {
			t.Errorf("%q is said %d times:\n%s", text, got, log.String())
		}
	}
}

// TestFurtherKeys: a key is settled when those that it named are too.
func TestFurtherKeys(t *testing.T) {
	inQueue(t, converge.QueueConfig{}, func(t *testing.T, q *converge.Queue, c *controller, m *memory) {
		goOn := make(chan struct{})
		c.do = func(_ context.Context, hint converge.Hint) ([]converge.Key, error) {
			switch hint.Key.Kind {
			case converge.User:
				return []converge.Key{converge.GrantKey("a", "1"), converge.GrantKey("a", "2")}, nil
			case converge.Grant:
				<-goOn
			}
			return nil, errors.New("Keystone is down")
		}
		offered := q.Offer(t.Context(), []converge.Hint{user("a")})
		if _, ok := settled(offered); ok {
			t.Fatal("settled before its grants")
		}
		close(goOn)
		if err, ok := settled(offered); !ok || err != nil {
			t.Fatal("not settled after its grants were recorded", err)
		}
		if kept := m.all(); len(kept) != 2 {
			t.Errorf("recorded: %+v", kept)
		}
	})
}

// TestRecheck: a hint about roles is looked at once more, when no replica can
// believe in the old ones any longer; one about an instance is not.
func TestRecheck(t *testing.T) {
	inQueue(t, converge.QueueConfig{Recheck: 7 * time.Second}, func(t *testing.T, q *converge.Queue, c *controller, m *memory) {
		if err := <-q.Offer(t.Context(), []converge.Hint{user("a"), {Key: converge.Key{Kind: converge.Instance, ID: "i"}}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Second)
		if n := len(c.done()); n != 2 {
			t.Fatalf("worked on %d times within 6 s", n)
		}
		time.Sleep(time.Minute)
		if worked := c.done(); len(worked) != 3 || worked[2] != "user a" || len(m.all()) != 0 {
			t.Errorf("worked on %v, recorded %v", worked, m.all())
		}
	})
}

// TestSlowKind: a service that hangs holds up only the keys that depend on it.
func TestSlowKind(t *testing.T) {
	inQueue(t, converge.QueueConfig{Workers: 4, Timeout: time.Hour}, func(t *testing.T, q *converge.Queue, c *controller, _ *memory) {
		c.do = func(ctx context.Context, hint converge.Hint) ([]converge.Key, error) {
			if hint.Key.Kind == converge.Instance {
				<-ctx.Done()
			}
			return nil, ctx.Err()
		}
		var slow []converge.Hint
		for n := range 100 {
			slow = append(slow, converge.Hint{Key: converge.Key{Kind: converge.Instance, ID: fmt.Sprint(n)}})
		}
		hung := q.Offer(t.Context(), slow)
		synctest.Wait()
		if err, ok := settled(q.Offer(t.Context(), []converge.Hint{user("a")})); !ok || err != nil {
			t.Error("a user waits for instances", err)
		}
		if _, ok := settled(hung); ok {
			t.Error("what hangs is settled")
		}
	})
}

// TestStop: when the queue ends, nobody waits any longer, and nothing passes
// for done.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := &controller{}, newMemory()
		c.do = func(ctx context.Context, _ converge.Hint) ([]converge.Key, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		q, err := converge.NewQueue(converge.QueueConfig{Controller: c, Pending: m, Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- q.Run(ctx) }()
		var offered []<-chan error
		for _, id := range []string{"a", "b", "c", "a"} {
			offered = append(offered, q.Offer(t.Context(), []converge.Hint{user(id)}))
			synctest.Wait()
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		offered = append(offered, q.Offer(t.Context(), []converge.Hint{user("d")}))
		for i, one := range offered {
			if err, ok := settled(one); !ok || !errors.Is(err, converge.ErrStopped) {
				t.Errorf("hint %d: %v, %v", i, err, ok)
			}
		}
		if len(m.all()) != 0 {
			t.Errorf("recorded as failures: %v", m.all())
		}
	})
}

// TestStopWhileWorking: a key that was hinted again while it was worked on is
// answered for too when the work ends after the queue has.
func TestStopWhileWorking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, goOn := &controller{}, make(chan struct{})
		c.do = func(context.Context, converge.Hint) ([]converge.Key, error) { <-goOn; return nil, nil }
		q, err := converge.NewQueue(converge.QueueConfig{Controller: c, Pending: newMemory()})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- q.Run(ctx) }()
		q.Offer(t.Context(), []converge.Hint{user("a")})
		synctest.Wait()
		again := q.Offer(t.Context(), []converge.Hint{user("a")})
		cancel()
		synctest.Wait()
		close(goOn)
		must(t, <-ended)
		if err, ok := settled(again); !ok || !errors.Is(err, converge.ErrStopped) {
			t.Errorf("%v, %v", err, ok)
		}
	})
}

// TestPanic: a fault in one key's data is that key's failure.
func TestPanic(t *testing.T) {
	inQueue(t, converge.QueueConfig{}, func(t *testing.T, q *converge.Queue, c *controller, m *memory) {
		c.do = func(context.Context, converge.Hint) ([]converge.Key, error) { panic("index out of range") }
		if err := <-q.Offer(t.Context(), []converge.Hint{user("a")}); err != nil || len(m.all()) != 1 {
			t.Errorf("%v, recorded %v", err, m.all())
		}
	})
}

// TestTakenOver: what a replica that died had claimed is another's after a
// while.
func TestTakenOver(t *testing.T) {
	inQueue(t, converge.QueueConfig{}, func(t *testing.T, _ *converge.Queue, c *controller, m *memory) {
		record := store.PendingKey{Kind: "user", ID: "a", Attempts: 3, NextAt: time.Now()}
		dead := time.Now().Add(5 * time.Minute)
		if err := m.DeferKey(t.Context(), record); err != nil {
			t.Fatal(err)
		}
		if claimed, err := m.ClaimKey(t.Context(), record, dead); err != nil || !claimed {
			t.Fatal(claimed, err)
		}
		time.Sleep(4 * time.Minute)
		if worked := c.done(); len(worked) != 0 {
			t.Fatalf("worked on while it is another's: %v", worked)
		}
		time.Sleep(2 * time.Minute)
		if worked := c.done(); !slices.Equal(worked, []string{"user a"}) || len(m.all()) != 0 {
			t.Errorf("worked on %v, recorded %v", worked, m.all())
		}
	})
}
