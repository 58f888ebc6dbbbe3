// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package health is the face that load balancers and monitoring see. It tells
// strangers which part is ill, never why.
package health

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/muster-cloud/muster/internal/api"
)

const (
	checkTimeout = 4 * time.Second
	// checkEvery bounds how often strangers make Muster ask its peers.
	checkEvery = 2 * time.Second
)

// Check is something that Muster cannot work without.
type Check struct {
	Name string
	Try  func(context.Context) error
}

// Face answers whether Muster is alive and whether it is ready.
type Face struct {
	checks []Check
	logger *slog.Logger

	mu      sync.Mutex
	checked time.Time
	state   map[string]string
	ready   bool
}

// New returns the face. Readiness needs every check to pass.
func New(logger *slog.Logger, checks ...Check) *Face {
	return &Face{checks: checks, logger: logger}
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

// check runs all checks at once, or repeats what was found a moment ago.
func (f *Face) check(ctx context.Context) (ready bool, state map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.checked) < checkEvery {
		return f.ready, f.state
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
	defer cancel()
	results := make([]error, len(f.checks))
	var group sync.WaitGroup
	for i, check := range f.checks {
		group.Go(func() { results[i] = check.Try(ctx) })
	}
	group.Wait()
	f.ready, f.state = true, make(map[string]string, len(f.checks))
	for i, check := range f.checks {
		f.state[check.Name] = "ok"
		if results[i] != nil {
			f.ready, f.state[check.Name] = false, "ill"
			f.logger.Warn("Not ready", "part", check.Name, "error", results[i])
		}
	}
	f.checked = time.Now()
	return f.ready, f.state
}
