// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca/sshkey"
	"github.com/muster-cloud/muster/internal/store"
)

// Vouch returns the live instance that a host key speaks for: one that got a
// certificate for it which is neither revoked nor expired. That somebody holds
// the key is for the caller to prove.
//
// A certificate that was revoked with its CA generation alone still counts,
// whether that was retired in good order or its key was lost to somebody. What
// vouches is our record that this instance has the key, not the CA's signature:
// who has the CA's key can sign certificates, but can't write records, and has
// no instance's host key. Else each instance that was off meanwhile, or after a
// loss all of them, would have to be rebuilt.
//
// Forbidden: the key was never certified for this instance, its certificates
// were revoked or have expired, or another instance has the key too. NotFound:
// the instance is gone.
func (s *Service) Vouch(ctx context.Context, by Actor, instanceID string, key ssh.PublicKey) (store.Instance, error) {
	fingerprint := ssh.FingerprintSHA256(key)
	known, err := s.cfg.Store.HostKey(ctx, instanceID, fingerprint)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.Instance{}, err
	}
	outcome, refusal := s.judgeHostKey(known, err == nil)
	s.metrics.vouched.WithLabelValues(outcome).Inc()
	if outcome == "shared" {
		s.recordShared(ctx, by, known.Instance, fingerprint)
	}
	if refusal != nil {
		return store.Instance{}, refusal
	}
	return known.Instance, nil
}

func (s *Service) judgeHostKey(known store.HostKey, found bool) (outcome string, refusal error) {
	switch {
	case !found:
		return "unknown", problem.New(problem.Forbidden, "this host key was not certified for this instance")
	case known.Instance.State != store.InstanceLive:
		return "deleted", problem.New(problem.NotFound, "the instance was deleted")
	case !known.RevokedAt.IsZero():
		return "revoked", problem.New(problem.Forbidden, "the certificate of this host key was revoked; with new host keys, "+anotherToken)
	case !s.cfg.Now().Before(known.ExpiresAt):
		return "expired", problem.New(problem.Forbidden, "the certificate of this host key has expired; "+anotherToken)
	case known.Shared:
		return "shared", problem.New(problem.Forbidden,
			"another instance has this host key too, so that it proves nothing; rebuild the image without host keys, and the instance from it")
	default:
		return "good", nil
	}
}

// anotherToken is the way back for an instance whose host keys prove nothing.
const anotherToken = "another one-time token certifies them anew: the cloud's operator gives one (muster instance token), and so does a rebuild"

// sharedEvery is the time between two records that an instance signs with a
// key that others have too: it may do so each minute.
const sharedEvery = time.Hour

func (s *Service) recordShared(ctx context.Context, by Actor, instance store.Instance, fingerprint string) {
	now := s.cfg.Now()
	if last, ok := s.sharedSeen.Get(instance.ID); ok && now.Sub(last) < sharedEvery {
		return
	}
	s.sharedSeen.Add(instance.ID, now)
	entry := s.audit(by, "hostkey.shared", instance.ProjectID, "instance", instance.ID)
	entry.Outcome, entry.Reason, entry.Details = "refused", "another instance has the host key that signed", map[string]string{"key": fingerprint}
	s.cfg.Logger.WarnContext(ctx, "An instance signs with a host key that another one has too, and is refused; its image was built with host keys in it",
		"instance", instance.ID, "key", fingerprint)
	if err := s.cfg.Store.AppendRefusal(ctx, entry, entry.ObjectID); err != nil {
		s.cfg.Logger.ErrorContext(ctx, "A refusal could not be recorded", "action", entry.Action, "object", entry.ObjectID, "error", err)
	}
}

// RenewHosts certifies host keys of an instance that has proved who it is, in
// their order, for the names that it has now. A key need not have been
// certified before. A certificate that says the same, by the generation that
// signs now, and has more than two thirds of its life left, is given again.
func (s *Service) RenewHosts(ctx context.Context, by Actor, instance store.Instance, publicKeys []string) (
	certs []store.HostCert, err error,
) {
	defer func() { s.countRefusedHost(err) }()
	keys, err := s.parseHostKeys(publicKeys)
	if err != nil {
		return nil, err
	}
	principals, err := s.HostNames(ctx, instance)
	if err != nil {
		return nil, err
	}
	certs, due, err := s.keep(ctx, by, instance, keys, principals)
	if err != nil || len(due) == 0 {
		return certs, err
	}
	entry := s.audit(by, "hostcert.renew", instance.ProjectID, "instance", instance.ID)
	entry.Details = keyDetails(due)
	// Here a key that another instance has is never certified, whatever the rules
	// say of images: it would keep the other one from proving who it is.
	for _, key := range due {
		if err := s.checkShared(ctx, entry, instance, key, ShareNowhere); err != nil {
			return nil, err
		}
	}
	issued, err := s.issueRenewal(ctx, by, entry, instance, due, principals)
	if err != nil {
		return nil, err
	}
	for i, key := range keys {
		if at := slices.IndexFunc(issued, func(c store.HostCert) bool { return c.Fingerprint == key.SHA256 }); at >= 0 {
			certs[i] = issued[at]
		}
	}
	return certs, nil
}

// keep finds the certificates that are given again, and the keys that need new ones.
func (s *Service) keep(ctx context.Context, by Actor, instance store.Instance, keys []sshkey.Key, principals []string) ([]store.HostCert, []sshkey.Key, error) {
	a, _, err := s.authority(ctx, by, instance.ProjectID)
	if err != nil {
		return nil, nil, err
	}
	certs := make([]store.HostCert, len(keys))
	var due []sshkey.Key
	for i, key := range keys {
		latest, err := s.cfg.Store.HostCert(ctx, instance.ID, key.SHA256)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, nil, err
		}
		if err == nil && s.stillGood(latest, a.host, principals) {
			s.metrics.reused.Inc()
			certs[i] = latest
			continue
		}
		due = append(due, key)
	}
	return certs, due, nil
}

func (s *Service) stillGood(cert store.HostCert, ca signingKey, principals []string) bool {
	now := s.cfg.Now()
	_, before, err := s.validity(ca, now, s.cfg.Host.Lifetime)
	if err != nil {
		return false
	}
	left, life := cert.ExpiresAt.Sub(now), before.Sub(now)
	return cert.RevokedAt.IsZero() && cert.AuthorityKeyID == ca.id && slices.Equal(cert.Principals, principals) &&
		left > life/3*2 && left <= life+time.Second
}

func (s *Service) issueRenewal(ctx context.Context, by Actor, entry store.Audit, instance store.Instance, keys []sshkey.Key, principals []string) ([]store.HostCert, error) {
	for range 2 {
		certs, err := s.newHostCerts(ctx, by, instance, keys, principals)
		if err != nil {
			return nil, err
		}
		err = s.cfg.Store.InsertHostCerts(ctx, certs, entry)
		switch {
		case err == nil:
			s.metrics.issued.WithLabelValues("host").Add(float64(len(certs)))
			return certs, nil
		case errors.Is(err, store.ErrNotFound):
			return nil, problem.New(problem.NotFound, "the instance was deleted")
		case !errors.Is(err, store.ErrConflict):
			return nil, err
		}
		s.forgetAuthority(instance.ProjectID)
	}
	return nil, errChanging()
}
