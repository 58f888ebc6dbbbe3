// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"context"
	"log/slog"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/muster-cloud/muster/internal/agentapi"
)

const (
	// accountsFresh is how long a project's accounts are believed, unless
	// instances ask more often. So a project costs Keystone one call in that
	// time, however many instances it has. No login hangs on it: who loses a
	// role loses the certificates at once.
	accountsFresh = time.Minute
	// accountsKept is how old they may be while Keystone does not answer.
	accountsKept  = time.Hour
	accountsRetry = 15 * time.Second
	// accountsTimeout bounds asking, which outlives its first asker.
	accountsTimeout  = 10 * time.Second
	accountsProjects = 10_000
)

// accountMemory remembers the accounts of projects.
type accountMemory struct {
	source Accounts
	fresh  time.Duration
	now    func() time.Time
	logger *slog.Logger

	known  *lru.Cache[string, projectAccounts]
	asking singleflight.Group // by project
}

type projectAccounts struct {
	accounts []agentapi.Account
	at       time.Time // when they were so
	next     time.Time // when to ask again
}

// newAccountMemory remembers for as long as instances take to ask again, if
// they are told how often to ask, and for accountsFresh at most.
func newAccountMemory(source Accounts, pollSeconds int, now func() time.Time, logger *slog.Logger) *accountMemory {
	fresh := accountsFresh
	if pollSeconds > 0 {
		fresh = min(fresh, time.Duration(pollSeconds)*time.Second)
	}
	known, err := lru.New[string, projectAccounts](accountsProjects)
	if err != nil {
		panic(err) // the size is a constant above zero
	}
	return &accountMemory{source: source, fresh: fresh, now: now, logger: logger, known: known}
}

// of returns a project's accounts. Callers share them: read only.
func (m *accountMemory) of(ctx context.Context, projectID string) ([]agentapi.Account, error) {
	if known, ok := m.known.Get(projectID); ok && m.now().Before(known.next) {
		return known.accounts, nil
	}
	result, err, _ := m.asking.Do(projectID, func() (any, error) { return m.ask(ctx, projectID) })
	if err != nil {
		return nil, err
	}
	return result.([]agentapi.Account), nil
}

func (m *accountMemory) ask(ctx context.Context, projectID string) ([]agentapi.Account, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), accountsTimeout)
	defer cancel()
	now := m.now()
	accounts, err := m.source.Of(ctx, projectID)
	if err == nil {
		m.known.Add(projectID, projectAccounts{accounts: accounts, at: now, next: now.Add(m.fresh)})
		return accounts, nil
	}
	known, ok := m.known.Get(projectID)
	if !ok || now.Sub(known.at) >= accountsKept {
		return nil, err
	}
	m.logger.WarnContext(ctx, "A project's accounts could not be read; its instances keep those that they have", "project", projectID, "error", err)
	known.next = m.now().Add(accountsRetry)
	m.known.Add(projectID, known)
	return known.accounts, nil
}
