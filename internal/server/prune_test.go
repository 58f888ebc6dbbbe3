// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/store"
)

// One replica removes old records, in as many batches as it takes, and leaves
// the others.
func TestPrune(t *testing.T) {
	cfg := &config.Config{Host: "here",
		Database: config.Database{Connection: config.Secret("sqlite:///" + filepath.Join(t.TempDir(), "muster.db"))},
		Prune:    config.Prune{Interval: time.Hour, CertificateRetention: time.Hour}, Audit: config.Audit{Retention: time.Hour}}
	records, err := OpenStore(t.Context(), cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := records.Upgrade(t.Context()); err != nil {
		t.Fatal(errors.Join(err, records.Close()))
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- records.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, records.Close()); err != nil {
			t.Error(err)
		}
	})
	var group errgroup.Group
	for i := range 2*pruneBatch + 1 {
		at := time.Now().Add(-2 * time.Hour)
		if i == 0 {
			at = time.Now()
		}
		group.Go(func() error { return records.AppendAudit(t.Context(), store.Audit{At: at, Action: "x", Outcome: "ok"}) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		for page := (store.Page{Limit: store.MaxPageLimit}); ; {
			entries, err := records.Audits(t.Context(), store.AuditFilter{}, page)
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) == 0 {
				return n
			}
			n, page.After = n+len(entries), entries[len(entries)-1].ID
		}
	}
	s := &Server{cfg: cfg, store: records, logger: slog.New(slog.DiscardHandler)}
	if held, err := records.Lease(t.Context(), "prune", "elsewhere", time.Hour); err != nil || !held {
		t.Fatal(held, err)
	}
	if err := s.pruneOnce(t.Context(), time.Time{}); err != nil || count() != 2*pruneBatch+1 {
		t.Errorf("while another replica prunes: %d entries left, %v", count(), err)
	}
	cfg.Host = "elsewhere"
	if err := s.pruneOnce(t.Context(), time.Now().Add(-90*time.Minute)); err != nil || count() != 2*pruneBatch+1 {
		t.Errorf("by a clock that is not believed: %d entries left, %v", count(), err)
	}
	if err := s.pruneOnce(t.Context(), time.Now().Add(time.Hour)); err != nil || count() != 1 {
		t.Errorf("%d entries left, %v; want the one of today", count(), err)
	}
}

// TestBelievable: a clock that jumps is not followed, one that goes on is.
func TestBelievable(t *testing.T) {
	newest := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for elapsed, want := range map[time.Duration]time.Time{0: newest.Add(24 * time.Hour), 9 * time.Hour: newest.Add(33 * time.Hour)} {
		if got := believable(newest, elapsed); !got.Equal(want) {
			t.Errorf("after %v: %v, want %v", elapsed, got, want)
		}
	}
	if got := believable(time.Time{}, time.Hour); !got.IsZero() {
		t.Errorf("without records: %v", got)
	}
}
