// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package mortal ends a process, in tests, between two of the steps by which it
// changes something. It kills no real process: from then on, none of its steps
// is carried out.
package mortal

import (
	"errors"
	"fmt"
	"sync"
	"testing"
)

// ErrDied is what a dead process gets from each of its steps.
var ErrDied = errors.New("the process died")

// Death is that of one process. It is safe for simultaneous use.
type Death struct {
	// Dead is closed by death, when the step that the process died of has ended too.
	Dead chan struct{}

	at    int
	after bool

	mu    sync.Mutex
	died  bool
	trace []string
}

// None never comes.
func None() *Death { return &Death{Dead: make(chan struct{})} }

// Step carries a step out, unless the process is dead. If it dies of this one,
// the step may be done, but nobody hears of it.
func (d *Death) Step(name string, do func() error) error {
	d.mu.Lock()
	if d.died {
		d.mu.Unlock()
		return ErrDied
	}
	d.trace = append(d.trace, name)
	if len(d.trace) != d.at {
		d.mu.Unlock()
		return do()
	}
	d.died = true
	d.mu.Unlock()
	if d.after {
		_ = do()
	}
	close(d.Dead)
	return ErrDied
}

// AtEachStep runs a scenario without a death, and then with one after each step
// that it took, and before the first: what is kept before a step is the same as
// after the one before it. The scenario lets a process do something, with the
// death; when that is dead or done, another one must bring it to the same end.
func AtEachStep(t *testing.T, minimum int, scenario func(*testing.T, *Death)) {
	t.Helper()
	whole := None()
	scenario(t, whole)
	t.Logf("steps: %v", whole.trace)
	if len(whole.trace) < minimum {
		t.Fatalf("only %d steps: %v", len(whole.trace), whole.trace)
	}
	for n, name := range whole.trace {
		for _, after := range []bool{false, true} {
			if !after && n > 0 {
				continue
			}
			t.Run(fmt.Sprintf("%d %s, done %v", n+1, name, after), func(t *testing.T) {
				t.Parallel()
				scenario(t, &Death{at: n + 1, after: after, Dead: make(chan struct{})})
			})
		}
	}
}
