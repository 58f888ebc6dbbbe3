// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"time"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/outage"
	"github.com/muster-cloud/muster/internal/store"
)

// forgettingInterval is how often a replica looks whom the others had to forget, and bounds with the
// time of a commit for how long it believes in a token that they do not believe in.
const forgettingInterval = 400 * time.Millisecond

// The kinds of what is forgotten.
const (
	forgetUser       = "user"
	forgetProject    = "project"
	forgetCredential = "credential"
	forgetAll        = "all"
)

// forgetting has what one replica learned of a user, project or credential make the others forget what
// they remember, too: a notification reaches one of them alone. Each is told by the database.
type forgetting struct {
	store  *store.Store
	apply  func(kind, id string) // forgets in this process
	logger *slog.Logger
	origin string
	ring   chan struct{}

	mu      sync.Mutex
	pending map[store.Forgotten]bool
	waiting []chan<- error
}

func newForgetting(records *store.Store, apply func(kind, id string), logger *slog.Logger) *forgetting {
	return &forgetting{store: records, apply: apply, logger: logger, origin: rand.Text(), ring: make(chan struct{}, 1),
		pending: make(map[store.Forgotten]bool)}
}

// forget does so here at once, and in the other replicas soon.
func (f *forgetting) forget(kind, id string) {
	f.apply(kind, id)
	f.mu.Lock()
	if len(f.pending) >= store.MaxForgotten {
		clear(f.pending)
		kind, id = forgetAll, ""
	}
	f.pending[store.Forgotten{Kind: kind, ID: id, Origin: f.origin}] = true
	f.mu.Unlock()
	f.wake()
}

func (f *forgetting) wake() {
	select {
	case f.ring <- struct{}{}:
	default:
	}
}

// told returns a channel that gets one value: nil when all is recorded that was to be forgotten before
// the call, so that a message about it may be acknowledged.
func (f *forgetting) told() <-chan error {
	done := make(chan error, 1)
	f.mu.Lock()
	f.waiting = append(f.waiting, done)
	f.mu.Unlock()
	f.wake()
	return done
}

// offering offers hints, and waits for the other replicas to be told besides.
func (f *forgetting) offering(offer func(context.Context, []converge.Hint) <-chan error) func(context.Context, []converge.Hint) <-chan error {
	return func(ctx context.Context, hints []converge.Hint) <-chan error {
		worked := offer(ctx, hints)
		told := f.told()
		result := make(chan error, 1)
		go func() {
			for _, step := range []<-chan error{told, worked} {
				select {
				case err := <-step:
					if err != nil {
						result <- err
						return
					}
				case <-ctx.Done():
					result <- ctx.Err()
					return
				}
			}
			result <- nil
		}()
		return result
	}
}

// run tells the others, and follows what they tell, until the context ends. seen is the version from
// before anything was remembered.
func (f *forgetting) run(ctx context.Context, seen uint64) error {
	tick := time.NewTicker(forgettingInterval)
	defer tick.Stop()
	var telling, looking outage.Outage
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.ring:
		case <-tick.C:
			var err error
			seen, err = f.look(ctx, seen)
			looking.Note(ctx, f.logger, "look whom other replicas had to forget", err)
		}
		telling.Note(ctx, f.logger, "tell other replicas whom to forget", f.tell(ctx))
	}
}

// look forgets whom the others had to forget since then.
func (f *forgetting) look(ctx context.Context, seen uint64) (uint64, error) {
	all, newest, missed, err := f.store.Forgettings(ctx, seen)
	if err != nil {
		return seen, err
	}
	if missed {
		f.apply(forgetAll, "")
	}
	for _, one := range all {
		if one.Origin != f.origin {
			f.apply(one.Kind, one.ID)
		}
	}
	return newest, nil
}

// tell records what is pending. What cannot be recorded stays pending.
func (f *forgetting) tell(ctx context.Context) error {
	f.mu.Lock()
	pending, waiting := f.pending, f.waiting
	f.pending, f.waiting = make(map[store.Forgotten]bool), nil
	f.mu.Unlock()
	var err error
	if len(pending) > 0 {
		all := make([]store.Forgotten, 0, len(pending))
		for one := range pending {
			all = append(all, one)
		}
		err = f.store.Forget(ctx, all)
	}
	if err != nil {
		f.mu.Lock()
		for one := range pending {
			f.pending[one] = true
		}
		if len(f.pending) > store.MaxForgotten {
			f.pending = map[store.Forgotten]bool{{Kind: forgetAll, Origin: f.origin}: true}
		}
		f.mu.Unlock()
	}
	for _, done := range waiting {
		done <- err
	}
	return err
}

// forgetHere drops what this process remembers.
func (s *Server) forgetHere(kind, id string) {
	switch kind {
	case forgetUser:
		s.tokens.ForgetUser(id)
		s.directory.ForgetUser(id)
	case forgetProject:
		s.tokens.ForgetProject(id)
		s.directory.ForgetProject(id)
	case forgetCredential:
		s.tokens.ForgetCredential(id)
		s.directory.ForgetCredential(id)
	default: // all, and what a newer version names
		s.tokens.ForgetAll()
		s.directory.ForgetAll()
	}
}
