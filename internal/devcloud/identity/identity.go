// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package identity is a small Keystone: the Identity API v3 as far as Muster,
// the openstack client and keystoneauth use it, answering as Debian's
// Keystone 22 (Zed) does. Everything is in memory.
//
// It is for development and tests, and never the guard of anything real:
// passwords are kept in clear.
package identity

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/messaging"
	"github.com/muster-cloud/muster/internal/uuid"
)

const defaultDomain = "default"

// Config is what a Service starts with.
type Config struct {
	// URL is the address of the API, ending in /v3.
	URL string
	// Passwords of the seeded users by name. Who is missing gets a random one.
	Passwords map[string]string
	// TokenTime is how long tokens are valid. Default 1 h.
	TokenTime time.Duration
	// Now tells the time. Default time.Now.
	Now func() time.Time
	// Notifier announces changes; nil: they are not announced.
	Notifier *messaging.Notifier
	// CADF is notification_format = cadf. Default: basic.
	CADF bool
}

// Service is a Keystone. It is an http.Handler for the paths below /v3, and for
// the version document above it.
type Service struct {
	url       string
	tokenTime time.Duration
	now       func() time.Time
	mux       *http.ServeMux
	notifications

	mu        sync.Mutex
	domains   table[domain]
	projects  table[project]
	users     table[user]
	groups    table[group]
	roles     table[role]
	services  table[service]
	endpoints table[endpoint]
	creds     table[credential]
	trusts    table[trust]
	grants    []grant
	implied   map[string][]string
	tokens    map[string]*token
	pruneAt   int
}

// New returns a Service that holds domain Default; projects admin, service and
// demo; roles admin, manager, member, reader (each implying the next) and
// service; users admin (admin in project admin and of the system), nova (admin
// and service in project service), muster (admin in project service) and demo
// (member in project demo).
func New(cfg Config) *Service {
	s := &Service{url: strings.TrimSuffix(cfg.URL, "/"), tokenTime: cfg.TokenTime, now: cfg.Now,
		implied: map[string][]string{}, tokens: map[string]*token{}}
	if s.now == nil {
		s.now = time.Now
	}
	if s.tokenTime == 0 {
		s.tokenTime = time.Hour
	}
	s.routes()
	s.seed(cfg.Passwords)
	s.notifications = notifications{notifier: cfg.Notifier, cadf: cfg.CADF, observer: newID()}
	return s
}

func (s *Service) seed(passwords map[string]string) {
	s.domains.add(defaultDomain, &domain{Name: "Default", Description: "The default domain", Enabled: true})
	for _, name := range []string{"admin", "service", "demo"} {
		s.projects.add(newID(), &project{Name: name, DomainID: defaultDomain, ParentID: defaultDomain, Enabled: true})
	}
	for _, name := range []string{"admin", "manager", "member", "reader", "service"} {
		s.roles.add(newID(), &role{Name: name})
	}
	for _, pair := range [][2]string{{"admin", "manager"}, {"manager", "member"}, {"member", "reader"}} {
		prior := s.RoleID(pair[0])
		s.implied[prior] = append(s.implied[prior], s.RoleID(pair[1]))
	}
	for _, seeded := range []struct{ user, project, roles string }{
		{"admin", "admin", "admin"}, {"nova", "service", "admin service"},
		{"muster", "service", "admin"}, {"demo", "demo", "member"},
	} {
		password, ok := passwords[seeded.user]
		if !ok {
			password = rand.Text()
		}
		id := newID()
		s.users.add(id, &user{Name: seeded.user, DomainID: defaultDomain, Enabled: true, password: password})
		for name := range strings.FieldsSeq(seeded.roles) {
			s.addGrant(grant{user: id, project: s.ProjectID(seeded.project), role: s.RoleID(name)})
		}
	}
	s.addGrant(grant{user: s.UserID("admin"), system: true, role: s.RoleID("admin")})
	s.AddService("identity", "keystone", s.url)
}

// newID returns 32 random hexadecimal digits.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// NewDashedID makes an ID (RFC 9562, version 4) as Nova, Glance and Neutron
// write theirs.
func NewDashedID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return uuid.Dashed(hex.EncodeToString(b[:]))
}

// DashedID returns an ID of either spelling as those services write it, or
// nothing if it is none.
func DashedID(id string) string {
	canonical, err := uuid.Parse(id)
	if err != nil {
		return ""
	}
	return uuid.Dashed(canonical)
}

// table keeps things by ID, in the order in which they came.
type table[T any] struct {
	byID  map[string]*T
	order []string
}

func (t *table[T]) add(id string, thing *T) {
	if t.byID == nil {
		t.byID = map[string]*T{}
	}
	t.byID[id] = thing
	t.order = append(t.order, id)
}

func (t *table[T]) get(id string) (*T, bool) {
	thing, ok := t.byID[id]
	return thing, ok
}

func (t *table[T]) remove(id string) {
	delete(t.byID, id)
	for i, other := range t.order {
		if other == id {
			t.order = append(t.order[:i:i], t.order[i+1:]...)
			return
		}
	}
}

// find returns the ID of the first thing that fits, or "".
func (t *table[T]) find(fits func(*T) bool) string {
	for _, id := range t.order {
		if fits(t.byID[id]) {
			return id
		}
	}
	return ""
}

type domain struct {
	Name, Description string
	Enabled           bool
}

type project struct {
	Name, Description, DomainID, ParentID string
	Enabled                               bool
}

type user struct {
	Name, Description, DomainID, Email, DefaultProjectID string
	Enabled                                              bool
	password                                             string
	// epoch goes up when all tokens of the user end.
	epoch int
}

type group struct {
	Name, Description, DomainID string
	members                     []string
	mapped                      []string // by a mapping, for a while (authorization_ttl)
}

type role struct{ Name, Description, DomainID string }

type service struct{ Name, Type string }

type endpoint struct{ ServiceID, Interface, URL string }

// grant gives a role to a user or group in a project, a domain or the system.
// An inherited one counts in the projects below, not at its own place.
type grant struct {
	user, group, project, domain string
	system, inherited            bool
	role                         string
}

// credential is an application credential.
type credential struct {
	Name, Description, UserID, ProjectID string
	roles                                []string
	secret                               string
	expires                              time.Time
	unrestricted                         bool
	rules                                []accessRule // nil: all calls are allowed
}

type accessRule struct {
	ID      string `json:"id"`
	Service string `json:"service"`
	Method  string `json:"method"`
	Path    string `json:"path"`
}

// trust lends roles that one user, the giver, has in a project to another.
type trust struct {
	giver, taker, project string
	roles                 []string
	impersonation         bool
	expires               time.Time
	// from is the trust that this one passes on, and left how often it may be.
	from string
	left int
}
