// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// Rotation asks for a new generation of a project's CA in one role.
type Rotation struct {
	ProjectID string
	Role      store.Role
	// Generation is the number that the new one is expected to have. Zero: the
	// next one, whatever it is, so that a repeated call adds another.
	Generation int
}

// Rotate makes a new generation of a CA, which signs from now on on all
// replicas; the one before stays trusted, with all that it signed, until it is
// retired. If the expected generation is there and signs, it is returned, with
// added = false.
//
// NotFound: the project has no authority. Conflict: somebody else rotated
// meanwhile, or there are too many generations.
func (s *Service) Rotate(ctx context.Context, by Actor, order Rotation) (key store.AuthorityKey, added bool, err error) {
	record, err := s.cfg.Store.Authority(ctx, order.ProjectID)
	if errors.Is(err, store.ErrNotFound) {
		return key, false, problem.New(problem.NotFound, "project %s has no authority", order.ProjectID)
	}
	if err != nil {
		return key, false, err
	}
	next := 1
	for _, key := range record.Keys {
		if key.Role == order.Role {
			next = max(next, key.Generation+1)
		}
	}
	if active, ok := activeKey(record, order.Role); ok && active.Generation == order.Generation {
		return active, false, nil
	}
	if order.Generation != 0 && order.Generation != next {
		return key, false, problem.New(problem.Conflict, "the next generation of the %s CA would be %d, not %d", order.Role, next, order.Generation)
	}
	if key, err = s.newAuthorityKey(ctx, order.ProjectID, order.Role, next, s.cfg.Now()); err != nil {
		return key, false, err
	}
	entry := s.audit(by, "authority.rotate", order.ProjectID, "authority_key", key.ID)
	entry.Details = map[string]string{"role": string(order.Role), "generation": fmt.Sprint(next)}
	if err := s.cfg.Store.AddGeneration(ctx, key, entry); err != nil {
		return key, false, rotationProblem(err)
	}
	s.forgetAuthority(order.ProjectID)
	s.metrics.rotated.Inc()
	s.cfg.Logger.InfoContext(ctx, "Added a generation to a CA", "project", order.ProjectID, "role", order.Role, "generation", next)
	return key, true, nil
}

func rotationProblem(err error) error {
	switch {
	case errors.Is(err, store.ErrExists):
		return problem.New(problem.Conflict, "somebody else rotated at the same time; look what there is now")
	case errors.Is(err, store.ErrConflict):
		return &problem.Problem{Kind: problem.Conflict, Cause: err,
			Reason: "somebody else rotated at the same time, or too many generations are trusted; look what there is now, and retire old ones"}
	case errors.Is(err, store.ErrNotFound):
		return problem.New(problem.Conflict, "the project's authority was retired with the project")
	default:
		return err
	}
}

// Retire ends the trust in a generation that no longer signs: it is revoked in
// the project's list, and with it all that it signed. To retire what was
// retired before is no error.
//
// NotFound: there is no such generation. Conflict: it is the one that signs.
func (s *Service) Retire(ctx context.Context, by Actor, projectID string, role store.Role, generation int) (store.RevocationResult, error) {
	record, err := s.cfg.Store.Authority(ctx, projectID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.RevocationResult{}, err
	}
	at := slices.IndexFunc(record.Keys, func(k store.AuthorityKey) bool { return k.Role == role && k.Generation == generation })
	if at < 0 {
		return store.RevocationResult{}, problem.New(problem.NotFound, "project %s has no generation %d of a %s CA", projectID, generation, role)
	}
	// A generation that does not sign never signs again, so that this still
	// holds when the revocation is recorded.
	key := record.Keys[at]
	if key.State == store.KeyActive {
		return store.RevocationResult{}, problem.New(problem.Conflict, "generation %d of the %s CA signs; rotate first", generation, role)
	}
	return s.Revoke(ctx, by, store.RevocationOrder{ProjectID: projectID, AuthorityKeyID: key.ID,
		Reason: fmt.Sprintf("generation %d of the %s CA was retired", generation, role)})
}

// Trust is what an instance relies on.
type Trust struct {
	UserCAs []string // authorized_keys lines of all generations that are trusted, the newest first
	HostCA  string   // of the one that signs host certificates now; empty: none
}

// Trust returns what the instances of a project rely on, at most seconds old.
func (s *Service) Trust(ctx context.Context, projectID string) (Trust, error) {
	a, _, err := s.authority(ctx, Actor{}, projectID)
	if err != nil {
		return Trust{}, err
	}
	trust := Trust{HostCA: a.host.line}
	for _, key := range a.record.Keys {
		if key.Role == store.RoleUser && key.State != store.KeyRevoked {
			trust.UserCAs = append(trust.UserCAs, key.PublicKey)
		}
	}
	return trust, nil
}
