// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"errors"
	"time"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// Leave orders the removal of all that was made for an instance. It returns when the order is recorded; Run carries it out.
// Repeats, and instances that never enrolled, are no errors.
func (s *Service) Leave(ctx context.Context, by Actor, instanceID string) error {
	_, err := s.order(ctx, by, "enrolment.leave", instanceID, func(e *store.Enrolment, _ *store.EnrolmentChange) (bool, error) {
		if e.State == store.EnrolmentLeaving || e.State == store.EnrolmentGone {
			return false, nil
		}
		e.State, e.Attempts, e.LastError = store.EnrolmentLeaving, 0, ""
		return true, nil
	})
	if isUnknown(err) && s.cfg.DNS != nil {
		return s.cfg.DNS.RemoveAll(ctx, instanceID)
	}
	return known(err)
}

// Rebuild orders, for an instance that was built anew from an image at a time of Nova's (zero: just now), that its old keytab is made invalid and a new
// one-time password set. The caller decides that there was a rebuild: one too many cuts a living host off. An order for the same rebuild or
// an earlier one does nothing, and neither does one that comes so late that the instance, as it is since then, got its password already:
// that password is good. An instance that never enrolled, or has left, is no error.
func (s *Service) Rebuild(ctx context.Context, by Actor, instanceID string, at time.Time) error {
	if at.IsZero() {
		at = s.cfg.Now()
	}
	at = at.Truncate(time.Microsecond) // as it is stored
	_, err := s.order(ctx, by, "enrolment.rebuild", instanceID, func(e *store.Enrolment, _ *store.EnrolmentChange) (bool, error) {
		switch {
		case e.State == store.EnrolmentLeaving || e.State == store.EnrolmentGone:
			return false, nil
		case e.OTPState == store.OTPNew || e.OTPState == store.OTPRebuild:
			// Nobody got it yet. What failed, because its entry is not there, say, is tried again.
			again := e.State == store.EnrolmentFailed
			if again {
				e.State, e.Attempts = store.EnrolmentWanted, 0
			}
			return again, nil
		case !e.RebuiltAt.Before(at) || e.OTPReadAt.After(at) && s.believed(e.OTPReadAt):
			return false, nil
		}
		e.OTPSealed, e.OTPReadAt, e.RebuiltAt = s.newOTP(e.InstanceID), time.Time{}, at
		e.State, e.OTPState, e.Attempts = store.EnrolmentWanted, store.OTPRebuild, 0
		if w, err := decodeWant(e.Want); err == nil && !s.claimed(*e) {
			*e = s.claim(*e, w) // so that the instance, if it asks now, waits for it
		}
		return true, nil
	})
	return known(err)
}

// known passes over an instance that Muster knows nothing of.
func known(err error) error {
	if isUnknown(err) {
		return nil
	}
	return err
}

func isUnknown(err error) bool {
	p, ok := errors.AsType[*problem.Problem](err)
	return ok && p.Kind == problem.NotFound
}

// Retry lets an enrolment that failed, or waits for its next attempt, be tried at once. It returns the enrolment as it is then.
// Problems: NotFound; Conflict if there is nothing to do.
func (s *Service) Retry(ctx context.Context, by Actor, instanceID string) (store.Enrolment, error) {
	return s.order(ctx, by, "enrolment.retry", instanceID, func(e *store.Enrolment, _ *store.EnrolmentChange) (bool, error) {
		switch e.State {
		case store.EnrolmentFailed:
			e.State = store.EnrolmentWanted
		case store.EnrolmentWanted, store.EnrolmentLeaving:
		default:
			return false, problem.New(problem.Conflict, "the enrolment of instance %s is %s: there is nothing to try again", instanceID, e.State)
		}
		e.Attempts = 0
		return true, nil
	})
}

// Adopt makes an instance the owner of the host entries that were there before under its names, and tries its enrolment again. A
// host that has enrolled keeps its keytab. From then on the entries go with the instance. It returns the enrolment as it is then.
// Problems: NotFound; Conflict if the enrolment did not fail for such an entry.
func (s *Service) Adopt(ctx context.Context, by Actor, instanceID string) (store.Enrolment, error) {
	return s.order(ctx, by, "enrolment.adopt", instanceID, func(e *store.Enrolment, change *store.EnrolmentChange) (bool, error) {
		objects, err := s.cfg.Store.Objects(ctx, instanceID)
		if err != nil {
			return false, err
		}
		for _, o := range objects {
			if o.Kind == store.ObjectHost && o.State == store.ObjectFound {
				change.Made = append(change.Made, o)
			}
		}
		if e.State != store.EnrolmentFailed || len(change.Made) == 0 {
			return false, problem.New(problem.Conflict,
				"the enrolment of instance %s did not fail for a host entry that was there before", instanceID)
		}
		e.State, e.Attempts = store.EnrolmentWanted, 0
		return true, nil
	})
}

// order changes an enrolment and has it worked on. change says whether there is anything to record; it is asked again when somebody
// else has changed the enrolment at the same time.
func (s *Service) order(ctx context.Context, by Actor, action, instanceID string,
	change func(*store.Enrolment, *store.EnrolmentChange) (bool, error)) (store.Enrolment, error) {
	for {
		e, err := s.cfg.Store.Enrolment(ctx, instanceID)
		if errors.Is(err, store.ErrNotFound) {
			return e, &problem.Problem{Kind: problem.NotFound, Reason: "instance " + instanceID + " has not asked to be enrolled", Cause: err}
		}
		if err != nil {
			return e, err
		}
		entry := s.audit(by, action, e.ProjectID, instanceID)
		entry.Details = map[string]string{"fqdn": e.FQDN}
		also := store.EnrolmentChange{Audit: &entry}
		needed, err := change(&e, &also)
		if err != nil || !needed {
			return e, err
		}
		e.NextAt = s.cfg.Now()
		saved, err := s.cfg.Store.SaveEnrolment(ctx, e, also)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return e, err
		}
		s.board.tell(saved)
		s.queue.add(instanceID)
		return saved, nil
	}
}
