// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
)

// fault is what an error of a driver means for us.
type fault int

const (
	faultDown    fault = iota // the database is full, read-only or ill: give up
	faultLost                 // the connection broke: what was not committed may be tried again
	faultRetry                // rolled back for another's sake: try again
	faultExists               // a key is taken
	faultInvalid              // a value doesn't fit
	faultSchema               // a table or column is missing
)

// errStale: what a transaction read has changed before it wrote.
var errStale = errors.New("the record changed meanwhile")

// judge reads a driver's error. What is not known counts as a lost connection: it's the network's or the driver's.
func judge(err error) fault {
	if errors.Is(err, errStale) {
		return faultRetry
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return judgePostgreSQL(e)
	}
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return judgeMariaDB(e)
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return judgeSQLite(e)
	}
	return faultLost
}

// judgePostgreSQL knows SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html).
func judgePostgreSQL(e *pgconn.PgError) fault {
	switch {
	case e.Code == "23505":
		return faultExists
	case e.Code == "42P01", e.Code == "42703":
		return faultSchema
	case e.Code == "55P03", strings.HasPrefix(e.Code, "40"):
		return faultRetry
	case e.Code == "0A000" && strings.Contains(e.Message, "cached plan"):
		return faultRetry
	case strings.HasPrefix(e.Code, "22"), strings.HasPrefix(e.Code, "23"):
		return faultInvalid
	case strings.HasPrefix(e.Code, "08"), strings.HasPrefix(e.Code, "57P"):
		return faultLost
	}
	return faultDown
}

// noGaleraNode is how a node of Galera answers that has lost the others (ER_UNKNOWN_COM_ERROR, "WSREP has not yet
// prepared node for application use"). The connection stays open, and a proxy leads a new one to another node.
const noGaleraNode = 1047

// leaveNode gives up the connections to a node that has left its cluster.
func (p *pool) leaveNode(err error) {
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok && e.Number == noGaleraNode {
		// Idle connections are closed when there are to be none; those in use are told by themselves.
		p.db.SetMaxIdleConns(-1)
		p.db.SetMaxIdleConns(p.idle)
	}
}

// judgeMariaDB knows the server's error numbers (https://mariadb.com/kb/en/mariadb-error-code-reference/). Galera reports a failed
// certification as a deadlock.
func judgeMariaDB(e *mysql.MySQLError) fault {
	switch e.Number {
	case 1062:
		return faultExists
	case 1146, 1054:
		return faultSchema
	case 1213, 1205, 1020, 1180, 1615, 1243:
		return faultRetry
	case 1406, 1264, 1366, 1048, 1292, 4025:
		return faultInvalid
	case 1053, 1927, 1317, noGaleraNode:
		return faultLost
	}
	return faultDown
}

// judgeSQLite knows result codes (https://www.sqlite.org/rescode.html).
func judgeSQLite(e *sqlite.Error) fault {
	const (
		sqlError, busy, locked, schema, constraint = 1, 5, 6, 17, 19
		primaryKey, unique                         = 1555, 2067
	)
	switch e.Code() & 0xff {
	case busy, locked, schema:
		return faultRetry
	case constraint:
		if e.Code() == primaryKey || e.Code() == unique {
			return faultExists
		}
		return faultInvalid
	case sqlError:
		if strings.Contains(e.Error(), "no such table") || strings.Contains(e.Error(), "no such column") {
			return faultSchema
		}
	}
	return faultDown
}

// explain turns any error of a call into one that callers know. Errors of the caller's context stay what they are.
func explain(ctx context.Context, err error) error {
	switch {
	case err == nil || isOurs(err):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	switch judge(err) {
	case faultExists:
		return fmt.Errorf("%w: %w", ErrExists, err)
	case faultInvalid:
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	case faultSchema:
		return fmt.Errorf("%w: %w", ErrSchemaOld, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// isOurs says whether callers know the error already.
func isOurs(err error) bool {
	for _, known := range []error{ErrNotFound, ErrExists, ErrConflict, ErrInvalid, ErrUnavailable, ErrSchemaOld, ErrSchemaNew} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
