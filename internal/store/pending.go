// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// PendingKey is an entity of the cloud that is to be looked at (again): after a failure, or at a later time.
type PendingKey struct {
	Kind, ID  string
	Rebuilt   bool // hinted as rebuilt
	Booted    bool // hinted as booted, and not otherwise
	Attempts  int  // failed ones in a row
	NextAt    time.Time
	Since     time.Time // when it was first put off
	LastError string    // stored in one line, cut if too long
}

// maxKeyID is the width of the column: a user's and a project's ID with a slash between them.
const maxKeyID = 2*maxID + 1

func (k PendingKey) check() error {
	var c check
	c.id("kind", k.Kind)
	c.that(k.ID != "" && len(k.ID) <= maxKeyID && asciiOnly(k.ID) == k.ID, "the ID of the key is missing, too long, or not ASCII")
	c.that(k.Attempts >= 0 && k.Attempts < 1<<31, "the attempts are out of range")
	c.that(!k.NextAt.IsZero(), "the key has no time")
	return c.err
}

// DeferKey records that a key is to be worked on at its time. A record that is there already gets the new attempts,
// time and error; that it was hinted as rebuilt, and since when it waits, stay; that it was hinted as booted stays if
// it is once more.
func (s *Store) DeferKey(ctx context.Context, k PendingKey) error {
	if err := k.check(); err != nil {
		return fmt.Errorf("pending key: %w", err)
	}
	if k.Since.IsZero() {
		k.Since = s.now()
	}
	rebuilt, booted := number(k.Rebuilt), number(k.Booted)
	write := func(t *tx) error {
		n, err := t.exec(`UPDATE converge_key SET rebuilt = CASE WHEN rebuilt = 1 THEN 1 ELSE ? END,
			booted = CASE WHEN booted = 1 THEN ? ELSE 0 END, attempts = ?, next_at = ?, last_error = ?
			WHERE kind = ? AND id = ?`, rebuilt, booted, k.Attempts, micros(k.NextAt), note(k.LastError), k.Kind, k.ID)
		if err != nil || n > 0 {
			return err
		}
		return t.insert(pendingKeyTable, [][]any{{
			k.Kind, k.ID, rebuilt, k.Attempts, micros(k.NextAt), micros(k.Since), note(k.LastError), booted,
		}})
	}
	err := s.transact(ctx, write)
	if errors.Is(err, ErrExists) {
		// Another replica recorded it between the two statements.
		err = s.transact(ctx, write)
	}
	if err != nil {
		return fmt.Errorf("pending key: %w", err)
	}
	return nil
}

var selectPendingKey = "SELECT " + pendingKeyTable.list("") + " FROM converge_key"

func scanPendingKey(r scanner) (PendingKey, error) {
	var k PendingKey
	var rebuilt, attempts, next, since, booted int64
	err := r.Scan(&k.Kind, &k.ID, &rebuilt, &attempts, &next, &since, &k.LastError, &booted)
	k.Booted = booted != 0
	k.Rebuilt, k.Attempts, k.NextAt, k.Since = rebuilt != 0, int(attempts), fromMicros(next), fromMicros(since)
	return k, err
}

// FailingKeys are the keys of a kind that have failed.
type FailingKeys struct {
	Count int
	Since time.Time // when the first of them was first put off
}

// FailingKeys counts, by kind, the keys that have failed and are tried again.
func (s *Store) FailingKeys(ctx context.Context) (map[string]FailingKeys, error) {
	type count struct {
		kind  string
		n     int
		since int64
	}
	all, err := list(ctx, s, func(r scanner) (c count, err error) { err = r.Scan(&c.kind, &c.n, &c.since); return },
		"SELECT kind, COUNT(*), MIN(since) FROM converge_key WHERE attempts > 0 GROUP BY kind")
	if err != nil {
		return nil, fmt.Errorf("count failing keys: %w", err)
	}
	failing := make(map[string]FailingKeys, len(all))
	for _, c := range all {
		failing[c.kind] = FailingKeys{c.n, fromMicros(c.since)}
	}
	return failing, nil
}

// DueKeys returns keys whose time has come, at most limit, the most overdue first; and then those whose time is further
// ahead than anybody puts a key off, by a clock that was wrong.
func (s *Store) DueKeys(ctx context.Context, longest time.Duration, limit int) ([]PendingKey, error) {
	if limit < 1 || limit > MaxPageLimit {
		return nil, fmt.Errorf("due keys: %w: the limit is from 1 to %d", ErrInvalid, MaxPageLimit)
	}
	now := s.now()
	all, err := list(ctx, s, scanPendingKey, selectPendingKey+" WHERE next_at <= ? OR next_at > ? ORDER BY next_at LIMIT ?",
		micros(now), micros(now.Add(longest+MaxClockError)), limit)
	if err != nil {
		return nil, fmt.Errorf("due keys: %w", err)
	}
	return all, nil
}

// ClaimKey takes a due key for one replica until a time, when it is due again unless it was settled. It returns false
// if another was faster.
func (s *Store) ClaimKey(ctx context.Context, k PendingKey, until time.Time) (claimed bool, err error) {
	err = s.transact(ctx, func(t *tx) error {
		n, err := t.exec("UPDATE converge_key SET next_at = ? WHERE kind = ? AND id = ? AND next_at = ?",
			micros(until), k.Kind, k.ID, micros(k.NextAt))
		claimed = n > 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("claim a key: %w", err)
	}
	return claimed, nil
}

// FailingKey returns the record of a key that has failed and is to be tried again. ErrNotFound: it has none.
func (s *Store) FailingKey(ctx context.Context, kind, id string) (PendingKey, error) {
	k, err := one(ctx, s, scanPendingKey, selectPendingKey+" WHERE kind = ? AND id = ? AND attempts > 0", kind, id)
	if err != nil {
		return k, fmt.Errorf("pending key: %w", err)
	}
	return k, nil
}

// SettleKey forgets a key that has converged, unless it was put off anew since it was claimed, until the time of the claim.
func (s *Store) SettleKey(ctx context.Context, k PendingKey, until time.Time) error {
	err := s.transact(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM converge_key WHERE kind = ? AND id = ? AND next_at = ?", k.Kind, k.ID, micros(until))
		return err
	})
	if err != nil {
		return fmt.Errorf("settle a key: %w", err)
	}
	return nil
}

// PendingKeys lists keys by kind and ID. The page's After is a kind and an ID with a blank between them.
func (s *Store) PendingKeys(ctx context.Context, page Page) ([]PendingKey, error) {
	limit, err := Page{Limit: page.Limit}.limit()
	if err != nil {
		return nil, err
	}
	kind, id, ok := strings.Cut(page.After, " ")
	if !ok && page.After != "" || len(id) > maxKeyID || asciiOnly(page.After) != page.After {
		return nil, fmt.Errorf("list keys: %w: the marker is not a kind and an ID", ErrInvalid)
	}
	all, err := list(ctx, s, scanPendingKey, selectPendingKey+" WHERE kind > ? OR (kind = ? AND id > ?) ORDER BY kind, id LIMIT ?",
		kind, kind, id, limit)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return all, nil
}
