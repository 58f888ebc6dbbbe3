// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
)

const (
	// maxLiveGenerations bounds what hosts have to trust in one role.
	maxLiveGenerations = 8
	// maxGenerations bounds the records of a role; a rotation each day takes years.
	maxGenerations = 1000
)

// AddGeneration records a new key of an authority, which signs from now on; the one that signed until now stays trusted. A record that a
// replica is about to make with the old key has committed before, or is refused. ErrConflict if the key is not the next generation, because
// another call was faster, or if there are too many; ErrNotFound if the project has no live authority.
func (s *Store) AddGeneration(ctx context.Context, key AuthorityKey, audit Audit) error {
	key.State = KeyActive
	if key.CreatedAt.IsZero() {
		key.CreatedAt = s.now()
	}
	if err := (Authority{ProjectID: key.ProjectID, Keys: []AuthorityKey{key}}).check(); err != nil {
		return fmt.Errorf("generation: %w", err)
	}
	entry, err := s.auditRow(audit)
	if err != nil {
		return err
	}
	err = s.transact(ctx, func(t *tx) error {
		if err := lockAuthority(t, key.ProjectID); err != nil {
			return err
		}
		if err := mayFollow(t, key); err != nil {
			return err
		}
		_, err := t.exec("UPDATE authority_key SET state = 'trusted' WHERE project_id = ? AND role = ? AND state = 'active'",
			key.ProjectID, string(key.Role))
		if err != nil {
			return err
		}
		if err := t.insert(authorityKeyTable, [][]any{key.row()}); err != nil {
			return err
		}
		return t.insert(auditTable, [][]any{entry})
	})
	if err != nil {
		return fmt.Errorf("generation %d of project %s: %w", key.Generation, shorten(key.ProjectID), err)
	}
	return nil
}

// lockAuthority keeps everybody else from signing with the project's keys, and from changing them, until the transaction ends. It
// changes the row, for Galera does not certify an UPDATE that leaves a row as it is.
func lockAuthority(t *tx, projectID string) error {
	n, err := t.exec("UPDATE authority SET guard = guard + 1 WHERE project_id = ? AND retired_at = 0", projectID)
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: the project has no live authority", ErrNotFound)
	}
	return err
}

// mayFollow tells whether the key is the next of its role.
func mayFollow(t *tx, key AuthorityKey) error {
	scan := func(r scanner) (k AuthorityKey, err error) { err = r.Scan(&k.Generation, &k.State); return }
	keys, err := listTx(t, scan, "SELECT generation, state FROM authority_key WHERE project_id = ? AND role = ?",
		key.ProjectID, string(key.Role))
	if err != nil {
		return err
	}
	newest, live := 0, 0
	for _, k := range keys {
		newest = max(newest, k.Generation)
		if k.State != KeyRevoked {
			live++
		}
	}
	switch {
	case key.Generation != newest+1:
		return fmt.Errorf("%w: generation %d is the newest", ErrConflict, newest)
	case live >= maxLiveGenerations:
		return fmt.Errorf("%w: %d generations are trusted; retire the oldest first", ErrConflict, live)
	case len(keys) >= maxGenerations:
		return fmt.Errorf("%w: there are %d generations, no more are kept", ErrConflict, len(keys))
	}
	return nil
}
