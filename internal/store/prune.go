// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"time"
)

const (
	maxPruned  = 500    // rows removed by one transaction
	pruneLimit = 10_000 // rows of a kind removed by one call
)

// PruneExpired removes certificates and revocations that expired, instances that were deleted, and enrolments that went, before a time:
// about limit of each, at most 10,000. It returns how many; call again until it returns 0. An enrolment stays as long as there are records
// of objects of its instance: whoever looks for what is left over goes by it.
func (s *Store) PruneExpired(ctx context.Context, before time.Time, limit int) (int, error) {
	total := 0
	for _, p := range []pruning{
		{"user_cert", "expires_at", micros(before), ""},
		{"host_cert", "expires_at", micros(before), ""},
		{"revocation", "expires_at", micros(before), ""},
		{"instance", "deleted_at", micros(before), ""},
		{"enrolment", "gone_at", micros(before), " AND NOT EXISTS (SELECT 1 FROM external_object o WHERE o.instance_id = enrolment.instance_id)"},
	} {
		n, err := s.prune(ctx, p, limit)
		total += n
		if err != nil {
			return total, fmt.Errorf("prune %s: %w", p.table, err)
		}
	}
	return total, nil
}

// Clock returns what the database server's clock says. For SQLite that is this machine's.
func (s *Store) Clock(ctx context.Context) (time.Time, error) {
	seconds, err := one(ctx, s, scanUint, s.location.engine.clock())
	if err != nil {
		return time.Time{}, fmt.Errorf("the database server's clock: %w", err)
	}
	return time.Unix(int64(seconds), 0).UTC(), nil
}

// NewestAudit returns when the newest audit entry was made, by the clock of who made it; zero if there is none.
func (s *Store) NewestAudit(ctx context.Context) (time.Time, error) {
	newest, err := list(ctx, s, scanUint, "SELECT at FROM audit ORDER BY id DESC LIMIT 1")
	if err != nil {
		return time.Time{}, fmt.Errorf("newest audit entry: %w", err)
	}
	if len(newest) == 0 {
		return time.Time{}, nil
	}
	return fromMicros(int64(newest[0])), nil
}

// PruneAudit removes about limit audit entries, at most 10,000, made before a time, and returns how many.
func (s *Store) PruneAudit(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := s.prune(ctx, pruning{"audit", "at", micros(before), ""}, limit)
	if err != nil {
		return n, fmt.Errorf("prune audit entries: %w", err)
	}
	return n, nil
}

// pruning says which rows go: those whose time is set and before, and that meet the further condition.
type pruning struct {
	table, column string
	before        int64
	further       string
}

// prune removes the oldest rows, some at a time: finds the time up to which that many go, and removes up to there. Rows of the very same time
// go together.
func (s *Store) prune(ctx context.Context, p pruning, limit int) (int, error) {
	if limit < 1 || limit > pruneLimit {
		return 0, fmt.Errorf("%w: the limit is from 1 to %d", ErrInvalid, pruneLimit)
	}
	rows := " FROM " + p.table + " WHERE " + p.column + " > 0" + p.further + " AND " + p.column
	total := 0
	for total < limit {
		step := min(maxPruned, limit-total)
		cutoff := p.before - 1
		found, err := list(ctx, s, scanUint, "SELECT "+p.column+rows+" < ? ORDER BY "+p.column+" LIMIT 1 OFFSET ?", p.before, step-1)
		if err != nil {
			return total, err
		}
		if len(found) > 0 {
			cutoff = int64(found[0])
		}
		var n int64
		err = s.transact(ctx, func(t *tx) error {
			n, err = t.exec("DELETE"+rows+" <= ?", cutoff)
			return err
		})
		if err != nil {
			return total, err
		}
		total += int(n)
		if len(found) == 0 {
			break
		}
	}
	return total, nil
}
