// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package keystone asks Keystone v3 who holds a token, and which users,
// projects and roles exist. It keeps the answers for a short time, asks once
// for all who want the same thing at the same time, and tells "refused" from
// "cannot be asked".
//
// It never stores or logs a token, never changes anything in Keystone, and
// never decides what a caller may do: that is policy's work.
package keystone

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	// ErrInvalidToken means that Keystone does not know the token, or that it
	// has expired or was revoked, or that it can be no token at all.
	ErrInvalidToken = errors.New("the token is not valid")
	// ErrNotFound means that Keystone answered that the user or project does
	// not exist. It is never returned for any other trouble.
	ErrNotFound = errors.New("not found in Keystone")
	// ErrUnavailable means that Keystone could not be asked, or that it does
	// not let Muster's own service user in. Errors of this kind are
	// *UnavailableError.
	ErrUnavailable = errors.New("cannot ask Keystone")
	// ErrForbidden means that Muster's own service user may not make the call.
	// The message says which role it lacks.
	ErrForbidden = errors.New("the service user of Muster lacks rights in Keystone")
)

// UnavailableError says why Keystone could not be asked, and when to try again.
type UnavailableError struct {
	// RetryAfter is what to tell the client to wait: between 1 s and 60 s.
	RetryAfter time.Duration
	// Err is the cause; its text holds no secret.
	Err error
}

// Error implements error.
func (e *UnavailableError) Error() string { return fmt.Sprintf("%v: %v", ErrUnavailable, e.Err) }

// Unwrap makes errors.Is(err, ErrUnavailable) hold.
func (e *UnavailableError) Unwrap() []error { return []error{ErrUnavailable, e.Err} }

// Config is how to reach Keystone and who Muster is there. The names are those
// of keystoneauth's options ([keystone_authtoken], [service_credentials]).
type Config struct {
	// AuthURL is Keystone's address, with or without the final /v3.
	AuthURL string
	// AuthType is password, v3password or v3applicationcredential. Empty means
	// v3applicationcredential when one is given, else password.
	AuthType string

	Username, UserID, UserDomainName, UserDomainID             string
	Password                                                   string
	ProjectName, ProjectID, ProjectDomainName, ProjectDomainID string
	ApplicationCredentialID, ApplicationCredentialName         string
	ApplicationCredentialSecret                                string

	// CAFile holds the PEM certificates to trust in place of the system's.
	CAFile string
	// Insecure turns the check of Keystone's certificate off.
	Insecure bool

	// Timeout bounds each request to Keystone. Default 5 s.
	Timeout time.Duration
	// TokenCacheTime is how long an accepted token is believed without asking
	// again, never past its expiry. Default and maximum 5 min.
	TokenCacheTime time.Duration
	// TokenCacheSize is how many accepted tokens are kept. Default 20,000.
	TokenCacheSize int
	// RoleCacheTime is how long a user's roles, and whether the user and the
	// project are enabled, are believed. Default 5 s, maximum 30 s.
	RoleCacheTime time.Duration

	// Now tells the time. Default time.Now.
	Now func() time.Time
	// Logger gets warnings about Keystone's health. Default: discarded.
	Logger *slog.Logger
	// Registerer gets the metrics. Nil: none are registered.
	Registerer prometheus.Registerer
}

// Token is what Keystone says of a valid token. Callers share it: read only.
type Token struct {
	UserID, UserName, UserDomainID          string
	ProjectID, ProjectName, ProjectDomainID string
	// DomainID is set for a token scoped to a domain.
	DomainID string
	// SystemScope is true for system_scope:all.
	SystemScope bool
	// IsAdminProject is Keystone's is_admin_project; true where Keystone does not say.
	IsAdminProject bool
	// ApplicationCredentialID is set if the token was made with one.
	ApplicationCredentialID string
	// TrustID is set if the token was made with a trust (OS-TRUST).
	TrustID   string
	Roles     []string // their names
	ExpiresAt time.Time
}

// User is a Keystone user.
type User struct {
	ID, Name, DomainID string
	Enabled            bool
}

// Project is a Keystone project.
type Project struct {
	ID, Name, DomainID string
	Enabled            bool
}
