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
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/store"
)

// Directory is FreeIPA, as far as enrolment needs it. *ipa.Client is one.
type Directory interface {
	HostAdd(ctx context.Context, fqdn string, attributes ipa.HostAttributes) (ipa.Host, error)
	HostShow(ctx context.Context, fqdn string) (ipa.Host, error)
	ServiceFind(ctx context.Context, filter ipa.ServiceFilter) (ipa.Found[ipa.Service], error)
	Batch(ctx context.Context, commands ...ipa.Command) ([]ipa.Result, error)
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
	Store     *store.Store
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
	MaxInFlight  int           // enrolments that one process works on at once; default 8
	PollEvery    time.Duration // how often the database is asked for work; default 1 s
	AttemptTime  time.Duration // limit of one attempt, beside 100 ms for each service; default 10 s
	BackoffMin   time.Duration // pause after the first failure; default 1 s
	BackoffMax   time.Duration // longest pause; default 5 min

	// RemoveHostRecords removes, with a host entry, the DNS records that the host itself has registered.
	RemoveHostRecords bool

	Replica    string // name of this process among the replicas; default random
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
	cfg Config
}

// New returns a service whose parts fit together. It starts nothing: without Run nothing reaches FreeIPA.
func New(cfg Config) (*Service, error) { return &Service{cfg: cfg}, nil }

var errUnfinished = errors.New("not built yet")

// Enrol records what an instance wants, waits for FreeIPA to have it, at most Config.AnswerWithin, and answers with the
// same one-time password on every replica until the instance has used it. Later calls may add services.
//
// Problems: Invalid, naming the field or metadata key; Forbidden by the project's rules; Conflict if the name belongs to
// another instance or to an entry that Muster did not make, or if the instance has left; Unavailable without a database, or
// without FreeIPA and with AnswerError.
func (s *Service) Enrol(ctx context.Context, by Actor, req Request) (Answer, error) {
	return Answer{}, errUnfinished
}

// Leave orders the removal of all that was made for an instance. It returns when the order is recorded; Run carries it out.
// Repeats, and instances that never enrolled, are no errors.
func (s *Service) Leave(ctx context.Context, by Actor, instanceID string) error { return errUnfinished }

// Rebuild orders, for an instance that was built anew from an image, that its old keytab is made invalid and a new one-time password
// set. The caller decides that there was a rebuild: one too many cuts a living host off. An instance that never enrolled is no error.
func (s *Service) Rebuild(ctx context.Context, by Actor, instanceID string) error {
	return errUnfinished
}

// Retry lets an enrolment that failed, or waits for its next attempt, be tried at once. Problem: NotFound, Conflict if there is nothing to do.
func (s *Service) Retry(ctx context.Context, by Actor, instanceID string) (store.Enrolment, error) {
	return store.Enrolment{}, errUnfinished
}

// Adopt makes an instance the owner of a host entry that was there before under its name, and tries its enrolment again. A host
// that has enrolled keeps its keytab. From then on the entry goes with the instance. Problem: NotFound; Conflict if the enrolment
// did not fail for such an entry.
func (s *Service) Adopt(ctx context.Context, by Actor, instanceID string) (store.Enrolment, error) {
	return store.Enrolment{}, errUnfinished
}

// Reported notes that FreeIPA says the instance has enrolled, so that its one-time password is forgotten.
func (s *Service) Reported(ctx context.Context, instanceID string) error { return errUnfinished }

// Run does the work of Enrol, Leave, Rebuild, Retry and Adopt, this process's and what other replicas left, until ctx ends.
func (s *Service) Run(ctx context.Context) error { return errUnfinished }
