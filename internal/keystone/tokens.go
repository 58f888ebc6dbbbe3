// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// maxTokenLength is well above a Fernet or JWS token with a long project list.
	maxTokenLength = 16 << 10
	// refusalTime is how long a refused token is refused without asking.
	refusalTime = 10 * time.Second
	// refusalCount bounds the refusals kept. They are apart from the accepted
	// tokens, so that a flood of bad tokens drives no good one out.
	refusalCount = 4096
)

// refusal is why a token was refused, and until when it is without asking.
type refusal struct {
	reason error
	until  time.Time
}

// Validate returns what the token says, from the cache or from Keystone.
// Errors: ErrInvalidToken, ErrBoundToken, ErrUnavailable, ErrForbidden, or that of ctx.
func (c *Client) Validate(ctx context.Context, token string) (*Token, error) {
	if !plausible(token) {
		return nil, ErrInvalidToken
	}
	// Only the hash is kept: the cache of a core dump opens no door.
	hash := sha256.Sum256([]byte(token))
	key := string(hash[:])
	if kept, ok := c.tokens.peek(key); ok {
		c.hits.Inc()
		return kept, nil
	}
	if kept, ok := c.refusals.Get(key); ok && c.now().Before(kept.until) {
		c.refused.Inc()
		return nil, kept.reason
	}
	c.misses.Inc()
	return c.tokens.get(ctx, key, func(ctx context.Context) (*Token, time.Time, error) {
		t, err := c.fetchToken(ctx, token)
		if errors.Is(err, ErrInvalidToken) || errors.Is(err, ErrBoundToken) {
			c.refusals.Add(key, refusal{err, c.now().Add(refusalTime)})
		}
		if err != nil {
			return nil, time.Time{}, err
		}
		until := c.now().Add(c.tokenCacheTime)
		if t.ExpiresAt.Before(until) {
			until = t.ExpiresAt
		}
		return t, until, nil
	})
}

// plausible refuses what can be no token before anybody is asked.
func plausible(token string) bool {
	if token == "" || len(token) > maxTokenLength {
		return false
	}
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return false
		}
	}
	return true
}

// accessRules announces that Muster honours the access rules of application
// credentials; without it Keystone shows no token of one that has some.
const accessRules = "OpenStack-Identity-Access-Rules"

// fetchToken asks GET /v3/auth/tokens, without the service catalogue.
func (c *Client) fetchToken(ctx context.Context, token string) (*Token, error) {
	var body tokenBody
	headers := map[string]string{"X-Subject-Token": token, accessRules: "1.0"}
	err := c.session.get(ctx, validating, "auth/tokens?nocatalog=1", headers, &body)
	if errors.Is(err, ErrNotFound) {
		return nil, ErrInvalidToken
	}
	if err != nil {
		return nil, err
	}
	t, err := body.token()
	if err == nil && (t.UserID == "" || t.ExpiresAt.IsZero()) {
		err = errors.New("the answer names no user or no expiry; auth_url may not be a Keystone")
	}
	if err != nil {
		return nil, &UnavailableError{RetryAfter: usualRetryAfter, Err: fmt.Errorf("%s: %w", validating, err)}
	}
	if !c.now().Before(t.ExpiresAt) {
		return nil, ErrInvalidToken
	}
	if body.Token.BoundTo != nil {
		return nil, ErrBoundToken
	}
	return t, nil
}

// tokenBody is the answer of GET /v3/auth/tokens, as the Identity API v3
// reference describes it.
type tokenBody struct {
	Token struct {
		// ExpiresAt lacks its Z where Keystone's cache has kept the token of an
		// application credential that ends before it.
		ExpiresAt string   `json:"expires_at"`
		Methods   []string `json:"methods"`
		User      struct {
			namedInDomain
			PasswordExpiresAt string `json:"password_expires_at"`
			Federation        *struct {
				Groups []struct {
					ID string `json:"id"`
				} `json:"groups"`
			} `json:"OS-FEDERATION"`
		} `json:"user"`
		Project namedInDomain `json:"project"`
		Domain  struct {
			ID string `json:"id"`
		} `json:"domain"`
		System struct {
			All bool `json:"all"`
		} `json:"system"`
		Roles []struct {
			Name string `json:"name"`
		} `json:"roles"`
		IsAdminProject        *bool `json:"is_admin_project"`
		ApplicationCredential struct {
			ID          string       `json:"id"`
			AccessRules []AccessRule `json:"access_rules"`
		} `json:"application_credential"`
		Trust struct {
			ID string `json:"id"`
		} `json:"OS-TRUST:trust"`
		OAuth1 struct {
			ID string `json:"access_token_id"`
		} `json:"OS-OAUTH1"`
		// BoundTo names the client certificate that its holder has to show.
		BoundTo json.RawMessage `json:"oauth2_credential"`
	} `json:"token"`
}

type namedInDomain struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Domain struct {
		ID string `json:"id"`
	} `json:"domain"`
}

func (b tokenBody) token() (*Token, error) {
	t := b.Token
	token := &Token{
		UserID: t.User.ID, UserName: t.User.Name,
		UserDomainID: t.User.Domain.ID,
		ProjectID:    t.Project.ID, ProjectName: t.Project.Name,
		ProjectDomainID: t.Project.Domain.ID,
		DomainID:        t.Domain.ID,
		SystemScope:     t.System.All,
		IsAdminProject:  t.IsAdminProject == nil || *t.IsAdminProject,
		Methods:         t.Methods,
		AccessRules:     t.ApplicationCredential.AccessRules,
	}
	switch {
	case t.ApplicationCredential.ID != "":
		token.Credential = Credential{ApplicationCredential, t.ApplicationCredential.ID}
	case t.Trust.ID != "":
		token.Credential = Credential{Trust, t.Trust.ID}
	case t.OAuth1.ID != "":
		token.Credential = Credential{AccessToken, t.OAuth1.ID}
	}
	for _, role := range t.Roles {
		token.Roles = append(token.Roles, role.Name)
	}
	if t.User.Federation != nil {
		token.Federated = true
		for _, group := range t.User.Federation.Groups {
			token.GroupIDs = append(token.GroupIDs, group.ID)
		}
		slices.Sort(token.GroupIDs)
	}
	var err, passwordErr error
	token.ExpiresAt, err = parseTime(t.ExpiresAt)
	token.PasswordExpiresAt, passwordErr = parseTime(t.User.PasswordExpiresAt)
	return token, errors.Join(err, passwordErr)
}
