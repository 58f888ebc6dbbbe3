// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"context"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/converge"
)

// TestPace: no more questions are asked in a second than is configured. Who
// cannot wait for the next one is told so, and nothing is taken away.
func TestPace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, _ := w.newPerson()
	w.ask("PUT", "/projects/"+p.project+"/users/"+p.user+"/roles/"+w.role("member"), nil)
	w.issue(p)
	w.disable("user", p.user)
	w.keystone.ForgetAll()
	// The user is one question, and what comes before taking something away more.
	for _, tt := range []struct {
		perSecond int
		patience  time.Duration
		left      int
	}{{1, 900 * time.Millisecond, 1}, {1000, time.Minute, 0}} {
		cfg := w.cfg
		cfg.CallsPerSecond = tt.perSecond
		c, err := converge.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		// The limiter refuses at once whoever would have to wait longer than this.
		ctx, cancel := context.WithTimeout(t.Context(), tt.patience)
		_, err = c.Converge(ctx, converge.Hint{Key: converge.Key{Kind: converge.User, ID: p.user}})
		cancel()
		if live := w.live(p); (err != nil) != (tt.left > 0) || len(live) != tt.left {
			t.Errorf("%d questions a second: %v, and certificates %v are left, want %d", tt.perSecond, err, live, tt.left)
		}
	}
}
