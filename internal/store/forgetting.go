// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
)

// Forgotten is whom no replica believes what it remembers of: what kind, and which.
type Forgotten struct {
	Kind, ID string
	Origin   string // the replica that said so
}

const (
	// keptForgettings is how many are kept for replicas that were away. Who misses one forgets all.
	keptForgettings = 10_000
	// MaxForgotten is how many one call may tell.
	MaxForgotten = 500
	// forgettingPage is how many a replica reads at once.
	forgettingPage = 1000
)

// Forget tells all replicas whom to forget, at most MaxForgotten at a time. Repeating it is harmless.
func (s *Store) Forget(ctx context.Context, all []Forgotten) error {
	var c check
	c.that(len(all) > 0 && len(all) <= MaxForgotten, "there are from 1 to 500 to forget")
	for _, f := range all {
		c.id("kind", f.Kind)
		c.text("ID", f.ID, maxName)
		c.id("origin", f.Origin)
	}
	if c.err != nil {
		return fmt.Errorf("forget: %w", c.err)
	}
	err := s.transact(ctx, func(t *tx) error {
		// The row is locked until the commit, so that versions appear in the order of commits.
		n, err := t.exec("UPDATE forgetting_version SET version = version + ? WHERE name = 'newest'", len(all))
		if err == nil && n != 1 {
			err = errors.New("the newest version is not there")
		}
		if err != nil {
			return err
		}
		newest, err := listTx(t, scanUint, "SELECT version FROM forgetting_version WHERE name = 'newest'")
		if err != nil || len(newest) != 1 {
			return errors.Join(err, errStale)
		}
		first := int64(newest[0]) - int64(len(all)) + 1
		rows := make([][]any, len(all))
		for i, f := range all {
			rows[i] = []any{first + int64(i), f.Kind, f.ID, f.Origin}
		}
		err = t.insert(forgettingTable, rows)
		if errors.Is(err, ErrExists) {
			return errStale // another node of Galera took these versions, and this one hears of it only now
		}
		if err != nil {
			return err
		}
		_, err = t.exec("DELETE FROM forgetting WHERE version <= ?", first-keptForgettings)
		return err
	})
	if err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	return nil
}

// NewestForgetting is the version from where on a replica that remembers nothing yet must read.
func (s *Store) NewestForgetting(ctx context.Context) (uint64, error) {
	newest, err := one(ctx, s, scanUint, "SELECT version FROM forgetting_version WHERE name = 'newest'")
	if err != nil {
		return 0, fmt.Errorf("newest forgetting: %w", err)
	}
	return newest, nil
}

// Forgettings returns who was to be forgotten since a version, and the version after that. missed: some are not kept
// any more, or there are too many to tell, and all must be forgotten.
func (s *Store) Forgettings(ctx context.Context, after uint64) (all []Forgotten, newest uint64, missed bool, err error) {
	type row struct {
		version uint64
		Forgotten
	}
	scan := func(r scanner) (f row, err error) {
		err = r.Scan(&f.version, &f.Kind, &f.ID, &f.Origin)
		return
	}
	rows, err := list(ctx, s, scan, "SELECT version, kind, id, origin FROM forgetting WHERE version > ? ORDER BY version LIMIT ?",
		int64(after), forgettingPage)
	switch {
	case err != nil:
		return nil, after, false, fmt.Errorf("forgettings: %w", err)
	case len(rows) == 0:
		return nil, after, false, nil
	case rows[0].version != after+1 || len(rows) == forgettingPage:
		newest, err := s.NewestForgetting(ctx)
		return nil, newest, err == nil, err
	}
	for _, r := range rows {
		all = append(all, r.Forgotten)
	}
	return all, rows[len(rows)-1].version, false, nil
}
