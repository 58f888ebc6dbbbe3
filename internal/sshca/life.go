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
	_, err = s.renewToken(ctx, by, instance, "the instance was rebuilt")
	return err
}

// RenewToken gives a live instance another one-time token, whatever became of
// the one before: an instance that was off until all its certificates had ended
// can't prove any more who it is, and needs one. The instance finds it in its
// vendordata. Its host keys may have changed meanwhile.
//
// A token that is neither spent nor expired stays, and made is false: so the
// call may be repeated, and takes nothing away that the instance may have read
// already. An instance that is gone, or never asked for a token, is NotFound.
func (s *Service) RenewToken(ctx context.Context, by Actor, instanceID string) (renewed store.Instance, made bool, err error) {
	instance, err := s.cfg.Store.Instance(ctx, instanceID)
	if errors.Is(err, store.ErrNotFound) {
		return store.Instance{}, false, problem.New(problem.NotFound, "no such instance, or it is gone")
	}
	if err != nil {
		return store.Instance{}, false, err
	}
	if instance.Token.UsedAt.IsZero() && s.cfg.Now().Before(instance.Token.ExpiresAt) {
		return instance, false, nil
	}
	renewed, err = s.renewToken(ctx, by, instance, "asked for")
	if errors.Is(err, store.ErrNotFound) {
		return store.Instance{}, false, problem.New(problem.NotFound, "the instance was deleted")
	}
	return renewed, err == nil, err
}

// renewToken replaces the token that the instance had when it was read. If
// another replica was faster, its token is as good. The record names the keys
// that the old one was spent on: if they are not the new one's, somebody made
// host keys anew, or is not who they say.
func (s *Service) renewToken(ctx context.Context, by Actor, instance store.Instance, why string) (store.Instance, error) {
	entry := s.audit(by, "hosttoken.renew", instance.ProjectID, "instance", instance.ID)
	entry.Reason = why
	if old := instance.Token; !old.UsedAt.IsZero() {
		entry.Details = map[string]string{"spent_on": old.UsedFingerprint, "spent_at": old.UsedAt.UTC().Format(time.RFC3339)}
	}
	token := s.newToken(instance.ID)
	stored, err := s.cfg.Store.RenewToken(ctx, instance.ID, instance.Token.Hash, token, entry)
	if err == nil && stored.Token.Hash == token.Hash {
		s.metrics.renewedTokens.Inc()
	}
	return stored, err
}
