// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import "time"

// RevocationKind says what an entry of the revocation log names.
type RevocationKind string

// The kinds of entries.
const (
	RevokedSerial       RevocationKind = "serial"
	RevokedKey          RevocationKind = "key"
	RevokedKeyID        RevocationKind = "key_id"
	RevokedAuthorityKey RevocationKind = "authority_key"
)

// Revocation is one entry of a project's revocation log. Entries are ordered by version, then Seq; who has all up to a
// version needs only the later ones.
type Revocation struct {
	ProjectID      string
	Version        uint64 // of the project's log, from 1
	Seq            int    // within the version, from 0
	Kind           RevocationKind
	AuthorityKeyID string    // the key that signed; the revoked key itself for authority_key; empty for key
	Serial         uint64    // for serial
	Value          string    // fingerprint SHA256:... for key, the key ID for key_id
	ExpiresAt      time.Time // from when the entry is of no use; zero: never
	CreatedAt      time.Time
	Reason         string
	By             string // user ID, or the name of the part of Muster that did it
}

// RevocationOrder says what to revoke in a project. Exactly one of Serial, UserID, Fingerprint, KeyID and AuthorityKeyID is set.
type RevocationOrder struct {
	ProjectID      string
	Serial         uint64 // a user or host certificate
	UserID         string // all the user's certificates that have not expired
	Fingerprint    string // SHA256:... of a user's or host's key
	KeyID          string
	AuthorityKeyID string
	Reason         string
	By             string
	At             time.Time // zero: now
}

// RevocationResult says what Revoke did.
type RevocationResult struct {
	Version      uint64 // of the project's log after the call
	Certificates int    // how many certificates were marked
	Already      bool   // all of it was revoked before; nothing was written
}
