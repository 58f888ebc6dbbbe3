// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package health is the face that load balancers and monitoring see. It tells
// strangers which part is ill, never why.
package health

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/outage"
)

const (
	checkTimeout = 4 * time.Second
	// checkEvery bounds how often strangers make Muster ask its peers.
	checkEvery = 2 * time.Second
)

// Check is something that Muster cannot work without, or that a part of it
// needs.
type Check struct {
	Name string
	Try  func(context.Context) error
	// Optional: its state is told, but nobody waits for it, and Muster is ready
	// without it.
	Optional bool
}

// The states of a part.
const (
	stateOK      = "ok"
	stateIll     = "ill"
	stateUnknown = "unknown" // it has not answered yet
)

// Face answers whether Muster is alive and whether it is ready.
type Face struct {
	needed, optional []Check
	logger           *slog.Logger
	asking           singleflight.Group

	mu      sync.Mutex // guards what was found, and is not held while anybody is asked
	checked time.Time
	state   map[string]string
	ready   bool

	told     map[string]string // the states of optional parts
	watching bool

	outages map[string]*outage.Outage // by name, so that the log says once that a part is ill
}

// New returns the face. Readiness needs every check to pass that is not optional.
func New(logger *slog.Logger, checks ...Check) *Face {
	f := &Face{logger: logger, told: make(map[string]string), outages: make(map[string]*outage.Outage)}
	for _, check := range checks {
		f.outages[check.Name] = new(outage.Outage)
		if check.Optional {
			f.optional = append(f.optional, check)
			f.told[check.Name] = stateUnknown
		} else {
			f.needed = append(f.needed, check)
		}
	}
	return f
}

// Name implements api.Face.
func (f *Face) Name() string { return "health" }

// Register implements api.Face.
func (f *Face) Register(router *api.Router) {
	router.Handle("GET /healthz", f.alive)
	router.Handle("GET /readyz", f.readiness)
}

// alive says that the process answers. It asks nobody: a sick database must
// not make anybody restart Muster.
func (f *Face) alive(*api.Request) (api.Response, error) {
	return api.Response{Body: map[string]string{"status": "ok"}}, nil
}

func (f *Face) readiness(r *api.Request) (api.Response, error) {
	ready, state := f.check(r.Context())
	response := api.Response{Body: state}
	if !ready {
		response.Status = http.StatusServiceUnavailable
	}
	return response, nil
}

// check tells what was found a moment ago. If that is too long ago, all who want
// to know wait for one look.
func (f *Face) check(ctx context.Context) (ready bool, state map[string]string) {
	select {
	case <-f.asking.DoChan("", func() (any, error) { f.look(ctx); return nil, nil }):
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	state = maps.Clone(f.told)
	maps.Copy(state, f.state)
	return f.ready, state
}

// look runs all checks, unless that was done a moment ago.
func (f *Face) look(ctx context.Context) {
	f.mu.Lock()
	fresh := time.Since(f.checked) < checkEvery
	f.mu.Unlock()
	if fresh {
		return
	}
	f.watch(ctx)
	results := f.try(ctx, f.needed)
	ready := true
	for _, result := range results {
		ready = ready && result == stateOK
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready, f.state, f.checked = ready, results, time.Now()
}

// watch asks the optional parts in the background, unless it does so already.
func (f *Face) watch(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watching || len(f.optional) == 0 {
		return
	}
	f.watching = true
	go func() {
		results := f.try(ctx, f.optional)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.told, f.watching = results, false
	}()
}

// try runs checks side by side and returns the states by name.
func (f *Face) try(ctx context.Context, checks []Check) map[string]string {
	states := make(map[string]string, len(checks))
	for i, err := range f.ask(ctx, checks) {
		states[checks[i].Name] = stateOK
		if err != nil {
			states[checks[i].Name] = stateIll
		}
	}
	return states
}

// ask runs checks side by side, and logs what becomes ill or well.
func (f *Face) ask(ctx context.Context, checks []Check) []error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
	defer cancel()
	results := make([]error, len(checks))
	var group sync.WaitGroup
	for i, check := range checks {
		group.Go(func() { results[i] = check.Try(ctx) })
	}
	group.Wait()
	for i, check := range checks {
		// A check whose time is over has failed, and its context has ended.
		f.outages[check.Name].Note(context.WithoutCancel(ctx), f.logger.With("part", check.Name, "needed", !check.Optional),
			"work with a part of what Muster needs", results[i])
	}
	return results
}

// Illness is a part that is ill, and why.
type Illness struct {
	Name string
	Err  error
}

// Ill asks every part anew, and returns those that are ill. It takes up to some seconds; who calls it
// at the same time shares the asking. Why a part is ill is not for strangers.
func (f *Face) Ill(ctx context.Context) []Illness {
	checks := slices.Concat(f.needed, f.optional)
	result := f.asking.DoChan("all", func() (any, error) { return f.ask(ctx, checks), nil })
	var ill []Illness
	select {
	case <-ctx.Done():
	case answered := <-result:
		for i, err := range answered.Val.([]error) {
			if err != nil {
				ill = append(ill, Illness{checks[i].Name, err})
			}
		}
	}
	return ill
}
