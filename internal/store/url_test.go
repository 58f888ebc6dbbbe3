// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURL(t *testing.T) {
	for text, want := range map[string]location{
		"sqlite:////var/lib/muster/muster.db":   {engine: engineSQLite, path: "/var/lib/muster/muster.db"},
		"sqlite:///muster.db":                   {engine: engineSQLite, path: "muster.db"},
		"sqlite+pysqlite:////a%20b/x?y.db":      {},
		"sqlite:////a%20b/c.db":                 {engine: engineSQLite, path: "/a b/c.db"},
		"sqlite://":                             {},
		"sqlite:///:memory:":                    {},
		"sqlite://host/x.db":                    {},
		"postgresql://muster:p%40ss@db/muster":  {engine: enginePostgreSQL, user: "muster", password: "p@ss", host: "db", port: "5432", database: "muster", tls: tlsPrefer},
		"postgresql+psycopg2://u@[::1]:6543/m":  {engine: enginePostgreSQL, user: "u", host: "::1", port: "6543", database: "m", tls: tlsPrefer},
		"postgresql+asyncpg:///m?host=/run/pg":  {engine: enginePostgreSQL, socket: "/run/pg", port: "5432", database: "m", tls: tlsPrefer},
		"postgres://db/m?sslmode=verify-full":   {engine: enginePostgreSQL, host: "db", port: "5432", database: "m", tls: tlsVerify},
		"postgresql://db/m?sslmode=bad":         {},
		"postgresql://db/m?charset=utf8":        {engine: enginePostgreSQL, host: "db", port: "5432", database: "m", tls: tlsPrefer},
		"mysql+pymysql://u:p@db/m?charset=utf8": {engine: engineMariaDB, user: "u", password: "p", host: "db", port: "3306", database: "m"},
		"mariadb+pymysql://u@db:3307/m":         {engine: engineMariaDB, user: "u", host: "db", port: "3307", database: "m"},
		"mysql://u@localhost/m?unix_socket=/s":  {engine: engineMariaDB, user: "u", socket: "/s", database: "m"},
		"mysql://u@db/m?ssl_ca=/ca.pem":         {engine: engineMariaDB, user: "u", host: "db", port: "3306", database: "m", tls: tlsVerify, ca: "/ca.pem"},
		"mysql://db/m?ssl_verify_cert=true":     {engine: engineMariaDB, host: "db", port: "3306", database: "m", tls: tlsVerifyCA},
		"mysql://db/m?ssl_cert=/c":              {},
		"mysql://db/m?nonsense=1":               {},
		"mysql://db/m?unix_socket=s":            {},
		"mysql://db:0/m":                        {},
		"mysql://db":                            {},
		"mysql://db/a/b":                        {},
		"mysql://u:p#q@db/m":                    {},
		"oracle://db/m":                         {},
		"muster.db":                             {},
	} {
		t.Run(text, func(t *testing.T) {
			got, err := parseURL(text)
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(location{})); diff != "" {
				t.Errorf("wanted -, got +:\n%s", diff)
			}
			if (want == location{}) != (err != nil) || (err != nil && !errors.Is(err, ErrInvalid)) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestURLErrorsHideThePassword(t *testing.T) {
	const secret = "geheim"
	for _, text := range []string{
		"mysql://u:" + secret + "@db:x/m", "mysql://u:" + secret + "%zz@db/m", "postgresql://u:" + secret + "@db", "x://u:" + secret + "@db/m",
		secret, "mysql://u:" + secret + "#@db/m", "postgresql+" + secret + "@!://db/m",
	} {
		if _, err := parseURL(text); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("error %v", err)
		}
	}
	loc, err := parseURL("mysql://u:" + secret + "@db/m")
	if err != nil || strings.Contains(loc.String(), secret) {
		t.Errorf("%v, %v", loc, err)
	}
}

func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{
		"sqlite:////var/lib/muster.db", "postgresql+psycopg2://u:p@h:1/d?sslmode=require", "mysql+pymysql://u:p@[::1]/d?unix_socket=/s&charset=utf8",
		"mysql://h/d?ssl_ca=a&ssl_verify_identity=true", "postgresql://%00/%2f", "://", "sqlite:///%00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		loc, err := parseURL(text)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || loc != (location{}) {
				t.Errorf("%v, %v", loc, err)
			}
			return
		}
		if strings.ContainsAny(loc.path+loc.database+loc.socket, "\x00") {
			t.Errorf("zero byte in %q", loc)
		}
		if loc.engine == engineSQLite && loc.path == "" || loc.engine != engineSQLite && loc.host == "" && loc.socket == "" {
			t.Errorf("nowhere: %q", loc)
		}
	})
}

// TestPreferredTLS: a server without TLS is talked to in clear, unless the URL asks for more.
func TestPreferredTLS(t *testing.T) {
	plain, asked, _ := strings.Cut(databases.PostgreSQL(t), "?")
	if asked != "sslmode=disable" {
		t.Fatalf("the server may have TLS: %s", asked)
	}
	open(t, Config{URL: plain})
	open(t, Config{URL: plain + "?sslmode=prefer"})
	for _, mode := range []string{"require", "verify-ca", "verify-full"} {
		_, err := Open(t.Context(), Config{URL: plain + "?sslmode=" + mode})
		isError(t, err, ErrUnavailable)
	}
}
