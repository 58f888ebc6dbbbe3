// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"sync"
)

// recent keeps the last lines of a log.
type recent struct {
	mu    sync.Mutex
	lines []string
}

// recentLines is how many are kept.
const recentLines = 50

func (r *recent) add(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) == recentLines {
		r.lines = r.lines[1:]
	}
	r.lines = append(r.lines, line)
}

// String implements fmt.Stringer.
func (r *recent) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}
