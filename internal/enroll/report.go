// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// Report is what an instance says of its joining.
type Report struct {
	InstanceID string
	Joined     bool
	Reason     string // why it could not join, at most MaxReason bytes
}

// MaxReason bounds what an instance may write into its record, in bytes.
const MaxReason = 500

// reported begins the error of an enrolment whose instance could not join.
const reported = "the instance reports: "

// toJoin tells whether all is there for the instance to join.
func toJoin(e store.Enrolment) bool {
	return e.OTPState == store.OTPSet &&
		(e.State == store.EnrolmentCreated || e.State == store.EnrolmentFailed && strings.HasPrefix(e.LastError, reported))
}

// Report takes what an instance says of itself, as a hint: that it has joined
// is recorded when FreeIPA says so too; that it could not join is shown to
// operators, and its one-time password stays good for another try. It returns
// the enrolment as it is then. Repeats do no harm.
//
// Problems: NotFound, if the instance never asked to be enrolled; Invalid.
func (s *Service) Report(ctx context.Context, by Actor, report Report) (store.Enrolment, error) {
	if len(report.Reason) > MaxReason {
		return store.Enrolment{}, problem.InField("reason", "is longer than %d bytes", MaxReason)
	}
	for {
		e, err := s.cfg.Store.Enrolment(ctx, report.InstanceID)
		if errors.Is(err, store.ErrNotFound) {
			return e, problem.New(problem.NotFound, "instance %s has not asked to be enrolled", report.InstanceID)
		}
		if err != nil || !toJoin(e) {
			return e, err
		}
		s.metrics.reports.WithLabelValues(report.outcome()).Inc()
		if report.Joined {
			return s.compareNow(ctx, e), nil
		}
		e, err = s.recordFailure(ctx, by, e, report)
		if !errors.Is(err, store.ErrConflict) {
			return e, err
		}
	}
}

func (r Report) outcome() string {
	if r.Joined {
		return "enrolled"
	}
	return "failed"
}

// compareNow asks FreeIPA, unless too many do already: then a later call will.
func (s *Service) compareNow(ctx context.Context, e store.Enrolment) store.Enrolment {
	select {
	case s.looks <- struct{}{}:
		defer func() { <-s.looks }()
	default:
		return e
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	return s.compare(ctx, e, true)
}

// reportEvery is the time between two reasons of an instance that are recorded.
const reportEvery = 10 * time.Second

// recordFailure shows the reason to operators. The same reason again changes
// nothing, nor does another one a moment later.
func (s *Service) recordFailure(ctx context.Context, by Actor, e store.Enrolment, report Report) (store.Enrolment, error) {
	text := reported + oneLine(report.Reason)
	if e.State == store.EnrolmentFailed && (e.LastError == text || !s.elapsed(e.UpdatedAt, reportEvery)) {
		return e, nil
	}
	entry := s.audit(by, "enrolment.report", e.ProjectID, e.InstanceID)
	entry.Outcome, entry.Reason = "failed", text
	changed := e
	changed.State, changed.LastError = store.EnrolmentFailed, text
	saved, err := s.cfg.Store.SaveEnrolment(ctx, changed, store.EnrolmentChange{Audit: &entry})
	if err != nil {
		return e, err
	}
	s.cfg.Logger.WarnContext(ctx, "An instance could not join FreeIPA", "instance", e.InstanceID, "fqdn", e.FQDN, "project", e.ProjectID, "reason", text)
	return saved, nil
}

// oneLine keeps what an instance writes from forging lines on a terminal.
func oneLine(text string) string {
	clean := strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "?"))
	if clean = strings.TrimSpace(clean); clean == "" {
		return "no reason given"
	}
	return clean
}
