// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/pressly/goose/v3"
)

// Each kind of database has its own migrations, with the same numbers and the same outcome. A migration must leave the
// previous version of the program running: add, fill, and remove only what no supported version uses. It must also bear
// being repeated from its middle, for MariaDB commits every change of the schema by itself.
//
//go:embed migrations
var migrations embed.FS

const (
	upgradeLease = 30 * time.Second       // after which a dead upgrade makes room
	upgradePause = 100 * time.Millisecond // between looks at another's upgrade
)

// provider returns the migrations for the database, to be applied through connections.
func (s *Store) provider(connections *sql.DB) (*goose.Provider, error) {
	dialect := map[engine]goose.Dialect{engineSQLite: goose.DialectSQLite3, enginePostgreSQL: goose.DialectPostgres,
		engineMariaDB: goose.DialectMySQL}[s.location.engine]
	files, err := fs.Sub(migrations, path.Join("migrations", string(s.location.engine)))
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(dialect, connections, files, goose.WithDisableGlobalRegistry(true), goose.WithSlog(s.cfg.Logger))
}

// SchemaVersion returns the version of the database's schema (0: empty) and the one that this program was made for.
func (s *Store) SchemaVersion(ctx context.Context) (have, want int64, err error) {
	p, err := s.provider(s.writer.db)
	if err != nil {
		return 0, 0, fmt.Errorf("migrations: %w", err)
	}
	for _, source := range p.ListSources() {
		want = max(want, source.Version)
	}
	bounded, cancel := context.WithTimeout(ctx, s.cfg.PoolTimeout)
	defer cancel()
	var version sql.NullInt64
	err = s.writer.db.QueryRowContext(bounded, "SELECT MAX(version_id) FROM goose_db_version WHERE is_applied").Scan(&version)
	if err != nil && judge(err) != faultSchema {
		return 0, 0, fmt.Errorf("version of the schema: %w", explain(ctx, err))
	}
	return version.Int64, want, nil
}

// CheckSchema returns ErrSchemaOld or ErrSchemaNew if this program can't work with the database.
func (s *Store) CheckSchema(ctx context.Context) error {
	have, want, err := s.SchemaVersion(ctx)
	switch {
	case err != nil:
		return err
	case have < want:
		return fmt.Errorf("schema version %d, wanted %d: %w", have, want, ErrSchemaOld)
	case have > want:
		return fmt.Errorf("schema version %d, known up to %d: %w", have, want, ErrSchemaNew)
	}
	return nil
}

// Upgrade brings the schema up to date and returns the names of the migrations that it applied. Several may run at
// once: one does the work, the others wait. ErrSchemaNew if there is nothing that this program could do.
func (s *Store) Upgrade(ctx context.Context) (applied []string, err error) {
	if err := s.CheckSchema(ctx); errors.Is(err, ErrSchemaNew) {
		return nil, err
	}
	work, release, err := s.lockUpgrade(ctx)
	if err != nil {
		return nil, fmt.Errorf("upgrade: %w", err)
	}
	defer release()
	connections := s.writer.db
	if s.location.engine == engineMariaDB {
		// To change a large table may take longer than any call.
		if connections, err = s.location.connectMariaDB(0, s.writer.galera); err != nil {
			return nil, fmt.Errorf("upgrade: %w", err)
		}
		defer connections.Close()
	}
	p, err := s.provider(connections)
	if err != nil {
		return nil, fmt.Errorf("upgrade: %w", err)
	}
	results, err := p.Up(work)
	for _, r := range results {
		applied = append(applied, path.Base(r.Source.Path))
	}
	if err != nil {
		return applied, fmt.Errorf("upgrade: %w", explain(ctx, err))
	}
	return applied, s.CheckSchema(ctx)
}

// lockUpgrade waits until no other upgrade runs, and keeps others away until release is called. The lock is a row, which every
// database and cluster has, and which outlives its holder only for a while. The returned context ends when the lock is lost.
func (s *Store) lockUpgrade(ctx context.Context) (work context.Context, release func(), err error) {
	if err := s.makeUpgradeLock(ctx); err != nil {
		return nil, nil, err
	}
	holder := rand.Text()
	take := func() (bool, error) { return s.lease(ctx, "upgrade_lock", "schema", holder, upgradeLease) }
	for {
		held, err := take()
		if err != nil {
			return nil, nil, err
		}
		if held {
			break
		}
		select {
		case <-time.After(upgradePause):
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	work, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		renew := time.NewTicker(upgradeLease / 3)
		defer renew.Stop()
		for {
			select {
			case <-renew.C:
				// SQLite's only connection may be busy with the upgrade itself; then nobody else can take the lock either.
				if held, err := take(); err == nil && !held {
					stop()
				}
			case <-work.Done():
				return
			}
		}
	}()
	return work, func() {
		stop()
		<-ended
		s.dropUpgrade(context.WithoutCancel(ctx), holder)
	}, nil
}

func (s *Store) makeUpgradeLock(ctx context.Context) error {
	err := s.transact(ctx, func(t *tx) error {
		_, err := t.sql.ExecContext(t.ctx, "CREATE TABLE IF NOT EXISTS upgrade_lock "+
			"(name varchar(64) NOT NULL PRIMARY KEY, holder varchar(64) NOT NULL, expires_at bigint NOT NULL)")
		if err == nil || judge(err) != faultExists {
			return err
		}
		// PostgreSQL says so when two make the table at once.
		return fmt.Errorf("%w: %w", errStale, err)
	})
	return err
}

// dropUpgrade lets the next one in. If it fails, the lock ends by itself.
func (s *Store) dropUpgrade(ctx context.Context, holder string) {
	err := s.transact(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM upgrade_lock WHERE name = 'schema' AND holder = ?", holder)
		return err
	})
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "the lock of the upgrade stays until it ends by itself", "error", err, "after", upgradeLease)
	}
}
