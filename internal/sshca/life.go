// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"context"
	"errors"
	"time"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// ProjectGone is told that a project is deleted or disabled: all its user
// certificates are revoked at once, and once that has lasted for the period of
// grace, its authority is retired, so that it issues nothing any more. Nothing
// is erased. A project without authority needs nothing.
func (s *Service) ProjectGone(ctx context.Context, by Actor, projectID, reason string, grace time.Duration) error {
	life, err := s.cfg.Store.AuthorityLife(ctx, projectID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := s.Revoke(ctx, by, store.RevocationOrder{ProjectID: projectID, AllUsers: true, Reason: reason}); err != nil {
		return err
	}
	now, next := s.cfg.Now(), life
	if next.GoneAt.IsZero() {
		next.GoneAt = now
	}
	action := "authority.gone"
	if next.RetiredAt.IsZero() && !now.Before(next.GoneAt.Add(grace)) {
		action, next.RetiredAt = "authority.retire", now
	}
	return s.setLife(ctx, by, action, reason, life, next)
}

// ProjectBack is told that a project is there and enabled. Its authority, if it
// was retired, issues again, with the keys it had.
func (s *Service) ProjectBack(ctx context.Context, by Actor, projectID string) error {
	life, err := s.cfg.Store.AuthorityLife(ctx, projectID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.setLife(ctx, by, "authority.back", "the project is enabled", life, store.AuthorityLife{ProjectID: projectID})
}

func (s *Service) setLife(ctx context.Context, by Actor, action, reason string, was, now store.AuthorityLife) error {
	if now == was {
		return nil
	}
	entry := s.audit(by, action, was.ProjectID, "authority", was.ProjectID)
	entry.Reason = reason
	if err := s.cfg.Store.SetAuthorityLife(ctx, was, now, entry); err != nil {
		return err
	}
	s.forgetAuthority(was.ProjectID)
	return nil
}

// Rebuild says when an instance was built anew.
type Rebuild struct {
	At       time.Time // when it was asked for
	Finished bool      // the instance runs again, and may have read its token since
}

// RenewForRebuild gives an instance that was built anew another one-time
// token, for its host key is new too. Its old host certificate stays good until
// it expires: it is of no use without the key that the rebuild erased. The
// caller decides that there was a rebuild. An instance without record is
// NotFound.
//
// The news may be late, or come again. A token that was made or spent since the
// rebuild stays, and so does an unspent one that the instance may have read
// since: it is as good as a new one would be, and a new one would take it away.
func (s *Service) RenewForRebuild(ctx context.Context, by Actor, instanceID string, rebuild Rebuild) error {
	instance, err := s.cfg.Store.Instance(ctx, instanceID)
	if errors.Is(err, store.ErrNotFound) {
		return problem.New(problem.NotFound, "no instance %s", instanceID)
	}
	if err != nil {
		return err
	}
	token := instance.Token
	unspent := token.UsedAt.IsZero()
	if token.UsedAt.After(rebuild.At) || unspent && (rebuild.Finished || token.CreatedAt.After(rebuild.At)) {
		return nil
	}
	entry := s.audit(by, "hosttoken.renew", instance.ProjectID, "instance", instanceID)
	entry.Reason = "the instance was rebuilt"
	// If another replica was faster, its token is as good.
	_, err = s.cfg.Store.RenewToken(ctx, instanceID, token.Hash, s.newToken(instanceID), entry)
	return err
}
