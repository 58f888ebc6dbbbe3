// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone

import "context"

// Client asks one Keystone. It is safe for simultaneous use.
type Client struct{}

// New checks cfg and returns a Client. It does not connect: the Client logs in
// when it is first asked something, and again whenever Keystone no longer
// accepts its login.
func New(cfg Config) (*Client, error) { return &Client{}, nil }

// Validate returns what the token says, from the cache or from Keystone.
// Errors: ErrInvalidToken, ErrUnavailable, ErrForbidden, or that of ctx.
func (c *Client) Validate(ctx context.Context, token string) (*Token, error) { return nil, nil }

// EffectiveRoles returns the sorted names of the roles that the user has in the
// project: assigned, inherited, through groups, and implied. It is empty when
// the user, the project or a domain of theirs is disabled or gone.
// Errors: ErrUnavailable, ErrForbidden, or that of ctx.
func (c *Client) EffectiveRoles(ctx context.Context, userID, projectID string) ([]string, error) {
	return nil, nil
}

// ProjectRoles returns the sorted names of the roles that anyone has in the
// project. The answer may be 30 s old.
// Errors: ErrUnavailable, ErrForbidden, or that of ctx.
func (c *Client) ProjectRoles(ctx context.Context, projectID string) ([]string, error) {
	return nil, nil
}

// User returns the user with this ID.
// Errors: ErrNotFound, ErrUnavailable, ErrForbidden, or that of ctx.
func (c *Client) User(ctx context.Context, id string) (User, error) { return User{}, nil }

// Project returns the project with this ID.
// Errors: ErrNotFound, ErrUnavailable, ErrForbidden, or that of ctx.
func (c *Client) Project(ctx context.Context, id string) (Project, error) { return Project{}, nil }

// ForgetUser makes all that is cached about the user's tokens and roles
// invalid at once, results of calls under way included.
func (c *Client) ForgetUser(id string) {}

// ForgetProject makes all that is cached about the project, and the tokens
// scoped to it, invalid at once, results of calls under way included.
func (c *Client) ForgetProject(id string) {}

// Check tells whether Keystone can be reached and lets Muster's service user in.
func (c *Client) Check(ctx context.Context) error { return nil }
