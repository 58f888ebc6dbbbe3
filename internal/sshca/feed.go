// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/muster-cloud/muster/internal/outage"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

const (
	// pollInterval is how often the changes of other replicas are looked for.
	pollInterval = 400 * time.Millisecond
	// idleLists is how long a list that nobody asks for stays in memory.
	idleLists = 15 * time.Minute
	// refreshTimeout bounds reading and building one list.
	refreshTimeout = 30 * time.Second
	// parallelRefreshes bounds the lists that are built at once on behalf of waiters.
	parallelRefreshes = 4
)

// Feed gives out the revocation lists of projects, and wakes those who wait
// for a change. A list is read once, kept up with what is new, and built once
// for each change, whoever and how many ask for it.
type Feed struct {
	service *Service

	mu    sync.Mutex
	lists map[string]*list

	dirty chan struct{} // holds one token while a list with waiters may be behind
}

func newFeed(service *Service) *Feed {
	return &Feed{service: service, lists: make(map[string]*list), dirty: make(chan struct{}, 1)}
}

// Current returns a project's revocation list with everything that was
// committed in this process, and what other replicas committed up to half a
// second ago. A project without authority is NotFound.
func (f *Feed) Current(ctx context.Context, projectID string) (*Snapshot, error) {
	l, err := f.list(ctx, projectID)
	if err != nil {
		return nil, err
	}
	return l.current(ctx)
}

// Wait returns the list as soon as its ETag differs from the one given, or as
// it is when the context ends.
func (f *Feed) Wait(ctx context.Context, projectID, etag string) (*Snapshot, error) {
	l, err := f.list(ctx, projectID)
	if err != nil {
		return nil, err
	}
	l.wait(+1)
	defer l.wait(-1)
	f.service.metrics.waiters.Inc()
	defer f.service.metrics.waiters.Dec()
	for {
		changed := l.changes()
		snapshot, err := l.current(ctx)
		if last := l.snapshot.Load(); ctx.Err() != nil && last != nil {
			return last, nil
		}
		if err != nil || snapshot.ETag != etag {
			return snapshot, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return snapshot, nil
		}
	}
}

// Run looks for changes until the context ends: those of this process at
// once, those of other replicas every pollInterval.
func (f *Feed) Run(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var away outage.Outage
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.dirty:
		case <-tick.C:
			away.Note(ctx, f.service.cfg.Logger, "look for revocations of other replicas", f.poll(ctx))
		}
		f.refresh(ctx)
	}
}

// poll learns the versions that other replicas made, and lets go of lists
// that nobody uses.
func (f *Feed) poll(ctx context.Context) error {
	now := f.service.cfg.Now()
	f.mu.Lock()
	for projectID, l := range f.lists {
		if l.idleSince(now) > idleLists {
			delete(f.lists, projectID)
		}
	}
	idle := len(f.lists) == 0
	f.mu.Unlock()
	if idle {
		return nil
	}
	versions, err := f.service.cfg.Store.KRLVersions(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for projectID, l := range f.lists {
		l.want(versions[projectID])
	}
	return nil
}

// refresh builds the lists that are behind and waited for. The others are
// built when somebody asks.
func (f *Feed) refresh(ctx context.Context) {
	f.mu.Lock()
	var behind []*list
	for _, l := range f.lists {
		if l.behindWaiters(f.service.cfg.Now()) {
			behind = append(behind, l)
		}
	}
	f.mu.Unlock()
	var group errgroup.Group
	group.SetLimit(parallelRefreshes)
	for _, l := range behind {
		group.Go(func() error {
			_, err := l.current(ctx)
			l.away.Note(ctx, f.service.cfg.Logger.With("project", l.projectID), "build a revocation list that is waited for", err)
			return nil
		})
	}
	_ = group.Wait()
}

// changed tells that this process committed something in the project.
func (f *Feed) changed(projectID string) {
	f.mu.Lock()
	l := f.lists[projectID]
	f.mu.Unlock()
	if l == nil {
		return
	}
	l.commits.Add(1)
	f.signal()
}

func (f *Feed) signal() {
	select {
	case f.dirty <- struct{}{}:
	default:
	}
}

// list returns the list of a project, which must have an authority.
func (f *Feed) list(ctx context.Context, projectID string) (*list, error) {
	f.mu.Lock()
	l := f.lists[projectID]
	f.mu.Unlock()
	if l != nil {
		return l, nil
	}
	_, err := f.service.cfg.Store.Authority(ctx, projectID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, problem.New(problem.NotFound, "project %s has no authority", projectID)
	}
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.lists[projectID]; l != nil {
		return l, nil
	}
	l = newList(f.service, projectID)
	f.lists[projectID] = l
	return l, nil
}
