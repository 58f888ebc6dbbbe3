// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"cmp"
	"errors"
	"net/http"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// deleteHost ends all that an instance has: certificates, and its place in
// FreeIPA. It may have only one of the two. Repeats do no harm.
func (f *Face) deleteHost(r *api.Request) (api.Response, error) {
	id, err := api.ID("host_id", r.PathValue("host_id"))
	if err != nil {
		return api.Response{}, err
	}
	instance, err := f.cfg.Records.Instance(r.Context(), id)
	hasKeys := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return api.Response{}, err
	}
	enrolled, err := f.cfg.Records.Enrolment(r.Context(), id)
	hasName := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return api.Response{}, err
	}
	project := cmp.Or(instance.ProjectID, enrolled.ProjectID)
	if err := r.Authorize(policy.HostDelete, api.Object{ProjectID: project}); err != nil {
		return api.Response{}, err
	}
	if !hasKeys && !hasName {
		return api.Response{}, problem.New(problem.NotFound, "no such host")
	}
	if hasName && f.cfg.Enrolments != nil {
		if err := f.cfg.Enrolments.Leave(r.Context(), enroll.Actor(r.Actor()), id); err != nil {
			return api.Response{}, err
		}
	}
	if hasKeys {
		if err := f.cfg.Authority.DeleteInstance(r.Context(), r.Actor(), id, "deleted by request"); err != nil {
			return api.Response{}, err
		}
	}
	return api.Response{Status: http.StatusNoContent}, nil
}

// tokenRenewal says which token an instance has now, without the token, which
// is for the instance alone: it finds it in its vendordata.
type tokenRenewal struct {
	HostID    string   `json:"host_id"`
	AuthID    string   `json:"auth_id"`
	Hostname  string   `json:"hostname"`
	CreatedAt api.Time `json:"created_at"`
	ExpiresAt api.Time `json:"expires_at"`
}

// renewHostToken lets an instance in again that can't prove any more who it is.
func (f *Face) renewHostToken(r *api.Request) (api.Response, error) {
	id, err := api.ID("host_id", r.PathValue("host_id"))
	if err != nil {
		return api.Response{}, err
	}
	instance, err := f.cfg.Records.Instance(r.Context(), id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return api.Response{}, err
	}
	if err := r.Authorize(policy.HostTokenRenew, api.Object{ProjectID: instance.ProjectID}); err != nil {
		return api.Response{}, err
	}
	renewed, made, err := f.cfg.Authority.RenewToken(r.Context(), r.Actor(), id)
	if err != nil {
		return api.Response{}, err
	}
	response := api.Response{Body: tokenRenewal{
		HostID: renewed.ID, AuthID: renewed.ProjectID, Hostname: renewed.Hostname,
		CreatedAt: api.Time(renewed.Token.CreatedAt), ExpiresAt: api.Time(renewed.Token.ExpiresAt),
	}}
	if made {
		response.Status = http.StatusCreated
	}
	return response, nil
}
