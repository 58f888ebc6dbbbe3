// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/policy"
)

// hint is a key that a notification became.
type hint struct {
	Kind    string `json:"kind"`
	ID      string `json:"id"`
	Rebuilt bool   `json:"rebuilt"`
}

// event is a notification that came, on the wire. Its payload is not kept.
type event struct {
	ID             string    `json:"id"`
	At             api.Time  `json:"at"`
	Queue          string    `json:"queue"`
	Outcome        string    `json:"outcome"`
	MessageID      string    `json:"message_id"`
	Publisher      string    `json:"publisher"`
	Type           string    `json:"type"`
	SentAt         *api.Time `json:"sent_at"`
	Hints          []hint    `json:"hints"`
	Problem        string    `json:"problem"`
	Body           string    `json:"body"`
	Size           int       `json:"size"`
	AcknowledgedAt *api.Time `json:"acknowledged_at"`
}

// listEvents answers with what came to this replica only, and is not paged: no
// more is remembered than fits into an answer.
func (f *Face) listEvents(r *api.Request) (api.Response, error) {
	page, err := r.ListPage()
	if err != nil {
		return api.Response{}, err
	}
	if err := r.Authorize(policy.EventList, api.Object{}); err != nil {
		return api.Response{}, err
	}
	list := []event{}
	for _, e := range f.cfg.Events.Events(page.Limit) {
		shown := event{ID: e.ID, At: api.Time(e.At), Queue: e.Queue, Outcome: string(e.Outcome), MessageID: e.MessageID,
			Publisher: e.Publisher, Type: e.Type, Hints: []hint{}, Problem: e.Problem, Body: e.Body, Size: e.Size}
		if !e.Sent.IsZero() {
			shown.SentAt = new(api.Time(e.Sent))
		}
		if !e.Acknowledged.IsZero() {
			shown.AcknowledgedAt = new(api.Time(e.Acknowledged))
		}
		for _, h := range e.Hints {
			shown.Hints = append(shown.Hints, hint{Kind: string(h.Key.Kind), ID: h.Key.ID, Rebuilt: h.Rebuilt})
		}
		list = append(list, shown)
	}
	return api.Response{Body: map[string][]event{"events": list}}, nil
}
