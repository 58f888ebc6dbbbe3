// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

// The limits of a page.
const (
	DefaultPageLimit = 100
	MaxPageLimit     = 1000
)

// Page is the part of a list that a call returns.
type Page struct {
	After string // the last key seen, exclusive; empty: from the start
	Limit int    // 0: DefaultPageLimit; at most MaxPageLimit
}

// Filter selects records of a list; empty fields select all. A field that the listed kind doesn't have is refused with ErrInvalid.
type Filter struct {
	ProjectID  string
	UserID     string
	InstanceID string
}
