// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package client asks a Muster over its API, in the name of somebody whom
// Keystone knows. It is for the commands of operators.
//
// It keeps no token on disk, and sends it to no other host than Muster's.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Config says who asks, and whom.
type Config struct {
	Environ []string // as os.Environ returns it; OS_* count
	Cloud   string   // of clouds.yaml; empty: OS_CLOUD, or the other variables
	URL     string   // of Muster; empty: from Keystone's catalogue
}

// maxAnswer bounds an answer of Muster: a page of 1,000 audit entries with the
// longest reasons is a tenth of it.
const maxAnswer = 64 << 20

// Client is somebody who has logged in.
type Client struct {
	http      *http.Client
	base      *url.URL
	token     string
	projectID string
}

// ProjectID is the project that the token is for, or empty.
func (c *Client) ProjectID() string { return c.projectID }

// Refusal is an answer of Muster that is not what was asked for.
type Refusal struct {
	Status    int
	Reason    string // Muster's, for people
	RequestID string // under which Muster's log has more
}

// Error implements error.
func (r *Refusal) Error() string {
	text := fmt.Sprintf("Muster answers %d %s", r.Status, http.StatusText(r.Status))
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	if r.RequestID != "" {
		text += " (" + r.RequestID + ")"
	}
	return text
}

// AuditEntry is what somebody did, or was refused.
type AuditEntry struct {
	ID           string            `json:"id"`
	At           string            `json:"at"` // UTC, as in 2006-01-02T15:04:05.000000
	Actor        string            `json:"actor"`
	ActorName    string            `json:"actor_name"`
	ActorProject string            `json:"actor_project"`
	Action       string            `json:"action"`
	Outcome      string            `json:"outcome"`
	ObjectKind   string            `json:"object_kind"`
	ObjectID     string            `json:"object_id"`
	AuthID       string            `json:"auth_id"`
	Reason       string            `json:"reason"`
	RequestID    string            `json:"request_id"`
	Remote       string            `json:"remote"`
	Details      map[string]string `json:"details"`
	Times        int64             `json:"times"` // refused within a minute; what the rest says is of the first time
}

// AuditQuery selects audit entries; empty fields select all.
type AuditQuery struct {
	AllProjects bool
	ProjectID   string // empty: the token's
	Action      string
	Actor       string // a user's ID
	Since       time.Time
}

// Audit returns the entries, newest first, page after page. It ends after the
// first error.
func (c *Client) Audit(ctx context.Context, q AuditQuery) iter.Seq2[[]AuditEntry, error] {
	query := url.Values{}
	set(query, "action", q.Action)
	set(query, "actor", q.Actor)
	if !q.Since.IsZero() {
		query.Set("since", q.Since.UTC().Format(time.RFC3339))
	}
	return pages[AuditEntry](ctx, c, "/v1/audit", query, scope(q.AllProjects, q.ProjectID), "audit")
}

// Enrolment is an instance's place in FreeIPA, and how far it has come.
type Enrolment struct {
	InstanceID  string `json:"instance_id"`
	ProjectID   string `json:"project_id"`
	ProjectName string `json:"project_name"`
	FQDN        string `json:"fqdn"`
	State       string `json:"state"`
	Error       string `json:"error"` // of the last attempt
	Attempts    int    `json:"attempts"`
	NextAt      string `json:"next_at"` // times are UTC, as in 2006-01-02T15:04:05.000000
	CreatedAt   string `json:"created_at"`
	UpdatedAt   string `json:"updated_at"`
}

// EnrolmentQuery selects enrolments; empty fields select all.
type EnrolmentQuery struct {
	AllProjects bool
	ProjectID   string // empty: the token's
	State       string
}

// Enrolments returns the enrolments, page after page. It ends after the first error.
func (c *Client) Enrolments(ctx context.Context, q EnrolmentQuery) iter.Seq2[[]Enrolment, error] {
	query := url.Values{}
	set(query, "state", q.State)
	return pages[Enrolment](ctx, c, "/v1/enrolments", query, scope(q.AllProjects, q.ProjectID), "enrolments")
}

// Enrolment returns that of an instance.
func (c *Client) Enrolment(ctx context.Context, instanceID string) (Enrolment, error) {
	var found Enrolment
	err := c.do(ctx, http.MethodGet, "/v1/enrolments/"+url.PathEscape(instanceID), nil, nil, &found)
	return found, err
}

// RetryEnrolment has an enrolment that failed, or waits, tried at once.
func (c *Client) RetryEnrolment(ctx context.Context, instanceID string) (Enrolment, error) {
	return c.changeEnrolment(ctx, instanceID, "retry")
}

// RebuildEnrolment lets an instance that was built anew join again: its old
// keytab is made invalid.
func (c *Client) RebuildEnrolment(ctx context.Context, instanceID string) (Enrolment, error) {
	return c.changeEnrolment(ctx, instanceID, "rebuild")
}

// AdoptEnrolment gives an instance the host entry of its name that was in
// FreeIPA before.
func (c *Client) AdoptEnrolment(ctx context.Context, instanceID string) (Enrolment, error) {
	return c.changeEnrolment(ctx, instanceID, "adopt")
}

func (c *Client) changeEnrolment(ctx context.Context, instanceID, action string) (Enrolment, error) {
	var changed Enrolment
	err := c.do(ctx, http.MethodPost, "/v1/enrolments/"+url.PathEscape(instanceID)+"/"+action, nil, nil, &changed)
	return changed, err
}

// set adds what was given to a query.
func set(query url.Values, name, value string) {
	if value != "" {
		query.Set(name, value)
	}
}

// scope asks beyond the token's project.
func scope(allProjects bool, projectID string) http.Header {
	header := http.Header{}
	if allProjects {
		header.Set("X-Auth-All-Projects", "true")
	}
	if projectID != "" {
		header.Set("X-Auth-Sudo-Project-ID", projectID)
	}
	return header
}

// pages asks for a list, which has this name in the answers, to its end.
func pages[T any](ctx context.Context, c *Client, path string, query url.Values, header http.Header, list string) iter.Seq2[[]T, error] {
	return func(yield func([]T, error) bool) {
		seen := map[string]bool{}
		for {
			var answer map[string]json.RawMessage
			err := c.do(ctx, http.MethodGet, path+"?"+query.Encode(), header, nil, &answer)
			var entries []T
			var links struct {
				Next string `json:"next"`
			}
			if err == nil {
				err = c.read(path, answer[list], &entries)
			}
			if err == nil && answer["links"] != nil {
				err = c.read(path, answer["links"], &links)
			}
			if err != nil || len(entries) > 0 {
				if !yield(entries, err) || err != nil {
					return
				}
			}
			// Of the link only the marker counts: it may name a host that is not
			// ours to send the token to. The last page has no link.
			next, err := url.Parse(links.Next)
			if err != nil {
				yield(nil, fmt.Errorf("%s%s answers a link to its next page that cannot be read", c.base.Host, path))
				return
			}
			marker := next.Query().Get("marker")
			if marker == "" {
				return
			}
			if seen[marker] {
				yield(nil, fmt.Errorf("%s%s leads round in a circle: its pages come again; is the address right?", c.base.Host, path))
				return
			}
			seen[marker] = true
			query.Set("marker", marker)
		}
	}
}

// Event is a notification of another service that came to a replica of Muster.
type Event struct {
	ID             string `json:"id"` // of this event at that replica
	At             string `json:"at"` // UTC, as in 2006-01-02T15:04:05.000000
	Queue          string `json:"queue"`
	Outcome        string `json:"outcome"` // hinted, ignored or unreadable
	MessageID      string `json:"message_id"`
	Publisher      string `json:"publisher"`
	Type           string `json:"type"`
	SentAt         string `json:"sent_at"`
	Hints          []Hint `json:"hints"`
	Problem        string `json:"problem"`
	Body           string `json:"body"` // of an unreadable one: its form, without values that could be secrets
	Size           int    `json:"size"` // bytes
	AcknowledgedAt string `json:"acknowledged_at"`
}

// Hint names an entity that may have changed.
type Hint struct {
	Kind    string `json:"kind"`
	ID      string `json:"id"`
	Rebuilt bool   `json:"rebuilt"`
}

// Events returns the last notifications, newest first, of the replica that
// happens to answer.
func (c *Client) Events(ctx context.Context, limit int) ([]Event, error) {
	var answer struct {
		Events []Event `json:"events"`
	}
	err := c.do(ctx, http.MethodGet, "/v1/events?limit="+strconv.Itoa(limit), nil, nil, &answer)
	return answer.Events, err
}

// Revocation orders that certificates end. One of the fields between ProjectID
// and Reason is set.
type Revocation struct {
	ProjectID    string `json:"auth_id,omitempty"` // empty with UserID: in all projects
	Serial       uint64 `json:"serial,omitempty"`
	UserID       string `json:"user_id,omitempty"`
	PublicKey    string `json:"pub_key,omitempty"`
	KeyID        string `json:"key_id,omitempty"`
	GenerationID string `json:"generation_id,omitempty"`
	Reason       string `json:"reason,omitempty"`
}

// Outcome is what a revocation did.
type Outcome struct {
	ProjectID    string `json:"auth_id,omitempty"`
	Version      uint64 `json:"version,omitempty"` // of the project's list
	Certificates int    `json:"certificates"`      // that are valid no longer
	Already      bool   `json:"already"`           // it was ordered before
}

// Revoke ends certificates. Repeating it changes nothing.
func (c *Client) Revoke(ctx context.Context, order Revocation) (Outcome, error) {
	body, err := json.Marshal(order)
	if err != nil {
		return Outcome{}, err
	}
	var outcome Outcome
	err = c.do(ctx, http.MethodPost, "/v1/revocations", http.Header{"Content-Type": {"application/json"}}, body, &outcome)
	return outcome, err
}

// do makes a request and reads its answer into a value.
func (c *Client) do(ctx context.Context, method, path string, header http.Header, body []byte, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if header != nil {
		request.Header = header.Clone()
	}
	request.Header.Set("X-Auth-Token", c.token)
	request.Header.Set("Accept", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("ask Muster: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("ask Muster: %w", err)
	}
	if response.StatusCode/100 != 2 {
		refusal := &Refusal{Status: response.StatusCode, RequestID: response.Header.Get("X-Openstack-Request-Id")}
		var told struct {
			Description string `json:"description"`
		}
		if json.Unmarshal(text, &told) == nil {
			refusal.Reason = told.Description
		}
		return refusal
	}
	return c.read(request.URL.Path, text, into)
}

func (c *Client) read(path string, text []byte, into any) error {
	if json.Unmarshal(text, into) != nil {
		return fmt.Errorf("%s%s answers what Muster does not; is the address right?", c.base.Host, path)
	}
	return nil
}
