// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/muster-cloud/muster/internal/agentapi"
)

// keystone has the accounts of every project.
type keystone struct {
	asked     atomic.Int32
	forgotten atomic.Int32
	down      atomic.Bool
}

func (k *keystone) Forget(string) { k.forgotten.Add(1) }

func (k *keystone) Of(_ context.Context, projectID string) ([]agentapi.Account, error) {
	k.asked.Add(1)
	time.Sleep(time.Second)
	if k.down.Load() {
		return nil, errors.New("away")
	}
	return []agentapi.Account{{Name: projectID}}, nil
}

// However many instances ask, Keystone is asked once a minute for a project.
// While it is away, they keep what they have.
func TestAccountsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &keystone{}
		memory := newAccountMemory(source, 3600, time.Now, slog.New(slog.DiscardHandler))
		ask := func(want int32, good bool) {
			t.Helper()
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					accounts, err := memory.of(t.Context(), "blue", 1)
					if (err == nil) != good || good && accounts[0].Name != "blue" {
						t.Errorf("%v %v", accounts, err)
					}
				})
			}
			wg.Wait()
			if got := source.asked.Load(); got != want {
				t.Errorf("Keystone was asked %d times, want %d", got, want)
			}
		}
		ask(1, true)
		time.Sleep(accountsFresh - 2*time.Second)
		ask(1, true)
		time.Sleep(3 * time.Second)
		ask(2, true)
		source.down.Store(true)
		time.Sleep(accountsFresh)
		ask(3, true)
		ask(3, true)
		time.Sleep(accountsRetry + time.Second)
		ask(4, true)
		time.Sleep(accountsKept)
		ask(5, false)
		source.down.Store(false)
		ask(6, true)
	})
}

// After each revocation they are looked up anew, once, whatever else is
// remembered of them: the last one with a role may have lost it. While Keystone
// is away it is not asked by every instance for that.
func TestAccountsAreNoOlderThanTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &keystone{}
		memory := newAccountMemory(source, 3600, time.Now, slog.New(slog.DiscardHandler))
		ask := func(list uint64, asked, forgotten int32) {
			t.Helper()
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					if _, err := memory.of(t.Context(), "blue", list); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if source.asked.Load() != asked || source.forgotten.Load() != forgotten {
				t.Errorf("list %d: asked %d times after forgetting %d times, want %d and %d",
					list, source.asked.Load(), source.forgotten.Load(), asked, forgotten)
			}
		}
		ask(7, 1, 1)
		ask(8, 2, 2)
		ask(7, 2, 2) // another replica's instance, which is behind
		ask(8, 2, 2)
		time.Sleep(accountsFresh)
		ask(8, 3, 2)
		source.down.Store(true)
		ask(9, 4, 3)
		ask(9, 4, 3)
		source.down.Store(false)
		time.Sleep(accountsRetry)
		ask(9, 5, 3)
	})
}

// Where instances ask more often, they are answered with what is newer.
func TestAccountsAreAsFreshAsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &keystone{}
		memory := newAccountMemory(source, 10, time.Now, slog.New(slog.DiscardHandler))
		for range 3 {
			if _, err := memory.of(t.Context(), "blue", 1); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		if got := source.asked.Load(); got != 3 {
			t.Errorf("Keystone was asked %d times, want 3", got)
		}
	})
}
