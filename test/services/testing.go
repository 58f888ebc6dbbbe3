// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
)

// Databases are the servers that the tests of one package share. Each is started when the first test asks for it. Call Main from TestMain, which
// stops them.
type Databases struct {
	postgreSQL shared
	mariaDB    shared
	names      atomic.Int64
}

// shared is a server that is started once.
type shared struct {
	once   sync.Once
	server *Server
	err    error
}

// Main runs the tests of a package, stops the servers, failed tests or not, and returns the exit code.
func (d *Databases) Main(m *testing.M) int {
	code := m.Run()
	for _, s := range []*Server{d.postgreSQL.server, d.mariaDB.server} {
		if s == nil {
			continue
		}
		if err := s.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop a test's server:", err)
			code = max(code, 1)
		}
	}
	return code
}

// PostgreSQL returns the URL of a new database on the shared PostgreSQL.
func (d *Databases) PostgreSQL(t testing.TB) string {
	t.Helper()
	return d.database(t, &d.postgreSQL, StartPostgreSQL)
}

// MariaDB returns the URL of a new database on the shared MariaDB.
func (d *Databases) MariaDB(t testing.TB) string {
	t.Helper()
	return d.database(t, &d.mariaDB, StartMariaDB)
}

func (d *Databases) database(t testing.TB, s *shared, start func(context.Context) (*Server, error)) string {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it needs a database server")
	}
	s.once.Do(func() { s.server, s.err = start(context.Background()) })
	Need(t, s.err)
	url, err := s.server.Database(t.Context(), fmt.Sprintf("muster_%d", d.names.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// Need skips the test, loudly, if a service is not installed; where all must be (CI=true or MUSTER_TEST_REQUIRE=1), and for any other error,
// it fails the test.
func Need(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrMissing) && os.Getenv("CI") != "true" && os.Getenv("MUSTER_TEST_REQUIRE") != "1":
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	default:
		t.Fatal(err)
	}
}

// EachDatabase runs a test on a PostgreSQL and on a MariaDB of its own, which it
// may kill and start again: each with the URL of an empty database.
func EachDatabase(t *testing.T, test func(t *testing.T, server *Server, url string)) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it needs database servers")
	}
	for name, start := range map[string]func(context.Context) (*Server, error){
		"postgresql": StartPostgreSQL, "mariadb": StartMariaDB,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, err := start(t.Context())
			Need(t, err)
			t.Cleanup(func() {
				if err := server.Stop(); err != nil {
					t.Error(err)
				}
			})
			url, err := server.Database(t.Context(), "muster")
			if err != nil {
				t.Fatal(err)
			}
			test(t, server, url)
		})
	}
}
