// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/muster-cloud/muster/internal/dns"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

// Keystone knows users, projects, domains and roles. Its ErrNotFound is
// believed only beside a CheckRights without error.
type Keystone interface {
	CheckRights(ctx context.Context) error
	User(ctx context.Context, id string) (keystone.User, error)
	Project(ctx context.Context, id string) (keystone.Project, error)
	Domain(ctx context.Context, id string) (keystone.Domain, error)
	EffectiveRoles(ctx context.Context, userID, projectID string, groupIDs ...string) ([]string, error)
	CredentialEnds(ctx context.Context, userID string, credential keystone.Credential) (time.Time, error)
	GroupProjects(ctx context.Context, groupID string) (projects []string, everywhere bool, err error)

	Domains(ctx context.Context) ([]keystone.Domain, error)
	EachProject(ctx context.Context, domainID string, do func(keystone.Project) error) error
	EachUser(ctx context.Context, domainID string, do func(keystone.User) error) error
	EachAssignment(ctx context.Context, do func(keystone.Assignment) error) error
	EachGroupGrant(ctx context.Context, do func(keystone.GroupGrant) error) error
}

// Caches hold what Keystone said before.
type Caches interface {
	ForgetUser(id string)
	ForgetProject(id string)
	// ForgetCredential forgets a credential and the tokens that were made with it.
	ForgetCredential(id string)
	ForgetAll()
}

// Nova knows the instances. Its ErrNotFound is certain.
type Nova interface {
	Server(ctx context.Context, id string) (openstack.Server, error)
	RebuiltAt(ctx context.Context, id string) (time.Time, error)
	EachServer(ctx context.Context, do func(openstack.Server) error) error
}

// Neutron knows which addresses instances have. Where something is missing in
// its lists, CheckRights tells whether that is certain.
type Neutron interface {
	CheckRights(ctx context.Context) error
	InstancePorts(ctx context.Context, instanceID string) ([]openstack.Port, error)
	PortFloatingIPs(ctx context.Context, portIDs []string) ([]openstack.FloatingIP, error)
	EachPort(ctx context.Context, do func(openstack.Port) error) error
	EachFloatingIP(ctx context.Context, do func(openstack.FloatingIP) error) error
}

// DNS has the address records of instances. It knows which of them Muster made.
type DNS interface {
	Records(fqdn string, addresses []netip.Addr) ([]dns.Record, error)
	Set(ctx context.Context, instanceID, fqdn string, addresses []netip.Addr) error
	Trim(ctx context.Context, instanceID, fqdn string, addresses []netip.Addr) error
	RemoveAll(ctx context.Context, instanceID string) error
	Missing(ctx context.Context, recorded []store.Object) ([]store.Object, error)
}

// Enrolments get instances into FreeIPA and out again. Repeats, and instances
// that never enrolled, are no errors.
type Enrolments interface {
	Leave(ctx context.Context, instanceID string) error
	// Rebuild is for an instance that was rebuilt at a time of Nova's.
	Rebuild(ctx context.Context, instanceID string, at time.Time) error
	// Update takes over what the metadata names. That it may not have it is the
	// instance's trouble, and no error.
	Update(ctx context.Context, instanceID string, metadata map[string]string) error
	// Differs tells, without asking anybody, whether Update may have anything
	// to do.
	Differs(e store.Enrolment, metadata map[string]string) bool
	// Astray tells, by instance, which of the enrolments somebody else changed
	// in FreeIPA. It changes nothing.
	Astray(ctx context.Context, enrolments []store.Enrolment) (instances []string, err error)
	// Mend has FreeIPA agree with the enrolment of one that went astray.
	Mend(ctx context.Context, instanceID string) error
}

// Authority issues and revokes.
type Authority interface {
	Accounts(roles []string) (accounts []string, leftOut []sshca.LeftOut)
	EnsureAuthority(ctx context.Context, by sshca.Actor, projectID string) (record store.Authority, created bool, err error)
	ProjectGone(ctx context.Context, by sshca.Actor, projectID, reason string, grace time.Duration) error
	ProjectBack(ctx context.Context, by sshca.Actor, projectID string) error
	Revoke(ctx context.Context, by sshca.Actor, order store.RevocationOrder) (store.RevocationResult, error)
	RevokeUser(ctx context.Context, by sshca.Actor, userID, reason string) (certificates int, err error)
	DeleteInstance(ctx context.Context, by sshca.Actor, instanceID, reason string) error
	RenewForRebuild(ctx context.Context, by sshca.Actor, instanceID string, rebuild sshca.Rebuild) error
}

// Records are what Muster keeps.
type Records interface {
	LiveUserCerts(ctx context.Context, filter store.Filter, page store.Page) ([]store.LiveCert, error)
	AllLiveUserCerts(ctx context.Context, after store.LiveCert, limit int) ([]store.LiveCert, error)
	CredentialCerts(ctx context.Context, credentialID string, page store.Page) ([]store.LiveCert, error)
	UserProjects(ctx context.Context, userID string) ([]string, error)
	AuthorityLife(ctx context.Context, projectID string) (store.AuthorityLife, error)
	AuthorityLives(ctx context.Context, page store.Page) ([]store.AuthorityLife, error)
	Instance(ctx context.Context, id string) (store.Instance, error)
	Instances(ctx context.Context, filter store.Filter, page store.Page) ([]store.Instance, error)
	Enrolment(ctx context.Context, instanceID string) (store.Enrolment, error)
	Enrolments(ctx context.Context, filter store.EnrolmentFilter, page store.Page) ([]store.Enrolment, error)
	EnrolmentsOf(ctx context.Context, instanceIDs []string) ([]store.Enrolment, error)
	RebuildSeen(ctx context.Context, instanceID string) (time.Time, error)
	RebuildsSeen(ctx context.Context, instanceIDs []string) (map[string]time.Time, error)
	SeeRebuild(ctx context.Context, instanceID string, at time.Time) error
	ForgetRebuild(ctx context.Context, instanceID string) error

	Addresses(ctx context.Context, instanceID string) ([]store.Address, error)
	AddressesOf(ctx context.Context, instanceIDs []string) (map[string][]store.Address, error)
	AllAddresses(ctx context.Context, after store.Address, limit int) ([]store.Address, error)
	AddressHolders(ctx context.Context, sourceID string) ([]string, error)
	SetAddresses(ctx context.Context, instanceID string, addresses []store.Address) error
	AddAddresses(ctx context.Context, addresses []store.Address) error
	ObjectsOf(ctx context.Context, kind store.ObjectKind, instanceIDs []string) (map[string][]store.Object, error)
	DoubtRecords(ctx context.Context, names []string) error
}

// Config is what Controllers are made of.
type Config struct {
	Keystone   Keystone   // needed
	Caches     Caches     // needed
	Nova       Nova       // needed
	Authority  Authority  // needed
	Records    Records    // needed
	Enrolments Enrolments // nil: instances are not enrolled
	Neutron    Neutron    // nil: nobody is asked which addresses instances have
	DNS        DNS        // nil: instances get no records; else Neutron is needed

	// Published says which addresses go to DNS.
	Published Published
	// CreateAuthorities makes an authority for every project, before anybody
	// asks for one.
	CreateAuthorities bool
	// Grace is how long a project is gone before its authority is retired.
	// Default 7 days.
	Grace time.Duration
	// CallsPerSecond bounds the questions to Keystone, Nova and Neutron. Default
	// 100.
	CallsPerSecond int

	Now    func() time.Time
	Logger *slog.Logger
}

// Controllers make what Muster keeps of each kind of entity agree with the
// cloud. They are safe for simultaneous use.
type Controllers struct {
	cfg  Config
	pace *rate.Limiter
}

// actor is who did it, in records.
var actor = sshca.Actor{UserName: "converge"}

// New returns controllers.
func New(cfg Config) (*Controllers, error) {
	if cfg.Keystone == nil || cfg.Caches == nil || cfg.Nova == nil || cfg.Authority == nil || cfg.Records == nil {
		return nil, errors.New("converge: keystone, caches, nova, authority and records are needed")
	}
	if cfg.DNS != nil && cfg.Neutron == nil {
		return nil, errors.New("converge: DNS without neutron, which knows the addresses")
	}
	cfg.Grace = cmp.Or(cfg.Grace, 7*24*time.Hour)
	cfg.CallsPerSecond = cmp.Or(cfg.CallsPerSecond, 100)
	if cfg.Grace < 0 || cfg.CallsPerSecond < 0 {
		return nil, errors.New("converge: grace and calls per second can't be negative")
	}
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Controllers{cfg: cfg, pace: rate.NewLimiter(rate.Limit(cfg.CallsPerSecond), cfg.CallsPerSecond)}, nil
}

// Forget implements Controller.
func (c *Controllers) Forget(key Key) {
	switch key.Kind {
	case Grant:
		user, _ := key.Grant()
		c.cfg.Caches.ForgetUser(user)
	case User:
		c.cfg.Caches.ForgetUser(key.ID)
	case Project, Members:
		c.cfg.Caches.ForgetProject(key.ID)
	case Credential:
		c.cfg.Caches.ForgetCredential(key.ID)
	case Group, Role, Domain:
		c.cfg.Caches.ForgetAll()
	}
}

// Converge implements Controller.
func (c *Controllers) Converge(ctx context.Context, hint Hint) (further []Key, err error) {
	id := hint.Key.ID
	switch hint.Key.Kind {
	case Project:
		return nil, c.project(ctx, id)
	case User:
		return c.user(ctx, id)
	case Grant:
		user, project := hint.Key.Grant()
		return nil, c.grant(ctx, user, project)
	case Group:
		return c.group(ctx, id)
	case Members:
		return c.liveGrants(ctx, []string{id})
	case Role:
		return c.liveGrants(ctx, nil)
	case Credential:
		return nil, c.credential(ctx, id)
	case Domain:
		return c.domain(ctx, id)
	case Instance:
		return nil, c.instance(ctx, hint)
	case Address:
		return c.address(ctx, id)
	}
	return nil, nil
}

// gone says why an entity of Keystone does not count, or "" if it does.
type gone string

// whether turns the answer about an entity into a reason why it is gone.
func whether(kind string, enabled bool, err error) (gone, error) {
	switch {
	case errors.Is(err, keystone.ErrNotFound):
		return gone(kind + " was deleted"), nil
	case err != nil:
		return "", err
	case !enabled:
		return gone(kind + " is disabled"), nil
	}
	return "", nil
}

// domainGone looks at the domain of a user or project.
func (c *Controllers) domainGone(ctx context.Context, kind, id string) (gone, error) {
	if err := c.pace.Wait(ctx); err != nil {
		return "", err
	}
	domain, err := c.cfg.Keystone.Domain(ctx, id)
	return whether("the "+kind+"'s domain", domain.Enabled, err)
}

// checkRights comes before whatever takes something away.
func (c *Controllers) checkRights(ctx context.Context) error {
	if err := c.pace.WaitN(ctx, min(3, c.pace.Burst())); err != nil {
		return err
	}
	if err := c.cfg.Keystone.CheckRights(ctx); err != nil {
		return fmt.Errorf("nothing is taken away: %w", err)
	}
	return nil
}
