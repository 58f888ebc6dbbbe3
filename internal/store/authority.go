// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import "time"

// Role says whose certificates an authority's key signs.
type Role string

// The two roles of a key.
const (
	RoleUser Role = "user"
	RoleHost Role = "host"
)

// KeyState says what an authority's key is still good for.
type KeyState string

// The states of a key, in the order in which it passes them.
const (
	KeyActive  KeyState = "active"  // signs, and is trusted
	KeyTrusted KeyState = "trusted" // no longer signs, is trusted
	KeyRevoked KeyState = "revoked" // neither
)

// Authority is a project's pair of certificate authorities.
type Authority struct {
	ProjectID string
	Name      string // the project's name, at most 255 bytes
	CreatedAt time.Time
	RetiredAt time.Time // zero: live
	Keys      []AuthorityKey
}

// AuthorityKey is one generation of an authority's key for one role.
type AuthorityKey struct {
	ID         string // 32 random hex digits
	ProjectID  string
	Role       Role
	Generation int // 1, 2, ...; unique for a project and role
	Algorithm  string
	PublicKey  string // an authorized_keys line without newline
	Handle     []byte // how custody finds the private key; opaque here
	CreatedAt  time.Time
	State      KeyState
}
