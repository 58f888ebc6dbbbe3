// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"time"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/api/health"
	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// Comparison compares everything with the cloud.
type Comparison interface {
	Reconcile(ctx context.Context, order converge.Order) (converge.Report, error)
}

// Health knows how Muster's neighbours are.
type Health interface {
	Ill(ctx context.Context) []health.Illness
}

func (f *Face) registerConvergence(handle func(string, api.Endpoint)) {
	handle("GET /v1/queue", f.listQueue)
	handle("POST /v1/reconcile", f.reconcile)
}

// queued is a key on the wire that waits to be tried again.
type queued struct {
	Kind     string   `json:"kind"`
	ID       string   `json:"id"`
	Attempts int      `json:"attempts"`
	NextAt   api.Time `json:"next_at"`
	Since    api.Time `json:"since"`
	Error    string   `json:"error"`
}

// away is a neighbour on the wire that does not answer.
type away struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

func (f *Face) listQueue(r *api.Request) (api.Response, error) {
	page, err := r.ListPage()
	if err != nil {
		return api.Response{}, err
	}
	if err := r.Authorize(policy.QueueList, api.Object{}); err != nil {
		return api.Response{}, err
	}
	records, err := f.cfg.Records.PendingKeys(r.Context(), page)
	if errors.Is(err, store.ErrInvalid) {
		return api.Response{}, &problem.Problem{Kind: problem.Invalid, Field: "marker", Reason: "is not a kind and an ID", Cause: err}
	}
	if err != nil {
		return api.Response{}, err
	}
	list := struct {
		Queue []queued  `json:"queue"`
		Away  []away    `json:"away"`
		Links api.Links `json:"links"`
	}{Queue: []queued{}, Away: []away{}}
	if page.After == "" { // the first page's
		for _, one := range f.cfg.Health.Ill(r.Context()) {
			list.Away = append(list.Away, away{one.Name, one.Err.Error()})
		}
	}
	last := ""
	for _, k := range records {
		last = k.Kind + " " + k.ID
		list.Queue = append(list.Queue, queued{
			Kind: k.Kind, ID: k.ID, Attempts: k.Attempts, NextAt: api.Time(k.NextAt), Since: api.Time(k.Since), Error: k.LastError,
		})
	}
	list.Links = r.Links(page, len(records), last)
	return api.Response{Body: list}, nil
}

// maxReconcile bounds a comparison that somebody waits for.
const maxReconcile = 15 * time.Minute

// compared is what a comparison found of a kind, on the wire.
type compared struct {
	Kind     string    `json:"kind"`
	Total    int       `json:"total"`
	Look     int       `json:"look"`
	Gone     int       `json:"gone"`
	Refused  bool      `json:"refused"`
	Suspects []suspect `json:"suspects"`
}

type suspect struct {
	Kind   string `json:"kind"`
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// reconcile compares everything with the cloud, at once. Without dry_run, what
// is gone is taken away; with force, however much it is.
func (f *Face) reconcile(r *api.Request) (api.Response, error) {
	body := struct {
		DryRun *bool `json:"dry_run"`
		Force  bool  `json:"force"`
	}{}
	if err := r.Decode(&body); err != nil {
		return api.Response{}, err
	}
	if body.DryRun == nil {
		return api.Response{}, problem.InField("dry_run", "is missing: say true to only look, false to act")
	}
	if err := r.Authorize(policy.Reconcile, api.Object{}); err != nil {
		return api.Response{}, err
	}
	ctx, cancel := r.Waiting(maxReconcile)
	defer cancel()
	order := converge.Order{DryRun: *body.DryRun, Force: body.Force}
	if !order.DryRun {
		if err := f.cfg.Records.AppendAudit(ctx, reconcileEntry(r, order)); err != nil {
			return api.Response{}, err
		}
	}
	report, err := f.cfg.Comparison.Reconcile(ctx, order)
	if errors.Is(err, keystone.ErrPartial) || errors.Is(err, keystone.ErrForbidden) || errors.Is(err, openstack.ErrForbidden) {
		return api.Response{}, problem.New(problem.Conflict, "nothing was compared: %v", err)
	}
	if err != nil {
		return api.Response{}, err
	}
	answer := struct {
		DryRun bool       `json:"dry_run"`
		Kinds  []compared `json:"kinds"`
	}{order.DryRun, make([]compared, len(report.Kinds))}
	for i, kind := range report.Kinds {
		answer.Kinds[i] = newCompared(kind)
	}
	return api.Response{Body: answer}, nil
}

func reconcileEntry(r *api.Request, order converge.Order) store.Audit {
	by := r.Actor()
	entry := store.Audit{
		Actor: by.UserID, ActorName: by.UserName, ActorProject: by.ProjectID, Action: "reconcile", Outcome: "ok",
		RequestID: by.RequestID, Remote: by.Remote,
	}
	if order.Force {
		entry.Reason = "without regard to the guard"
	}
	return entry
}

func newCompared(kind converge.KindReport) compared {
	c := compared{
		Kind: string(kind.Kind), Total: kind.Total, Look: kind.Look, Gone: kind.Remove, Refused: kind.Refused,
		Suspects: make([]suspect, len(kind.Suspects)),
	}
	for i, s := range kind.Suspects {
		c.Suspects[i] = suspect{Kind: string(s.Key.Kind), ID: s.Key.ID, Reason: s.Reason}
	}
	return c
}
