// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package tatu

import (
	"errors"
	"fmt"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

// host is an instance on the wire. The last two say how to reach it through
// bastions, of which there are none.
type host struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	AuthID      string `json:"auth_id"`
	PATBastions string `json:"pat_bastions"`
	SRVURL      string `json:"srv_url"`
}

func newHost(i store.Instance) host {
	return host{ID: i.ID, Name: i.Hostname, AuthID: i.ProjectID}
}

// hostToken is a one-time token on the wire.
type hostToken struct {
	TokenID   string   `json:"token_id"`
	HostID    string   `json:"host_id"`
	AuthID    string   `json:"auth_id"`
	Hostname  string   `json:"hostname"`
	CreatedAt api.Time `json:"created_at"`
	ExpiresAt api.Time `json:"expires_at"`
}

func (f *Face) createHostToken(r *api.Request) (api.Response, error) {
	var body struct {
		HostID   string `json:"host_id"`
		AuthID   string `json:"auth_id"`
		Hostname string `json:"hostname"`
	}
	if err := r.Decode(&body); err != nil {
		return api.Response{}, err
	}
	instance, err := api.ID("host_id", body.HostID)
	if err != nil {
		return api.Response{}, err
	}
	project, err := api.ID("auth_id", body.AuthID)
	if err != nil {
		return api.Response{}, err
	}
	if body.Hostname == "" {
		return api.Response{}, problem.InField("hostname", "is missing")
	}
	if err := r.Authorize(policy.HostTokenCreate, api.Object{ProjectID: project}); err != nil {
		return api.Response{}, err
	}
	boot, err := f.cfg.Authority.HostToken(r.Context(), r.Actor(), sshca.InstanceRequest{InstanceID: instance, ProjectID: project, Hostname: body.Hostname})
	if err != nil {
		return api.Response{}, err
	}
	return created("/hosttokens/"+boot.Token, hostToken{
		TokenID: boot.Token, HostID: boot.Instance.ID, AuthID: boot.Instance.ProjectID, Hostname: boot.Instance.Hostname,
		CreatedAt: api.Time(boot.Instance.Token.CreatedAt), ExpiresAt: api.Time(boot.Instance.Token.ExpiresAt),
	}), nil
}

func (f *Face) listHosts(r *api.Request) (api.Response, error) {
	page, filter, err := f.visibleHosts(r, policy.HostList)
	if err != nil {
		return api.Response{}, err
	}
	records, err := f.cfg.Records.Instances(r.Context(), filter, page)
	if err != nil {
		return api.Response{}, err
	}
	list := struct {
		Hosts []host    `json:"hosts"`
		Links api.Links `json:"links"`
	}{Hosts: []host{}}
	last := ""
	for _, record := range records {
		list.Hosts, last = append(list.Hosts, newHost(record)), record.ID
	}
	list.Links = r.Links(page, len(records), last)
	return api.Response{Body: list}, nil
}

func (f *Face) visibleHosts(r *api.Request, rule string) (store.Page, store.Filter, error) {
	page, err := r.ListPage()
	if err != nil {
		return page, store.Filter{}, err
	}
	scope, err := r.ReadScope(policy.AllProjects, policy.SudoProject)
	if err != nil {
		return page, store.Filter{}, err
	}
	return page, store.Filter{ProjectID: scope.ProjectID}, r.Authorize(rule, api.Object{ProjectID: scope.ProjectID})
}

func (f *Face) showHost(r *api.Request) (api.Response, error) {
	id, err := api.ID("host_id", r.PathValue("host_id"))
	if err != nil {
		return api.Response{}, err
	}
	instance, err := f.cfg.Records.Instance(r.Context(), id)
	hidden := err == nil && (instance.State != store.InstanceLive || !r.Allowed(policy.HostShow, api.Object{ProjectID: instance.ProjectID}))
	if errors.Is(err, store.ErrNotFound) || hidden {
		return api.Response{}, problem.New(problem.NotFound, "no such host")
	}
	if err != nil {
		return api.Response{}, err
	}
	return api.Response{Body: newHost(instance)}, nil
}

func (f *Face) listHostCerts(r *api.Request) (api.Response, error) {
	page, filter, err := f.visibleHosts(r, policy.HostCertList)
	if err != nil {
		return api.Response{}, err
	}
	records, err := f.cfg.Records.HostCerts(r.Context(), filter, page)
	if err != nil {
		return api.Response{}, err
	}
	list := struct {
		Certs []api.HostCert `json:"certs"`
		Links api.Links      `json:"links"`
	}{Certs: []api.HostCert{}}
	last := ""
	for _, record := range records {
		list.Certs, last = append(list.Certs, api.NewHostCert(record)), fmt.Sprint(record.Serial)
	}
	list.Links = r.Links(page, len(records), last)
	return api.Response{Body: list}, nil
}

func (f *Face) showHostCert(r *api.Request) (api.Response, error) {
	id, err := api.ID("host_id", r.PathValue("host_id"))
	if err != nil {
		return api.Response{}, err
	}
	cert, err := f.cfg.Records.HostCert(r.Context(), id, r.PathValue("fingerprint"))
	hidden := err == nil && !r.Allowed(policy.HostCertShow, api.Object{ProjectID: cert.ProjectID})
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid) || hidden {
		return api.Response{}, problem.New(problem.NotFound, "no such host certificate")
	}
	if err != nil {
		return api.Response{}, err
	}
	return api.Response{Body: api.NewHostCert(cert)}, nil
}
