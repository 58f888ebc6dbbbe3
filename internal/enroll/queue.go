// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"maps"
	"slices"
	"sync"

	"github.com/muster-cloud/muster/internal/store"
)

// maxFresh is how many instances may wait for a worker. Those beyond it are found in the database later.
const maxFresh = 10_000

// queue hands instances to workers: those that somebody waits for first. An instance is with one worker at a time.
type queue struct {
	fresh chan string // asked for now
	due   chan string // found in the database

	mu      sync.Mutex
	working map[string]bool // instances with a worker; true if another one was asked for meanwhile
}

func newQueue() *queue {
	return &queue{fresh: make(chan string, maxFresh), due: make(chan string), working: make(map[string]bool)}
}

// add asks for work on an instance.
func (q *queue) add(instanceID string) {
	select {
	case q.fresh <- instanceID:
	default:
	}
}

// next returns the next instance, or false when done is closed.
func (q *queue) next(done <-chan struct{}) (string, bool) {
	select {
	case <-done:
		return "", false
	default:
	}
	select {
	case id := <-q.fresh:
		return id, true
	default:
	}
	select {
	case id := <-q.fresh:
		return id, true
	case id := <-q.due:
		return id, true
	case <-done:
		return "", false
	}
}

// begin tells whether no other worker has the instance; if so, end must follow.
func (q *queue) begin(instanceID string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, busy := q.working[instanceID]; busy {
		q.working[instanceID] = true
		return false
	}
	q.working[instanceID] = false
	return true
}

// end lets other workers have the instance. One that was refused meanwhile may have known of more to do.
func (q *queue) end(instanceID string) {
	q.mu.Lock()
	again := q.working[instanceID]
	delete(q.working, instanceID)
	q.mu.Unlock()
	if again {
		q.add(instanceID)
	}
}

// board tells those who wait for an enrolment what became of it.
type board struct {
	mu        sync.Mutex
	watchers  map[string]map[chan store.Enrolment]bool
	elsewhere map[string]int // how many watchers wait for another replica's work, which nobody tells here
}

func newBoard() *board {
	return &board{watchers: make(map[string]map[chan store.Enrolment]bool), elsewhere: make(map[string]int)}
}

// watch returns where the latest state of an enrolment comes, until stop is called.
func (b *board) watch(instanceID string) (news <-chan store.Enrolment, stop func()) {
	watcher := make(chan store.Enrolment, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.watchers[instanceID] == nil {
		b.watchers[instanceID] = make(map[chan store.Enrolment]bool)
	}
	b.watchers[instanceID][watcher] = true
	return watcher, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watchers[instanceID], watcher)
		if len(b.watchers[instanceID]) == 0 {
			delete(b.watchers, instanceID)
		}
	}
}

// ask has the enrolment looked up, since another replica works on it, until stop is called.
func (b *board) ask(instanceID string) (stop func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.elsewhere[instanceID]++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.elsewhere[instanceID]--; b.elsewhere[instanceID] == 0 {
			delete(b.elsewhere, instanceID)
		}
	}
}

// asked returns the instances that are to be looked up.
func (b *board) asked() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.elsewhere))
}

// tell hands an enrolment to all who wait for it. What a watcher has not taken yet is replaced.
func (b *board) tell(e store.Enrolment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for watcher := range b.watchers[e.InstanceID] {
		select {
		case <-watcher:
		default:
		}
		watcher <- e
	}
}
