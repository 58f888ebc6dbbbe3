// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

const (
	// maxReason bounds what a caller may write into the records.
	maxReason = 500
	// maxKeyID is the longest key ID, in bytes.
	maxKeyID = 255
)

// Revoke takes certificates back; see store.RevocationOrder for what can be
// named. A revocation is never undone, and is in the project's list once this
// returns. To revoke what was revoked before is no error: Already tells.
func (s *Service) Revoke(ctx context.Context, by Actor, order store.RevocationOrder) (store.RevocationResult, error) {
	kind, object := ordered(order)
	entry := s.audit(by, "revoke."+kind, order.ProjectID, kind, object)
	if err := checkOrder(order); err != nil {
		return store.RevocationResult{}, err
	}
	order.By, order.At = cmp.Or(by.UserID, by.UserName), s.cfg.Now()
	entry.Reason = order.Reason
	result, err := s.cfg.Store.Revoke(ctx, order, entry)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return result, problem.New(problem.NotFound, "no such %s in project %s", kind, order.ProjectID)
	case errors.Is(err, store.ErrInvalid):
		return result, &problem.Problem{Kind: problem.Invalid, Reason: "say what to revoke: one of serial, user, public key, key ID or CA generation", Cause: err}
	case err != nil:
		return result, err
	}
	if order.AuthorityKeyID != "" {
		s.forgetAuthority(order.ProjectID)
	}
	if !result.Already {
		s.metrics.revoked.WithLabelValues(kind).Inc()
		s.feed.changed(order.ProjectID)
	}
	return result, nil
}

// checkOrder refuses texts that could not be recorded, or be written into a list.
func checkOrder(order store.RevocationOrder) error {
	for _, text := range []struct {
		field, value string
		limit        int
	}{{"reason", order.Reason, maxReason}, {"key_id", order.KeyID, maxKeyID}} {
		if len(text.value) > text.limit {
			return problem.InField(text.field, "is longer than %d bytes", text.limit)
		}
		if strings.Contains(text.value, "\x00") {
			return problem.InField(text.field, "has a zero byte")
		}
	}
	if order.Fingerprint == "" {
		return nil
	}
	// Only the one form by which keys are recorded: names are compared as text.
	fingerprint, err := parseFingerprint(order.Fingerprint)
	if err != nil || order.Fingerprint != "SHA256:"+base64.RawStdEncoding.EncodeToString(fingerprint[:]) {
		return problem.InField("fingerprint", "want SHA256: and 43 characters of base64, as ssh-keygen -l prints it")
	}
	return nil
}

// RevokeUser takes back all of a user's certificates in every project.
func (s *Service) RevokeUser(ctx context.Context, by Actor, userID, reason string) (certificates int, err error) {
	projects, err := s.cfg.Store.UserProjects(ctx, userID)
	if err != nil {
		return 0, err
	}
	for _, projectID := range projects {
		result, err := s.Revoke(ctx, by, store.RevocationOrder{ProjectID: projectID, UserID: userID, Reason: reason})
		var refusal *problem.Problem
		if errors.As(err, &refusal) && refusal.Kind == problem.NotFound {
			continue
		}
		if err != nil {
			return certificates, err
		}
		certificates += result.Certificates
	}
	return certificates, nil
}

// DeleteInstance ends an instance: its token dies, its host certificates are
// revoked. To delete it again is harmless.
func (s *Service) DeleteInstance(ctx context.Context, by Actor, instanceID, reason string) error {
	instance, err := s.cfg.Store.Instance(ctx, instanceID)
	if errors.Is(err, store.ErrNotFound) {
		return problem.New(problem.NotFound, "no instance %s", instanceID)
	}
	if err != nil {
		return err
	}
	now := s.cfg.Now()
	order := store.RevocationOrder{ProjectID: instance.ProjectID, Reason: reason, By: cmp.Or(by.UserID, by.UserName), At: now}
	entry := s.audit(by, "instance.delete", instance.ProjectID, "instance", instanceID)
	entry.Reason = reason
	err = s.cfg.Store.DeleteInstance(ctx, instanceID, now, order, entry)
	if err != nil {
		return err
	}
	s.feed.changed(instance.ProjectID)
	return nil
}

// ordered names what an order revokes, for records and messages.
func ordered(order store.RevocationOrder) (kind, object string) {
	switch {
	case order.Serial != 0:
		return "serial", fmt.Sprint(order.Serial)
	case len(order.Serials) > 0:
		return "serials", fmt.Sprint(order.Serials[0])
	case order.UserID != "":
		return "user", order.UserID
	case order.AllUsers:
		return "project", order.ProjectID
	case order.Fingerprint != "":
		return "key", order.Fingerprint
	case order.KeyID != "":
		return "key_id", order.KeyID
	default:
		return "authority_key", order.AuthorityKeyID
	}
}
