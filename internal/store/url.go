// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// maxURL bounds the length of a database URL.
const maxURL = 4096

// location is what a database URL says, whatever the way in which it was written.
type location struct {
	engine   engine
	path     string // SQLite: the file
	user     string
	password string
	host     string // empty with a socket
	port     string
	socket   string // MySQL: the file; PostgreSQL: the folder
	database string
	tls      tlsMode
	ca       string
	cert     string
	key      string
}

// tlsMode says how a connection is protected.
type tlsMode string

const (
	tlsOff      tlsMode = ""            // in clear
	tlsPrefer   tlsMode = "prefer"      // encrypted if the server can
	tlsRequire  tlsMode = "require"     // encrypted, whoever answers
	tlsVerifyCA tlsMode = "verify-ca"   // and the certificate is signed by the CA
	tlsVerify   tlsMode = "verify-full" // and names the host
)

var errURL = errors.New("database URL")

func urlError(format string, args ...any) error {
	return fmt.Errorf("%w: %s: %w", errURL, fmt.Sprintf(format, args...), ErrInvalid)
}

// parseURL reads a database URL as SQLAlchemy writes it (RFC 3986 with dialect+driver as the scheme,
// https://docs.sqlalchemy.org/en/20/core/engines.html). The driver's name is accepted and means nothing here. Errors never hold the
// URL, for it has a password.
func parseURL(text string) (location, error) {
	if len(text) > maxURL {
		return location{}, urlError("longer than %d bytes", maxURL)
	}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return location{}, urlError("no scheme; write sqlite:////path, postgresql://... or mysql+pymysql://...")
	}
	if strings.ContainsAny(rest, "\x00\r\n") {
		return location{}, urlError("holds a control character")
	}
	dialect, driver, _ := strings.Cut(scheme, "+")
	if driver != "" && strings.Trim(driver, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return location{}, urlError("the driver after + is not a name")
	}
	switch dialect {
	case "sqlite":
		return parseSQLite(rest)
	case "postgresql", "postgres":
		return parseServer(enginePostgreSQL, rest)
	case "mysql", "mariadb":
		return parseServer(engineMariaDB, rest)
	}
	return location{}, urlError("unknown scheme; known are sqlite, postgresql, mysql and mariadb")
}

// parseSQLite reads /path after sqlite://, where SQLAlchemy's third slash only ends the empty host: sqlite:///a is relative,
// sqlite:////a absolute. A database in memory is refused: its records would die with the process.
func parseSQLite(rest string) (location, error) {
	path, query, _ := strings.Cut(rest, "?")
	if query != "" {
		return location{}, urlError("options after ? are not known for SQLite")
	}
	path, err := url.PathUnescape(path)
	if err != nil {
		return location{}, urlError("a bad %%-escape in the path")
	}
	if strings.Contains(path, "\x00") {
		return location{}, urlError("holds a control character")
	}
	if !strings.HasPrefix(path, "/") {
		return location{}, urlError("SQLite has no host; write sqlite:////absolute/path")
	}
	path = path[1:]
	if path == "" || path == ":memory:" {
		return location{}, urlError("SQLite needs a file; write sqlite:////absolute/path")
	}
	return location{engine: engineSQLite, path: filepath.Clean(path)}, nil
}

// parseServer reads user:password@host:port/database?options.
func parseServer(e engine, rest string) (location, error) {
	u, err := url.Parse("db://" + rest)
	if err != nil {
		return location{}, urlError("can't be read; characters like @ : / in the password are written as %%40 %%3A %%2F")
	}
	loc := location{engine: e, user: u.User.Username(), host: u.Hostname(), port: u.Port(),
		database: strings.TrimPrefix(u.Path, "/")}
	loc.password, _ = u.User.Password()
	if u.Fragment != "" {
		return location{}, urlError("# in a password is written as %%23")
	}
	if loc.database == "" || strings.ContainsAny(loc.database, "/\x00") {
		return location{}, urlError("the name of the database is missing or wrong; it stands after the host: .../muster")
	}
	options, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return location{}, urlError("the options after ? can't be read")
	}
	if e == enginePostgreSQL {
		loc.tls = tlsPrefer
	}
	for name, values := range options {
		if len(values) != 1 || strings.ContainsAny(values[0], "\x00\r\n") {
			return location{}, urlError("option %q must have one plain value", shorten(name))
		}
		if err := loc.option(name, values[0]); err != nil {
			return location{}, err
		}
	}
	return loc.complete()
}

// option takes one option; those of Python drivers that say how text is encoded are known and ignored.
func (l *location) option(name, value string) error {
	switch {
	case name == "host" && l.host == "" && l.socket == "" && l.engine == enginePostgreSQL:
		if filepath.IsAbs(value) {
			l.socket = value
		} else {
			l.host = value
		}
	case name == "port" && l.port == "" && l.engine == enginePostgreSQL:
		l.port = value
	case name == "unix_socket" && l.engine == engineMariaDB:
		l.socket = value
	case name == "sslmode" && l.engine == enginePostgreSQL:
		return l.postgresTLS(value)
	case name == "sslrootcert" && l.engine == enginePostgreSQL, name == "ssl_ca" && l.engine == engineMariaDB:
		l.ca = value
	case name == "sslcert" && l.engine == enginePostgreSQL, name == "ssl_cert" && l.engine == engineMariaDB:
		l.cert = value
	case name == "sslkey" && l.engine == enginePostgreSQL, name == "ssl_key" && l.engine == engineMariaDB:
		l.key = value
	case strings.HasPrefix(name, "ssl_verify_") || name == "ssl":
		return l.mariaTLS(name, value)
	case name == "charset", name == "use_unicode", name == "client_encoding", name == "binary_prefix":
	default:
		return urlError("unknown option %q", shorten(name))
	}
	return nil
}

// postgresTLS takes libpq's sslmode (https://www.postgresql.org/docs/current/libpq-ssl.html).
func (l *location) postgresTLS(value string) error {
	switch value {
	case "disable":
		l.tls = tlsOff
	case "allow", "prefer":
		l.tls = tlsPrefer
	case "require", "verify-ca", "verify-full":
		l.tls = tlsMode(value)
	default:
		return urlError("sslmode is one of disable, prefer, require, verify-ca, verify-full")
	}
	return nil
}

// mariaTLS takes PyMySQL's ssl options. A CA alone verifies the certificate and the name, which PyMySQL leaves to the option
// ssl_verify_identity.
func (l *location) mariaTLS(name, value string) error {
	on, err := strconv.ParseBool(strings.ToLower(value))
	if err != nil || l.engine != engineMariaDB {
		return urlError("option %q is true or false, and for MariaDB", shorten(name))
	}
	switch name {
	case "ssl":
		if on && l.tls == tlsOff {
			l.tls = tlsRequire
		}
	case "ssl_verify_cert":
		if on && l.tls != tlsVerify {
			l.tls = tlsVerifyCA
		}
	case "ssl_verify_identity":
		if on {
			l.tls = tlsVerify
		}
	default:
		return urlError("unknown option %q", shorten(name))
	}
	return nil
}

// complete fills in what the URL left to defaults, and refuses what contradicts.
func (l location) complete() (location, error) {
	if l.engine == engineMariaDB && l.ca != "" && (l.tls == tlsOff || l.tls == tlsRequire) {
		l.tls = tlsVerify
	}
	if l.engine == enginePostgreSQL && l.ca != "" && l.tls == tlsRequire {
		l.tls = tlsVerifyCA // as in libpq, where a root certificate is not there for nothing
	}
	if (l.cert == "") != (l.key == "") {
		return location{}, urlError("a client certificate and its key must be given together")
	}
	if l.socket != "" {
		if !filepath.IsAbs(l.socket) {
			return location{}, urlError("a socket is an absolute path")
		}
		l.socket = filepath.Clean(l.socket)
		if l.engine == engineMariaDB {
			l.host, l.port = "", ""
			return l, nil
		}
	} else if l.host == "" {
		l.host = "localhost"
	}
	if l.port == "" {
		l.port = map[engine]string{enginePostgreSQL: "5432", engineMariaDB: "3306"}[l.engine]
	}
	if n, err := strconv.Atoi(l.port); err != nil || n < 1 || n > 65535 {
		return location{}, urlError("the port is a number from 1 to 65535")
	}
	return l, nil
}

// String names the database for logs, without user and password.
func (l location) String() string {
	switch {
	case l.engine == engineSQLite:
		return "sqlite " + l.path
	case l.socket != "":
		return fmt.Sprintf("%s %s at %s", l.engine, l.database, l.socket)
	}
	return fmt.Sprintf("%s %s at %s", l.engine, l.database, net.JoinHostPort(l.host, l.port))
}

// shorten bounds foreign text for a message.
func shorten(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}
