// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
)

// QueuedKey is an entity of the cloud that Muster will look at again.
type QueuedKey struct {
	Kind     string `json:"kind"`
	ID       string `json:"id"`
	Attempts int    `json:"attempts"` // failed ones in a row
	NextAt   string `json:"next_at"`  // times are UTC, as in 2006-01-02T15:04:05.000000
	Since    string `json:"since"`
	Error    string `json:"error"` // of the last attempt
}

// Queue returns the keys, page after page. It ends after the first error.
func (c *Client) Queue(ctx context.Context) iter.Seq2[[]QueuedKey, error] {
	return pages[QueuedKey](ctx, c, "/v1/queue", url.Values{}, http.Header{}, "queue")
}

// AwayNeighbour is a neighbour of Muster's that does not answer.
type AwayNeighbour struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

// Away returns the neighbours that do not answer Muster now.
func (c *Client) Away(ctx context.Context) ([]AwayNeighbour, error) {
	var answer struct {
		Away []AwayNeighbour `json:"away"`
	}
	err := c.do(ctx, http.MethodGet, "/v1/queue?limit=1", http.Header{}, nil, &answer)
	return answer.Away, err
}

// Reconciliation is what a comparison with the cloud found.
type Reconciliation struct {
	DryRun bool             `json:"dry_run"`
	Kinds  []ReconciledKind `json:"kinds"`
}

// ReconciledKind is what it found of a kind of entities.
type ReconciledKind struct {
	Kind     string    `json:"kind"`
	Total    int       `json:"total"`   // what Muster keeps
	Look     int       `json:"look"`    // looked at for other reasons
	Gone     int       `json:"gone"`    // seem to be gone
	Refused  bool      `json:"refused"` // too many are: none was taken away
	Suspects []Suspect `json:"suspects"`
}

// Suspect is an entity that seems to be gone.
type Suspect struct {
	Kind   string `json:"kind"`
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// Reconcile compares everything with the cloud. Unless dryRun, what is gone is
// taken away, however much it is. It takes up to a quarter of an hour.
func (c *Client) Reconcile(ctx context.Context, dryRun bool) (Reconciliation, error) {
	var found Reconciliation
	patient := *c
	patient.http = &http.Client{Transport: c.http.Transport, CheckRedirect: c.http.CheckRedirect, Timeout: reconcileTimeout}
	body, err := json.Marshal(map[string]bool{"dry_run": dryRun, "force": !dryRun})
	if err != nil {
		return found, err
	}
	err = patient.do(ctx, http.MethodPost, "/v1/reconcile", http.Header{"Content-Type": {"application/json"}}, body, &found)
	return found, err
}
