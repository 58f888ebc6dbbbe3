// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

func (f *Face) registerGenerations(handle func(string, api.Endpoint)) {
	handle("GET /v1/authorities/{auth_id}/generations", f.listGenerations)
	handle("POST /v1/authorities/{auth_id}/generations", f.createGeneration)
	handle("DELETE /v1/authorities/{auth_id}/generations/{role}/{generation}", f.retireGeneration)
}

// generation is one key pair of an authority on the wire.
type generation struct {
	ID         string   `json:"id"`
	Role       string   `json:"role"`
	Generation int      `json:"generation"`
	Algorithm  string   `json:"algorithm"`
	State      string   `json:"state"`
	PubKey     string   `json:"pub_key"`
	CreatedAt  api.Time `json:"created_at"`
}

func (f *Face) listGenerations(r *api.Request) (api.Response, error) {
	project, err := api.ID("auth_id", r.PathValue("auth_id"))
	if err != nil {
		return api.Response{}, err
	}
	if err := r.Authorize(policy.AuthorityShow, api.Object{ProjectID: project}); err != nil {
		return api.Response{}, err
	}
	record, err := f.cfg.Records.Authority(r.Context(), project)
	if errors.Is(err, store.ErrNotFound) {
		return api.Response{}, problem.New(problem.NotFound, "project %s has no authority", project)
	}
	if err != nil {
		return api.Response{}, err
	}
	list := make([]generation, len(record.Keys))
	for i, key := range record.Keys {
		list[i] = newGeneration(key)
	}
	return api.Response{Body: map[string][]generation{"generations": list}}, nil
}

func newGeneration(key store.AuthorityKey) generation {
	return generation{
		ID: key.ID, Role: string(key.Role), Generation: key.Generation, Algorithm: key.Algorithm,
		State: string(key.State), PubKey: key.PublicKey, CreatedAt: api.Time(key.CreatedAt),
	}
}

// createGeneration rotates a CA. With the number that the new generation will
// have, the call can be repeated.
func (f *Face) createGeneration(r *api.Request) (api.Response, error) {
	project, err := api.ID("auth_id", r.PathValue("auth_id"))
	if err != nil {
		return api.Response{}, err
	}
	var body struct {
		Role       string `json:"role"`
		Generation int    `json:"generation"`
	}
	if err := r.Decode(&body); err != nil {
		return api.Response{}, err
	}
	role, err := readRole(body.Role)
	if err != nil {
		return api.Response{}, err
	}
	if body.Generation < 0 {
		return api.Response{}, problem.InField("generation", "is not positive")
	}
	if err := r.Authorize(policy.AuthorityRotate, api.Object{ProjectID: project}); err != nil {
		return api.Response{}, err
	}
	key, added, err := f.cfg.Authority.Rotate(r.Context(), r.Actor(), sshca.Rotation{ProjectID: project, Role: role, Generation: body.Generation})
	if err != nil {
		return api.Response{}, err
	}
	response := api.Response{Body: newGeneration(key), Location: fmt.Sprintf("/v1/authorities/%s/generations/%s/%d", project, role, key.Generation)}
	if added {
		response.Status = http.StatusCreated
	}
	return response, nil
}

// retireGeneration ends the trust in a generation that no longer signs, and
// answers with what that revoked.
func (f *Face) retireGeneration(r *api.Request) (api.Response, error) {
	project, err := api.ID("auth_id", r.PathValue("auth_id"))
	if err != nil {
		return api.Response{}, err
	}
	role, err := readRole(r.PathValue("role"))
	if err != nil {
		return api.Response{}, err
	}
	number, err := strconv.Atoi(r.PathValue("generation"))
	if err != nil || number < 1 {
		return api.Response{}, problem.InField("generation", "is no number of a generation")
	}
	if err := r.Authorize(policy.AuthorityRetire, api.Object{ProjectID: project}); err != nil {
		return api.Response{}, err
	}
	result, err := f.cfg.Authority.Retire(r.Context(), r.Actor(), project, role, number)
	if err != nil {
		return api.Response{}, err
	}
	return api.Response{Body: outcome{AuthID: project, Version: result.Version, Certificates: result.Certificates, Already: result.Already}}, nil
}

func readRole(text string) (store.Role, error) {
	role := store.Role(text)
	if role != store.RoleUser && role != store.RoleHost {
		return "", problem.InField("role", "want %s or %s", store.RoleUser, store.RoleHost)
	}
	return role, nil
}
