// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone

import (
	"context"
	"errors"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

// memo keeps answers until they are too old or about somebody forgotten, the
// least recently used going first when there are too many. Simultaneous askers
// of one key share one request, which goes on when the first of them gives up.
type memo[V any] struct {
	now    func() time.Time
	budget time.Duration
	ledger *ledger
	about  func(V) subject
	kept   *lru.Cache[string, answer[V]]
	calls  singleflight.Group
}

// answer is a value, until when it is good, and which forgettings it has seen.
type answer[V any] struct {
	value V
	until time.Time
	seen  uint64
}

func newMemo[V any](size int, now func() time.Time, budget time.Duration, l *ledger, about func(V) subject) *memo[V] {
	kept, err := lru.New[string, answer[V]](size)
	if err != nil {
		panic(err) // only for a size below 1, and New has refused that
	}
	return &memo[V]{now: now, budget: budget, ledger: l, about: about, kept: kept}
}

// peek returns the value kept for key, if it is still good.
func (m *memo[V]) peek(key string) (V, bool) {
	a, ok := m.kept.Get(key)
	if ok && m.now().Before(a.until) && !m.ledger.stale(m.about(a.value), a.seen) {
		return a.value, true
	}
	var none V
	return none, false
}

// get returns the value kept for key, or what fetch returns, and keeps that
// until the time fetch says. An error is not kept.
func (m *memo[V]) get(ctx context.Context, key string,
	fetch func(context.Context) (V, time.Time, error)) (V, error) {
	if value, ok := m.peek(key); ok {
		return value, nil
	}
	var none V
	for range 3 {
		seen := m.ledger.current()
		// Who asks after a forgetting must not get the answer of a request
		// that began before it, hence the number in the key.
		call := m.calls.DoChan(strconv.FormatUint(seen, 36)+" "+key, func() (any, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.budget)
			defer cancel()
			value, until, err := fetch(ctx)
			if err != nil {
				return nil, err
			}
			a := answer[V]{value: value, until: until, seen: seen}
			m.kept.Add(key, a)
			return a, nil
		})
		select {
		case <-ctx.Done():
			return none, ctx.Err()
		case result := <-call:
			if result.Err != nil {
				return none, result.Err
			}
			a := result.Val.(answer[V])
			if !m.ledger.stale(m.about(a.value), a.seen) {
				return a.value, nil
			}
		}
	}
	return none, &UnavailableError{RetryAfter: minRetryAfter,
		Err: errors.New("the user or project changed again and again while Keystone was asked")}
}
