// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package store keeps Muster's records in SQLite, PostgreSQL or MariaDB: authorities, instances with their host tokens,
// user and host certificates, revocations, enrolments with the objects made for them, addresses of instances, the audit trail and leases.
//
// A call that writes returns nil only after the database has committed, durably. Writes of simultaneous requests share
// one transaction. The package never decides who may do what, never signs, and never sees a private key or a host token in clear:
// it gets them sealed or hashed.
//
// IDs are canonical (32 lower-case hex digits; users may have 64). Times are UTC with a resolution of one microsecond; the zero time
// means "not". Every error of a database is one of the Err values of this package, or the context's own.
package store
