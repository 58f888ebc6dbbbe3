// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"os"
	"sync"
	"testing"
)

// migrationFiles are the names of all migrations, which each database has.
func migrationFiles(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, engine := range []string{"sqlite", "postgresql", "mariadb"} {
		entries, err := os.ReadDir("migrations/" + engine)
		if err != nil {
			t.Fatal(err)
		}
		var own []string
		for _, entry := range entries {
			own = append(own, entry.Name())
		}
		if names != nil {
			equal(t, own, names)
		}
		names = own
	}
	return names
}

func TestUpgrade(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			s := open(t, Config{URL: e.make(t)})
			isError(t, s.CheckSchema(ctx), ErrSchemaOld)
			_, err := s.Instance(ctx, id(1))
			isError(t, err, ErrSchemaOld)
			equal(t, must(s.Upgrade(ctx))(t), migrationFiles(t))
			equal(t, len(must(s.Upgrade(ctx))(t)), 0)
			if err := s.CheckSchema(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := s.writer.db.ExecContext(ctx, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)"); err != nil {
				t.Fatal(err)
			}
			isError(t, s.CheckSchema(ctx), ErrSchemaNew)
			_, err = s.Upgrade(ctx)
			isError(t, err, ErrSchemaNew)
		})
	}
}

func TestUpgradesAtOnce(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			url := e.make(t)
			var mu sync.Mutex
			applied := 0
			var wg sync.WaitGroup
			for range 4 {
				s := open(t, Config{URL: url})
				wg.Go(func() {
					names, err := s.Upgrade(t.Context())
					mu.Lock()
					defer mu.Unlock()
					if applied += len(names); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			equal(t, applied, len(migrationFiles(t)))
		})
	}
}

// TestUpgradeAfterDeath finds the lock of an upgrade that died.
func TestUpgradeAfterDeath(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			f := &clock{}
			f.now.Store(1e15)
			url := e.make(t)
			dead := open(t, Config{URL: url, Now: f.Now})
			if err := dead.makeUpgradeLock(t.Context()); err != nil {
				t.Fatal(err)
			}
			if held, err := dead.lease(t.Context(), "upgrade_lock", "schema", "dead", upgradeLease); err != nil || !held {
				t.Fatal(held, err)
			}
			f.step(upgradeLease)
			s := open(t, Config{URL: url, Now: f.Now})
			equal(t, len(must(s.Upgrade(t.Context()))(t)), len(migrationFiles(t)))
		})
	}
}
