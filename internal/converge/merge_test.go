// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/store"
)

// oneByOne has a worker for each kind, which works on nothing before it may.
func oneByOne(t *testing.T, test func(t *testing.T, q *converge.Queue, c *controller, m *memory, goOn chan<- error)) {
	inQueue(t, converge.QueueConfig{Workers: 2}, func(t *testing.T, q *converge.Queue, c *controller, m *memory) {
		goOn := make(chan error)
		c.do = func(context.Context, converge.Hint) ([]converge.Key, error) { return nil, <-goOn }
		test(t, q, c, m, goOn)
	})
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// TestRebuiltIsKept: that an instance was rebuilt holds for its key, whatever
// else is said of it before it is worked on, or while it is, or when it is
// tried again.
func TestRebuiltIsKept(t *testing.T) {
	oneByOne(t, func(t *testing.T, q *converge.Queue, c *controller, _ *memory, goOn chan<- error) {
		var seen []bool
		wait := c.do
		c.do = func(ctx context.Context, hint converge.Hint) ([]converge.Key, error) {
			seen = append(seen, hint.Rebuilt)
			return wait(ctx, hint)
		}
		hint := func(rebuilt bool) {
			q.Offer(t.Context(), []converge.Hint{{Key: converge.Key{Kind: converge.Instance, ID: "a"}, Rebuilt: rebuilt}})
			synctest.Wait()
		}
		hint(false) // is being worked on
		hint(true)
		hint(false)
		goOn <- nil
		synctest.Wait()
		hint(false)
		hint(true)
		goOn <- errors.New("Nova is down")
		goOn <- errors.New("Nova is down") // of the two
		time.Sleep(time.Minute)
		goOn <- nil // what failed, again
		if synctest.Wait(); !slices.Equal(seen, []bool{false, true, true, true}) {
			t.Errorf("rebuilt: %v", seen)
		}
	})
}

// TestOneOfSeveral: hints that came together are done with only if each of their
// keys is, whichever ends last.
func TestOneOfSeveral(t *testing.T) {
	for _, lost := range []int{0, 1} {
		oneByOne(t, func(t *testing.T, q *converge.Queue, _ *controller, m *memory, goOn chan<- error) {
			down := errors.New("database is down")
			offered := q.Offer(t.Context(), []converge.Hint{user("a"), user("b")})
			for n := range 2 {
				if n == lost {
					m.fail(down)
					goOn <- errors.New("Keystone is down")
				} else {
					goOn <- nil
				}
				synctest.Wait()
				m.fail(nil)
			}
			if err, ok := settled(offered); !ok || !errors.Is(err, down) {
				t.Errorf("the message may be forgotten although key %d of it is lost: %v, %v", lost, err, ok)
			}
		})
	}
}

// TestRecordOutlivesFurtherKeys: a recorded key stays recorded if one that it
// named is neither worked on nor recorded.
func TestRecordOutlivesFurtherKeys(t *testing.T) {
	inQueue(t, converge.QueueConfig{}, func(t *testing.T, _ *converge.Queue, c *controller, m *memory) {
		c.do = func(_ context.Context, hint converge.Hint) ([]converge.Key, error) {
			if hint.Key.Kind == converge.User {
				return []converge.Key{converge.GrantKey("a", "1")}, nil
			}
			m.fail(errors.New("database is down"))
			return nil, errors.New("Keystone is down")
		}
		must(t, m.DeferKey(t.Context(), store.PendingKey{Kind: string(converge.User), ID: "a", NextAt: time.Now()}))
		time.Sleep(10 * time.Second)
		m.fail(nil)
		if left := m.all(); len(left) != 1 || left[0].Kind != string(converge.User) {
			t.Errorf("recorded: %+v", left)
		}
	})
}

// TestFurtherKeyLost: a hint is not done with if a key that its own named is
// neither worked on nor recorded, though it is itself looked at once more.
func TestFurtherKeyLost(t *testing.T) {
	inQueue(t, converge.QueueConfig{Recheck: time.Hour, Workers: 2}, func(t *testing.T, q *converge.Queue, c *controller, m *memory) {
		down := errors.New("database is down")
		c.do = func(_ context.Context, hint converge.Hint) ([]converge.Key, error) {
			if hint.Key.Kind == converge.User {
				return []converge.Key{converge.GrantKey("a", "1"), converge.GrantKey("a", "2")}, nil
			}
			if hint.Key == converge.GrantKey("a", "2") {
				m.fail(nil)
				return nil, nil
			}
			m.fail(down)
			return nil, errors.New("Keystone is down")
		}
		if err := <-q.Offer(t.Context(), []converge.Hint{user("a")}); !errors.Is(err, down) {
			t.Errorf("error %v", err)
		}
		m.fail(nil)
	})
}

// TestRecheckOfNamedKey: a hint about roles is looked at once more also where
// another key names its own at the same time.
func TestRecheckOfNamedKey(t *testing.T) {
	for _, hintedFirst := range []bool{false, true} {
		inQueue(t, converge.QueueConfig{Recheck: time.Hour, Workers: 2}, func(t *testing.T, q *converge.Queue, c *controller, m *memory) {
			goOn := make(chan bool)
			c.do = func(_ context.Context, hint converge.Hint) ([]converge.Key, error) {
				if hint.Key.Kind == converge.Group {
					return []converge.Key{user("a").Key}, nil
				}
				<-goOn
				return nil, nil
			}
			q.Offer(t.Context(), []converge.Hint{user("first")}) // the others wait for it
			group := converge.Hint{Key: converge.Key{Kind: converge.Group, ID: "g"}}
			for _, hint := range map[bool][]converge.Hint{true: {user("a"), group}, false: {group, user("a")}}[hintedFirst] {
				q.Offer(t.Context(), []converge.Hint{hint})
				synctest.Wait()
			}
			goOn <- true
			goOn <- true
			synctest.Wait()
			if !slices.ContainsFunc(m.all(), func(p store.PendingKey) bool { return p.ID == "a" }) {
				t.Errorf("to be looked at again: %+v", m.all())
			}
		})
	}
}

// TestAttemptsOutliveTheReplica: how often a key failed is known to another
// replica, or after a restart.
func TestAttemptsOutliveTheReplica(t *testing.T) {
	inQueue(t, converge.QueueConfig{}, func(t *testing.T, _ *converge.Queue, c *controller, m *memory) {
		c.do = func(context.Context, converge.Hint) ([]converge.Key, error) {
			return nil, errors.New("Keystone is down")
		}
		must(t, m.DeferKey(t.Context(), store.PendingKey{Kind: string(converge.User), ID: "a", NextAt: time.Now(), Attempts: 20}))
		time.Sleep(10 * time.Second)
		if left := m.all(); len(left) != 1 || left[0].Attempts != 21 || time.Until(left[0].NextAt) < 9*time.Minute {
			t.Errorf("recorded: %+v", left)
		}
	})
}

// TestHangingKey: the work on a key ends, and is a failure, when it takes too long.
func TestHangingKey(t *testing.T) {
	inQueue(t, converge.QueueConfig{Timeout: time.Minute}, func(t *testing.T, q *converge.Queue, c *controller, m *memory) {
		c.do = func(ctx context.Context, _ converge.Hint) ([]converge.Key, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		offered := q.Offer(t.Context(), []converge.Hint{user("a")})
		time.Sleep(time.Minute + time.Second)
		if err, ok := settled(offered); !ok || err != nil || len(m.all()) != 1 {
			t.Errorf("%v, %v, recorded %+v", err, ok, m.all())
		}
	})
}

// TestClaimedByAnother: who is not the first to claim a key does not work on it.
func TestClaimedByAnother(t *testing.T) {
	inQueue(t, converge.QueueConfig{}, func(t *testing.T, _ *converge.Queue, c *controller, m *memory) {
		m.mu.Lock()
		m.late = true
		m.mu.Unlock()
		must(t, m.DeferKey(t.Context(), store.PendingKey{Kind: string(converge.User), ID: "a", NextAt: time.Now()}))
		time.Sleep(10 * time.Second)
		if done := c.done(); len(done) != 0 {
			t.Errorf("worked on %v", done)
		}
	})
}

// TestRecordHinted: a recorded key that is hinted when its time has come, before
// or after, is done with once.
func TestRecordHinted(t *testing.T) {
	for _, hintedFirst := range []bool{false, true} {
		oneByOne(t, func(t *testing.T, q *converge.Queue, c *controller, m *memory, goOn chan<- error) {
			q.Offer(t.Context(), []converge.Hint{user("first")}) // the others wait for it
			hint := func() { q.Offer(t.Context(), []converge.Hint{user("a")}) }
			if hintedFirst {
				hint()
			}
			must(t, m.DeferKey(t.Context(), store.PendingKey{Kind: string(converge.User), ID: "a", NextAt: time.Now()}))
			time.Sleep(2 * time.Second)
			if !hintedFirst {
				hint()
			}
			goOn <- nil
			goOn <- nil
			if synctest.Wait(); len(m.all()) != 0 || len(c.done()) != 2 {
				t.Errorf("worked on %v, recorded %+v", c.done(), m.all())
			}
		})
	}
}
