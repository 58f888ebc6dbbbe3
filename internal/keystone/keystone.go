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
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	// ErrInvalidToken means that Keystone does not know the token or does not
	// accept it, or that it has expired or was revoked, or that it can be no token
	// at all.
	ErrInvalidToken = errors.New("the token is not valid")
	// ErrBoundToken means that the token is good only beside a client certificate
	// (OAuth 2.0 mutual TLS, RFC 8705), which Muster does not ask for.
	ErrBoundToken = errors.New("the token is bound to a client certificate")
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
	Roles          []string // their names
	ExpiresAt      time.Time

	// Methods are how its holder proved to be the user.
	Methods []string
	// PasswordExpiresAt is when the user's password does. Zero: never, or it is none of Keystone's.
	PasswordExpiresAt time.Time
	// Credential is what the token was made with, if that narrows or lends it.
	Credential Credential
	// AccessRules are the only calls that the token is for; none: all.
	AccessRules []AccessRule
	// Federated is true for the token of somebody whom an identity provider knows.
	Federated bool
	// GroupIDs are the groups that a mapping has put that person in, for this token alone.
	GroupIDs []string
}

// OwnLogin reports whether a user of Keystone's own logged in, in person. Any
// other token was lent, or rests on what an identity provider said at the time.
// A method that is not known here is taken for such a one, and so is none at all,
// for Keystone forgets that a token was made with an EC2 credential.
func (t *Token) OwnLogin() bool {
	for _, method := range t.Methods {
		if !slices.Contains(ownMethods, method) {
			return false
		}
	}
	return len(t.Methods) > 0 && !t.Federated && t.Credential == Credential{}
}

// ownMethods are the methods of Keystone's [auth] by which nobody but the user
// can log in. "token" keeps the methods of the token that it was made from.
var ownMethods = []string{"password", "totp", "token", "external", "kerberos", "x509"}

// User is a Keystone user.
type User struct {
	ID, Name, DomainID string
	Enabled            bool
}

// Project is a Keystone project.
type Project struct {
	ID, Name, DomainID string
	Enabled            bool
	// ParentID is the project above it, or its domain.
	ParentID string
}
