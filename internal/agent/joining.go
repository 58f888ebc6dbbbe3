// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/muster-cloud/muster/internal/agentapi"
)

const (
	// firstJoinPause is kept after each failure, even if the state changes
	// meanwhile: it may because of the failure, and Muster takes no reports
	// more often.
	firstJoinPause   = 10 * time.Second
	longestJoinPause = 30 * time.Minute
)

// keepJoined joins FreeIPA when Muster says so, for as long as it takes.
func (a *Agent) keepJoined(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		select {
		case <-a.stateChanged: // this try sees whatever changed before it
		default:
		}
		err := a.join(ctx)
		if ctx.Err() != nil {
			return
		}
		a.note(aboutJoining, err)
		pause := longestJoinPause
		if err != nil {
			pause = max(min(firstJoinPause<<min(failures, 8), longestJoinPause), pauseAfter(err, failures)) - firstJoinPause
			failures++
			if sleep(ctx, firstJoinPause) != nil {
				return
			}
		} else {
			failures = 0
		}
		select {
		case <-ctx.Done():
		case <-a.stateChanged:
		case <-time.After(pause):
		}
	}
}

// join joins FreeIPA if that is wanted and not so yet, and tells Muster how it
// went. Muster hears of the same failure once.
func (a *Agent) join(ctx context.Context) error {
	r := a.snapshot()
	if r.State.IPA == nil || r.State.IPA.Done {
		return nil
	}
	if a.machine.Joined() {
		return a.reportJoined(ctx)
	}
	found, err := a.cfg.Finder.FindCurrent(ctx)
	if err != nil {
		return err
	}
	if found.Joining.OTP == "" {
		reason := "Muster has no one-time password for it yet"
		if found.Joining.Refusal != "" {
			reason = "Muster refuses: " + found.Joining.Refusal
		}
		return fmt.Errorf("can't join %s: %s", r.State.IPA.Realm, reason)
	}
	a.log.Info("Joining FreeIPA", "fqdn", r.State.IPA.FQDN, "realm", r.State.IPA.Realm)
	if err := a.machine.Join(ctx, *r.State.IPA, found.Joining.OTP); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return errors.Join(err, a.reportFailure(ctx, err))
	}
	a.log.Info("Joined FreeIPA", "fqdn", r.State.IPA.FQDN)
	return a.reportJoined(ctx)
}

func (a *Agent) reportJoined(ctx context.Context) error {
	if err := a.report(ctx, agentapi.OutcomeEnrolled, ""); err != nil {
		return fmt.Errorf("joined, but Muster does not know yet: %w", err)
	}
	a.change(func(r *record) { r.Joined = agentapi.OutcomeEnrolled })
	wake(a.askState)
	return nil
}

func (a *Agent) reportFailure(ctx context.Context, failure error) error {
	if a.reported == failure.Error() {
		return nil
	}
	err := a.report(ctx, agentapi.OutcomeFailed, failure.Error())
	if err == nil {
		a.reported = failure.Error()
		a.change(func(r *record) { r.Joined = agentapi.OutcomeFailed })
	}
	return err
}

func (a *Agent) report(ctx context.Context, outcome, reason string) error {
	keys, err := a.hostKeys(ctx)
	if err != nil {
		return err
	}
	signer, err := a.signer(keys)
	if err != nil {
		return err
	}
	return a.contact(a.muster().ReportEnrolment(ctx, signer, outcome, reason))
}
