// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package tatu

import (
	"errors"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

// authority is a project's authority on the wire.
type authority struct {
	AuthID     string `json:"auth_id"`
	Name       string `json:"name"`
	UserPubKey string `json:"user_pub_key"`
	HostPubKey string `json:"host_pub_key"`
}

func newAuthority(a store.Authority) authority {
	return authority{
		AuthID: a.ProjectID, Name: a.Name,
		UserPubKey: sshca.ActiveKey(a, store.RoleUser), HostPubKey: sshca.ActiveKey(a, store.RoleHost),
	}
}

func (f *Face) createAuthority(r *api.Request) (api.Response, error) {
	var body struct {
		AuthID string `json:"auth_id"`
	}
	if err := r.Decode(&body); err != nil {
		return api.Response{}, err
	}
	project, err := api.ID("auth_id", body.AuthID)
	if err != nil {
		return api.Response{}, err
	}
	if err := r.Authorize(policy.AuthorityCreate, api.Object{ProjectID: project}); err != nil {
		return api.Response{}, err
	}
	a, isNew, err := f.cfg.Authority.EnsureAuthority(r.Context(), r.Actor(), project)
	if err != nil {
		return api.Response{}, err
	}
	if !isNew {
		return api.Response{}, problem.New(problem.Conflict, "project %s has an authority already", project)
	}
	return created("/authorities/"+project, newAuthority(a)), nil
}

func (f *Face) listAuthorities(r *api.Request) (api.Response, error) {
	page, err := r.ListPage()
	if err != nil {
		return api.Response{}, err
	}
	scope, err := r.ReadScope(policy.AllProjects, policy.SudoProject)
	if err != nil {
		return api.Response{}, err
	}
	if err := r.Authorize(policy.AuthorityList, api.Object{ProjectID: scope.ProjectID}); err != nil {
		return api.Response{}, err
	}
	records, err := f.authorities(r, scope, page)
	if err != nil {
		return api.Response{}, err
	}
	list := struct {
		CAs   []authority `json:"CAs"`
		Links api.Links   `json:"links"`
	}{CAs: []authority{}}
	last := ""
	for _, record := range records {
		list.CAs, last = append(list.CAs, newAuthority(record)), record.ProjectID
	}
	list.Links = r.Links(page, len(records), last)
	return api.Response{Body: list}, nil
}

func (f *Face) authorities(r *api.Request, scope api.Scope, page store.Page) ([]store.Authority, error) {
	if scope.ProjectID == "" {
		return f.cfg.Records.Authorities(r.Context(), page)
	}
	if page.After >= scope.ProjectID {
		return nil, nil
	}
	a, err := f.cfg.Records.Authority(r.Context(), scope.ProjectID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []store.Authority{a}, nil
}

func (f *Face) showAuthority(r *api.Request) (api.Response, error) {
	project, err := api.ID("auth_id", r.PathValue("auth_id"))
	if err != nil {
		return api.Response{}, err
	}
	if err := r.Authorize(policy.AuthorityShow, api.Object{ProjectID: project}); err != nil {
		return api.Response{}, err
	}
	a, err := f.cfg.Records.Authority(r.Context(), project)
	if errors.Is(err, store.ErrNotFound) {
		return api.Response{}, problem.New(problem.NotFound, "project %s has no authority", project)
	}
	if err != nil {
		return api.Response{}, err
	}
	return api.Response{Body: newAuthority(a)}, nil
}
