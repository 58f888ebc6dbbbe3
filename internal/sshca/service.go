// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package sshca is Muster's SSH certificate authority: the authorities of
// projects, the one-time tokens of instances, certificates for users and
// hosts, and their revocation.
//
// Each project has a user CA and a host CA, made when first needed. A
// certificate leaves the package only after its record is committed, so that
// there is never a valid one that cannot be listed and revoked. What a
// certificate may say is decided by rules here (PROTOCOL.certkeys); who may
// ask for it is not: callers check that before.
//
// The package never sees a private key of an authority (custody signs), never
// knows HTTP, and never logs or records a token.
package sshca

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/singleflight"

	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca/sshkey"
	"github.com/muster-cloud/muster/internal/store"
)

// Custody keeps the private keys of authorities. The binding names the
// authority key that a handle belongs to.
type Custody interface {
	// Generate makes a key pair and returns how to find it again.
	Generate(ctx context.Context, binding string, algorithm custody.Algorithm) (handle []byte, public ssh.PublicKey, err error)
	// Signer returns what signs with the key.
	Signer(ctx context.Context, binding string, handle []byte) (ssh.Signer, error)
}

// Sealer keeps host tokens readable for Muster alone.
type Sealer interface {
	Seal(secret []byte, binding string) []byte
	Open(sealed []byte, binding string) ([]byte, error)
}

// Directory is what Keystone knows.
type Directory interface {
	// EffectiveRoles returns the names of the roles that a user holds in a
	// project, through groups, inheritance and implication too, as if a member of
	// the given groups as well. None is no error.
	EffectiveRoles(ctx context.Context, userID, projectID string, groupIDs ...string) ([]string, error)
	// GrantedGroups returns those of the groups that have a role in the project.
	GrantedGroups(ctx context.Context, projectID string, groupIDs []string) ([]string, error)
	// Project returns a project, or keystone.ErrNotFound.
	Project(ctx context.Context, projectID string) (keystone.Project, error)
}

// HostRules decide what a host certificate holds, and how its token behaves.
type HostRules struct {
	Lifetime      time.Duration
	TokenLifetime time.Duration
	// Unnamed leaves the principals out of certificates that are asked for through
	// Tatu's call, as Tatu did: OpenSSH before 10.3 takes them for every name and
	// address, later ones for none (sshkey.c, sshkey_cert_check_host).
	Unnamed bool
	// SharedKeys says what a second instance with the same host key gets.
	SharedKeys SharedKeys // default: ShareInProject
}

// SharedKeys is for instances that come with a host key of another one's: their
// image was built with it, or one knows the other's public key and names it as
// its own, which keeps the other from proving who it is.
type SharedKeys string

// What there is to choose from. Each is recorded and counted.
const (
	ShareAnywhere  SharedKeys = "allow"   // certify
	ShareInProject SharedKeys = "project" // certify within a project, else refuse
	ShareNowhere   SharedKeys = "refuse"  // refuse
)

// Config is what a Service is made of. All but Names, Booted, Registerer, Logger and Now are needed.
type Config struct {
	Store     *store.Store
	Custody   Custody
	Sealer    Sealer
	Directory Directory
	Names     Names // nil: instances have no other names than their host name

	Algorithm  custody.Algorithm // of new authorities
	CALifetime time.Duration     // how long a CA generation may sign and its certificates live; zero: without end
	MinRSABits int               // of users' and hosts' keys; default 2048
	ClockSkew  time.Duration     // how long before now a certificate's life begins
	User       UserRules
	Host       HostRules

	// Booted is told of each instance when it gets its first token. It must not
	// block. Nil: nobody is told.
	Booted func(instanceID string)

	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Actor is who asks, for the audit record.
type Actor struct {
	UserID, UserName, ProjectID string
	RequestID, Remote           string
}

// Service issues and revokes. It is safe for simultaneous use, in any number
// of processes that share a database and a keyring.
type Service struct {
	cfg      Config
	userKeys sshkey.Policy
	hostKeys sshkey.Policy
	feed     *Feed
	metrics  *metrics

	authorities *lru.Cache[string, *authority]
	sharedSeen  *lru.Cache[string, time.Time] // when an instance last signed with a key that others have
	loading     singleflight.Group            // authorities being read or made, by project
	issuing     singleflight.Group            // user certificates being made, by project, user and key
}

// cachedAuthorities bounds the memory for opened signing keys: about 2 kB each.
const cachedAuthorities = 10_000

// New returns a service whose parts fit together.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Custody == nil || cfg.Sealer == nil || cfg.Directory == nil {
		return nil, errors.New("sshca: store, custody, sealer and directory are needed")
	}
	if cfg.User.Lifetime <= 0 || cfg.User.MaxLifetime < cfg.User.Lifetime {
		return nil, fmt.Errorf("sshca: a user certificate's life of %v does not fit the maximum of %v", cfg.User.Lifetime, cfg.User.MaxLifetime)
	}
	if cfg.Host.Lifetime <= 0 || cfg.Host.TokenLifetime <= 0 {
		return nil, errors.New("sshca: host certificates and tokens need a lifetime")
	}
	cfg.Host.SharedKeys = cmp.Or(cfg.Host.SharedKeys, ShareInProject)
	if !slices.Contains([]SharedKeys{ShareAnywhere, ShareInProject, ShareNowhere}, cfg.Host.SharedKeys) {
		return nil, fmt.Errorf("sshca: no rule for shared host keys is called %q", cfg.Host.SharedKeys)
	}
	if err := cfg.User.Accounts.Check(); err != nil {
		return nil, fmt.Errorf("sshca: %w", err)
	}
	if cfg.User.Extensions == nil {
		cfg.User.Extensions = Extensions
	}
	if cfg.Booted == nil {
		cfg.Booted = func(string) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cache, err := lru.New[string, *authority](cachedAuthorities)
	if err != nil {
		return nil, err
	}
	sharedSeen, err := lru.New[string, time.Time](cachedAuthorities)
	if err != nil {
		return nil, err
	}
	s := &Service{
		cfg:         cfg,
		userKeys:    sshkey.Policy{MinRSABits: cfg.MinRSABits, AllowSecurityKeys: true},
		hostKeys:    sshkey.Policy{MinRSABits: cfg.MinRSABits},
		metrics:     newMetrics(cfg.Registerer),
		authorities: cache,
		sharedSeen:  sharedSeen,
	}
	s.feed = newFeed(s)
	return s, nil
}

// Accounts returns the accounts that instances make for the roles, and the
// roles that have none.
func (s *Service) Accounts(roles []string) (accounts []string, leftOut []LeftOut) {
	return s.cfg.User.Accounts.Of(roles)
}

// Feed returns the revocation lists of the projects.
func (s *Service) Feed() *Feed { return s.feed }

// audit begins an audit entry.
func (s *Service) audit(by Actor, action, projectID, objectKind, objectID string) store.Audit {
	return store.Audit{
		At: s.cfg.Now(), Actor: by.UserID, ActorName: by.UserName, ActorProject: by.ProjectID,
		Action: action, Outcome: "ok", ObjectKind: objectKind, ObjectID: objectID, ProjectID: projectID,
		RequestID: by.RequestID, Remote: by.Remote,
	}
}

// refuse records a refusal and returns it. That the record fails must not turn
// a refusal into anything else; the log then has it.
func (s *Service) refuse(ctx context.Context, entry store.Audit, refusal *problem.Problem) error {
	entry.Outcome, entry.Reason = "refused", refusal.Reason
	if err := s.cfg.Store.AppendRefusal(ctx, entry, entry.ObjectID); err != nil {
		s.cfg.Logger.ErrorContext(ctx, "A refusal could not be recorded", "action", entry.Action, "object", entry.ObjectID, "reason", entry.Reason, "error", err)
	}
	return refusal
}

// sign makes a certificate of the template and checks the result as its
// reader will, before anything else sees it.
func sign(template *ssh.Certificate, signer ssh.Signer, now time.Time) (line string, err error) {
	template.Nonce = nil
	if err := template.SignCert(rand.Reader, signer); err != nil {
		return "", fmt.Errorf("sign certificate %d: %w", template.Serial, err)
	}
	wire := template.Marshal()
	parsed, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return "", fmt.Errorf("read back certificate %d: %w", template.Serial, err)
	}
	cert, ok := parsed.(*ssh.Certificate)
	if !ok {
		return "", fmt.Errorf("certificate %d reads back as %T", template.Serial, parsed)
	}
	if err := verify(cert, template, signer.PublicKey(), now); err != nil {
		return "", fmt.Errorf("certificate %d does not hold: %w", template.Serial, err)
	}
	return authorizedLine(parsed.Type(), wire), nil
}
