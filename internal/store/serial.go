// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	serialBlock     = 1024   // serials reserved at once
	serialReserve   = 256    // left in a block when the next is fetched
	serialsASecond  = 10_000 // by which the start of a block follows the clock
	serialEpochUnix = 1767225600
)

// serials hands out what has been reserved in the database.
type serials struct {
	mu     sync.Mutex
	now    span
	later  span
	refill *refill // under way
}

// span is the serials from next to before end.
type span struct{ next, end uint64 }

// refill is one reservation of a block, for which any number of callers wait.
type refill struct {
	done chan struct{}
	err  error
}

// NextSerial returns a serial that no other call of any replica ever got: greater than 0, less than 2^53, so that JSON holds it
// exactly. Serials are dense within a block, so that revocation lists stay small. What a crash loses of a block is never handed out.
func (s *Store) NextSerial(ctx context.Context) (uint64, error) {
	for {
		serial, wait := s.takeSerial()
		if serial != 0 {
			return serial, nil
		}
		select {
		case <-wait.done:
			if wait.err != nil {
				return 0, fmt.Errorf("next serial: %w", wait.err)
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// takeSerial returns a serial, or the refill to wait for. It never waits itself, and has the next block fetched early.
func (s *Store) takeSerial() (uint64, *refill) {
	q := &s.serials
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.now.next == q.now.end {
		q.now, q.later = q.later, span{}
	}
	left := q.now.end - q.now.next
	if left <= serialReserve && q.later == (span{}) && q.refill == nil {
		q.refill = &refill{done: make(chan struct{})}
		go s.refillSerials(q.refill)
	}
	if left == 0 {
		return 0, q.refill
	}
	q.now.next++
	return q.now.next - 1, nil
}

// refillSerials ends with its reservation, which has a deadline of its own: no caller's context may end it for the others.
func (s *Store) refillSerials(r *refill) {
	block, err := s.reserveSerials(context.Background())
	q := &s.serials
	q.mu.Lock()
	defer q.mu.Unlock()
	if err == nil {
		q.later = block
	}
	r.err, q.refill = err, nil
	close(r.done)
}

// reserveSerials moves the counter, if nobody else did meanwhile. A block starts no lower than the clock says: after a restore from a
// backup, whose counter is old, no serial is handed out again.
func (s *Store) reserveSerials(ctx context.Context) (span, error) {
	var block span
	err := s.transact(ctx, func(t *tx) error {
		found, err := listTx(t, scanUint, "SELECT next FROM serial_block WHERE id = 1")
		if err != nil {
			return err
		}
		if len(found) != 1 {
			return fmt.Errorf("%w: the serial counter is missing from the database", ErrUnavailable)
		}
		elapsed := max(s.now().Sub(time.Unix(serialEpochUnix, 0)), 0)
		byClock := uint64(elapsed/time.Millisecond) * (serialsASecond / 1000)
		start := max(found[0], byClock, 1)
		if start+serialBlock > maxSerial {
			return fmt.Errorf("%w: no serials are left", ErrUnavailable)
		}
		n, err := t.exec("UPDATE serial_block SET next = ? WHERE id = 1 AND next = ?", int64(start+serialBlock), int64(found[0]))
		if err != nil {
			return err
		}
		if n != 1 {
			return errStale
		}
		block = span{start, start + serialBlock}
		return nil
	})
	return block, err
}
