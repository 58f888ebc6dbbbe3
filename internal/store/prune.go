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
	for _, p := range []pruning[int64]{
		{table: "user_cert", column: "expires_at"},
		{table: "host_cert", column: "expires_at"},
		{table: "revocation", column: "expires_at"},
		{table: "enrolment", column: "gone_at",
			further: " AND NOT EXISTS (SELECT 1 FROM external_object o WHERE o.instance_id = enrolment.instance_id)"},
	} {
		p.before = micros(before)
		n, err := prune(ctx, s, p, limit)
		total += n
		if err != nil {
			return total, fmt.Errorf("prune %s: %w", p.table, err)
		}
	}
	n, err := s.pruneInstances(ctx, before, limit)
	if err != nil {
		err = fmt.Errorf("prune instances: %w", err)
	}
	return total + n, err
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

// PruneAudit removes about limit audit entries, at most 10,000, made before a time, and returns how many. It goes by
// the ID, which the store makes of the time.
func (s *Store) PruneAudit(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := prune(ctx, s, pruning[string]{table: "audit", column: "id", before: firstAuditID(before)}, limit)
	if err != nil {
		return n, fmt.Errorf("prune audit entries: %w", err)
	}
	return n, nil
}

// pruning says which rows go: those whose column is set and below, and that meet the further condition. The column has
// an index: MariaDB locks each row that a removal looks at, and whoever writes one of those waits.
type pruning[T int64 | string] struct {
	table, column string
	before        T
	further       string
}

// prune removes the lowest rows, some at a time: finds the value up to which that many go, and removes up to there.
// Rows of the very same value go together.
func prune[T int64 | string](ctx context.Context, s *Store, p pruning[T], limit int) (int, error) {
	if limit < 1 || limit > pruneLimit {
		return 0, fmt.Errorf("%w: the limit is from 1 to %d", ErrInvalid, pruneLimit)
	}
	var unset T
	rows := " FROM " + p.table + " WHERE " + p.column + " > ?" + p.further + " AND " + p.column
	scan := func(r scanner) (v T, err error) { err = r.Scan(&v); return }
	total := 0
	for total < limit {
		step := min(maxPruned, limit-total)
		last, err := list(ctx, s, scan, "SELECT "+p.column+rows+" < ? ORDER BY "+p.column+" LIMIT 1 OFFSET ?", unset, p.before, step-1)
		if err != nil {
			return total, err
		}
		until, value := " < ?", p.before
		if len(last) > 0 {
			until, value = " <= ?", last[0]
		}
		n, err := s.remove(ctx, "DELETE"+rows+until, unset, value)
		if err != nil {
			return total, err
		}
		total += n
		if len(last) == 0 {
			break
		}
	}
	return total, nil
}

// remove runs a DELETE in a transaction of its own, and returns how many rows went.
func (s *Store) remove(ctx context.Context, text string, args ...any) (removed int, err error) {
	err = s.transact(ctx, func(t *tx) error {
		n, err := t.exec(text, args...)
		removed = int(n)
		return err
	})
	return removed, err
}

// pruneInstances removes those that were deleted before a time. There is no index on that: it finds them first, which locks nothing.
func (s *Store) pruneInstances(ctx context.Context, before time.Time, limit int) (int, error) {
	found, err := list(ctx, s, scanString, "SELECT id FROM instance WHERE deleted_at > 0 AND deleted_at < ? ORDER BY deleted_at LIMIT ?",
		micros(before), limit)
	if err != nil {
		return 0, err
	}
	ids := make([]any, len(found))
	for i, id := range found {
		ids[i] = id
	}
	total := 0
	err = inChunks(ids, func(list string, values []any) error {
		// One of them may have come back meanwhile.
		n, err := s.remove(ctx, "DELETE FROM instance WHERE deleted_at > 0 AND id IN "+list, values...)
		total += n
		return err
	})
	return total, err
}
