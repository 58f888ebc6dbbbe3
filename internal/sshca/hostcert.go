// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agentapi"
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

// HostSetRequest asks for certificates of all of an instance's host keys.
type HostSetRequest struct {
	Token      string // 32 lower-case hexadecimal digits
	InstanceID string
	PublicKeys []string // authorized_keys lines, 1 to MaxHostKeys, all different
}

// MaxHostKeys is how many host keys may come at once.
const MaxHostKeys = agentapi.MaxKeys

// IssueHost certifies an instance's host key. The token decides alone: it is
// spent on the first key, and answers with the same certificate when the same
// key comes again. With another key, or from another instance, it is a
// Conflict that is recorded and counted, because somebody may have stolen it.
// An unknown or expired token is NotFound.
func (s *Service) IssueHost(ctx context.Context, by Actor, req HostRequest) (cert store.HostCert, err error) {
	defer func() { s.countRefusedHost(err) }()
	key, err := s.hostKeys.Parse(req.PublicKey)
	if err != nil {
		return store.HostCert{}, problem.InField("pub_key", "%v", err)
	}
	certs, err := s.spend(ctx, by, spending{token: req.Token, instanceID: req.InstanceID, keys: []sshkey.Key{key}, names: s.namesForTatu})
	if err != nil {
		return store.HostCert{}, err
	}
	return certs[0], nil
}

// IssueHosts certifies all host keys of an instance, in their order, for the
// names that it has now. The token is spent on the set of keys, as [IssueHost]
// spends it on one. One that was spent, and whose certificates have all ended,
// is NotFound: a certificate that nobody accepts would hide that.
func (s *Service) IssueHosts(ctx context.Context, by Actor, req HostSetRequest) (certs []store.HostCert, err error) {
	defer func() { s.countRefusedHost(err) }()
	keys, err := s.parseHostKeys(req.PublicKeys)
	if err != nil {
		return nil, err
	}
	certs, err = s.spend(ctx, by, spending{token: req.Token, instanceID: req.InstanceID, keys: keys, names: s.HostNames})
	if err != nil {
		return nil, err
	}
	if useful, err := s.anyUseful(ctx, certs); err != nil || useful {
		return certs, err
	}
	return nil, problem.New(problem.NotFound, "the token is spent, and the certificates that it gave have expired or were revoked")
}

// countRefusedHost counts a request for host certificates that was refused.
func (s *Service) countRefusedHost(err error) {
	var refusal *problem.Problem
	if errors.As(err, &refusal) {
		s.metrics.refused.WithLabelValues("host").Inc()
	}
}

// anyUseful tells whether the key of any of the certificates speaks for its
// instance still, as [Service.Vouch] judges it.
func (s *Service) anyUseful(ctx context.Context, certs []store.HostCert) (bool, error) {
	for _, cert := range certs {
		if !s.cfg.Now().Before(cert.ExpiresAt) {
			continue
		}
		if cert.RevokedAt.IsZero() {
			return true, nil
		}
		known, err := s.cfg.Store.HostKey(ctx, cert.InstanceID, cert.Fingerprint)
		if err == nil && known.RevokedAt.IsZero() {
			return true, nil // revoked with its CA generation alone
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
	}
	return false, nil
}

// parseHostKeys reads the keys of one request.
func (s *Service) parseHostKeys(lines []string) ([]sshkey.Key, error) {
	if len(lines) == 0 || len(lines) > MaxHostKeys {
		return nil, problem.InField("pub_keys", "holds %d keys, want from 1 to %d", len(lines), MaxHostKeys)
	}
	keys, seen := make([]sshkey.Key, len(lines)), make(map[string]bool, len(lines))
	for i, line := range lines {
		key, err := s.hostKeys.Parse(line)
		if err != nil {
			return nil, problem.InField("pub_keys", "key %d: %v", i+1, err)
		}
		if seen[key.SHA256] {
			return nil, problem.InField("pub_keys", "key %d is there twice", i+1)
		}
		keys[i], seen[key.SHA256] = key, true
	}
	return keys, nil
}

// spending is a token that comes with keys.
type spending struct {
	token, instanceID string
	keys              []sshkey.Key
	names             func(context.Context, store.Instance) ([]string, error) // principals
}

// set names the keys as the token's record does.
func (sp spending) set() string { return store.KeySet(fingerprints(sp.keys)) }

func fingerprints(keys []sshkey.Key) []string {
	all := make([]string, len(keys))
	for i, key := range keys {
		all[i] = key.SHA256
	}
	return all
}

// spend exchanges a token for certificates.
func (s *Service) spend(ctx context.Context, by Actor, sp spending) ([]store.HostCert, error) {
	instance, err := s.cfg.Store.InstanceByToken(ctx, tokenHash(sp.token))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, s.unknownToken()
	case err != nil:
		return nil, err
	}
	entry := s.audit(by, "hostcert.issue", instance.ProjectID, "instance", instance.ID)
	entry.Details = keyDetails(sp.keys)
	switch {
	case instance.ID != sp.instanceID:
		return nil, s.misused(ctx, entry, "the token belongs to another instance")
	case instance.State != store.InstanceLive:
		return nil, s.unknownToken()
	case instance.Token.UsedFingerprint == sp.set():
		return s.issuedBefore(ctx, instance, sp.keys)
	case instance.Token.UsedFingerprint != "":
		return nil, s.misused(ctx, entry, "the token was used for another key")
	case !s.cfg.Now().Before(instance.Token.ExpiresAt):
		return nil, problem.New(problem.NotFound, "the token has expired; the instance's metadata has a new one")
	}
	for _, key := range sp.keys {
		if err := s.checkShared(ctx, entry, instance, key, s.cfg.Host.SharedKeys); err != nil {
			return nil, err
		}
	}
	return s.issueSpending(ctx, by, entry, instance, sp)
}

// keyDetails names the keys in an audit entry.
func keyDetails(keys []sshkey.Key) map[string]string {
	return map[string]string{"key": strings.Join(fingerprints(keys), ",")}
}

// issuedBefore returns the newest certificates of keys.
func (s *Service) issuedBefore(ctx context.Context, instance store.Instance, keys []sshkey.Key) ([]store.HostCert, error) {
	certs := make([]store.HostCert, len(keys))
	for i, key := range keys {
		var err error
		if certs[i], err = s.cfg.Store.HostCert(ctx, instance.ID, key.SHA256); err != nil {
			return nil, err
		}
	}
	return certs, nil
}

func (s *Service) issueSpending(ctx context.Context, by Actor, entry store.Audit, instance store.Instance, sp spending) ([]store.HostCert, error) {
	principals, err := sp.names(ctx, instance)
	if err != nil {
		return nil, err
	}
	for range 2 {
		certs, err := s.newHostCerts(ctx, by, instance, sp.keys, principals)
		if err != nil {
			return nil, err
		}
		stored, spent, err := s.cfg.Store.SpendToken(ctx, instance.Token.Hash, certs, entry)
		switch {
		case err == nil && spent:
			s.metrics.issued.WithLabelValues("host").Add(float64(len(stored)))
			return stored, nil
		case err == nil:
			return stored, nil
		case errors.Is(err, store.ErrNotFound):
			return nil, s.unknownToken()
		case !errors.Is(err, store.ErrConflict):
			return nil, err
		}
		// Either the token went to other keys, or the generation was replaced.
		now, err := s.cfg.Store.Instance(ctx, instance.ID)
		if err != nil {
			return nil, err
		}
		if used := now.Token.UsedFingerprint; used != "" && used != sp.set() {
			return nil, s.misused(ctx, entry, "the token was used for another key")
		}
		s.forgetAuthority(instance.ProjectID)
	}
	return nil, errChanging()
}

// errChanging tells that a record was refused twice.
func errChanging() error {
	return problem.New(problem.Conflict, "the authority of the project is changing, or a key was revoked; try again")
}

// newHostCerts signs certificates with the generation that signs now. They are
// not recorded yet.
func (s *Service) newHostCerts(ctx context.Context, by Actor, instance store.Instance, keys []sshkey.Key, principals []string) ([]store.HostCert, error) {
	a, _, err := s.authority(ctx, by, instance.ProjectID)
	if err != nil {
		return nil, err
	}
	ca, err := a.signs(store.RoleHost)
	if err != nil {
		return nil, err
	}
	certs := make([]store.HostCert, len(keys))
	for i, key := range keys {
		if certs[i], err = s.newHostCert(ctx, instance, key, ca, principals); err != nil {
			return nil, err
		}
	}
	return certs, nil
}

func (s *Service) newHostCert(ctx context.Context, instance store.Instance, key sshkey.Key, ca signingKey, principals []string) (store.HostCert, error) {
	now := s.cfg.Now()
	after, before, err := s.validity(ca, now, s.cfg.Host.Lifetime)
	if err != nil {
		return store.HostCert{}, err
	}
	serial, err := s.cfg.Store.NextSerial(ctx)
	if err != nil {
		return store.HostCert{}, err
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
func (s *Service) checkShared(ctx context.Context, entry store.Audit, instance store.Instance, key sshkey.Key, rule SharedKeys) error {
	holders, err := s.cfg.Store.HostKeyHolders(ctx, key.SHA256, instance.ID, instance.ProjectID, 1)
	if err != nil || len(holders) == 0 {
		return err
	}
	s.metrics.sharedKeys.Inc()
	s.cfg.Logger.WarnContext(ctx, "Two instances have the same host key; the image was built with one in it",
		"instance", instance.ID, "other", holders[0].InstanceID, "key", key.SHA256)
	entry.Action = "hostkey.shared"
	entry.Details = map[string]string{"key": key.SHA256, "other": holders[0].InstanceID}
	if rule == ShareNowhere || rule == ShareInProject && holders[0].ProjectID != instance.ProjectID {
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
