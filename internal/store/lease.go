// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// MaxClockError is how far ahead the clock of another replica may be before the times that it set are not believed.
const MaxClockError = time.Hour

// Lease takes or renews a lease for a holder, for ttl from now. held = false: another holder has it. A lease that was
// not renewed for its ttl is free, so it survives its holder's death. The replicas' clocks are compared: keep ttl well
// above their differences. A lease that ends later than any clock that is right within the hour could have made it end
// is free too.
func (s *Store) Lease(ctx context.Context, name, holder string, ttl time.Duration) (held bool, err error) {
	var c check
	c.id("name", name)
	c.id("holder", holder)
	c.that(ttl > 0, "the time to live is not positive")
	if c.err != nil {
		return false, fmt.Errorf("lease: %w", c.err)
	}
	held, err = s.lease(ctx, "lease", name, holder, ttl)
	if err != nil {
		return false, fmt.Errorf("lease %s: %w", name, err)
	}
	return held, nil
}

// lease works on any table of leases.
func (s *Store) lease(ctx context.Context, table, name, holder string, ttl time.Duration) (held bool, err error) {
	err = s.transact(ctx, func(t *tx) error {
		now := s.now()
		expires := micros(now.Add(ttl))
		n, err := t.exec("UPDATE "+table+" SET holder = ?, expires_at = ? WHERE name = ? AND (holder = ? OR expires_at <= ? OR expires_at > ?)",
			holder, expires, name, holder, micros(now), micros(now.Add(ttl+MaxClockError)))
		if held = n > 0; err != nil || held {
			return err
		}
		found, err := listTx(t, scanString, "SELECT holder FROM "+table+" WHERE name = ?", name)
		if err != nil || len(found) > 0 {
			return err
		}
		_, err = t.exec("INSERT INTO "+table+" (name, holder, expires_at) VALUES (?, ?, ?)", name, holder, expires)
		held = err == nil
		return err
	})
	if errors.Is(err, ErrExists) {
		// Another holder took the free name first.
		return false, nil
	}
	return held, err
}
