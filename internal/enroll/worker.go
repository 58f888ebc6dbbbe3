// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/outage"
	"github.com/muster-cloud/muster/internal/store"
)

const (
	perService  = 100 * time.Millisecond // more time for an attempt
	claimMargin = 5 * time.Second        // how much longer than an attempt its claim holds
	saveTime    = 10 * time.Second       // for recording how an attempt ended
	duePage     = 100                    // enrolments read at once
	countEvery  = 15 * time.Second       // how old the numbers of the metrics may be
	peekTime    = 100 * time.Millisecond // between looks at what other replicas do
)

// Run does the work of Enrol, Leave, Rebuild, Retry and Adopt, this process's and what other replicas left, until ctx ends. Then
// attempts under way are cut short; any replica goes on with them later.
func (s *Service) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	for range s.cfg.MaxInFlight {
		workers.Go(func() {
			for {
				id, ok := s.queue.next(ctx.Done())
				if !ok {
					return
				}
				s.visit(ctx, id)
			}
		})
	}
	workers.Go(func() { s.findDue(ctx) })
	workers.Go(func() { s.count(ctx) })
	workers.Go(func() { s.peek(ctx) })
	workers.Wait()
	return nil
}

// findDue hands what is due in the database to the workers, as they become free.
func (s *Service) findDue(ctx context.Context) {
	var away outage.Outage
	for {
		due, err := s.cfg.Store.DueEnrolments(ctx, s.longest(), duePage)
		away.Note(ctx, s.cfg.Logger, "look for enrolments that are due", err)
		for _, e := range due {
			select {
			case s.queue.due <- e.InstanceID:
			case <-ctx.Done():
				return
			}
		}
		// The replicas spread out, so that they seldom reach for the same one.
		if !pause(ctx, s.cfg.PollEvery/2+rand.N(s.cfg.PollEvery)) {
			return
		}
	}
}

// count keeps the numbers of enrolments in each state.
func (s *Service) count(ctx context.Context) {
	states := []store.EnrolmentState{store.EnrolmentWanted, store.EnrolmentCreated, store.EnrolmentEnrolled, store.EnrolmentFailed,
		store.EnrolmentLeaving, store.EnrolmentGone}
	for {
		if counts, err := s.cfg.Store.CountEnrolments(ctx); err == nil {
			for _, state := range states {
				s.metrics.states.WithLabelValues(string(state)).Set(float64(counts[state]))
			}
		}
		if !pause(ctx, countEvery) {
			return
		}
	}
}

// peek looks up, for all who wait at once, what became of enrolments that other replicas work on.
func (s *Service) peek(ctx context.Context) {
	var away outage.Outage
	for wait := peekTime; pause(ctx, wait); {
		instances := s.board.asked()
		if len(instances) == 0 {
			continue
		}
		enrolments, err := s.cfg.Store.EnrolmentsOf(ctx, instances)
		away.Note(ctx, s.cfg.Logger, "see what became of enrolments that other replicas work on", err)
		if wait = peekTime; err != nil {
			wait = max(peekTime, s.cfg.PollEvery)
		}
		for _, e := range enrolments {
			if !s.underWay(e) {
				s.board.tell(e)
			}
		}
	}
}

// pause waits, and returns false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// claimed tells whether a replica works on the enrolment.
func (s *Service) claimed(e store.Enrolment) bool { return s.toCome(e.ClaimedTill) }

// toCome tells whether a time for which an enrolment is put off or claimed is yet to come. One that is too far off was set by a clock that
// was far ahead, and is not believed: see store.DueEnrolments.
func (s *Service) toCome(at time.Time) bool {
	now := s.cfg.Now()
	return at.After(now) && !at.After(now.Add(s.longest()+store.MaxClockError))
}

// longest is the longest time for which an enrolment is put off or claimed.
func (s *Service) longest() time.Duration {
	return max(s.cfg.BackoffMax, s.cfg.AttemptTime+maxServices*perService+claimMargin)
}

// believed tells whether something may have been recorded at this time, by a clock that is right within the hour.
func (s *Service) believed(at time.Time) bool { return !at.After(s.cfg.Now().Add(store.MaxClockError)) }

// elapsed tells whether so much time has passed since something was recorded. When that was is not known if the time is not believed.
func (s *Service) elapsed(since time.Time, d time.Duration) bool {
	return s.cfg.Now().Sub(since) >= d || !s.believed(since)
}

// claim makes this replica the one that works on the enrolment, for as long as one attempt may take.
func (s *Service) claim(e store.Enrolment, w want) store.Enrolment {
	e.ClaimedBy, e.ClaimedTill = s.replica, s.cfg.Now().Add(s.attemptTime(w)+claimMargin)
	return e
}

func (s *Service) attemptTime(w want) time.Duration {
	return s.cfg.AttemptTime + time.Duration(len(w.Services))*perService
}

// visit makes one attempt for an instance, if there is something to do and nobody else does it.
func (s *Service) visit(ctx context.Context, instanceID string) {
	if !s.queue.begin(instanceID) {
		return
	}
	defer s.queue.end(instanceID)
	e, w, ok := s.take(ctx, instanceID)
	if !ok {
		return
	}
	begin := time.Now()
	bounded, cancel := context.WithTimeout(ctx, s.attemptTime(w))
	a := &attempt{service: s, e: e, want: w}
	err := a.run(bounded)
	cancel()
	s.metrics.attemptTime.Observe(time.Since(begin).Seconds())
	// How it ended is recorded although this process may be about to stop.
	recording, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTime)
	defer cancel()
	s.settle(recording, a, err)
}

// take reads an enrolment and makes sure that this replica has it for long enough.
func (s *Service) take(ctx context.Context, instanceID string) (store.Enrolment, want, bool) {
	e, err := s.cfg.Store.Enrolment(ctx, instanceID)
	if err != nil {
		if !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil {
			s.cfg.Logger.WarnContext(ctx, "Cannot read an enrolment; will try again", "instance", instanceID, "error", err)
		}
		return e, want{}, false
	}
	if e.NextAt.IsZero() || s.toCome(e.NextAt) || s.claimed(e) && e.ClaimedBy != s.replica {
		return e, want{}, false
	}
	w, err := decodeWant(e.Want)
	if err != nil {
		s.cfg.Logger.ErrorContext(ctx, "An enrolment cannot be read", "instance", instanceID, "error", err)
		return e, want{}, false
	}
	if e.ClaimedBy == s.replica && s.claimed(e) && e.ClaimedTill.Sub(s.cfg.Now()) >= s.attemptTime(w) {
		return e, w, true
	}
	e, err = s.cfg.Store.SaveEnrolment(ctx, s.claim(e, w), store.EnrolmentChange{})
	if err != nil && !errors.Is(err, store.ErrConflict) && ctx.Err() == nil {
		s.cfg.Logger.WarnContext(ctx, "Cannot claim an enrolment; will try again", "instance", instanceID, "error", err)
	}
	return e, w, err == nil
}

// settle records how an attempt ended, gives the claim back, and tells those who wait.
func (s *Service) settle(ctx context.Context, a *attempt, err error) {
	e, outcome := s.outcome(a.e, err)
	s.metrics.attempts.WithLabelValues(outcome).Inc()
	log := s.cfg.Logger.With("instance", e.InstanceID, "fqdn", e.FQDN, "project", e.ProjectID)
	switch {
	case err == nil:
		log.InfoContext(ctx, "Enrolment brought in line with FreeIPA", "state", string(e.State))
	case e.NextAt.IsZero():
		log.ErrorContext(ctx, "Enrolment failed; see muster enrolment show", "error", err)
	default:
		log.WarnContext(ctx, "Enrolment not done; will try again", "error", err, "attempt", e.Attempts, "next", e.NextAt)
	}
	saved, saveErr := s.cfg.Store.SaveEnrolment(ctx, e, a.change)
	if errors.Is(saveErr, store.ErrConflict) {
		// There is a new order. It is not this attempt's to say how that ends.
		saved, saveErr = s.release(ctx, a)
	}
	if saveErr != nil {
		log.ErrorContext(ctx, "How an enrolment went could not be recorded; it will be done again", "error", saveErr)
		return
	}
	s.board.tell(saved)
	if err == nil && (saved.State == store.EnrolmentCreated || saved.State == store.EnrolmentEnrolled) {
		s.cfg.Ready(saved.InstanceID)
	}
}

// outcome is the enrolment after an attempt.
func (s *Service) outcome(e store.Enrolment, err error) (store.Enrolment, string) {
	e.ClaimedBy, e.ClaimedTill = "", time.Time{}
	if err == nil {
		e.Attempts, e.LastError, e.NextAt = 0, "", time.Time{}
		return e, "done"
	}
	e.Attempts++
	e.LastError = err.Error()
	wait := s.cfg.BackoffMax
	if e.Attempts < 20 {
		wait = min(wait, s.cfg.BackoffMin<<(e.Attempts-1))
	}
	e.NextAt = s.cfg.Now().Add(wait/2 + rand.N(wait/2+1))
	class := classOf(err)
	if e.State == store.EnrolmentLeaving {
		// What was made must go, however long it takes.
		return e, class.String()
	}
	switch class {
	case ipa.Permanent:
		e.State, e.NextAt = store.EnrolmentFailed, time.Time{}
	case ipa.Operator:
		e.State = store.EnrolmentFailed
	default:
		e.State = store.EnrolmentWanted
	}
	return e, class.String()
}

// release keeps what an attempt learned about objects, and gives back the claim on an enrolment that was changed meanwhile.
func (s *Service) release(ctx context.Context, a *attempt) (store.Enrolment, error) {
	for {
		e, err := s.cfg.Store.Enrolment(ctx, a.e.InstanceID)
		if err != nil {
			return e, err
		}
		if e.ClaimedBy != s.replica {
			return e, nil
		}
		e.ClaimedBy, e.ClaimedTill = "", time.Time{}
		saved, err := s.cfg.Store.SaveEnrolment(ctx, e, store.EnrolmentChange{Made: a.change.Made, Found: a.change.Found})
		if !errors.Is(err, store.ErrConflict) {
			return saved, err
		}
	}
}
