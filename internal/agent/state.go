// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/muster-cloud/muster/internal/agentapi"
)

const (
	// fullCheck is how often everything is made as wanted although Muster says
	// nothing new: somebody may have changed it on the machine.
	fullCheck = time.Hour

	shortestPoll = 5 * time.Second
	usualPoll    = time.Minute
	longestPoll  = time.Hour
)

// ensureState asks for the state if there is none yet.
func (a *Agent) ensureState(ctx context.Context) error {
	if a.snapshot().State.Version != "" {
		return nil
	}
	return a.refresh(ctx)
}

// keepState asks for the state, again and again, and makes the machine so.
func (a *Agent) keepState(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		pause := a.pollPause()
		if err := a.converge(ctx); err != nil {
			pause = pauseAfter(err, failures)
			failures++
		} else {
			failures = 0
		}
		select {
		case <-ctx.Done():
		case <-a.askState:
		case <-time.After(pause):
		}
	}
}

// converge asks for the state once, and does what it says.
func (a *Agent) converge(ctx context.Context) error {
	if a.problem(aboutRecord) != nil {
		a.change(func(*record) {}) // there may be a place to write again
	}
	before := a.snapshot().State.Version
	stateErr := a.refresh(ctx)
	a.note(aboutState, stateErr)
	var certErr, machineErr error
	if !errors.Is(stateErr, errNotCertified) { // else that was tried just now
		certErr = a.renewIfDue(ctx)
		a.note(aboutCertificates, certErr)
	}
	if a.snapshot().State.Version != before || a.configureDue() {
		machineErr = a.configure(ctx)
		a.note(aboutMachine, machineErr)
	}
	return errors.Join(stateErr, certErr, machineErr)
}

// refresh asks for the state. Where Muster does not know the host key, or no
// longer accepts it, new certificates come first.
func (a *Agent) refresh(ctx context.Context) error {
	state, err := a.ask(ctx)
	if disowned(err) {
		keys, keysErr := a.knownKeys(ctx)
		if keysErr != nil {
			return keysErr
		}
		if err := a.certify(ctx, keys); err != nil {
			return fmt.Errorf("%w: %w", errNotCertified, err)
		}
		a.configured = time.Time{}
		state, err = a.ask(ctx)
	}
	if err != nil || state.Version == a.snapshot().State.Version {
		return err
	}
	a.log.Info("Have a new state", "version", short(state.Version), "accounts", len(state.Accounts), "user_cas", len(state.UserCAs))
	if !slices.Equal(state.UserCAs, a.snapshot().State.UserCAs) {
		defer wake(a.trustChanged)
	}
	a.change(func(r *record) {
		r.State = state
		r.Identity.ProjectID = state.ProjectID
		if state.IPA == nil {
			r.Joined = ""
		}
	})
	wake(a.stateChanged)
	return nil
}

// ask asks for the state once.
func (a *Agent) ask(ctx context.Context) (agentapi.State, error) {
	keys, err := a.knownKeys(ctx)
	if err != nil {
		return agentapi.State{}, err
	}
	signer, err := a.signer(keys)
	if err != nil {
		return agentapi.State{}, err
	}
	state, err := a.muster().State(ctx, signer)
	return state, a.contact(err)
}

// knownKeys are the host keys as they were last looked up: asking sshd starts a
// process, too much for each minute.
func (a *Agent) knownKeys(ctx context.Context) ([]HostKey, error) {
	if len(a.keys) > 0 {
		return a.keys, nil
	}
	keys, err := a.hostKeys(ctx)
	if err == nil {
		a.keys = keys
	}
	return keys, err
}

// renewIfDue gets new certificates when the old ones near their end, name the
// instance otherwise than they should, or are of an authority that signs no
// more. Should Muster give the old ones again, that is asked for once for each
// state.
func (a *Agent) renewIfDue(ctx context.Context) error {
	keys, err := a.knownKeys(ctx)
	if err != nil {
		return err
	}
	r := a.snapshot()
	outdated := !named(r.Certs, r.State.Names) || !signedBy(r.Certs, r.State.HostCA)
	if a.covered(keys) && (!outdated || a.renewedFor == r.State.Version) {
		return nil
	}
	if err := a.certify(ctx, keys); err != nil {
		return err
	}
	a.renewedFor, a.configured = r.State.Version, time.Time{}
	return nil
}

// configureDue tells whether the machine is to be made as wanted again.
func (a *Agent) configureDue() bool {
	return a.configured.IsZero() || a.cfg.Now().Sub(a.configured) > fullCheck
}

// configure makes the machine as wanted, with the host keys that it has now.
func (a *Agent) configure(ctx context.Context) error {
	a.keys, a.configured = nil, time.Time{}
	keys, err := a.knownKeys(ctx)
	if err != nil {
		return err
	}
	r := a.snapshot()
	want := Want{HostCerts: map[string]string{}, State: r.State}
	for _, key := range keys {
		if line, found := r.Certs[key.Public]; found {
			want.HostCerts[key.Path] = line
		}
	}
	changed, err := a.machine.Configure(ctx, want)
	warnings := slices.Clone(a.machine.Warnings()) // which may wait for another use of the machine
	if err == nil {
		a.configured = a.cfg.Now()
	}
	a.mu.Lock()
	a.status.Warnings = warnings
	if err == nil {
		a.status.ConfiguredAt = a.configured.UTC()
	}
	a.mu.Unlock()
	a.publish()
	if err != nil {
		return err
	}
	if changed {
		a.log.Info("The machine is set up as Muster says", "version", short(r.State.Version))
	}
	return nil
}

// pollPause is how long until the state is asked for again.
func (a *Agent) pollPause() time.Duration {
	poll := time.Duration(min(a.snapshot().State.PollSeconds, int(longestPoll/time.Second))) * time.Second
	switch {
	case poll <= 0:
		poll = usualPoll
	case poll < shortestPoll:
		poll = shortestPoll
	}
	return poll - poll/10 + rand.N(poll/5)
}

// longPoll is how long a request for the list may wait.
func longPoll(state agentapi.State) time.Duration {
	return time.Duration(min(max(state.LongPollSeconds, 0), agentapi.MaxWaitList)) * time.Second
}

// short is enough of a version for a log.
func short(version string) string { return version[:min(len(version), 12)] }
