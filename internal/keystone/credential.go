// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// CredentialKind says what a Credential is.
type CredentialKind string

// The kinds of credentials that have an ID of their own and can be taken back.
const (
	ApplicationCredential CredentialKind = "application_credential"
	Trust                 CredentialKind = "trust"        // OS-TRUST
	AccessToken           CredentialKind = "access_token" // OS-OAUTH1
)

// Credential is what a token was made with in the place of its user's own
// login. It allows no more than it was made for, and can be taken back while
// the user stays.
type Credential struct {
	Kind CredentialKind
	ID   string
}

// credentialBody is the answer about any of them.
type credentialBody map[string]struct {
	ID        string `json:"id"`
	ExpiresAt string `json:"expires_at"`
}

// CredentialEnds returns when a user's credential ends; zero: never. The answer
// may be as old as those about roles.
// Errors: ErrNotFound if it is gone; ErrUnavailable, ErrForbidden, or that of ctx.
func (c *Client) CredentialEnds(ctx context.Context, userID string, credential Credential) (time.Time, error) {
	if !validID(userID) || !validID(credential.ID) {
		return time.Time{}, ErrNotFound
	}
	path := map[CredentialKind]string{
		ApplicationCredential: "users/" + userID + "/application_credentials/" + credential.ID,
		Trust:                 "OS-TRUST/trusts/" + credential.ID,
		AccessToken:           "users/" + userID + "/OS-OAUTH1/access_tokens/" + credential.ID,
	}[credential.Kind]
	if path == "" {
		return time.Time{}, fmt.Errorf("no kind of credential is called %q", credential.Kind)
	}
	found, err := c.credentials.get(ctx, path, func(ctx context.Context) (lent, time.Time, error) {
		until := c.now().Add(c.roleCacheTime)
		var body credentialBody
		if err := c.session.get(ctx, "show credential", path, nil, &body); err != nil {
			return lent{}, time.Time{}, err
		}
		shown := body[string(credential.Kind)]
		ends, err := parseTime(shown.ExpiresAt)
		if shown.ID != credential.ID {
			err = errors.New("the answer is about something else")
		}
		if err != nil {
			return lent{}, time.Time{}, &UnavailableError{RetryAfter: usualRetryAfter, Err: fmt.Errorf("show credential: %w", err)}
		}
		return lent{subject{user: userID, credential: credential.ID}, ends}, until, nil
	})
	return found.ends, err
}

// lent is what is remembered of a credential.
type lent struct {
	subject subject
	ends    time.Time
}

// parseTime reads Keystone's times, which are UTC with and without saying so.
func parseTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		at, err = time.Parse("2006-01-02T15:04:05.999999", text)
	}
	return at.UTC(), err
}
