// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone

import "sync"

// maxForgotten bounds the ledger. When it is full, all that is cached is forgotten.
const maxForgotten = 4096

// subject is whom a cached answer is about; empty parts are nobody.
type subject struct {
	user, project string
	credential    string // what a token was made with
	held          string // the project whose grants they are
}

// ledger numbers the forgettings. An answer that was asked for before its
// subject was last forgotten is stale, whenever it arrives. So forgetting costs
// the same however much is cached.
type ledger struct {
	mu          sync.RWMutex
	count       uint64
	floor       uint64
	users       map[string]uint64
	projects    map[string]uint64
	credentials map[string]uint64
	// held are the projects of which the grants were forgotten, and nothing else.
	held map[string]uint64
}

func newLedger() *ledger {
	return &ledger{users: map[string]uint64{}, projects: map[string]uint64{}, credentials: map[string]uint64{}, held: map[string]uint64{}}
}

func (l *ledger) current() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.count
}

func (l *ledger) forget(s subject) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	if len(l.users)+len(l.projects)+len(l.credentials)+len(l.held) >= maxForgotten {
		l.clear()
	}
	if s.user != "" {
		l.users[s.user] = l.count
	}
	if s.project != "" {
		l.projects[s.project] = l.count
	}
	if s.credential != "" {
		l.credentials[s.credential] = l.count
	}
	if s.held != "" {
		l.held[s.held] = l.count
	}
}

func (l *ledger) forgetAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	l.clear()
}

// clear has all that was asked for before now count as stale; mu is held.
func (l *ledger) clear() {
	clear(l.users)
	clear(l.projects)
	clear(l.credentials)
	clear(l.held)
	l.floor = l.count
}

// stale tells whether the subject was forgotten after the seen-th forgetting.
func (l *ledger) stale(s subject, seen uint64) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return seen < l.floor || seen < l.users[s.user] || seen < l.projects[s.project] || seen < l.credentials[s.credential] || seen < l.held[s.held]
}
