// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import "time"

// InstanceState says whether the instance is still there.
type InstanceState string

// The states of an instance.
const (
	InstanceLive    InstanceState = "live"
	InstanceDeleted InstanceState = "deleted"
)

// Instance is an instance of the cloud that asked for an identity.
type Instance struct {
	ID        string
	ProjectID string
	Hostname  string
	State     InstanceState // empty when created: live
	CreatedAt time.Time
	DeletedAt time.Time
	Token     HostToken
}

// HostToken is an instance's one-time token for a host certificate. The token itself is never stored.
type HostToken struct {
	Hash            string // hex SHA-256 of the token
	Sealed          []byte // the token, sealed by custody
	CreatedAt       time.Time
	ExpiresAt       time.Time
	UsedAt          time.Time // zero: not used
	UsedFingerprint string    // SHA256:... of the host key that it was spent on
}
