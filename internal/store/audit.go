// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import "time"

// Audit is one entry of the audit trail: who did what, to what, and how it ended.
type Audit struct {
	ID           string // UUIDv7 in hex, so that entries order by time; made by the store if empty
	At           time.Time
	Actor        string // user ID
	ActorName    string
	ActorProject string
	Action       string
	Outcome      string // "ok", "refused" or "failed"
	ObjectKind   string
	ObjectID     string
	ProjectID    string
	Reason       string
	RequestID    string
	Remote       string
	Details      map[string]string
}

// AuditFilter selects entries of the audit trail; empty fields select all.
type AuditFilter struct {
	ProjectID string
	Actor     string
	Action    string
	ObjectID  string
	Since     time.Time // inclusive
	Until     time.Time // exclusive
}
