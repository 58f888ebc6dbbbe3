// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/muster-cloud/muster/internal/agentapi"
)

const (
	// accountsFresh is how long a project's accounts are believed, unless
	// instances ask more often. So a project costs Keystone one call in that
	// time and for each of its revocation lists, however many instances it has.
	// No login hangs on it: who loses a role loses the certificates at once.
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
	asking singleflight.Group // by project and version of the list
}

type projectAccounts struct {
	accounts []agentapi.Account
	list     uint64    // the version of the revocation list that they are no older than
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

// of returns a project's accounts, no older than the version of its revocation
// list: whose certificates were revoked may have been the last one with a role.
// Callers share them: read only.
func (m *accountMemory) of(ctx context.Context, projectID string, list uint64) ([]agentapi.Account, error) {
	if known, ok := m.known.Get(projectID); ok && known.list >= list && m.now().Before(known.next) {
		return known.accounts, nil
	}
	call := projectID + " " + strconv.FormatUint(list, 10)
	result, err, _ := m.asking.Do(call, func() (any, error) { return m.ask(ctx, projectID, list) })
	if err != nil {
		return nil, err
	}
	return result.([]agentapi.Account), nil
}

func (m *accountMemory) ask(ctx context.Context, projectID string, list uint64) ([]agentapi.Account, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), accountsTimeout)
	defer cancel()
	if known, ok := m.known.Get(projectID); !ok || known.list < list {
		m.source.Forget(projectID)
	}
	now := m.now()
	accounts, err := m.source.Of(ctx, projectID)
	known, ok := m.known.Get(projectID)
	if err == nil {
		if !ok || known.list <= list {
			m.known.Add(projectID, projectAccounts{accounts: accounts, list: list, at: now, next: now.Add(m.fresh)})
		}
		return accounts, nil
	}
	if !ok || now.Sub(known.at) >= accountsKept {
		return nil, err
	}
	m.logger.WarnContext(ctx, "A project's accounts could not be read; its instances keep those that they have", "project", projectID, "error", err)
	known.list, known.next = max(known.list, list), m.now().Add(accountsRetry)
	m.known.Add(projectID, known)
	return known.accounts, nil
}
