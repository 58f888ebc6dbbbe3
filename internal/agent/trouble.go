// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/muster-cloud/muster/internal/agent/muster"
)

// What a problem is about. Each has at most one at a time.
const (
	aboutClock        = "clock"
	aboutMetadata     = "metadata"
	aboutMuster       = "muster"
	aboutCertificates = "certificates"
	aboutState        = "state"
	aboutMachine      = "machine"
	aboutList         = "revocation list"
	aboutJoining      = "freeipa"
	aboutRecord       = "record"
)

// Pauses between tries.
const (
	firstPause   = time.Second
	longestPause = time.Minute
	clockPause   = 5 * time.Second
	// longestRefused is for what does not pass with time: each try is one more
	// entry in Muster's audit log.
	longestRefused = 15 * time.Minute
)

// Problem is something that is wrong.
type Problem struct {
	About string    `json:"about"`
	Text  string    `json:"text"` // what, and what to do
	Since time.Time `json:"since"`

	logged time.Time
}

// waitError is a problem whose next try is due after a fixed time.
type waitError struct {
	after time.Duration
	text  string
}

// Error implements error.
func (e *waitError) Error() string { return e.text }

// insist tries until it succeeds or the context ends, whose error it returns.
func (a *Agent) insist(ctx context.Context, about string, try func(context.Context) error) error {
	for tries := 0; ; tries++ {
		err := try(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.note(about, err)
		if err == nil {
			return nil
		}
		if err := sleep(ctx, pauseAfter(err, tries)); err != nil {
			return err
		}
	}
}

// pauseAfter is how long to wait after so many failures before this one:
// twice as long each second time, up to a limit, and never the same for all
// instances of a cloud. So what is wrong for half a minute, on a cloud that
// boots many instances at once, delays one by a few seconds more. Who says when
// to come again gets what they say.
func pauseAfter(err error, tries int) time.Duration {
	if wait := new(waitError); errors.As(err, &wait) {
		return wait.after
	}
	longest := longestPause
	refusal := new(muster.Refusal)
	refused := errors.As(err, &refusal)
	if refused && !errors.Is(err, muster.ErrAway) {
		longest = longestRefused
	}
	pause := min(firstPause<<min(tries/2, 16), longest)
	pause = pause/2 + rand.N(pause/2)
	if refused && refusal.RetryAfter > 0 {
		pause = max(pause, refusal.RetryAfter+rand.N(firstPause))
	}
	return pause
}

func sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// note keeps what is wrong about something, or that nothing is any more. It
// logs what is new; the same again and again would fill the log. That Muster is
// away is wrong about Muster alone.
func (a *Agent) note(about string, err error) {
	if about != aboutMuster && errors.Is(err, muster.ErrAway) {
		return
	}
	if say := a.keepProblem(about, err); say != nil {
		say()
		a.publish()
	}
}

// keepProblem is note without the log, which nobody who needs the lock should
// wait for. It returns what there is to be logged, nil if nothing is new.
func (a *Agent) keepProblem(about string, err error) (say func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.cfg.Now().UTC()
	before := a.status.problem(about)
	switch {
	case err == nil && before == nil:
		return nil
	case err == nil:
		since := before.Since
		a.status.forget(about)
		return func() { a.log.Info(troubles[about].over, "after", now.Sub(since).Round(time.Second)) }
	case before == nil:
		a.status.Problems = append(a.status.Problems, Problem{about, err.Error(), now, now})
		return func() { a.log.Warn(troubles[about].begins, "reason", err) }
	}
	again := logAgain
	if before.Text != err.Error() {
		before.Text, again = err.Error(), logOther
	}
	if now.Sub(before.logged) < again {
		return func() {}
	}
	before.logged = now
	since := before.Since
	return func() { a.log.Warn("Still: "+troubles[about].begins, "reason", err, "since", since) }
}

// How soon a problem that stays is logged again.
const (
	logAgain = time.Hour
	logOther = time.Minute // with another text
)

// troubles are what the log says.
var troubles = map[string]struct{ begins, over string }{
	aboutClock:        {"The clock is not set", "The clock is set"},
	aboutMetadata:     {"Cannot find out which instance this is; trying again", "Know which instance this is"},
	aboutMuster:       {"Muster does not answer; what it said last, and the revocation list, stay in force", "Muster answers again"},
	aboutCertificates: {"Cannot get host certificates; trying again", "Have host certificates again"},
	aboutState:        {"Cannot find out how this instance should be; it stays as it is", "Know how this instance should be again"},
	aboutMachine:      {"Cannot set this machine up; trying again", "This machine is set up again"},
	aboutList:         {"Cannot get the revocation list; the one in hand stays in force", "Have the revocation list again"},
	aboutJoining:      {"Cannot join FreeIPA; trying again", "All is well with FreeIPA"},
	aboutRecord:       {"Cannot write down what is known; after a restart it must be asked for again", "Can write down what is known again"},
}

// problem is what is wrong about something, as an error.
func (a *Agent) problem(about string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.status.problem(about); p != nil {
		return errors.New(p.About + ": " + p.Text)
	}
	return nil
}

// contact notes whether Muster answered a call, and passes the call's error on.
// Any answer counts, also one that refuses.
func (a *Agent) contact(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, muster.ErrAway) {
		a.note(aboutMuster, err)
		return err
	}
	a.mu.Lock()
	a.status.LastContact = a.cfg.Now().UTC()
	a.mu.Unlock()
	a.note(aboutMuster, nil)
	a.publish()
	return err
}
