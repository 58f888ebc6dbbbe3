// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"golang.org/x/net/idna"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// tokenBytes is 128 bits, which nobody guesses.
const tokenBytes = 16

// InstanceRequest asks for the token of an instance that boots.
type InstanceRequest struct {
	InstanceID string
	ProjectID  string
	Hostname   string
}

// Boot is what an instance needs to get its host certificate and to let users in.
type Boot struct {
	Instance     store.Instance
	Token        string
	UserCA       string // authorized_keys line
	TokenCreated bool
}

// HostToken returns the one-time token of an instance, making instance and
// token when first asked. All replicas answer the same until the token has
// expired unused; then the next call makes a new one. A token that was used is
// still answered, and is of no further use.
//
// An instance that belongs to another project, or was deleted, is a Conflict.
func (s *Service) HostToken(ctx context.Context, by Actor, req InstanceRequest) (Boot, error) {
	entry := s.audit(by, "hosttoken.create", req.ProjectID, "instance", req.InstanceID)
	req.Hostname = asciiHostname(req.Hostname, req.InstanceID)
	if err := checkHostname(req.Hostname); err != nil {
		return Boot{}, s.refuse(ctx, entry, err)
	}
	a, _, err := s.authority(ctx, by, req.ProjectID)
	if err != nil {
		return Boot{}, err
	}
	boot := Boot{UserCA: a.user.line}
	boot.Instance, err = s.cfg.Store.Instance(ctx, req.InstanceID)
	if errors.Is(err, store.ErrNotFound) {
		boot.Instance, boot.TokenCreated, err = s.createInstance(ctx, entry, req)
	}
	switch {
	case errors.Is(err, store.ErrConflict):
		return Boot{}, s.refuse(ctx, entry, problem.New(problem.Conflict, "instance %s belongs to another project or was deleted", req.InstanceID))
	case err != nil:
		return Boot{}, err
	case boot.Instance.ProjectID != req.ProjectID:
		return Boot{}, s.refuse(ctx, entry, problem.New(problem.Conflict, "instance %s belongs to another project", req.InstanceID))
	case boot.Instance.State != store.InstanceLive:
		return Boot{}, s.refuse(ctx, entry, problem.New(problem.Conflict, "instance %s was deleted", req.InstanceID))
	}
	if token := boot.Instance.Token; token.UsedAt.IsZero() && !s.cfg.Now().Before(token.ExpiresAt) {
		if boot.Instance, err = s.renewToken(ctx, by, boot.Instance, "expired unused"); err != nil {
			return Boot{}, err
		}
		boot.TokenCreated = true
	}
	token, err := s.cfg.Sealer.Open(boot.Instance.Token.Sealed, tokenBinding(req.InstanceID))
	if err != nil {
		return Boot{}, fmt.Errorf("open the token of instance %s: %w", req.InstanceID, err)
	}
	boot.Token = string(token)
	return boot, nil
}

func (s *Service) createInstance(ctx context.Context, entry store.Audit, req InstanceRequest) (store.Instance, bool, error) {
	instance, created, err := s.cfg.Store.CreateInstance(ctx, store.Instance{
		ID: req.InstanceID, ProjectID: req.ProjectID, Hostname: req.Hostname,
		State: store.InstanceLive, CreatedAt: s.cfg.Now(), Token: s.newToken(req.InstanceID),
	}, entry)
	if created {
		s.metrics.tokens.Inc()
		s.cfg.Booted(instance.ID)
	}
	return instance, created, err
}

func (s *Service) newToken(instanceID string) store.HostToken {
	random := make([]byte, tokenBytes)
	rand.Read(random)
	token := hex.EncodeToString(random)
	now := s.cfg.Now()
	return store.HostToken{
		Hash: tokenHash(token), Sealed: s.cfg.Sealer.Seal([]byte(token), tokenBinding(instanceID)),
		CreatedAt: now, ExpiresAt: now.Add(s.cfg.Host.TokenLifetime).Truncate(time.Microsecond),
	}
}

// tokenHash is what is looked up. A plain hash serves: tokens are random.
func tokenHash(token string) string {
	digest := sha256.Sum256([]byte(token))
	return hex.EncodeToString(digest[:])
}

func tokenBinding(instanceID string) string { return "host token " + instanceID }

// inDNS writes names as the DNS has them (RFC 5891).
var inDNS = idna.New(idna.MapForLookup(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))

// asciiHostname writes a host name in ASCII, so that no instance is left without
// an SSH identity for what it is called: Nova makes host names of display
// names, and leaves letters of Latin-1 in them. What is no name of the DNS has a
// "-" for each such letter, or if nothing is left, the instance's ID.
func asciiHostname(name, instanceID string) string {
	if strings.IndexFunc(name, notASCII) < 0 {
		return name
	}
	if ascii, err := inDNS.ToASCII(name); err == nil {
		return ascii
	}
	ascii := strings.Map(func(c rune) rune {
		if notASCII(c) {
			return '-'
		}
		return c
	}, name)
	return cmp.Or(strings.Trim(ascii, "-."), "server-"+instanceID)
}

func notASCII(c rune) bool { return c > unicode.MaxASCII }

// maxHostname is the longest name in the DNS.
const maxHostname = 253

// checkHostname refuses what cannot be a host's name: it becomes part of the
// certificate's key ID and principals.
func checkHostname(name string) *problem.Problem {
	switch {
	case name == "":
		return problem.InField("hostname", "is missing")
	case len(name) > maxHostname:
		return problem.InField("hostname", "is longer than %d characters", maxHostname)
	case strings.IndexFunc(name, notInAccount) >= 0:
		return problem.InField("hostname", "has characters other than ASCII letters, digits, '.', '_' and '-'")
	case name[0] == '-' || name[0] == '.':
		return problem.InField("hostname", "does not begin with a letter or digit")
	default:
		return nil
	}
}
