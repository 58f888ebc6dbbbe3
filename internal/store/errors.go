// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import "errors"

// What can go wrong, for errors.Is. The wrapped text says more.
var (
	// ErrNotFound: no such record, or none that the call may act on.
	ErrNotFound = errors.New("not found")
	// ErrExists: a record with this key is there already.
	ErrExists = errors.New("exists already")
	// ErrConflict: the record is in a state that forbids the call.
	ErrConflict = errors.New("conflicts with what is recorded")
	// ErrInvalid: the caller's value can't be stored (too long, no selection, a page too large).
	ErrInvalid = errors.New("invalid value")
	// ErrUnavailable: the database is away, locked for too long, or full. Nothing can be said about a write that was
	// under way. Try again later.
	ErrUnavailable = errors.New("database is unavailable")
	// ErrSchemaOld: the database must be brought up to date first.
	ErrSchemaOld = errors.New("the database is older than this program: run muster db upgrade")
	// ErrSchemaNew: a newer Muster has upgraded this database.
	ErrSchemaNew = errors.New("this program is older than the database: install the version that upgraded it, or a newer one")
)
