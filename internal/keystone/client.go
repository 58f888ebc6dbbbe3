// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	maxTokenCacheTime = 5 * time.Minute
	maxRoleCacheTime  = 30 * time.Second
	// directorySize bounds each of the caches of users, projects and roles.
	directorySize = 10_000
)

// Client asks one Keystone. It is safe for simultaneous use.
type Client struct {
	now            func() time.Time
	session        *session
	own            atomic.Pointer[identity]
	ledger         *ledger
	tokenCacheTime time.Duration
	roleCacheTime  time.Duration

	tokens      *memo[*Token]
	refusals    *lru.Cache[string, refusal]
	users       *memo[entry]
	projects    *memo[entry]
	domains     *memo[entry]
	roles       *memo[heldRoles]
	granted     *memo[projectGrants]
	credentials *memo[lent]
	names       *memo[map[string]string]
	unlisted    *memo[entry] // roles that names lack
	inferences  *memo[map[string][]string]

	hits, refused, misses prometheus.Counter
}

// New checks cfg and returns a Client. It does not connect: the Client logs in
// when it is first asked something, and again whenever Keystone no longer
// accepts its login.
func New(cfg Config) (*Client, error) {
	cfg, err := withDefaults(cfg)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	s, err := newSession(cfg, m)
	if err != nil {
		return nil, err
	}
	refusals, err := lru.New[string, refusal](refusalCount)
	if err != nil {
		return nil, err
	}
	c := &Client{
		now: cfg.Now, session: s, ledger: newLedger(), refusals: refusals,
		tokenCacheTime: cfg.TokenCacheTime, roleCacheTime: cfg.RoleCacheTime,
		hits:    m.lookups.WithLabelValues("hit"),
		refused: m.lookups.WithLabelValues("refused"),
		misses:  m.lookups.WithLabelValues("miss"),
	}
	// A fetch may log in, ask, log in again, and ask again.
	budget := 2 * cfg.Timeout
	nobody := func(entry) subject { return subject{} }
	c.tokens = newMemo(cfg.TokenCacheSize, c.now, budget, c.ledger, func(t *Token) subject {
		return subject{user: t.UserID, project: t.ProjectID, credential: t.Credential.ID}
	})
	c.users = newMemo(directorySize, c.now, budget, c.ledger, func(e entry) subject { return subject{user: e.ID} })
	c.projects = newMemo(directorySize, c.now, budget, c.ledger, func(e entry) subject { return subject{project: e.ID} })
	c.domains = newMemo(directorySize, c.now, budget, c.ledger, nobody)
	c.roles = newMemo(directorySize, c.now, budget, c.ledger, func(h heldRoles) subject { return h.subject })
	// The grants of a project take several requests, one after the other.
	c.granted = newMemo(directorySize, c.now, 2*budget, c.ledger, func(g projectGrants) subject { return g.subject })
	c.credentials = newMemo(directorySize, c.now, budget, c.ledger, func(l lent) subject { return l.subject })
	c.unlisted = newMemo(directorySize, c.now, budget, c.ledger, nobody)
	c.names = newMemo(1, c.now, budget, c.ledger, func(map[string]string) subject { return subject{} })
	c.inferences = newMemo(1, c.now, budget, c.ledger, func(map[string][]string) subject { return subject{} })
	return c, nil
}

func withDefaults(cfg Config) (Config, error) {
	cfg.Timeout = cmp.Or(cfg.Timeout, 5*time.Second)
	cfg.TokenCacheTime = cmp.Or(cfg.TokenCacheTime, maxTokenCacheTime)
	cfg.TokenCacheSize = cmp.Or(cfg.TokenCacheSize, 20_000)
	cfg.RoleCacheTime = cmp.Or(cfg.RoleCacheTime, 5*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Timeout < 0:
		return cfg, errors.New("timeout: want a positive time")
	case cfg.TokenCacheTime < 0 || cfg.TokenCacheTime > maxTokenCacheTime:
		return cfg, fmt.Errorf("token cache time: %v is not between 0 and %v", cfg.TokenCacheTime, maxTokenCacheTime)
	case cfg.TokenCacheSize < 1:
		return cfg, errors.New("token cache size: want at least 1")
	case cfg.RoleCacheTime < 0 || cfg.RoleCacheTime > maxRoleCacheTime:
		return cfg, fmt.Errorf("role cache time: %v is not between 0 and %v", cfg.RoleCacheTime, maxRoleCacheTime)
	}
	return cfg, nil
}

// ForgetUser makes all that is cached about the user's tokens and roles
// invalid at once, results of calls under way included.
func (c *Client) ForgetUser(id string) { c.ledger.forget(subject{user: id}) }

// ForgetProject makes all that is cached about the project, and the tokens
// scoped to it, invalid at once, results of calls under way included.
func (c *Client) ForgetProject(id string) { c.ledger.forget(subject{project: id}) }

// ForgetProjectRoles makes what is cached of the grants in the project invalid at
// once, results of calls under way included.
func (c *Client) ForgetProjectRoles(id string) { c.ledger.forget(subject{held: id}) }

// ForgetCredential makes what is cached of a credential, and the tokens that were
// made with it, invalid at once, results of calls under way included.
func (c *Client) ForgetCredential(id string) { c.ledger.forget(subject{credential: id}) }

// Check tells whether Keystone can be reached and lets Muster's service user
// in. It asks afresh each time.
func (c *Client) Check(ctx context.Context) error {
	token, err := c.session.login(ctx, "")
	if err != nil {
		return err
	}
	var body tokenBody
	err = c.session.get(ctx, "check", "auth/tokens?nocatalog=1", map[string]string{"X-Subject-Token": token}, &body)
	if errors.Is(err, ErrNotFound) {
		_, err = c.session.login(ctx, token)
	}
	return err
}
