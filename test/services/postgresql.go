// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
)

// postgreSQL is a PostgreSQL server; bin holds its programs.
type postgreSQL struct{ bin string }

// StartPostgreSQL starts a private PostgreSQL with its default durability. ErrMissing if it isn't installed.
func StartPostgreSQL(ctx context.Context) (*Server, error) {
	server, err := newest("/usr/lib/postgresql/*/bin/postgres", "/usr/local/pgsql/bin/postgres", "/usr/bin/postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL: %w", err)
	}
	// PostgreSQL refuses to run as root.
	a, err := unprivileged("postgres", "nobody")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL: %w", err)
	}
	s, err := start(ctx, postgreSQL{filepath.Dir(server)}, a)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL: %w", err)
	}
	return s, nil
}

func (p postgreSQL) prepare(ctx context.Context, s *Server) error {
	return finish(s.run(ctx, filepath.Join(p.bin, "initdb"), "--pgdata", s.path("data"), "--username", "muster", "--auth", "trust",
		"--encoding", "UTF8", "--locale", "C", "--no-sync"))
}

func (p postgreSQL) program(s *Server) (string, []string) {
	return filepath.Join(p.bin, "postgres"), []string{"-D", s.path("data"), "-k", s.folder, "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1"}
}

func (p postgreSQL) execute(ctx context.Context, s *Server, sql string) error {
	return finish(s.run(ctx, filepath.Join(p.bin, "psql"), "--no-psqlrc", "--quiet", "-h", s.folder, "-p", strconv.Itoa(s.port),
		"-U", "muster", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-c", sql))
}

func (p postgreSQL) url(s *Server, database string) string {
	return fmt.Sprintf("postgresql+psycopg2://muster@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
}
