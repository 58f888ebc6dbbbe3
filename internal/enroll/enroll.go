// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package enroll decides what an instance should have in FreeIPA, gets it there, and takes it away when the instance goes:
// its host entry with a one-time password, further host names, and the services that it manages.
//
// An instance asks with Enrol. What it wants is recorded first, with the names that it takes: one live instance per
// name, and no entry of FreeIPA is touched that Muster did not make. Run does the work, in any number of replicas: each
// step may be repeated, so that a crash, a lost answer or a FreeIPA that is away only delays it.
//
// The package never knows HTTP, never asks another service than FreeIPA and the database, and never logs a one-time
// password.
package enroll

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// Directory is FreeIPA, as far as enrolment needs it. *ipa.Client is one.
type Directory interface {
	HostShow(ctx context.Context, fqdn string) (ipa.Host, error)
	ServiceFind(ctx context.Context, filter ipa.ServiceFilter) (ipa.Found[ipa.Service], error)
	Batch(ctx context.Context, commands ...ipa.Command) ([]ipa.Result, error)
}

// Records are Muster's own records of enrolments. *store.Store has them; see there for what the calls do.
type Records interface {
	Enrolment(ctx context.Context, instanceID string) (store.Enrolment, error)
	EnrolmentsOf(ctx context.Context, instanceIDs []string) ([]store.Enrolment, error)
	BeginEnrolment(ctx context.Context, e store.Enrolment, change store.EnrolmentChange) (stored store.Enrolment, created bool, err error)
	SaveEnrolment(ctx context.Context, e store.Enrolment, change store.EnrolmentChange) (store.Enrolment, error)
	DueEnrolments(ctx context.Context, longest time.Duration, limit int) ([]store.Enrolment, error)
	CountEnrolments(ctx context.Context) (map[store.EnrolmentState]int, error)
	Owners(ctx context.Context, names []string) (map[string]store.Enrolment, error)
	Objects(ctx context.Context, instanceID string) ([]store.Object, error)
	ObjectsOf(ctx context.Context, kind store.ObjectKind, instanceIDs []string) (map[string][]store.Object, error)
	ObjectUsers(ctx context.Context, kind store.ObjectKind, names []string) ([]store.Object, error)
	ReleaseObjects(ctx context.Context, instanceID string) ([]store.Object, error)
	ReleaseSome(ctx context.Context, e store.Enrolment, objects []store.Object) error
	AppendRefusal(ctx context.Context, a store.Audit, of string) error
}

// Sealer keeps one-time passwords readable for Muster alone. *custody.Keyring is one.
type Sealer interface {
	Seal(secret []byte, binding string) []byte
	Open(sealed []byte, binding string) ([]byte, error)
}

// AddressRecords are the DNS records of instances. *dns.Service is one.
type AddressRecords interface {
	// RemoveAll removes all records that were made for an instance. Repeats do nothing.
	RemoveAll(ctx context.Context, instanceID string) error
}

// OnFailure says what the caller of Enrol gets while FreeIPA does not take the enrolment.
type OnFailure string

// What Enrol answers while FreeIPA is away.
const (
	AnswerEmpty OnFailure = "empty" // an answer without one-time password
	AnswerError OnFailure = "error" // a problem of the kind Unavailable
)

// Config is what a Service is made of. Store, Directory, Sealer, Realm and Rules.Domain are needed; the rest has
// defaults.
type Config struct {
	Store     Records
	Directory Directory
	Sealer    Sealer
	DNS       AddressRecords // nil: Muster writes no DNS records
	Rules     Rules
	Realm     string // Kerberos realm, told to instances

	// Servers returns the host names of the FreeIPA servers, which are protected like Rules.Protected. It is asked for
	// each request and must not block. Nil: none.
	Servers func() []string

	AnswerWithin time.Duration // how long Enrol may take; default 4 s: Nova waits for 5
	OnFailure    OnFailure     // default AnswerEmpty
	MaxInFlight  int           // enrolments that one process works on at once; default 16, for the client of FreeIPA has its own limit
	PollEvery    time.Duration // how often the database is asked for work; default 1 s
	AttemptTime  time.Duration // limit of one attempt, beside 100 ms for each service; default 10 s
	BackoffMin   time.Duration // pause after the first failure; default 1 s
	BackoffMax   time.Duration // longest pause; default 1 min

	// RemoveUnnamed lets Update take services away that an instance's metadata names no longer.
	RemoveUnnamed bool
	// RemoveHostRecords removes, with a host entry, the DNS records that the host itself has registered.
	RemoveHostRecords bool

	// Ready is told of each instance whose enrolment has come to be as wanted. It must not block. Nil: nobody is told.
	Ready func(instanceID string)

	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Actor is who asks, for the audit record. It converts from sshca.Actor.
type Actor struct {
	UserID, UserName, ProjectID string
	RequestID, Remote           string
}

// Request asks for an instance's enrolment.
type Request struct {
	InstanceID, ProjectID string
	ProjectName           string // needed for a host class, and where the project is part of the name
	ProjectDomainID       string // the Keystone domain of the project
	Hostname              string
	Metadata              map[string]string // the instance's: ipa_hostclass, ipa_host_location, managed_service_*, compact_service*
	OS                    string            // the image's os_distro and os_version
}

// Answer is what the instance needs to join.
type Answer struct {
	FQDN, Realm string
	OTP         string // "" once the instance has enrolled, and while FreeIPA has not taken the password
}

// Service enrols instances. It is safe for simultaneous use, in any number of processes that share a database and a keyring.
type Service struct {
	cfg     Config
	replica string // this process among those that claim work
	metrics *metrics
	queue   *queue
	board   *board
	looks   chan struct{}                 // one for each look at FreeIPA that a repeated call may cost
	looked  *lru.Cache[string, time.Time] // when an instance was last looked at
	looking singleflight.Group            // looks under way, by instance
}

const (
	lookEvery    = 5 * time.Second // between two looks at an instance that has not joined yet
	rememberLook = 20_000          // instances
)

// New returns a service whose parts fit together. It starts nothing: without Run nothing reaches FreeIPA.
func New(cfg Config) (*Service, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	looked, err := lru.New[string, time.Time](rememberLook)
	if err != nil {
		return nil, err
	}
	return &Service{
		cfg: cfg, replica: rand.Text(), metrics: newMetrics(cfg.Registerer), queue: newQueue(), board: newBoard(),
		looks: make(chan struct{}, max(1, cfg.MaxInFlight/2)), looked: looked,
	}, nil
}

// complete fills in defaults and refuses what does not fit.
func (c *Config) complete() error {
	if c.Store == nil || c.Directory == nil || c.Sealer == nil || c.Realm == "" {
		return errors.New("enrolment: store, directory, sealer and realm are needed")
	}
	var err error
	if c.Rules, err = c.Rules.complete(); err != nil {
		return err
	}
	if c.AnswerWithin < 0 || c.PollEvery < 0 || c.AttemptTime < 0 || c.BackoffMin < 0 || c.BackoffMax < 0 || c.MaxInFlight < 0 {
		return errors.New("enrolment: a limit or time is negative")
	}
	c.AnswerWithin = cmp.Or(c.AnswerWithin, 4*time.Second)
	c.MaxInFlight = cmp.Or(c.MaxInFlight, 16)
	c.PollEvery = cmp.Or(c.PollEvery, time.Second)
	c.AttemptTime = cmp.Or(c.AttemptTime, 10*time.Second)
	c.BackoffMin = cmp.Or(c.BackoffMin, time.Second)
	c.BackoffMax = cmp.Or(c.BackoffMax, time.Minute)
	if c.BackoffMax < c.BackoffMin {
		return errors.New("enrolment: the longest pause is shorter than the first")
	}
	c.OnFailure = cmp.Or(c.OnFailure, AnswerEmpty)
	if c.OnFailure != AnswerEmpty && c.OnFailure != AnswerError {
		return fmt.Errorf("enrolment: on failure %q: must be %q or %q", c.OnFailure, AnswerEmpty, AnswerError)
	}
	if c.Ready == nil {
		c.Ready = func(string) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// audit begins an audit entry.
func (s *Service) audit(by Actor, action, projectID, instanceID string) store.Audit {
	return store.Audit{
		At: s.cfg.Now(), Actor: by.UserID, ActorName: by.UserName, ActorProject: by.ProjectID,
		Action: action, Outcome: "ok", ObjectKind: "enrolment", ObjectID: instanceID, ProjectID: projectID,
		RequestID: by.RequestID, Remote: by.Remote,
	}
}

// refuse records a refusal and returns it; any other error passes through. That the record fails must not turn a refusal into anything
// else; the log then has it.
func (s *Service) refuse(ctx context.Context, entry store.Audit, refusal error) error {
	if _, ok := errors.AsType[*problem.Problem](refusal); !ok {
		return refusal
	}
	entry.Outcome, entry.Reason = "refused", refusal.Error()
	s.metrics.answers.WithLabelValues("refused").Inc()
	if err := s.cfg.Store.AppendRefusal(ctx, entry, entry.ObjectID); err != nil {
		s.cfg.Logger.ErrorContext(ctx, "A refusal could not be recorded", "action", entry.Action, "instance", entry.ObjectID,
			"reason", entry.Reason, "error", err)
	}
	return refusal
}
