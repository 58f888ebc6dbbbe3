// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"
)

// engine is a kind of database.
type engine string

const (
	engineSQLite     engine = "sqlite"
	enginePostgreSQL engine = "postgresql"
	engineMariaDB    engine = "mariadb"
)

// connectTimeout limits the making of one connection.
const connectTimeout = 10 * time.Second

// rebind writes ? placeholders as the engine wants them. Our texts hold no ? in literals.
func (e engine) rebind(text string) string {
	if e != enginePostgreSQL {
		return text
	}
	var b strings.Builder
	b.Grow(len(text) + 64)
	n := 0
	for _, r := range text {
		if r != '?' {
			b.WriteRune(r)
			continue
		}
		n++
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n))
	}
	return b.String()
}

// insertInto begins an INSERT. A taken key fails the transaction, so that SQLite need not be able to undo the statement alone, for which
// it would copy each page before it changes it (https://www.sqlite.org/lang_conflict.html).
func (e engine) insertInto() string {
	if e == engineSQLite {
		return "INSERT OR FAIL INTO "
	}
	return "INSERT INTO "
}

// shareLock ends a SELECT whose rows must not change before the transaction ends. SQLite has only one writer.
func (e engine) shareLock() string {
	switch e {
	case enginePostgreSQL:
		return " FOR SHARE"
	case engineMariaDB:
		return " LOCK IN SHARE MODE"
	}
	return ""
}

// updateLock ends a SELECT whose rows this transaction is about to change. SQLite has only one writer.
func (e engine) updateLock() string {
	if e == engineSQLite {
		return ""
	}
	return " FOR UPDATE"
}

// clock asks for the server's time, in seconds since 1970.
func (e engine) clock() string {
	switch e {
	case enginePostgreSQL:
		return "SELECT CAST(FLOOR(EXTRACT(EPOCH FROM clock_timestamp())) AS bigint)"
	case engineMariaDB:
		return "SELECT UNIX_TIMESTAMP()"
	}
	return "SELECT CAST(strftime('%s', 'now') AS INTEGER)"
}

// connect returns the pools for writing and for reading; the same one but for SQLite. A server that says nothing for longer than silence is
// given up, whatever it was asked. galera becomes true when a server turns out to be a node of Galera.
func (l location) connect(mustExist bool, silence time.Duration, galera *atomic.Bool) (writer, reader *sql.DB, err error) {
	switch l.engine {
	case engineSQLite:
		return l.connectSQLite(mustExist)
	case enginePostgreSQL:
		writer, err = l.connectPostgreSQL() // goes by the context always
	default:
		writer, err = l.connectMariaDB(silence, galera)
	}
	return writer, writer, err
}

// connectSQLite makes the file, for its owner only, if it isn't there and needn't be (SQLite gives the files beside it the same mode).
// A power cut must not take a commit back: synchronous=FULL (https://www.sqlite.org/pragma.html#pragma_synchronous).
func (l location) connectSQLite(mustExist bool) (writer, reader *sql.DB, err error) {
	path, err := filepath.Abs(l.path)
	if err != nil {
		return nil, nil, err
	}
	flags := os.O_RDWR
	if !mustExist {
		flags |= os.O_CREATE
	}
	file, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := file.Close(); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	dsn := func(options url.Values, pragmas ...string) string {
		options["_pragma"] = append([]string{"busy_timeout(10000)"}, pragmas...)
		return (&url.URL{Scheme: "file", Path: path, RawQuery: options.Encode()}).String()
	}
	w, err := sqlite.NewConnector(dsn(url.Values{"_txlock": {"immediate"}},
		"journal_mode(WAL)", "synchronous(FULL)", "wal_autocheckpoint(12000)", "journal_size_limit(67108864)"))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	r, err := sqlite.NewConnector(dsn(url.Values{}, "query_only(1)", "synchronous(FULL)"))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return sql.OpenDB(w), sql.OpenDB(r), nil
}

// connectPostgreSQL never takes settings from the environment's PG variables but for what the URL leaves open.
func (l location) connectPostgreSQL() (*sql.DB, error) {
	host := l.host
	if l.socket != "" {
		host = l.socket
	}
	// pgx must be given a parsed text. The real values are set below, so that no quoting can go wrong.
	cfg, err := pgx.ParseConfig("host=localhost sslmode=disable")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	port, err := strconv.ParseUint(l.port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%w: port", ErrInvalid)
	}
	cfg.Host, cfg.Port, cfg.Database, cfg.Password = host, uint16(port), l.database, l.password
	if l.user != "" {
		cfg.User = l.user
	}
	cfg.Fallbacks, cfg.ConnectTimeout = nil, connectTimeout
	cfg.RuntimeParams["application_name"] = "muster"
	cfg.RuntimeParams["default_transaction_isolation"] = "read committed"
	// Every query has its index. A plan made and kept while the tables were small would read them whole when they have grown.
	cfg.RuntimeParams["enable_seqscan"] = "off"
	if l.socket == "" {
		if cfg.TLSConfig, err = l.tlsConfig(); err != nil {
			return nil, err
		}
		if l.tls == tlsPrefer {
			plain := cfg.Copy()
			plain.TLSConfig = nil
			return sql.OpenDB(fallback{stdlib.GetConnector(*cfg), stdlib.GetConnector(*plain)}), nil
		}
	}
	return stdlib.OpenDB(*cfg), nil
}

// fallback connects in clear to a PostgreSQL server that has no TLS (libpq's sslmode=prefer).
type fallback struct{ first, second driver.Connector }

// Connect is driver.Connector's.
func (f fallback) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := f.first.Connect(ctx)
	if err != nil && strings.Contains(err.Error(), "server refused TLS connection") {
		return f.second.Connect(ctx)
	}
	return conn, err
}

// Driver is driver.Connector's.
func (f fallback) Driver() driver.Driver { return f.first.Driver() }

// connectMariaDB makes affected rows mean matched rows, and refuses values that don't fit instead of cutting them. The
// driver heeds no context while it commits or rolls back, so that only silence ends its wait for a server that is cut
// off; 0: nothing does.
func (l location) connectMariaDB(silence time.Duration, galera *atomic.Bool) (*sql.DB, error) {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.DBName = l.user, l.password, l.database
	cfg.Net, cfg.Addr = "tcp", net.JoinHostPort(l.host, l.port)
	if l.socket != "" {
		cfg.Net, cfg.Addr = "unix", l.socket
	}
	cfg.Timeout, cfg.ReadTimeout, cfg.WriteTimeout = connectTimeout, silence, silence
	cfg.ClientFoundRows, cfg.RejectReadOnly = true, true
	cfg.Logger = &mysql.NopLogger{}
	cfg.Params = map[string]string{"sql_mode": "'STRICT_ALL_TABLES'", "innodb_lock_wait_timeout": "10"}
	if err := cfg.Apply(mysql.Charset("utf8mb4", "")); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if l.socket == "" {
		var err error
		if cfg.TLS, err = l.tlsConfig(); err != nil {
			return nil, err
		}
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return sql.OpenDB(galeraConnector{connector, galera}), nil
}

// tlsConfig returns what the URL asks for, nil for connections in clear.
func (l location) tlsConfig() (*tls.Config, error) {
	if l.tls == tlsOff {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: l.host}
	if l.ca != "" {
		pem, err := os.ReadFile(l.ca)
		if err != nil {
			return nil, fmt.Errorf("CA of the database: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA of the database: %w: %s holds no certificate in PEM", ErrInvalid, l.ca)
		}
	}
	if l.cert != "" {
		pair, err := tls.LoadX509KeyPair(l.cert, l.key)
		if err != nil {
			return nil, fmt.Errorf("client certificate for the database: %w: %s and %s don't hold a pair in PEM",
				ErrInvalid, l.cert, l.key)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	if l.tls != tlsVerify {
		cfg.InsecureSkipVerify = true
	}
	if l.tls == tlsVerifyCA {
		cfg.VerifyConnection = func(state tls.ConnectionState) error { return verifyChain(state, cfg.RootCAs) }
	}
	return cfg, nil
}

// verifyChain checks the server's certificate but not its name.
func verifyChain(state tls.ConnectionState, roots *x509.CertPool) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the database shows no certificate")
	}
	options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, cert := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(cert)
	}
	_, err := state.PeerCertificates[0].Verify(options)
	return err
}
