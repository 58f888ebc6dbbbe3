// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/store"
)

// awayRecords do not say what became of enrolments, for a while.
type awayRecords struct {
	Records
	away  atomic.Bool
	looks atomic.Int64
}

// EnrolmentsOf implements Records.
func (a *awayRecords) EnrolmentsOf(ctx context.Context, instanceIDs []string) ([]store.Enrolment, error) {
	a.looks.Add(1)
	if a.away.Load() {
		return nil, fmt.Errorf("%w: for the test", store.ErrUnavailable)
	}
	return a.Records.EnrolmentsOf(ctx, instanceIDs)
}

// TestDatabaseAwayIsSaidOnce: who waits for what another replica does looks again and again, and says once that it cannot, and once that it can.
func TestDatabaseAwayIsSaidOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	release := make(chan struct{})
	w.ipa.Inject(func(command string) freeipa.Fault {
		if command == "batch" {
			<-release
		}
		return freeipa.Fault{}
	})
	patient := func(c *Config) { c.AttemptTime, c.AnswerWithin = time.Minute, time.Minute }
	first := w.replica(t, patient)
	var log bytes.Buffer
	records := &awayRecords{}
	records.away.Store(true)
	second := w.idle(t, patient, func(c *Config) {
		records.Records, c.Store, c.Logger = c.Store, records, slog.New(slog.NewTextHandler(&log, nil))
	})
	stop := second.run(t)
	answers := make(chan Answer, 2)
	for _, r := range []*replica{first, second} {
		go func() {
			answer, err := r.Enrol(t.Context(), operator, request(1, "web", "a"))
			if err != nil {
				t.Error(err)
			}
			answers <- answer
		}()
		r.until(t, 1, r.claimed)
	}
	for records.looks.Load() < 3 {
		time.Sleep(time.Millisecond)
	}
	records.away.Store(false)
	close(release)
	equal(t, <-answers, <-answers)
	stop()
	for text, want := range map[string]int{"Cannot see what became": 1, "Can see what became": 1} {
		if got := strings.Count(log.String(), text); got != want {
			t.Errorf("%q is said %d times, want %d:\n%s", text, got, want, log.String())
		}
	}
}
