// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package instance is the face that instances see, under /noauth: host
// certificates against one-time tokens, and revocation lists, which are no
// secrets; for Muster's agent, what else an instance needs to stay as it should
// be (see package agentapi). It has no Keystone tokens, so each address may ask
// only so often; after its first certificate an instance signs with its host
// key.
//
// It never tells an instance anything about another.
package instance

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

// Authority certifies host keys and tells what instances rely on.
type Authority interface {
	IssueHost(ctx context.Context, by sshca.Actor, req sshca.HostRequest) (store.HostCert, error)
	IssueHosts(ctx context.Context, by sshca.Actor, req sshca.HostSetRequest) ([]store.HostCert, error)
	RenewHosts(ctx context.Context, by sshca.Actor, instance store.Instance, publicKeys []string) ([]store.HostCert, error)
	Vouch(ctx context.Context, by sshca.Actor, instanceID string, key ssh.PublicKey) (store.Instance, error)
	HostNames(ctx context.Context, instance store.Instance) ([]string, error)
	Trust(ctx context.Context, projectID string) (sshca.Trust, error)
}

// RevocationLists gives out the lists of projects.
type RevocationLists interface {
	Current(ctx context.Context, projectID string) (*sshca.Snapshot, error)
	Wait(ctx context.Context, projectID, etag string) (*sshca.Snapshot, error)
}

// Authenticator knows again what Muster gave out. *custody.Keyring is one.
type Authenticator interface {
	MAC(message []byte, purpose string) []byte
	CheckMAC(message, code []byte, purpose string) bool
}

// Accounts are those that the instances of a project have. What Of returns may
// be older than the call, but not than the last Forget.
type Accounts interface {
	Of(ctx context.Context, projectID string) ([]agentapi.Account, error)
	Forget(projectID string)
}

// Enrolments are those of instances in FreeIPA.
type Enrolments interface {
	Enrolment(ctx context.Context, instanceID string) (store.Enrolment, error)
}

// Reports take what instances say of their joining.
type Reports interface {
	Report(ctx context.Context, by enroll.Actor, report enroll.Report) (store.Enrolment, error)
}

// Config is what the face is made of.
type Config struct {
	Hosts         Authority
	Lists         RevocationLists
	Authenticator Authenticator
	Accounts      Accounts
	Enrolments    Enrolments
	Reports       Reports          // nil: instances are not enrolled
	Programs      *Programs        // nil: none are offered
	Rate          *api.RateLimiter // nil: no limit
	// MaxWait bounds ?wait=, MaxWaiting the long polls at once.
	MaxWait    time.Duration
	MaxWaiting int
	// State and IPA hold what is the same for all instances.
	State agentapi.State
	IPA   agentapi.IPA

	Now    func() time.Time // default time.Now
	Logger *slog.Logger     // default: discarded
}

// Face answers instances.
type Face struct {
	cfg      Config
	accounts *accountMemory
	waiting  atomic.Int64
}

// New returns the face.
func New(cfg Config) *Face {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Face{cfg: cfg, accounts: newAccountMemory(cfg.Accounts, cfg.State.PollSeconds, cfg.Now, cfg.Logger)}
}

// Name implements api.Face.
func (f *Face) Name() string { return "instance" }

// Register implements api.Face.
func (f *Face) Register(router *api.Router) {
	handle := func(pattern string, endpoint api.Endpoint) { router.Handle(pattern, f.cfg.Rate.Limited(endpoint)) }
	handle("POST /noauth/hostcerts", f.CreateHostCert)
	handle("GET /noauth/revokeduserkeys/{auth_id}", f.ShowRevokedKeys)
	handle("POST "+agentapi.PathHostCerts, f.createHostCerts)
	handle("POST "+agentapi.PathChallenges, f.createChallenge)
	handle("POST "+agentapi.PathRenew, f.renewHostCerts)
	handle("POST "+agentapi.PathState, f.showState)
	handle("POST "+agentapi.PathEnrolment, f.reportEnrolment)
	handle("GET "+agentapi.PathPrograms+"{name}", f.showProgram)
}

// CreateHostCert certifies a host key for whoever has the instance's token.
func (f *Face) CreateHostCert(r *api.Request) (api.Response, error) {
	var body struct {
		TokenID string `json:"token_id"`
		HostID  string `json:"host_id"`
		PubKey  string `json:"pub_key"`
	}
	if err := r.Decode(&body); err != nil {
		return api.Response{}, err
	}
	token, err := api.ID("token_id", body.TokenID)
	if err != nil {
		return api.Response{}, err
	}
	host, err := api.ID("host_id", body.HostID)
	if err != nil {
		return api.Response{}, err
	}
	if body.PubKey == "" {
		return api.Response{}, problem.InField("pub_key", "is missing")
	}
	cert, err := f.cfg.Hosts.IssueHost(r.Context(), r.Actor(), sshca.HostRequest{Token: token, InstanceID: host, PublicKey: body.PubKey})
	if err != nil {
		return api.Response{}, err
	}
	return api.Response{Location: "/hostcerts/" + cert.InstanceID + "/" + cert.MD5, Body: api.NewHostCert(cert)}, nil
}
