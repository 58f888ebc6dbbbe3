// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver
)

// A million records through the API would take minutes, so large databases are
// filled by SQL, with rows as the API makes them.

// change runs SQL in one transaction on the site's SQLite file, beside Muster.
func (s *site) change(ctx context.Context, work func(*sql.Tx) error) (err error) {
	path, ok := strings.CutPrefix(s.connection, "sqlite:///")
	if !ok {
		return errors.New("only SQLite is filled directly")
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(60000)&_pragma=synchronous(OFF)&_txlock=immediate")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := work(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// insertRevocations adds serials to a project's log, each with a version of its own.
func (s *site) insertRevocations(ctx context.Context, project string, serials []uint64) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		var key string
		err := tx.QueryRowContext(ctx, "SELECT id FROM authority_key WHERE project_id = ? AND role = 'user'", project).Scan(&key)
		if err != nil {
			return err
		}
		insert, err := tx.PrepareContext(ctx, `INSERT INTO revocation (project_id, version, seq, kind, authority_key_id, serial, value,
			expires_at, created_at, reason, revoked_by) VALUES (?, ?, 0, 'serial', ?, ?, '', ?, ?, '', 'bench')`)
		if err != nil {
			return err
		}
		now := time.Now()
		expires := now.Add(24 * time.Hour).UnixMicro()
		for i, serial := range serials {
			if _, err := insert.ExecContext(ctx, project, i+1, key, int64(serial), expires, now.UnixMicro()); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, "UPDATE authority SET krl_version = ? WHERE project_id = ?", len(serials), project)
		return err
	})
}

// withRecords starts Muster on a database of n certificates, which is made once.
func (b *bench) withRecords(ctx context.Context, n int) (*site, error) {
	if connection, ok := b.large[n]; ok {
		b.sites++
		return b.siteOn(ctx, connection)
	}
	s, err := b.newSite(ctx, "sqlite")
	if err != nil {
		return nil, err
	}
	if err := s.copyCertificates(ctx, n); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	b.large[n] = s.connection
	return s, nil
}

// copyCertificates issues one certificate for each person and copies it until
// there are n, each with a serial, a key and an audit entry of its own.
func (s *site) copyCertificates(ctx context.Context, n int) error {
	for _, p := range s.bench.persons {
		if _, err := s.issueOne(ctx, p); err != nil {
			return err
		}
	}
	return s.change(ctx, func(tx *sql.Tx) error {
		copies := fmt.Sprintf("WITH RECURSIVE copy(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copy WHERE n < %d) ", (n-1)/people)
		_, err := tx.ExecContext(ctx, copies+`INSERT INTO user_cert SELECT row_number() OVER (ORDER BY copy.n, serial), project_id, user_id,
			user_name, principals, 'SHA256:' || substr(hex(randomblob(22)), 1, 43), md5, key_id, authority_key_id, cert, created_at,
			expires_at, revoked_at, profile FROM copy, (SELECT * FROM user_cert)`)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, copies+`INSERT INTO audit SELECT substr(id, 1, 12) || lower(hex(randomblob(10))), at, actor, actor_name,
			actor_project, action, outcome, object_kind, object_id, project_id, reason, request_id, remote, details
			FROM copy, (SELECT * FROM audit WHERE action = 'usercert.issue')`)
		return err
	})
}
