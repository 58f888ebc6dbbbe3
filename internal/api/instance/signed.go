// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

// signed finds out which instance asks: it must answer a challenge of Muster's
// with a signature by a host key that has a good certificate. It reads the body
// into the call's request. Who does not hold such a key learns nothing of the
// instance.
func (f *Face) signed(r *api.Request, path string, into any) (store.Instance, error) {
	body, err := r.ReadBody(agentapi.MaxBody)
	if err != nil {
		return store.Instance{}, err
	}
	var base agentapi.Signed
	if err := api.Unmarshal(body, &base); err != nil {
		return store.Instance{}, err
	}
	id, err := api.ID("host_id", base.HostID)
	if err != nil {
		return store.Instance{}, err
	}
	if err := f.checkChallenge(base.Challenge); err != nil {
		return store.Instance{}, err
	}
	signature, err := agentapi.ParseSignature(r.Header.Get(agentapi.SignatureHeader))
	if err == nil {
		err = signature.Verify(path, body)
	}
	if err != nil {
		return store.Instance{}, problem.New(problem.Unauthorized, "%v", err)
	}
	instance, err := f.cfg.Hosts.Vouch(r.Context(), r.Actor(), id, signature.Key())
	if err != nil {
		return store.Instance{}, err
	}
	return instance, api.Unmarshal(body, into)
}

// actor is an instance that asks, for the audit records.
func actor(r *api.Request, instance store.Instance) sshca.Actor {
	by := r.Actor()
	by.UserName, by.ProjectID = "instance "+instance.ID, instance.ProjectID
	return by
}
