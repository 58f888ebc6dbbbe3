// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package compute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxVendordata bounds what is read of a target's answer.
const maxVendordata = 1 << 20

type target struct{ name, url string }

// SetVendordataTargets replaces the targets, each NAME@URL.
func (s *Service) SetVendordataTargets(targets ...string) error {
	var parsed []target
	for _, text := range targets {
		name, address, ok := strings.Cut(text, "@")
		u, err := url.Parse(address)
		if !ok || name == "" || err != nil || u.Host == "" {
			return fmt.Errorf("vendordata target %q: want NAME@URL", text)
		}
		parsed = append(parsed, target{name, address})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.targets = parsed
	return nil
}

// request is the body of a vendordata call.
type request struct {
	ProjectID  string            `json:"project-id"`
	InstanceID string            `json:"instance-id"`
	ImageID    string            `json:"image-id"`
	UserData   *string           `json:"user-data"`
	Hostname   string            `json:"hostname"`
	Metadata   map[string]string `json:"metadata"`
	BootRoles  string            `json:"boot-roles"`
}

// Vendordata is what the instance reads as vendor_data2.json: one call to each
// target after the other, afresh. Keys are the targets' names. A target that
// fails is warned of and gives {}. Errors: ErrNoServer, or that of ctx.
func (s *Service) Vendordata(ctx context.Context, id string) (map[string]json.RawMessage, error) {
	found, ok := s.find(id)
	if !ok {
		return nil, ErrNoServer
	}
	body := request{ProjectID: found.ProjectID, InstanceID: found.id, ImageID: found.ImageID,
		Hostname: found.hostname, Metadata: found.Metadata, BootRoles: strings.Join(found.bootRoles, ",")}
	if body.Metadata == nil {
		body.Metadata = map[string]string{}
	}
	if found.UserData != "" {
		body.UserData = &found.UserData
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	targets := s.targets
	s.mu.Unlock()
	all := map[string]json.RawMessage{}
	for _, t := range targets {
		answer, err := s.ask(ctx, t.url, text)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			s.cfg.Logger.WarnContext(ctx, "error from dynamic vendordata service",
				"target", t.name, "url", t.url, "error", err)
			answer = json.RawMessage("{}")
		}
		all[t.name] = answer
	}
	return all, nil
}

// ask makes one call, with a new token and once more after a 401.
func (s *Service) ask(ctx context.Context, address string, body []byte) (json.RawMessage, error) {
	token, err := s.ownToken("")
	if err != nil {
		return nil, err
	}
	status, answer, err := s.post(ctx, address, token, body)
	if err == nil && status == http.StatusUnauthorized {
		if token, err = s.ownToken(token); err != nil {
			return nil, err
		}
		status, answer, err = s.post(ctx, address, token, body)
	}
	switch {
	case err != nil:
		return nil, err
	case status >= 400:
		return nil, fmt.Errorf("HTTP %d", status)
	case status == http.StatusNoContent || len(answer) == 0:
		return json.RawMessage("{}"), nil
	case !json.Valid(answer):
		return nil, errors.New("the answer is not JSON")
	}
	return answer, nil
}

func (s *Service) post(ctx context.Context, address, token string, body []byte) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.VendordataTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("User-Agent", "openstack-nova-vendordata")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Auth-Token", token)
	response, err := s.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxVendordata))
	return response.StatusCode, answer, err
}

// ownToken returns the token of Nova's service user: the one at hand unless
// that is the spent one.
func (s *Service) ownToken(spent string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != "" && s.token != spent {
		return s.token, nil
	}
	token, err := s.cfg.Keystone.Token("nova", s.cfg.Keystone.Password("nova"), "service")
	s.token = token
	return token, err
}
