// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKeyIsLookedUpByKey: however many certificates a user has, a look-up by key doesn't go through them. PostgreSQL did, before its first
// ANALYZE.
func TestKeyIsLookedUpByKey(t *testing.T) {
	f := newFixture(t, databases.PostgreSQL(t), 1)
	s := f.store()
	f.authority(t, 1)
	c := f.insert(t, f.userCert(t, 1, 1, 1))
	must(s.writer.db.ExecContext(t.Context(), `INSERT INTO user_cert SELECT n, project_id, user_id, user_name, principals, 'SHA256:' || md5(n::text),
		md5, key_id, authority_key_id, cert, created_at, expires_at, revoked_at, profile FROM user_cert, generate_series(1, 5000) n`))(t)
	rows := must(s.writer.db.QueryContext(t.Context(), "EXPLAIN "+enginePostgreSQL.rebind(selectLatestUserCert),
		c.Fingerprint, c.ProjectID, c.Fingerprint, c.UserID, c.ProjectID, c.Credential.ID))(t)
	var plan strings.Builder
	err := drain(rows, nil, func(r *sql.Rows) error {
		var line string
		defer func() { plan.WriteString(line + "\n") }()
		return r.Scan(&line)
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := plan.String(); !strings.Contains(text, "user_cert_by_fingerprint") || strings.Contains(text, "user_cert_by_user") {
		t.Errorf("the plan goes through a user's certificates:\n%s", text)
	}
}

// TestCheckpoint: SQLite's log is moved into the database while the store runs.
func TestCheckpoint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "muster.db")
	f := newFixture(t, "sqlite:///"+path, 1)
	size := func() int64 { return must(os.Stat(path))(t).Size() }
	f.authority(t, 1)
	before := size()
	f.insert(t, f.userCert(t, 1, 1, 1))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	for again := time.NewTicker(checkpointPause / 4); size() == before; {
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatal("nothing was moved")
		}
	}
}
