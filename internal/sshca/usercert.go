// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca/sshkey"
	"github.com/muster-cloud/muster/internal/store"
)

// issueTimeout bounds an issuance from reading roles to the committed record.
const issueTimeout = 20 * time.Second

// UserRequest asks for a user certificate.
type UserRequest struct {
	ProjectID        string
	UserID, UserName string
	PublicKey        string        // one authorized_keys line, as the client sent it
	Lifetime         time.Duration // zero: the default
	Limits           Limits
}

// Limits are those of the token that a certificate is asked for with: nobody
// gets by a certificate what the token does not give.
type Limits struct {
	// Roles are the token's, of which alone accounts are made. Nil: of all roles
	// that the user has, for the asker's right to it does not come from them.
	Roles []string
	// GroupIDs are groups that the user is in as long as the token lives.
	GroupIDs []string
	// Until is when the certificate ends at the latest, whatever life was asked
	// for. Zero: any time.
	Until time.Time
	// Credential is what the token was made with. When it goes, the certificate
	// does.
	Credential store.Credential
}

// IssueUser certifies a user's key for the accounts of the user's effective
// roles in the project, within the limits. While most of its life is left and it
// would say the same, the certificate that was issued before for this key is
// given again, though never one that was issued for another credential.
//
// Refusals are problems: Invalid for the key or the lifetime, Forbidden where
// no role gives an account or the key was revoked.
func (s *Service) IssueUser(ctx context.Context, by Actor, req UserRequest) (store.UserCert, error) {
	entry := s.audit(by, "usercert.issue", req.ProjectID, "user", req.UserID)
	key, err := s.userKeys.Parse(req.PublicKey)
	if err != nil {
		return store.UserCert{}, s.refuseIssue(ctx, entry, problem.InField("pub_key", "%v", err))
	}
	// Of the groups of a token, which may be very many, few say anything here.
	if req.Limits.GroupIDs, err = s.cfg.Directory.GrantedGroups(ctx, req.ProjectID, req.Limits.GroupIDs); err != nil {
		return store.UserCert{}, err
	}
	roles, err := s.cfg.Directory.EffectiveRoles(ctx, req.UserID, req.ProjectID, req.Limits.GroupIDs...)
	if err != nil {
		return store.UserCert{}, err
	}
	wanted, err := s.cfg.User.decide(roles, req.Limits, req.Lifetime, s.cfg.Now())
	s.warnLeftOut(ctx, req, wanted.leftOut)
	if err != nil {
		return store.UserCert{}, s.refuseIssue(ctx, entry, err)
	}
	// Two simultaneous requests for one key get one certificate. The work does
	// not end with the first of them, since the second waits for it too.
	group := fmt.Sprint(req.ProjectID, req.UserID, key.SHA256, wanted.digest, wanted.span)
	cert, _, err := together(ctx, &s.issuing, group, func() (store.UserCert, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), issueTimeout)
		defer cancel()
		return s.issueUser(ctx, by, req, key, wanted)
	})
	if err != nil {
		return store.UserCert{}, s.refuseIssue(ctx, entry, err)
	}
	return cert, nil
}

func (s *Service) issueUser(ctx context.Context, by Actor, req UserRequest, key sshkey.Key, wanted profile) (store.UserCert, error) {
	cert, err := s.tryIssueUser(ctx, by, req, key, wanted)
	if !errors.Is(err, store.ErrConflict) {
		return cert, err
	}
	// The generation was replaced, or the key revoked, since we read them.
	s.forgetAuthority(req.ProjectID)
	cert, err = s.tryIssueUser(ctx, by, req, key, wanted)
	if errors.Is(err, store.ErrConflict) {
		return cert, problem.New(problem.Conflict, "the authority of the project is changing; try again")
	}
	return cert, err
}

func (s *Service) tryIssueUser(ctx context.Context, by Actor, req UserRequest, key sshkey.Key, wanted profile) (store.UserCert, error) {
	a, _, err := s.authority(ctx, by, req.ProjectID)
	if err != nil {
		return store.UserCert{}, err
	}
	ca, err := a.signs(store.RoleUser)
	if err != nil {
		return store.UserCert{}, err
	}
	now := s.cfg.Now()
	latest, found, revoked, err := s.cfg.Store.LatestUserCert(ctx, req.ProjectID, req.UserID, key.SHA256, req.Limits.Credential.ID)
	switch {
	case err != nil:
		return store.UserCert{}, err
	case revoked:
		return store.UserCert{}, problem.New(problem.Forbidden, "this public key was revoked; make another key pair")
	case found && serves(latest, wanted, ca.id, req.Limits.Until, now):
		s.metrics.reused.Inc()
		return latest, nil
	}
	cert, err := s.newUserCert(ctx, req, key, wanted, ca, now)
	if err != nil {
		return store.UserCert{}, err
	}
	entry := s.audit(by, "usercert.issue", req.ProjectID, "usercert", fmt.Sprint(cert.Serial))
	entry.Details = map[string]string{"user": cert.UserID, "key": cert.Fingerprint, "principals": strings.Join(cert.Principals, ",")}
	if c := cert.Credential; c.ID != "" {
		entry.Details[c.Kind] = c.ID
	}
	if err := s.cfg.Store.InsertUserCert(ctx, cert, entry); err != nil {
		return store.UserCert{}, err
	}
	s.metrics.issued.WithLabelValues("user").Inc()
	return cert, nil
}

// serves tells whether a certificate may be given again: it says what is
// wanted, is signed by the current generation, ends within the limit, however
// long ago the life that is wanted was decided, and has more than half of that
// left.
func serves(cert store.UserCert, wanted profile, authorityKeyID string, until, now time.Time) bool {
	left := cert.ExpiresAt.Sub(now)
	return cert.RevokedAt.IsZero() && cert.Profile == wanted.digest && cert.AuthorityKeyID == authorityKeyID &&
		left > wanted.lifetime/2 && left <= wanted.lifetime && (until.IsZero() || !cert.ExpiresAt.After(until))
}

func (s *Service) newUserCert(ctx context.Context, req UserRequest, key sshkey.Key, wanted profile, ca signingKey, now time.Time) (store.UserCert, error) {
	after, before, err := s.validity(ca, now, wanted.lifetime)
	if err != nil {
		return store.UserCert{}, err
	}
	if until := req.Limits.Until; !until.IsZero() && until.Before(before) {
		before = until // some time has passed since the lifetime was decided
	}
	serial, err := s.cfg.Store.NextSerial(ctx)
	if err != nil {
		return store.UserCert{}, err
	}
	template := &ssh.Certificate{
		Key:             key.PublicKey,
		Serial:          serial,
		CertType:        ssh.UserCert,
		KeyId:           keyID(req.UserName, serial),
		ValidPrincipals: wanted.principals,
		ValidAfter:      uint64(after.Unix()),
		ValidBefore:     uint64(before.Unix()),
		Permissions:     ssh.Permissions{CriticalOptions: wanted.critical, Extensions: wanted.extensions},
	}
	line, err := sign(template, ca.signer, now)
	if err != nil {
		return store.UserCert{}, err
	}
	return store.UserCert{
		Serial: serial, ProjectID: req.ProjectID, UserID: req.UserID, UserName: req.UserName,
		Principals: wanted.principals, Fingerprint: key.SHA256, MD5: key.MD5,
		KeyID: template.KeyId, AuthorityKeyID: ca.id, Cert: line, Profile: wanted.digest,
		CreatedAt: now, ExpiresAt: time.Unix(int64(template.ValidBefore), 0).UTC(),
		Credential: req.Limits.Credential, GroupIDs: req.Limits.GroupIDs,
	}, nil
}

// maxKeyIDName bounds the name's part of a key ID, in bytes: up to 17 are an
// underscore and the serial.
const maxKeyIDName = maxKeyID - 17

// keyID is NAME_SERIAL. It ends up in the logs of every sshd, so that what
// could break a line there does not get in.
func keyID(name string, serial uint64) string {
	name = strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, name)
	for len(name) > maxKeyIDName {
		runes := []rune(name)
		name = string(runes[:len(runes)-1])
	}
	return fmt.Sprintf("%s_%d", name, serial)
}

func (s *Service) warnLeftOut(ctx context.Context, req UserRequest, leftOut []LeftOut) {
	for _, left := range leftOut {
		s.metrics.leftOut.Inc()
		s.cfg.Logger.DebugContext(ctx, "A role has no account", "project", req.ProjectID, "user", req.UserID, "role", left.Role, "reason", left.Reason)
	}
}

// refuseIssue records a refusal; trouble of our own passes through.
func (s *Service) refuseIssue(ctx context.Context, entry store.Audit, err error) error {
	var refusal *problem.Problem
	if !errors.As(err, &refusal) {
		return err
	}
	s.metrics.refused.WithLabelValues("user").Inc()
	return s.refuse(ctx, entry, refusal)
}
