// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
)

// Generation is a key pair of a project's user CA or host CA.
type Generation struct {
	ID         string `json:"id"`
	Role       string `json:"role"` // user or host
	Generation int    `json:"generation"`
	Algorithm  string `json:"algorithm"`
	State      string `json:"state"` // active: signs; trusted: no longer signs; revoked
	PublicKey  string `json:"pub_key"`
	CreatedAt  string `json:"created_at"` // UTC, as in 2006-01-02T15:04:05.000000
}

// Generations returns those of a project's authority: of each role the newest first.
func (c *Client) Generations(ctx context.Context, projectID string) ([]Generation, error) {
	var answer struct {
		Generations []Generation `json:"generations"`
	}
	err := c.do(ctx, http.MethodGet, generationsPath(projectID), nil, nil, &answer)
	return answer.Generations, err
}

// Rotate adds a generation, which has this number and signs from now on.
// Repeating it changes nothing.
func (c *Client) Rotate(ctx context.Context, projectID, role string, generation int) (Generation, error) {
	var added Generation
	body, err := json.Marshal(map[string]any{"role": role, "generation": generation})
	if err != nil {
		return added, err
	}
	err = c.do(ctx, http.MethodPost, generationsPath(projectID), http.Header{"Content-Type": {"application/json"}}, body, &added)
	return added, err
}

// Retire ends the trust in a generation that no longer signs, and in all that
// it signed. Repeating it changes nothing.
func (c *Client) Retire(ctx context.Context, projectID, role string, generation int) (Outcome, error) {
	var outcome Outcome
	path := generationsPath(projectID) + "/" + url.PathEscape(role) + "/" + strconv.Itoa(generation)
	err := c.do(ctx, http.MethodDelete, path, nil, nil, &outcome)
	return outcome, err
}

func generationsPath(projectID string) string {
	return "/v1/authorities/" + url.PathEscape(projectID) + "/generations"
}
