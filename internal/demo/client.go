// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	// requestTimeout bounds each request that does not wait on purpose.
	requestTimeout = time.Minute
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 8 << 20
)

// request is one call of an API.
type request struct {
	method, url string
	token       string // Keystone's; empty: none
	header      map[string]string
	body        any // sent as JSON; nil: none
	want        int // the status that is right
}

// call makes the request and reads the answer's JSON into answer, unless that
// is nil. Any status but the wanted one is an error that says what the server
// said of it.
func (s *story) call(ctx context.Context, r request, answer any) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var body bytes.Buffer
	if r.body != nil {
		if err := json.NewEncoder(&body).Encode(r.body); err != nil {
			return nil, err
		}
	}
	httpRequest, err := http.NewRequestWithContext(ctx, r.method, r.url, &body)
	if err != nil {
		return nil, err
	}
	httpRequest.Header.Set("Content-Type", "application/json")
	if r.token != "" {
		httpRequest.Header.Set("X-Auth-Token", r.token)
	}
	for name, value := range r.header {
		httpRequest.Header.Set(name, value)
	}
	response, err := s.http.Do(httpRequest)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != r.want {
		return nil, fmt.Errorf("%s %s answered %s, not %d: %s", r.method, httpRequest.URL.Path, response.Status, r.want, complaint(text))
	}
	if answer == nil {
		return response.Header, nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, httpRequest.URL.Path, err)
	}
	return response.Header, nil
}

// complaint is the reason in an error of Muster, or of Keystone. An answer of
// another shape, which may hold a secret, is not repeated.
func complaint(text []byte) string {
	var shape struct {
		Description string
		Error       struct{ Message string }
	}
	if json.Unmarshal(text, &shape) != nil || shape.Description+shape.Error.Message == "" {
		return "no reason given"
	}
	return shape.Description + shape.Error.Message
}

// login gets a token for the project from Keystone (Identity API v3, password
// authentication).
func (s *story) login(ctx context.Context, user, password, project string) (string, error) {
	type object = map[string]any
	domain := object{"name": "Default"}
	header, err := s.call(ctx, request{method: "POST", url: s.env.KeystoneURL + "/auth/tokens", want: http.StatusCreated,
		body: object{"auth": object{
			"identity": object{"methods": []string{"password"}, "password": object{
				"user": object{"name": user, "domain": domain, "password": password}}},
			"scope": object{"project": object{"name": project, "domain": domain}},
		}},
	}, nil)
	return header.Get("X-Subject-Token"), err
}

// create makes a user or a project in Keystone and returns its ID.
func (s *story) create(ctx context.Context, kind string, attributes map[string]any) (string, error) {
	var made map[string]struct{ ID string }
	_, err := s.call(ctx, request{method: "POST", url: s.env.KeystoneURL + "/" + kind + "s", token: s.admin, want: http.StatusCreated,
		body: map[string]any{kind: attributes}}, &made)
	return made[kind].ID, err
}

// roleID looks a role up in Keystone.
func (s *story) roleID(ctx context.Context, name string) (string, error) {
	var found struct{ Roles []struct{ ID string } }
	_, err := s.call(ctx, request{method: "GET", url: s.env.KeystoneURL + "/roles?name=" + url.QueryEscape(name), token: s.admin,
		want: http.StatusOK}, &found)
	if err == nil && len(found.Roles) != 1 {
		err = fmt.Errorf("the cloud has %d roles %s", len(found.Roles), name)
	}
	if err != nil {
		return "", err
	}
	return found.Roles[0].ID, nil
}

// assign gives (PUT) or takes (DELETE) a role in the person's project.
func (s *story) assign(ctx context.Context, method string, p *person, role string) error {
	id, err := s.roleID(ctx, role)
	if err != nil {
		return err
	}
	_, err = s.call(ctx, request{method: method, token: s.admin, want: http.StatusNoContent,
		url: s.env.KeystoneURL + "/projects/" + p.projectID + "/users/" + p.id + "/roles/" + id}, nil)
	return err
}

// auditEntry is what Muster recorded of an act.
type auditEntry struct {
	Outcome string
	Reason  string
	Remote  string
}

// audit reads what Muster recorded of an act on an object, in all projects.
func (s *story) audit(ctx context.Context, action, object string) ([]auditEntry, error) {
	var found struct{ Audit []auditEntry }
	query := url.Values{"action": {action}, "object": {object}}
	_, err := s.call(ctx, request{method: "GET", url: s.env.MusterURL + "/v1/audit?" + query.Encode(), token: s.admin,
		header: map[string]string{"X-Auth-All-Projects": "True"}, want: http.StatusOK}, &found)
	return found.Audit, err
}
