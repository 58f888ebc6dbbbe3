// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"time"
)

// checkpointPause is how often SQLite's log is looked at.
const checkpointPause = 200 * time.Millisecond

// checkpointAll moves what SQLite's log holds into the database until ctx ends, beside the writes, so that no commit
// has to wait until it is done. What it can't move, for somebody still reads the old pages, is moved by a commit when
// the log is long (wal_autocheckpoint). See https://www.sqlite.org/wal.html#ckpt.
func (s *Store) checkpointAll(ctx context.Context) {
	tick := time.NewTicker(checkpointPause)
	defer tick.Stop()
	var done int64
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		committed := s.committed.Load()
		if committed == done {
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, s.cfg.PoolTimeout)
		_, err := s.reader.db.ExecContext(bounded, "PRAGMA wal_checkpoint(PASSIVE)")
		cancel()
		if err != nil && ctx.Err() == nil {
			s.cfg.Logger.WarnContext(ctx, "the database's log can't be moved into it, trying again", "error", err)
			continue
		}
		done = committed
	}
}
