// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package agent is the program inside an instance: what the instance should
// have, made so, and kept so. That is host certificates for all of sshd's keys,
// the user CAs that sshd trusts, accounts, sudo, the revocation list, and the
// membership in FreeIPA.
//
// Nothing that fails ends it: it says what is wrong, leaves what works as it
// is, and tries again, ever more slowly. What Muster said last stays in force
// while Muster is away. It changes the machine only through Machine, and knows
// HTTP only through Muster. Tokens and passwords are never logged or kept.
package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent/metadata"
	"github.com/muster-cloud/muster/internal/agent/muster"
	"github.com/muster-cloud/muster/internal/agentapi"
)

// Finder finds the instance's metadata.
type Finder interface {
	Find(ctx context.Context) (metadata.Instance, error)
	FindCurrent(ctx context.Context) (metadata.Instance, error)
}

// Muster answers the instance's calls.
type Muster interface {
	HostCerts(ctx context.Context, token string, pubKeys []string) ([]agentapi.HostCert, error)
	Renew(ctx context.Context, signer ssh.Signer, pubKeys []string) ([]agentapi.HostCert, error)
	State(ctx context.Context, signer ssh.Signer) (agentapi.State, error)
	RevokedKeys(ctx context.Context, etag string, wait time.Duration) (*muster.List, error)
	ReportEnrolment(ctx context.Context, signer ssh.Signer, outcome, reason string) error
	Skew() time.Duration
}

// Machine is what is set up. All of it may be asked for again and again, by
// several goroutines.
type Machine interface {
	// HostKeys are those that sshd uses.
	HostKeys(ctx context.Context) ([]HostKey, error)
	// Signer signs with a host key.
	Signer(key HostKey) (ssh.Signer, error)
	// Configure makes sshd, accounts and sudo as wanted. What can't be done
	// does not stop the rest.
	Configure(ctx context.Context, want Want) (changed bool, err error)
	// Warnings are what the last Configure left as others have set it, and what
	// does not work for it.
	Warnings() []string
	// Revoked is the list that sshd reads, nil if there is none.
	Revoked() ([]byte, error)
	// SetRevoked replaces it in one step.
	SetRevoked(ctx context.Context, list []byte) error
	// Joined tells whether the machine belongs to FreeIPA.
	Joined() bool
	// Join makes it belong. The error says what to do, without secrets.
	Join(ctx context.Context, to agentapi.IPA, password string) error
}

// HostKey is a key of sshd's.
type HostKey struct {
	Path   string // of the private key
	Public string // authorized_keys line, without comment
}

// Want is how the machine should be.
type Want struct {
	HostCerts map[string]string // by HostKey.Path: one line
	State     agentapi.State
}

// Config is what an Agent needs.
type Config struct {
	Finder  Finder
	Machine Machine
	// Connect returns the client for an instance that was found.
	Connect func(Identity) (Muster, error)
	// StateDir keeps the record, RunDir what status shows. Both must exist.
	StateDir, RunDir string
	Version          string
	Log              *slog.Logger     // default: none
	Now              func() time.Time // default: time.Now
	// Step, for tests, is called before each step that changes the record on
	// the disk, with the step's name. A test ends the process there.
	Step func(string)
	// Earliest is a time that lies behind us for certain: a clock before it
	// was never set. Default: the year in which this was written.
	Earliest time.Time
}

// Agent keeps an instance as Muster says.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	machine Machine

	mu     sync.Mutex
	record record
	status Status
	client Muster

	saving, publishing sync.Mutex // order the writers of the two files

	stateChanged chan struct{} // holds one token after a new state
	trustChanged chan struct{} // holds one token when other user CAs are trusted
	askState     chan struct{} // holds one token when the state should be asked for at once

	// Of keepState alone:
	keys       []HostKey // as sshd had them when that was last looked up
	configured time.Time // when the machine was made as wanted; zero: it is not
	renewedFor string    // the state's version for which names were renewed
	// Of keepJoined alone:
	reported string // what Muster knows of failures
}

// New returns an agent that knows what the last one knew.
func New(cfg Config) (*Agent, error) {
	if cfg.Finder == nil || cfg.Machine == nil || cfg.Connect == nil || cfg.StateDir == "" || cfg.RunDir == "" {
		return nil, errors.New("agent: a part is missing")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Step == nil {
		cfg.Step = func(string) {}
	}
	if cfg.Earliest.IsZero() {
		cfg.Earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	a := &Agent{
		cfg: cfg, log: cfg.Log, machine: cfg.Machine,
		stateChanged: make(chan struct{}, 1), trustChanged: make(chan struct{}, 1), askState: make(chan struct{}, 1),
	}
	a.status.Version, a.status.PID = cfg.Version, os.Getpid()
	if err := a.record.load(cfg.StateDir); err != nil {
		// What it held can be had again from Muster.
		a.log.Warn("What the agent knew is lost; starting afresh", "reason", err)
		a.record = record{}
	}
	a.describe()
	return a, nil
}

// Run sets the instance up and keeps it so until the context ends, whose error
// it returns.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.through(ctx, a.beginning()); err != nil {
		return err
	}
	// The list comes first: before it is there, no certificate is let in.
	a.note(aboutList, a.fetchList(ctx))
	a.note(aboutMachine, a.configure(ctx))
	var running sync.WaitGroup
	running.Go(func() { a.keepState(ctx) })
	running.Go(func() { a.keepList(ctx) })
	running.Go(func() { a.keepJoined(ctx) })
	running.Wait()
	return ctx.Err()
}

// Once sets the instance up, each step until it succeeds or the context ends,
// and returns what is missing then.
func (a *Agent) Once(ctx context.Context) error {
	return a.through(ctx, append(a.beginning(),
		step{aboutState, a.refresh}, step{aboutCertificates, a.renewIfDue}, step{aboutList, a.fetchList},
		step{aboutMachine, a.configure}, step{aboutJoining, a.join}))
}

// step is one of those that set an instance up.
type step struct {
	about string
	do    func(context.Context) error
}

// beginning is what everything else needs. An agent that has been through it
// once needs no Muster for it.
func (a *Agent) beginning() []step {
	return []step{
		{aboutClock, a.checkClock}, {aboutList, a.ensureList}, {aboutMetadata, a.identify},
		{aboutCertificates, a.ensureCerts}, {aboutState, a.ensureState},
	}
}

// through goes through steps, insisting on each.
func (a *Agent) through(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := a.insist(ctx, s.about, s.do); err != nil {
			return errors.Join(a.problem(s.about), a.problem(aboutMuster), err)
		}
	}
	return nil
}

// checkClock fails while the clock was never set. Certificates would seem not
// to be valid yet, and so would Muster's own.
func (a *Agent) checkClock(context.Context) error {
	if now := a.cfg.Now(); now.Before(a.cfg.Earliest) {
		return &waitError{after: clockPause, text: "the clock says " + now.UTC().Format(time.RFC3339) +
			", which can't be; waiting for it to be set (by chrony, systemd-timesyncd, ntpd, or date)"}
	}
	return nil
}

// identify finds out which instance this is and where Muster is. An instance
// that knows goes on if its metadata can't be had, but one that finds another
// ID is a copy: it begins anew.
func (a *Agent) identify(ctx context.Context) error {
	found, err := a.cfg.Finder.Find(ctx)
	known := a.identity()
	if err != nil {
		if known.ID == "" {
			return err
		}
		a.log.Warn("No metadata; going on with what is known", "instance", known.ID, "reason", err)
		return a.connect(known)
	}
	if known.ID != "" && known.ID != found.ID {
		a.log.Warn("This is a copy of another instance: beginning anew", "was", known.ID, "is", found.ID)
		a.change(func(r *record) { *r = record{} })
	}
	identity := Identity{
		ID: found.ID, ProjectID: found.ProjectID, Hostname: found.Hostname, Source: found.Source,
		Endpoint: found.Endpoint, CA: found.CA,
	}
	if identity.ProjectID == "" {
		identity.ProjectID = known.ProjectID
	}
	a.log.Info("Found the metadata", "instance", found.ID, "source", found.Source, "muster", found.Endpoint)
	return a.connect(identity)
}

// connect makes the client for an identity, and keeps that.
func (a *Agent) connect(identity Identity) error {
	client, err := a.cfg.Connect(identity)
	if err != nil {
		return err
	}
	a.change(func(r *record) { r.Identity = identity })
	a.mu.Lock()
	a.client = client
	a.mu.Unlock()
	return nil
}

func (a *Agent) identity() Identity {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.record.Identity
}

func (a *Agent) muster() Muster {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.client
}

// wake puts a token into a channel that holds one.
func wake(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default: // one is still unread
	}
}
