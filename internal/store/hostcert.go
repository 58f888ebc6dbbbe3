// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import "time"

// HostCert is the record of an instance's host certificate.
type HostCert struct {
	Serial         uint64
	ProjectID      string
	InstanceID     string
	Hostname       string
	Principals     []string
	Fingerprint    string // of the certified key, SHA256:...
	MD5            string // of the same key, MD5:aa:bb:...
	KeyID          string
	AuthorityKeyID string
	Cert           string // an authorized_keys line without newline
	CreatedAt      time.Time
	ExpiresAt      time.Time
	RevokedAt      time.Time // zero: not revoked
}
