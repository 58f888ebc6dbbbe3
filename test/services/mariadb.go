// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"context"
	"fmt"
	"strconv"
)

// mariaDB is a MariaDB server: its three programs, and what it is started with besides the usual.
type mariaDB struct {
	server, installer, client string
	options                   []string
}

// StartMariaDB starts a private MariaDB with its default durability. ErrMissing if it isn't installed.
func StartMariaDB(ctx context.Context) (*Server, error) {
	return startMariaDB(ctx, "--innodb-log-file-size=64M", "--max-connections=200")
}

func startMariaDB(ctx context.Context, options ...string) (*Server, error) {
	m, a, err := mariaDBPrograms()
	if err != nil {
		return nil, fmt.Errorf("MariaDB: %w", err)
	}
	m.options = options
	s, err := start(ctx, m, a)
	if err != nil {
		return nil, fmt.Errorf("MariaDB: %w", err)
	}
	return s, nil
}

// mariaDBPrograms finds the programs, and the account that they run as.
func mariaDBPrograms() (m mariaDB, a *account, err error) {
	for program, patterns := range map[*string][]string{
		&m.server:    {"/usr/sbin/mariadbd", "/usr/libexec/mariadbd", "/usr/bin/mariadbd"},
		&m.installer: {"/usr/bin/mariadb-install-db"},
		&m.client:    {"/usr/bin/mariadb"},
	} {
		if *program, err = newest(patterns...); err != nil {
			return m, nil, err
		}
	}
	a, err = unprivileged("mysql", "nobody")
	return m, a, err
}

func (m mariaDB) prepare(ctx context.Context, s *Server) error {
	return finish(s.run(ctx, m.installer, "--no-defaults", "--datadir="+s.path("data"), "--auth-root-authentication-method=normal",
		"--skip-test-db", "--skip-name-resolve"))
}

func (m mariaDB) program(s *Server) (string, []string) {
	return m.server, append([]string{"--no-defaults", "--datadir=" + s.path("data"), "--socket=" + s.path("socket"),
		"--pid-file=" + s.path("pid"), "--port=" + strconv.Itoa(s.port), "--bind-address=127.0.0.1", "--skip-name-resolve"},
		m.options...)
}

func (m mariaDB) execute(ctx context.Context, s *Server, sql string) error {
	return finish(s.run(ctx, m.client, "--no-defaults", "--socket="+s.path("socket"), "--user=root", "--execute="+sql))
}

func (m mariaDB) url(s *Server, database string) string {
	return fmt.Sprintf("mysql+pymysql://root@localhost/%s?charset=utf8&unix_socket=%s", database, s.path("socket"))
}
