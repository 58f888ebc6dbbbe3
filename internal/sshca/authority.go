// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

const (
	// authorityFreshness is how long a read authority is believed. The store
	// refuses a record signed by a generation that is no longer active, so an
	// old one costs a second try and never issues anything.
	authorityFreshness = 5 * time.Second
	// authorityTimeout bounds the making of an authority, which outlives its
	// first asker since others wait for it: RSA keys take seconds.
	authorityTimeout = 30 * time.Second
)

// authority is a project's authority with its signing keys opened.
type authority struct {
	record     store.Authority
	user, host signingKey
	readAt     time.Time
	created    bool // by the call that returned it
}

// signingKey is the generation that signs.
type signingKey struct {
	id     string
	signer ssh.Signer
	line   string
	ends   time.Time // zero: never
}

// validity returns the life of a certificate that begins now. No certificate
// outlives the CA that signed it.
func (s *Service) validity(ca signingKey, now time.Time, lifetime time.Duration) (after, before time.Time, err error) {
	before = now.Add(lifetime)
	if !ca.ends.IsZero() && ca.ends.Before(before) {
		before = ca.ends
	}
	if !now.Before(before) {
		return after, before, problem.New(problem.Conflict, "the project's CA has reached the end of its life; ask the cloud's operator for a new generation")
	}
	return now.Add(-s.cfg.ClockSkew), before, nil
}

// EnsureAuthority returns a project's authority, and makes it if there is
// none. Of several that try at once, one makes it and all get the same.
func (s *Service) EnsureAuthority(ctx context.Context, by Actor, projectID string) (record store.Authority, created bool, err error) {
	a, created, err := s.authority(ctx, by, projectID)
	if err != nil {
		return store.Authority{}, false, err
	}
	return a.record, created, nil
}

// authority returns the project's authority, from memory while that is fresh.
func (s *Service) authority(ctx context.Context, by Actor, projectID string) (a *authority, created bool, err error) {
	known, ok := s.authorities.Get(projectID)
	// One that cannot sign may just have got a new generation.
	if ok && s.cfg.Now().Sub(known.readAt) < authorityFreshness && known.user.signer != nil && known.host.signer != nil {
		return known, false, nil
	}
	a, joined, err := together(ctx, &s.loading, projectID, func() (*authority, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), authorityTimeout)
		defer cancel()
		a, err := s.readAuthority(ctx, projectID, known)
		if errors.Is(err, store.ErrNotFound) {
			return s.makeAuthority(ctx, by, projectID)
		}
		return a, err
	})
	if err != nil {
		return nil, false, err
	}
	s.authorities.Add(projectID, a)
	return a, a.created && !joined, nil
}

// forgetAuthority makes the next use read the authority anew.
func (s *Service) forgetAuthority(projectID string) { s.authorities.Remove(projectID) }

func (s *Service) readAuthority(ctx context.Context, projectID string, known *authority) (*authority, error) {
	readAt := s.cfg.Now()
	record, err := s.cfg.Store.Authority(ctx, projectID)
	if err != nil {
		return nil, err
	}
	return s.openAuthority(ctx, record, known, readAt)
}

// makeAuthority creates both CAs of a project. If another replica was faster,
// its keys are the ones that count and ours are forgotten.
func (s *Service) makeAuthority(ctx context.Context, by Actor, projectID string) (*authority, error) {
	project, err := s.cfg.Directory.Project(ctx, projectID)
	if errors.Is(err, keystone.ErrNotFound) {
		return nil, problem.New(problem.NotFound, "Keystone knows no project %s", projectID)
	}
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	record := store.Authority{ProjectID: projectID, Name: project.Name, CreatedAt: now}
	for _, role := range []store.Role{store.RoleUser, store.RoleHost} {
		key, err := s.newAuthorityKey(ctx, projectID, role, 1, now)
		if err != nil {
			return nil, err
		}
		record.Keys = append(record.Keys, key)
	}
	err = s.cfg.Store.CreateAuthority(ctx, record, s.audit(by, "authority.create", projectID, "authority", projectID))
	if err != nil && !errors.Is(err, store.ErrExists) {
		return nil, err
	}
	created := err == nil
	if created {
		s.cfg.Logger.InfoContext(ctx, "Made the authority of a project", "project", projectID, "algorithm", s.cfg.Algorithm)
	}
	a, err := s.readAuthority(ctx, projectID, nil)
	if err == nil {
		a.created = created
	}
	return a, err
}

func (s *Service) newAuthorityKey(ctx context.Context, projectID string, role store.Role, generation int, now time.Time) (store.AuthorityKey, error) {
	id := make([]byte, 16)
	rand.Read(id)
	key := store.AuthorityKey{
		ID: hex.EncodeToString(id), ProjectID: projectID, Role: role, Generation: generation,
		Algorithm: string(s.cfg.Algorithm), CreatedAt: now, State: store.KeyActive,
	}
	handle, public, err := s.cfg.Custody.Generate(ctx, keyBinding(key), s.cfg.Algorithm)
	if err != nil {
		return key, fmt.Errorf("make the %s CA of project %s: %w", role, projectID, err)
	}
	key.Handle, key.PublicKey = handle, authorizedLine(public.Type(), public.Marshal())
	return key, nil
}

// keyBinding ties a sealed key to its row and to what it may sign.
func keyBinding(key store.AuthorityKey) string {
	return "authority key " + key.ID + " " + key.ProjectID + " " + string(key.Role)
}

// openAuthority opens the keys that sign. Those that were open already are kept.
func (s *Service) openAuthority(ctx context.Context, record store.Authority, known *authority, readAt time.Time) (*authority, error) {
	a := &authority{record: record, readAt: readAt}
	for role, slot := range map[store.Role]*signingKey{store.RoleUser: &a.user, store.RoleHost: &a.host} {
		key, ok := activeKey(record, role)
		if !ok {
			continue
		}
		if known != nil {
			*slot = known.signingKey(role)
		}
		if slot.id == key.ID {
			continue
		}
		signer, err := s.cfg.Custody.Signer(ctx, keyBinding(key), key.Handle)
		if err != nil {
			return nil, fmt.Errorf("open the %s CA of project %s: %w", role, record.ProjectID, err)
		}
		if line := authorizedLine(signer.PublicKey().Type(), signer.PublicKey().Marshal()); line != key.PublicKey {
			return nil, fmt.Errorf("the %s CA of project %s: private and recorded public key differ", role, record.ProjectID)
		}
		*slot = signingKey{id: key.ID, signer: signer, line: key.PublicKey}
		if s.cfg.CALifetime > 0 {
			slot.ends = key.CreatedAt.Add(s.cfg.CALifetime)
		}
	}
	return a, nil
}

func (a *authority) signingKey(role store.Role) signingKey {
	if role == store.RoleHost {
		return a.host
	}
	return a.user
}

// signs returns the generation that signs in the role, or why none does.
func (a *authority) signs(role store.Role) (signingKey, error) {
	key := a.signingKey(role)
	switch {
	case !a.record.RetiredAt.IsZero():
		return key, problem.New(problem.Conflict, "the project's authority was retired with the project")
	case key.signer == nil:
		return key, problem.New(problem.Conflict, "the project's %s CA was revoked and has no successor; ask the cloud's operator", role)
	default:
		return key, nil
	}
}

// activeKey returns the newest generation that signs.
func activeKey(record store.Authority, role store.Role) (active store.AuthorityKey, ok bool) {
	for _, key := range record.Keys {
		if key.Role == role && key.State == store.KeyActive && key.Generation > active.Generation {
			active, ok = key, true
		}
	}
	return active, ok
}

// ActiveKey returns the public key that signs in the role, as an
// authorized_keys line, or nothing if all generations were revoked.
func ActiveKey(record store.Authority, role store.Role) string {
	key, _ := activeKey(record, role)
	return key.PublicKey
}

// verify checks a certificate that was read back: what it says is what was
// meant, and the authority's signature holds now.
func verify(cert, meant *ssh.Certificate, authority ssh.PublicKey, now time.Time) error {
	same := cert.Serial == meant.Serial && cert.CertType == meant.CertType && cert.KeyId == meant.KeyId &&
		cert.ValidAfter == meant.ValidAfter && cert.ValidBefore == meant.ValidBefore &&
		slices.Equal(cert.ValidPrincipals, meant.ValidPrincipals) &&
		maps.Equal(cert.CriticalOptions, meant.CriticalOptions) && maps.Equal(cert.Extensions, meant.Extensions) &&
		bytes.Equal(cert.Key.Marshal(), meant.Key.Marshal())
	if !same {
		return errors.New("it says something else than was meant")
	}
	if !bytes.Equal(cert.SignatureKey.Marshal(), authority.Marshal()) {
		return errors.New("it names another authority")
	}
	checker := ssh.CertChecker{
		SupportedCriticalOptions: []string{"force-command", "source-address"},
		Clock:                    func() time.Time { return now },
	}
	principal := ""
	if len(cert.ValidPrincipals) > 0 {
		principal = cert.ValidPrincipals[0]
	}
	return checker.CheckCert(principal, cert)
}

// authorizedLine is a key as one line of authorized_keys, without newline and comment.
func authorizedLine(keyType string, wire []byte) string {
	line := make([]byte, 0, len(keyType)+1+base64.StdEncoding.EncodedLen(len(wire)))
	line = append(line, keyType...)
	line = append(line, ' ')
	return string(base64.StdEncoding.AppendEncode(line, wire))
}
