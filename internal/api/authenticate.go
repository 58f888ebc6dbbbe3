// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// Tokens validates the tokens of callers.
type Tokens interface {
	Validate(ctx context.Context, token string) (*keystone.Token, error)
}

// AuditLog takes the records of refusals.
type AuditLog interface {
	AppendRefusal(ctx context.Context, entry store.Audit, of string) error
}

// Caller is who asks, as Keystone says.
type Caller struct {
	*keystone.Token
	credentials policy.Credentials
	guard       *Guard
}

// Guard answers who asks and what they may.
type Guard struct {
	tokens Tokens
	audit  AuditLog
	users  *RateLimiter // nil: nobody is limited
	rules  atomic.Pointer[policy.Enforcer]
}

// NewGuard returns a guard that decides by the rules, and lets each user ask
// as often as the limiter allows.
func NewGuard(tokens Tokens, rules *policy.Enforcer, audit AuditLog, users *RateLimiter) *Guard {
	g := &Guard{tokens: tokens, audit: audit, users: users}
	g.rules.Store(rules)
	return g
}

// SetRules replaces the rules for all requests that come.
func (g *Guard) SetRules(rules *policy.Enforcer) { g.rules.Store(rules) }

// Authenticated wraps an endpoint that needs a token.
func (g *Guard) Authenticated(endpoint Endpoint) Endpoint {
	return func(r *Request) (Response, error) {
		text := r.Header.Get("X-Auth-Token")
		if text == "" {
			return Response{}, problem.New(problem.Unauthorized, "the header X-Auth-Token is missing")
		}
		token, err := g.tokens.Validate(r.Context(), text)
		if err != nil {
			return Response{}, err
		}
		r.Caller = newCaller(g, token)
		if !g.users.allow(token.UserID) && !r.Caller.unlimited() {
			return Response{}, problem.New(problem.TooMany, "too many requests of user %s", token.UserID)
		}
		// After the limit, for a credential may have any number of rules.
		if err := checkAccessRules(token.AccessRules, r.Method, r.URL.Path); err != nil {
			return Response{}, err
		}
		return endpoint(r)
	}
}

// serviceType is Muster's in Keystone's catalogue.
const serviceType = "ssh"

// checkAccessRules refuses a call that an application credential is not for.
func checkAccessRules(rules []keystone.AccessRule, method, path string) error {
	for _, rule := range rules {
		if rule.Allows(serviceType, method, path) {
			return nil
		}
	}
	if len(rules) == 0 {
		return nil
	}
	return problem.New(problem.Forbidden, "no access rule of the application credential allows %s %s of a service of type %s", method, path, serviceType)
}

func newCaller(g *Guard, token *keystone.Token) *Caller {
	systemScope := ""
	if token.SystemScope {
		systemScope = "all"
	}
	return &Caller{Token: token, guard: g, credentials: policy.Caller{
		UserID: token.UserID, UserName: token.UserName,
		UserDomainID: token.UserDomainID,
		ProjectID:    token.ProjectID, ProjectName: token.ProjectName,
		ProjectDomainID: token.ProjectDomainID,
		DomainID:        token.DomainID, SystemScope: systemScope, IsAdminProject: token.IsAdminProject, Roles: token.Roles,
	}.Credentials()}
}

// unlimited tells whether the caller may ask however often: Nova asks for each
// read of each instance's metadata, all as one user. Who may ask as Nova does
// can only be Nova and the cloud's operator.
func (c *Caller) unlimited() bool {
	own := Object{ProjectID: c.ProjectID, UserID: c.UserID}.target()
	return c.May(policy.VendordataCreate, own) || c.May(policy.JoinCreate, own)
}

// May tells whether a rule allows the caller something.
func (c *Caller) May(rule string, target policy.Target) bool {
	return c.guard.rules.Load().Allow(rule, c.credentials, target)
}

// Object is what an endpoint acts on, as far as rules look at it.
type Object struct {
	ProjectID string
	UserID    string
}

func (o Object) target() policy.Target {
	return policy.Target{"project_id": o.ProjectID, "user_id": o.UserID}
}

// Authorize returns a problem, and records the refusal, unless the rule
// allows the caller to act on the object.
func (r *Request) Authorize(rule string, object Object) error {
	if r.Caller != nil && r.Caller.May(rule, object.target()) {
		return nil
	}
	refusal := problem.New(problem.Forbidden, "the rule %q does not allow this", rule)
	if r.Caller == nil {
		return refusal
	}
	// The project is the caller's word, and tells no two refusals apart.
	err := r.Caller.guard.audit.AppendRefusal(r.Context(), store.Audit{
		At: time.Now(), Actor: r.Caller.UserID, ActorName: r.Caller.UserName, ActorProject: r.Caller.ProjectID,
		Action: rule, Outcome: "refused", ObjectKind: "project", ObjectID: object.ProjectID, ProjectID: object.ProjectID,
		Reason: "not allowed by policy", RequestID: r.ID, Remote: r.Remote,
	}, "")
	if err != nil {
		// The refusal stands; the request's record tells that it was not recorded.
		refusal.Cause = errors.Join(errors.New("the refusal could not be recorded"), err)
	}
	return refusal
}

// Allowed tells whether the caller may, without a record of the answer: for
// endpoints that show less to those who may see less.
func (r *Request) Allowed(rule string, object Object) bool {
	return r.Caller != nil && r.Caller.May(rule, object.target())
}
