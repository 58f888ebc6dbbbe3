// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-cloud/muster/test/services"
)

// TestServerKilled kills the database under load, three times. Every write that was acknowledged is there afterwards, and the store goes on by
// itself.
func TestServerKilled(t *testing.T) {
	services.EachDatabase(t, func(t *testing.T, server *services.Server, url string) {
		f := newFixture(t, url, 1)
		f.authority(t, 1)
		acknowledged := issueWhile(t, f, func(count *atomic.Int64) {
			for range 3 {
				waitMore(t, count, 200)
				if err := server.Kill(); err != nil {
					t.Error(err)
				}
				if err := server.Start(t.Context()); err != nil {
					t.Error(err)
				}
			}
			waitMore(t, count, 200)
		})
		for _, serial := range acknowledged {
			must(f.store().UserCert(t.Context(), serial))(t)
		}
		t.Logf("%d acknowledged certificates are there", len(acknowledged))
	})
}

// waitMore waits until n more writes were acknowledged.
func waitMore(t *testing.T, count *atomic.Int64, n int64) {
	goal := count.Load() + n
	for deadline := time.Now().Add(5 * time.Minute); count.Load() < goal; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("only %d of %d writes", count.Load(), goal)
			return
		}
	}
}

// issueWhile issues certificates from several callers until the trouble has ended, and returns the serials that were acknowledged. Nothing but
// ErrUnavailable may come of trouble.
func issueWhile(t *testing.T, f *fixture, trouble func(count *atomic.Int64)) []uint64 {
	var count atomic.Int64
	var mu sync.Mutex
	var acknowledged []uint64
	ended := make(chan struct{})
	var wg sync.WaitGroup
	for n := range 16 {
		wg.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
				}
				serial, err := issueOne(t, f, n)
				if err != nil {
					if !errors.Is(err, ErrUnavailable) {
						t.Errorf("%v", err)
					}
					continue
				}
				count.Add(1)
				mu.Lock()
				acknowledged = append(acknowledged, serial)
				mu.Unlock()
			}
		})
	}
	trouble(&count)
	close(ended)
	wg.Wait()
	return acknowledged
}

func issueOne(t *testing.T, f *fixture, n int) (uint64, error) {
	s := f.store()
	serial, err := s.NextSerial(t.Context())
	if err != nil {
		return 0, err
	}
	c := UserCert{Serial: serial, ProjectID: id(1), UserID: id(50), Fingerprint: fingerprint(n), AuthorityKeyID: id(10),
		Cert: strings.Repeat("A", 600), ExpiresAt: f.clock.Now().Add(time.Hour)}
	return serial, s.InsertUserCert(t.Context(), c, Audit{ProjectID: id(1)})
}

// TestFullDatabase fills a SQLite database up to a limit, and makes room again.
func TestFullDatabase(t *testing.T) {
	f := newFixture(t, "sqlite:///"+filepath.Join(t.TempDir(), "muster.db"), 1)
	f.authority(t, 1)
	f.insert(t, f.userCert(t, 1, 50, 1))
	limit := func(pages string) {
		t.Helper()
		if _, err := f.store().writer.db.ExecContext(t.Context(), "PRAGMA max_page_count = "+pages); err != nil {
			t.Fatal(err)
		}
	}
	limit("60")
	written := []UserCert{}
	var err error
	for range 1000 {
		c := f.userCert(t, 1, 50, 1)
		if err = f.store().InsertUserCert(t.Context(), c, Audit{}); err != nil {
			break
		}
		written = append(written, c)
	}
	isError(t, err, ErrUnavailable)
	limit("100000")
	written = append(written, f.insert(t, f.userCert(t, 1, 50, 1)))
	for _, c := range written {
		equal(t, must(f.store().UserCert(t.Context(), c.Serial))(t), c)
	}
}

func TestSQLiteFileIsPrivate(t *testing.T) {
	folder := t.TempDir()
	f := newFixture(t, "sqlite:///"+filepath.Join(folder, "muster.db"), 1)
	f.authority(t, 1)
	files := must(os.ReadDir(folder))(t)
	for _, file := range files {
		if mode := must(file.Info())(t).Mode(); mode.Perm() != 0o600 {
			t.Errorf("%s has mode %v", file.Name(), mode)
		}
	}
	if len(files) < 2 {
		t.Errorf("%d files: no write-ahead log", len(files))
	}
}

func TestOpenRefuses(t *testing.T) {
	ctx := t.Context()
	_, err := Open(ctx, Config{URL: "sqlite:////nowhere/at/all/muster.db"})
	isError(t, err, ErrUnavailable)
	_, err = Open(ctx, Config{URL: "sqlite:///" + filepath.Join(t.TempDir(), "x.db"), MaxPoolSize: -1})
	isError(t, err, ErrInvalid)
	_, err = Open(ctx, Config{URL: "postgresql://127.0.0.1:1/x?sslmode=disable", MaxRetries: 1, RetryInterval: time.Millisecond})
	isError(t, err, ErrUnavailable)
	_, err = Open(ctx, Config{URL: "mysql://127.0.0.1:1/x", MaxRetries: 1, RetryInterval: time.Millisecond})
	isError(t, err, ErrUnavailable)
}

// TestOpenTriesAgain as often as it is told: 0 is none.
func TestOpenTriesAgain(t *testing.T) {
	for retries, want := range map[int]int{0: 0, 1: 1, 3: 3} {
		var log strings.Builder
		_, err := Open(t.Context(), Config{URL: "postgresql://127.0.0.1:1/x?sslmode=disable", MaxRetries: retries,
			RetryInterval: time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		isError(t, err, ErrUnavailable)
		if got := strings.Count(log.String(), "trying again"); got != want {
			t.Errorf("%d retries: tried %d times more", retries, got)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	counting := slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		if tries++; tries == 30 {
			cancel()
		}
		return len(b), nil
	}), nil))
	_, err := Open(ctx, Config{URL: "postgresql://127.0.0.1:1/x?sslmode=disable", MaxRetries: -1, RetryInterval: time.Millisecond, Logger: counting})
	if isError(t, err, context.Canceled); tries != 30 {
		t.Errorf("without limit: tried %d times more before its context ended", tries)
	}
}

type writerFunc func([]byte) (int, error)

// Write implements io.Writer.
func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestRunFinishes takes on what was queued when its context had ended.
func TestRunFinishes(t *testing.T) {
	f := newFixture(t, "sqlite:///"+filepath.Join(t.TempDir(), "muster.db"), 1)
	s := newReplica(t, f)
	const writes = 2 * maxBatch
	var wg sync.WaitGroup
	for range writes {
		wg.Go(func() {
			if err := s.AppendAudit(t.Context(), f.entry("late", id(1))); err != nil {
				t.Error(err)
			}
		})
	}
	for len(s.lanes[0].brisk) < writes {
		time.Sleep(time.Millisecond)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ended); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	equal(t, f.audited(t, "late", id(1)), writes)
	if err := s.Run(ended); err == nil {
		t.Error("Run ran twice")
	}
}

// TestCrowd queues more writes of booting instances than one transaction takes, and then another write: it does not come after them all.
func TestCrowd(t *testing.T) {
	f := newFixture(t, "sqlite:///"+filepath.Join(t.TempDir(), "muster.db"), 1)
	s := newReplica(t, f)
	const crowd = maxQueue
	var decided, before int
	var wg sync.WaitGroup
	group := func(w *write) {
		wg.Go(func() {
			if err := s.group(t.Context(), w); err != nil {
				t.Error(err)
			}
		})
	}
	for range crowd {
		group(&write{patient: true, decide: func(*batch) error { decided++; return nil }})
	}
	group(&write{decide: func(*batch) error { before = decided; return nil }})
	for len(s.lanes[0].patient) < crowd || len(s.lanes[0].brisk) < 1 {
		time.Sleep(time.Millisecond)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ended); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if before > maxPatient || decided != crowd {
		t.Errorf("%d of %d writes of the crowd came before the other one, want at most %d", before, decided, maxPatient)
	}
}

// TestSQLiteIsDurable: no test can cut the power, so the settings that make a commit outlive that are looked at.
func TestSQLiteIsDurable(t *testing.T) {
	f := newFixture(t, "sqlite:///"+filepath.Join(t.TempDir(), "muster.db"), 1)
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal"} {
		var got string
		if err := f.store().writer.db.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s = %s, %v", pragma, got, err)
		}
	}
}
