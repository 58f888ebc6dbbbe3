// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import "time"

// UserCert is the record of a user's certificate.
type UserCert struct {
	Serial         uint64
	ProjectID      string
	UserID         string
	UserName       string
	Principals     []string
	Fingerprint    string // of the certified key, SHA256:...
	MD5            string // of the same key, MD5:aa:bb:...
	KeyID          string
	AuthorityKeyID string
	Cert           string // an authorized_keys line without newline
	CreatedAt      time.Time
	ExpiresAt      time.Time
	RevokedAt      time.Time // zero: not revoked
	Profile        string    // hash of principals and options: equal means that the certificate allows the same
}
