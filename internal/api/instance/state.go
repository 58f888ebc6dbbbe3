// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// showState answers with what the instance should look like now.
func (f *Face) showState(r *api.Request) (api.Response, error) {
	var body agentapi.StateRequest
	instance, err := f.signed(r, agentapi.PathState, &body)
	if err != nil {
		return api.Response{}, err
	}
	state, err := f.state(r.Context(), instance)
	return api.Response{Body: state}, err
}

func (f *Face) state(ctx context.Context, instance store.Instance) (agentapi.State, error) {
	state := f.cfg.State
	state.ProjectID, state.Hostname = instance.ProjectID, instance.Hostname
	trust, err := f.cfg.Hosts.Trust(ctx, instance.ProjectID)
	if err != nil {
		return state, err
	}
	state.UserCAs, state.HostCA = append([]string{}, trust.UserCAs...), trust.HostCA
	if state.Names, err = f.cfg.Hosts.HostNames(ctx, instance); err != nil {
		return state, err
	}
	list, err := f.cfg.Lists.Current(ctx, instance.ProjectID)
	if err != nil {
		return state, err
	}
	if state.Accounts, err = f.accounts.of(ctx, instance.ProjectID, list.Version); err != nil {
		return state, err
	}
	if state.IPA, err = f.ipa(ctx, instance); err != nil {
		return state, err
	}
	state.Version, err = version(state)
	return state, err
}

// ipa is what the instance should join, or nil.
func (f *Face) ipa(ctx context.Context, instance store.Instance) (*agentapi.IPA, error) {
	if f.cfg.Reports == nil {
		return nil, nil
	}
	found, err := f.cfg.Enrolments.Enrolment(ctx, instance.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !found.HasEntry() {
		return nil, nil
	}
	ipa := f.cfg.IPA
	ipa.FQDN, ipa.Done = found.FQDN, found.OTPState == store.OTPUsed
	ipa.Options = append([]string{}, ipa.Options...)
	return &ipa, nil
}

// version names a state. It is asked of a state without one.
func version(state agentapi.State) (string, error) {
	text, err := json.Marshal(state)
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:16]), nil
}

// reportEnrolment takes what an instance says of its joining FreeIPA.
func (f *Face) reportEnrolment(r *api.Request) (api.Response, error) {
	var body agentapi.EnrolmentRequest
	instance, err := f.signed(r, agentapi.PathEnrolment, &body)
	if err != nil {
		return api.Response{}, err
	}
	if body.Outcome != agentapi.OutcomeEnrolled && body.Outcome != agentapi.OutcomeFailed {
		return api.Response{}, problem.InField("outcome", "want %s or %s", agentapi.OutcomeEnrolled, agentapi.OutcomeFailed)
	}
	if f.cfg.Reports == nil {
		return api.Response{}, problem.New(problem.NotFound, "instances are not enrolled here")
	}
	enrolment, err := f.cfg.Reports.Report(r.Context(), enroll.Actor(actor(r, instance)), enroll.Report{
		InstanceID: instance.ID, Joined: body.Outcome == agentapi.OutcomeEnrolled, Reason: body.Reason,
	})
	return api.Response{Body: agentapi.EnrolmentAnswer{State: string(enrolment.State)}}, err
}
