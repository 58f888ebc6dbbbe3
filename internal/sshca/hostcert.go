// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca/sshkey"
	"github.com/muster-cloud/muster/internal/store"
)

// HostRequest asks for a host certificate with a one-time token.
type HostRequest struct {
	Token      string // 32 lower-case hexadecimal digits
	InstanceID string
	PublicKey  string
}

// IssueHost certifies an instance's host key. The token decides alone: it is
// spent on the first key, and answers with the same certificate when the same
// key comes again. With another key, or from another instance, it is a
// Conflict that is recorded and counted, because somebody may have stolen it.
// An unknown or expired token is NotFound.
func (s *Service) IssueHost(ctx context.Context, by Actor, req HostRequest) (store.HostCert, error) {
	key, err := s.hostKeys.Parse(req.PublicKey)
	if err != nil {
		return store.HostCert{}, problem.InField("pub_key", "%v", err)
	}
	hash := tokenHash(req.Token)
	instance, err := s.cfg.Store.InstanceByToken(ctx, hash)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return store.HostCert{}, s.unknownToken()
	case err != nil:
		return store.HostCert{}, err
	}
	entry := s.audit(by, "hostcert.issue", instance.ProjectID, "instance", instance.ID)
	entry.Details = map[string]string{"key": key.SHA256}
	switch {
	case instance.ID != req.InstanceID:
		return store.HostCert{}, s.misused(ctx, entry, "the token belongs to another instance")
	case instance.State != store.InstanceLive:
		return store.HostCert{}, s.unknownToken()
	case instance.Token.UsedFingerprint == key.SHA256:
		return s.cfg.Store.HostCert(ctx, instance.ID, key.SHA256)
	case instance.Token.UsedFingerprint != "":
		return store.HostCert{}, s.misused(ctx, entry, "the token was used for another key")
	case !s.cfg.Now().Before(instance.Token.ExpiresAt):
		return store.HostCert{}, problem.New(problem.NotFound, "the token has expired; the instance's metadata has a new one")
	}
	if err := s.checkShared(ctx, entry, instance, key); err != nil {
		return store.HostCert{}, err
	}
	return s.issueHost(ctx, by, entry, instance, key)
}

func (s *Service) issueHost(ctx context.Context, by Actor, entry store.Audit, instance store.Instance, key sshkey.Key) (store.HostCert, error) {
	for range 2 {
		a, _, err := s.authority(ctx, by, instance.ProjectID)
		if err != nil {
			return store.HostCert{}, err
		}
		if a.host.signer == nil {
			return store.HostCert{}, problem.New(problem.Conflict, "the project's host CA was revoked and has no successor; ask the cloud's operator")
		}
		cert, err := s.newHostCert(ctx, instance, key, a.host)
		if err != nil {
			return store.HostCert{}, err
		}
		stored, spent, err := s.cfg.Store.SpendToken(ctx, instance.Token.Hash, key.SHA256, cert, entry)
		switch {
		case err == nil && spent:
			s.metrics.issued.WithLabelValues("host").Inc()
			return stored, nil
		case err == nil:
			return stored, nil
		case errors.Is(err, store.ErrNotFound):
			return store.HostCert{}, s.unknownToken()
		case !errors.Is(err, store.ErrConflict):
			return store.HostCert{}, err
		}
		// Either the token went to another key, or the generation was replaced.
		now, err := s.cfg.Store.Instance(ctx, instance.ID)
		if err != nil {
			return store.HostCert{}, err
		}
		if used := now.Token.UsedFingerprint; used != "" && used != key.SHA256 {
			return store.HostCert{}, s.misused(ctx, entry, "the token was used for another key")
		}
		s.forgetAuthority(instance.ProjectID)
	}
	return store.HostCert{}, problem.New(problem.Conflict, "the authority of the project is changing; try again")
}

func (s *Service) newHostCert(ctx context.Context, instance store.Instance, key sshkey.Key, ca signingKey) (store.HostCert, error) {
	now := s.cfg.Now()
	after, before, err := s.validity(ca, now, s.cfg.Host.Lifetime)
	if err != nil {
		return store.HostCert{}, err
	}
	serial, err := s.cfg.Store.NextSerial(ctx)
	if err != nil {
		return store.HostCert{}, err
	}
	var principals []string
	if s.cfg.Host.NamePrincipals {
		principals = []string{strings.ToLower(instance.Hostname)}
	}
	template := &ssh.Certificate{
		Key:             key.PublicKey,
		Serial:          serial,
		CertType:        ssh.HostCert,
		KeyId:           keyID(instance.Hostname, serial),
		ValidPrincipals: principals,
		ValidAfter:      uint64(after.Unix()),
		ValidBefore:     uint64(before.Unix()),
	}
	line, err := sign(template, ca.signer, now)
	if err != nil {
		return store.HostCert{}, err
	}
	return store.HostCert{
		Serial: serial, ProjectID: instance.ProjectID, InstanceID: instance.ID, Hostname: instance.Hostname,
		Principals: principals, Fingerprint: key.SHA256, MD5: key.MD5, KeyID: template.KeyId,
		AuthorityKeyID: ca.id, Cert: line, CreatedAt: now, ExpiresAt: time.Unix(int64(template.ValidBefore), 0).UTC(),
	}, nil
}

// checkShared looks for other instances with the same host key: an image that
// was built with one in it. Each of them can pose as the others.
func (s *Service) checkShared(ctx context.Context, entry store.Audit, instance store.Instance, key sshkey.Key) error {
	holders, err := s.cfg.Store.HostKeyHolders(ctx, key.SHA256, 2)
	if err != nil {
		return err
	}
	holders = slices.DeleteFunc(holders, func(c store.HostCert) bool { return c.InstanceID == instance.ID })
	if len(holders) == 0 {
		return nil
	}
	s.metrics.sharedKeys.Inc()
	s.cfg.Logger.WarnContext(ctx, "Two instances have the same host key; the image was built with one in it",
		"instance", instance.ID, "other", holders[0].InstanceID, "key", key.SHA256)
	entry.Action = "hostkey.shared"
	entry.Details = map[string]string{"key": key.SHA256, "other": holders[0].InstanceID}
	if s.cfg.Host.RefuseSharedKeys {
		return s.refuse(ctx, entry, problem.New(problem.Conflict, "another instance has this host key; rebuild the image without host keys"))
	}
	return s.cfg.Store.AppendAudit(ctx, entry)
}

// unknownToken is not recorded: anybody can make any number of them up.
func (s *Service) unknownToken() error {
	s.metrics.unknownTokens.Inc()
	return problem.New(problem.NotFound, "the token is unknown")
}

// misused records the attempt to use a token that is somebody else's.
func (s *Service) misused(ctx context.Context, entry store.Audit, reason string) error {
	s.metrics.misusedTokens.Inc()
	s.cfg.Logger.WarnContext(ctx, "A host token was misused", "instance", entry.ObjectID, "project", entry.ProjectID, "reason", reason, "remote", entry.Remote)
	return s.refuse(ctx, entry, problem.New(problem.Conflict, "%s", fmt.Sprint(reason)))
}
