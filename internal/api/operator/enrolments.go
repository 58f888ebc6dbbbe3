// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// Enrolments gets instances into FreeIPA and out again.
type Enrolments interface {
	Leave(ctx context.Context, by enroll.Actor, instanceID string) error
	Retry(ctx context.Context, by enroll.Actor, instanceID string) (store.Enrolment, error)
	Rebuild(ctx context.Context, by enroll.Actor, instanceID string, at time.Time) error
	Adopt(ctx context.Context, by enroll.Actor, instanceID string) (store.Enrolment, error)
}

func (f *Face) registerEnrolments(handle func(string, api.Endpoint)) {
	handle("GET /v1/enrolments", f.listEnrolments)
	handle("GET /v1/enrolments/{instance_id}", f.showEnrolment)
	handle("POST /v1/enrolments/{instance_id}/retry", f.change(policy.EnrolmentRetry, f.cfg.Enrolments.Retry))
	handle("POST /v1/enrolments/{instance_id}/rebuild", f.change(policy.EnrolmentRebuild, f.rebuild))
	handle("POST /v1/enrolments/{instance_id}/adopt", f.change(policy.EnrolmentAdopt, f.cfg.Enrolments.Adopt))
}

// enrolment is an instance's enrolment on the wire. The one-time password is
// for the instance alone.
type enrolment struct {
	InstanceID  string   `json:"instance_id"`
	ProjectID   string   `json:"project_id"`
	ProjectName string   `json:"project_name"`
	FQDN        string   `json:"fqdn"`
	State       string   `json:"state"`
	Error       string   `json:"error"`
	Attempts    int      `json:"attempts"`
	NextAt      api.Time `json:"next_at"`
	CreatedAt   api.Time `json:"created_at"`
	UpdatedAt   api.Time `json:"updated_at"`
}

func newEnrolment(e store.Enrolment) enrolment {
	return enrolment{
		InstanceID: e.InstanceID, ProjectID: e.ProjectID, ProjectName: e.ProjectName, FQDN: e.FQDN, State: string(e.State),
		Error: e.LastError, Attempts: e.Attempts, NextAt: api.Time(e.NextAt),
		CreatedAt: api.Time(e.CreatedAt), UpdatedAt: api.Time(e.UpdatedAt),
	}
}

// states are what ?state= may ask for.
var states = []store.EnrolmentState{
	store.EnrolmentWanted, store.EnrolmentCreated, store.EnrolmentEnrolled,
	store.EnrolmentFailed, store.EnrolmentLeaving, store.EnrolmentGone,
}

func (f *Face) listEnrolments(r *api.Request) (api.Response, error) {
	page, err := r.ListPage("state")
	if err != nil {
		return api.Response{}, err
	}
	filter := store.EnrolmentFilter{State: store.EnrolmentState(r.URL.Query().Get("state"))}
	if filter.State != "" && !slices.Contains(states, filter.State) {
		return api.Response{}, problem.InField("state", "want one of %v", states)
	}
	scope, err := r.ReadScope(policy.AllProjects, policy.SudoProject)
	if err != nil {
		return api.Response{}, err
	}
	filter.ProjectID = scope.ProjectID
	if err := r.Authorize(policy.EnrolmentList, api.Object{ProjectID: scope.ProjectID}); err != nil {
		return api.Response{}, err
	}
	records, err := f.cfg.Records.Enrolments(r.Context(), filter, page)
	if errors.Is(err, store.ErrInvalid) {
		return api.Response{}, &problem.Problem{Kind: problem.Invalid, Field: "marker", Reason: "is not the ID of an instance", Cause: err}
	}
	if err != nil {
		return api.Response{}, err
	}
	list := struct {
		Enrolments []enrolment `json:"enrolments"`
		Links      api.Links   `json:"links"`
	}{Enrolments: []enrolment{}}
	last := ""
	for _, record := range records {
		last = record.InstanceID
		list.Enrolments = append(list.Enrolments, newEnrolment(record))
	}
	list.Links = r.Links(page, len(records), last)
	return api.Response{Body: list}, nil
}

func (f *Face) showEnrolment(r *api.Request) (api.Response, error) {
	found, err := f.authorizedEnrolment(r, policy.EnrolmentShow)
	if err != nil {
		return api.Response{}, err
	}
	return api.Response{Body: newEnrolment(found)}, nil
}

// authorizedEnrolment finds the enrolment in the path, if the rule allows the
// caller to act on it. Who may not act learns nothing of what is there.
func (f *Face) authorizedEnrolment(r *api.Request, rule string) (store.Enrolment, error) {
	id, err := api.ID("instance_id", r.PathValue("instance_id"))
	if err != nil {
		return store.Enrolment{}, err
	}
	found, err := f.cfg.Records.Enrolment(r.Context(), id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.Enrolment{}, err
	}
	if err := r.Authorize(rule, api.Object{ProjectID: found.ProjectID}); err != nil {
		return store.Enrolment{}, err
	}
	if err != nil {
		return store.Enrolment{}, problem.New(problem.NotFound, "this instance has never asked for enrolment")
	}
	return found, nil
}

func (f *Face) change(rule string, act func(context.Context, enroll.Actor, string) (store.Enrolment, error)) api.Endpoint {
	return func(r *api.Request) (api.Response, error) {
		found, err := f.authorizedEnrolment(r, rule)
		if err != nil {
			return api.Response{}, err
		}
		changed, err := act(r.Context(), enroll.Actor(r.Actor()), found.InstanceID)
		if err != nil {
			return api.Response{}, err
		}
		return api.Response{Body: newEnrolment(changed)}, nil
	}
}

// rebuild takes the old keytab away from an instance, and gives it a new password.
func (f *Face) rebuild(ctx context.Context, by enroll.Actor, instanceID string) (store.Enrolment, error) {
	if err := f.cfg.Enrolments.Rebuild(ctx, by, instanceID, time.Time{}); err != nil {
		return store.Enrolment{}, err
	}
	return f.cfg.Records.Enrolment(ctx, instanceID)
}
