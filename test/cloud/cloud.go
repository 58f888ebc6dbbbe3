// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package cloud asks the APIs of an OpenStack, real or in the process, as its
// users and operators do. It knows nothing but URLs and passwords, and tries
// nothing twice: what a cloud refuses, the test hears.
//
// The calls are those of https://docs.openstack.org/api-ref/.
package cloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// callTimeout bounds one call. A busy Nova takes seconds.
const callTimeout = 2 * time.Minute

// maxAnswer bounds what is read of an answer.
const maxAnswer = 16 << 20

// Session is somebody who has logged in to a project.
type Session struct {
	AuthURL   string // Keystone's, ending in /v3
	Token     string
	UserID    string
	ProjectID string

	catalog map[string]string // URLs by type of service
}

// Refusal is an answer that says no.
type Refusal struct {
	Status int
	text   string
}

// Error tells which call it was, and what the service said.
func (r *Refusal) Error() string { return r.text }

// Refused tells whether the error is a refusal of this status.
func Refused(err error, status int) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Status == status
}

type object = map[string]any

// Login logs in to a project of the domain default, by names.
func Login(ctx context.Context, authURL, user, password, project string) (*Session, error) {
	domain := object{"id": "default"}
	return login(ctx, authURL, byPassword(object{"name": user, "domain": domain, "password": password}), object{"name": project, "domain": domain})
}

// LoginByID logs in to a project of any domain.
func LoginByID(ctx context.Context, authURL, user, password, project string) (*Session, error) {
	return login(ctx, authURL, byPassword(object{"id": user, "password": password}), object{"id": project})
}

// LoginByCredential logs in by an application credential, which names the
// project.
func LoginByCredential(ctx context.Context, authURL, id, secret string) (*Session, error) {
	const method = "application_credential"
	return login(ctx, authURL, object{"methods": []string{method}, method: object{"id": id, "secret": secret}}, nil)
}

func byPassword(user object) object {
	return object{"methods": []string{"password"}, "password": object{"user": user}}
}

// LoginByTrust logs in a user to whom a trust, which names the project, lends
// something.
func LoginByTrust(ctx context.Context, authURL, user, password, trust string) (*Session, error) {
	return loginTo(ctx, authURL, byPassword(object{"id": user, "password": password}), object{"OS-TRUST:trust": object{"id": trust}})
}

func login(ctx context.Context, authURL string, identity, project object) (*Session, error) {
	if project == nil {
		return loginTo(ctx, authURL, identity, nil)
	}
	return loginTo(ctx, authURL, identity, object{"project": project})
}

func loginTo(ctx context.Context, authURL string, identity, scope object) (*Session, error) {
	s := &Session{AuthURL: authURL, catalog: map[string]string{"identity": authURL}}
	auth := object{"identity": identity}
	if scope != nil {
		auth["scope"] = scope
	}
	body := object{"auth": auth}
	var answer struct {
		Token struct {
			User    struct{ ID string }
			Project struct{ ID string }
			Catalog []struct {
				Type      string
				Endpoints []struct{ Interface, URL string }
			}
		}
	}
	header, err := s.send(ctx, http.MethodPost, authURL+"/auth/tokens", "", body, &answer)
	if err != nil {
		return nil, err
	}
	s.Token, s.UserID, s.ProjectID = header.Get("X-Subject-Token"), answer.Token.User.ID, answer.Token.Project.ID
	for _, service := range answer.Token.Catalog {
		for _, endpoint := range service.Endpoints {
			if endpoint.Interface == "public" && service.Type != "identity" {
				s.catalog[service.Type] = strings.TrimSuffix(endpoint.URL, "/")
			}
		}
	}
	return s, nil
}

// Call asks a service by its type in the catalog ("compute"), sends the body as
// JSON unless it is nil, and reads the answer's JSON into the last argument
// unless that is nil. An answer of 400 and up is a *Refusal.
func (s *Session) Call(ctx context.Context, service, method, path string, body, into any) error {
	base, ok := s.catalog[service]
	if !ok {
		return fmt.Errorf("the catalog has no %s", service)
	}
	if service == "network" || service == "image" {
		base += "/v2"
		if service == "network" {
			base += ".0"
		}
	}
	_, err := s.send(ctx, method, base+path, "application/json", body, into)
	return err
}

// computeVersion is the microversion of Nova's API that is spoken: the first in
// which instances can be told to have no port.
const computeVersion = "compute 2.37"

func (s *Session) send(ctx context.Context, method, url, contentType string, body, into any) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var reader io.Reader
	switch given := body.(type) {
	case nil:
	case []byte:
		reader = bytes.NewReader(given)
	default:
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader, contentType = bytes.NewReader(text), "application/json"
	}
	request, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		return nil, err
	}
	if reader != nil {
		request.Header.Set("Content-Type", contentType)
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("OpenStack-API-Version", computeVersion) // others don't mind
	if s.Token != "" {
		request.Header.Set("X-Auth-Token", s.Token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return nil, &Refusal{response.StatusCode, fmt.Sprintf("%s %s: %s: %.500s", method, url, response.Status, answer)}
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			return nil, fmt.Errorf("%s %s: %s: %w in %.200q", method, url, response.Status, err, answer)
		}
	}
	return response.Header, nil
}

// What takes its time is looked at often at first, and then ever more seldom: a
// look costs the cloud processor time, which it needs to get ready.
const (
	firstLook = 100 * time.Millisecond
	lastLook  = time.Second
	// lookShare of the time that it took so far is the pause until the next look.
	lookShare = 4
)

// Await asks until the answer is nil, or for as long as given.
func Await(ctx context.Context, limit time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(min(max(firstLook, time.Since(began)/lookShare), lastLook)):
		case <-ctx.Done():
			return fmt.Errorf("waited %v in vain: %w", limit, err)
		}
	}
}
