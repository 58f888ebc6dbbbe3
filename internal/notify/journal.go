// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/muster-cloud/muster/internal/converge"
)

// journalSize is how many messages of each outcome are remembered.
const journalSize = 100

// Outcome is what became of a message.
type Outcome string

// The outcomes.
const (
	Hinted     Outcome = "hinted"     // it became keys
	Ignored    Outcome = "ignored"    // of a kind that does not concern Muster
	Unreadable Outcome = "unreadable" // see Event.Problem
)

// Event is a message that arrived, without its payload.
type Event struct {
	ID        string    // of this event at this replica; a message that is delivered again is another event
	At        time.Time // when it came
	Queue     string
	Outcome   Outcome
	MessageID string
	Publisher string
	Type      string
	Sent      time.Time // as the sender says; zero if it does not
	Hints     []converge.Hint
	Problem   string // why it is unreadable, or has not converged yet; without any of its content
	Body      string // of an unreadable one: its form, at most 4 KiB, with no value that could be a secret
	Size      int    // bytes
	// Acknowledged is when the broker was told that it may forget the message;
	// zero before.
	Acknowledged time.Time
}

// journal remembers the last events of each outcome, so that the noise does not
// drive out what matters.
type journal struct {
	replica string // random
	count   atomic.Uint64

	mu   sync.Mutex
	last map[Outcome][]*Event // oldest first
}

// next returns the ID of another event.
func (j *journal) next() string { return fmt.Sprintf("%s-%d", j.replica, j.count.Add(1)) }

func (j *journal) add(e *Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.last == nil {
		j.last = map[Outcome][]*Event{}
	}
	kept := append(j.last[e.Outcome], e)
	j.last[e.Outcome] = slices.Delete(kept, 0, max(0, len(kept)-journalSize))
}

// update changes an event under the journal's lock.
func (j *journal) update(change func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change()
}

// events returns copies, newest first, at most limit.
func (j *journal) events(limit int) []Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	var all []Event
	for _, kept := range j.last {
		for _, e := range kept {
			all = append(all, *e)
		}
	}
	slices.SortStableFunc(all, func(a, b Event) int { return b.At.Compare(a.At) })
	return all[:min(limit, len(all))]
}
