// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package outage keeps loops from filling the log while something that they
// need is away: it is said once when that begins, and once when it has ended.
//
// It never retries, waits or counts; the loop does.
package outage

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Outage is that of one thing. The zero value is ready, and safe for simultaneous use.
type Outage struct {
	mu    sync.Mutex
	since time.Time // zero: there is none
}

// Note takes the outcome of one more try to do what is named, such as "look for
// keys to try again". A failure because ctx has ended is none.
func (o *Outage) Note(ctx context.Context, logger *slog.Logger, what string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err != nil && ctx.Err() == nil && o.since.IsZero():
		o.since = time.Now()
		logger.WarnContext(ctx, "Cannot "+what+"; will go on trying", "error", err)
	case err == nil && !o.since.IsZero():
		logger.InfoContext(ctx, "Can "+what+" again", "after", time.Since(o.since).Round(time.Millisecond))
		o.since = time.Time{}
	}
}
