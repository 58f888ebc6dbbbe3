// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"slices"
	"time"
)

const timeLayout = "2006-01-02T15:04:05.000000Z"

// scope is a project, a domain, the system, or nothing.
type scope struct {
	project, domain string
	system          bool
}

type token struct {
	id      string
	userID  string
	scope   scope
	methods []string
	audit   []string
	issued  time.Time
	expires time.Time
	epoch   int
	cred    string // ID of the application credential it was made with
	trust   string // ID of the trust
	// federated is for those whom an identity provider knows, with the groups of
	// the mapping.
	federated bool
	groups    []string
	// roles (IDs) and names are looked up each time, as Keystone does for Fernet tokens.
	roles, names []string
}

// authRequest is the body of POST /v3/auth/tokens.
type authRequest struct {
	Auth *struct {
		Identity struct {
			Methods  []string
			Password *struct {
				User struct {
					reference
					Password string
				}
			}
			Token *struct{ ID string }
			Cred  *struct {
				ID, Name, Secret string
				User             reference
			} `json:"application_credential"`
		}
		Scope *struct {
			Project *reference
			Domain  *reference
			System  *struct{ All bool }
			Trust   *struct{ ID string } `json:"OS-TRUST:trust"`
		}
	}
}

// reference names something by ID, or by name and domain.
type reference struct {
	ID, Name string
	Domain   *struct{ ID, Name string }
}

func (s *Service) createToken(c *call) (any, *failure) {
	var request authRequest
	if fail := c.decode(&request); fail != nil {
		return nil, fail
	}
	if request.Auth == nil {
		return nil, badRequest("Expecting to find auth in request body.")
	}
	t, fail := s.identify(&request)
	if fail != nil {
		return nil, fail
	}
	if fail := s.scopeToken(t, &request); fail != nil {
		return nil, fail
	}
	if s.spoilt(t) {
		return nil, spoilt()
	}
	if fail := s.keep(t); fail != nil {
		return nil, fail
	}
	c.header.Set("X-Subject-Token", t.id)
	return s.describe(t, c.URL.Query().Has("nocatalog")), nil
}

func (s *Service) newToken(methods []string) *token {
	issued := s.now().UTC().Truncate(time.Second)
	return &token{id: "gAAAAA" + rand.Text() + rand.Text(), methods: methods,
		audit: []string{rand.Text()[:22]}, issued: issued, expires: issued.Add(s.tokenTime)}
}

// keep makes the token one that can be used, unless its holder may not have it.
func (s *Service) keep(t *token) *failure {
	s.pruneTokens()
	s.tokens[t.id] = t
	if s.valid(t.id) == nil {
		delete(s.tokens, t.id)
		return unauthorized()
	}
	return nil
}

// pruneTokens drops the tokens that nobody can look at any more.
func (s *Service) pruneTokens() {
	if len(s.tokens) < s.pruneAt {
		return
	}
	for id, t := range s.tokens {
		if s.now().Sub(t.expires) > expiredWindow {
			delete(s.tokens, id)
		}
	}
	s.pruneAt = max(1000, 2*len(s.tokens))
}

// identify checks who asks, and returns a token for them without a scope.
func (s *Service) identify(request *authRequest) (*token, *failure) {
	identity := request.Auth.Identity
	if len(identity.Methods) != 1 {
		return nil, badRequest("Expecting to find one method in identity.")
	}
	t := s.newToken(identity.Methods)
	var ok bool
	switch method := identity.Methods[0]; {
	case method == "password" && identity.Password != nil:
		given := identity.Password.User
		t.userID = s.userByReference(given.reference)
		u, found := s.users.get(t.userID)
		ok = found && same(u.password, given.Password)
	case method == "token" && identity.Token != nil:
		old := s.valid(identity.Token.ID)
		if old != nil && (old.cred != "" || old.trust != "") {
			return nil, forbidden("Using a delegated token to create another token is not allowed")
		}
		if ok = old != nil; ok {
			t.userID, t.expires, t.federated, t.groups = old.userID, old.expires, old.federated, old.groups
			t.methods = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(old.methods), "token"))))
			t.audit = append(t.audit, old.audit[len(old.audit)-1])
		}
	case method == "application_credential" && identity.Cred != nil:
		given := identity.Cred
		t.cred = given.ID
		if t.cred == "" {
			owner := s.userByReference(given.User)
			t.cred = s.creds.find(func(c *credential) bool { return c.Name == given.Name && c.UserID == owner })
		}
		cred, found := s.creds.get(t.cred)
		if ok = found && same(cred.secret, given.Secret); ok {
			t.userID = cred.UserID
			if !cred.expires.IsZero() && cred.expires.Before(t.expires) {
				t.expires = cred.expires
			}
		}
	default:
		return nil, badRequest("Expecting to find " + method + " in identity.")
	}
	if !ok {
		return nil, unauthorized()
	}
	t.epoch = s.users.byID[t.userID].epoch
	return t, nil
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func (s *Service) userByReference(r reference) string {
	if r.ID != "" {
		return r.ID
	}
	in := s.domainByReference(r.Domain)
	return s.users.find(func(u *user) bool { return u.Name == r.Name && u.DomainID == in })
}

func (s *Service) domainByReference(r *struct{ ID, Name string }) string {
	if r == nil {
		return ""
	}
	if r.ID != "" {
		return r.ID
	}
	return s.domains.find(func(d *domain) bool { return d.Name == r.Name })
}

func (s *Service) scopeToken(t *token, request *authRequest) *failure {
	wanted := request.Auth.Scope
	if t.cred != "" {
		if wanted != nil {
			return unauthorized()
		}
		t.scope.project = s.creds.byID[t.cred].ProjectID
		return nil
	}
	if wanted == nil {
		if p := s.users.byID[t.userID].DefaultProjectID; p != "" && t.methods[0] == "password" &&
			len(s.heldIn(t.userID, scope{project: p})) > 0 {
			t.scope.project = p
		}
		return nil
	}
	switch {
	case wanted.Project != nil:
		t.scope.project = wanted.Project.ID
		if t.scope.project == "" {
			in := s.domainByReference(wanted.Project.Domain)
			t.scope.project = s.projects.find(func(p *project) bool {
				return p.Name == wanted.Project.Name && p.DomainID == in
			})
		}
	case wanted.Domain != nil:
		t.scope.domain = s.domainByReference(&struct{ ID, Name string }{wanted.Domain.ID, wanted.Domain.Name})
	case wanted.System != nil:
		t.scope.system = wanted.System.All
	case wanted.Trust != nil:
		lent, ok := s.trusts.get(wanted.Trust.ID)
		if !ok || lent.taker != t.userID {
			return unauthorized()
		}
		// It says that it lives as long as any, though it ends with the trust.
		t.trust, t.scope.project = wanted.Trust.ID, lent.project
	}
	if t.scope == (scope{}) {
		return unauthorized()
	}
	return nil
}

// valid returns the token if it holds now, with its roles; else nil.
func (s *Service) valid(id string) *token {
	t, ok := s.tokens[id]
	if !ok {
		return nil
	}
	u, ok := s.users.get(t.userID)
	if !ok || !u.Enabled || u.epoch != t.epoch || !s.now().Before(t.expires) || !s.domainOn(u.DomainID) {
		return nil
	}
	if t.scope == (scope{}) {
		return t
	}
	if t.scope.domain != "" && !s.domainOn(t.scope.domain) {
		return nil
	}
	if t.scope.project != "" {
		p, ok := s.projects.get(t.scope.project)
		if !ok || !p.Enabled || !s.domainOn(p.DomainID) {
			return nil
		}
	}
	t.roles = s.heldIn(t.userID, t.scope)
	switch {
	case t.cred != "":
		cred, ok := s.creds.get(t.cred)
		if !ok || !cred.expires.IsZero() && !s.now().Before(cred.expires) {
			return nil
		}
		t.roles = slices.DeleteFunc(t.roles, func(r string) bool { return !slices.Contains(cred.roles, r) })
	case t.trust != "":
		lent, ok := s.trusts.get(t.trust)
		if !ok || !lent.expires.IsZero() && !s.now().Before(lent.expires) || s.spoilt(t) {
			return nil
		}
		t.roles = s.trustRoles(t.trust)
	case t.federated:
		for _, id := range t.groups {
			if _, ok := s.groups.get(id); !ok {
				return nil
			}
		}
		for _, id := range s.groupRoles(t.groups, t.scope) {
			if !slices.Contains(t.roles, id) {
				t.roles = append(t.roles, id)
			}
		}
	}
	t.names = nil
	for _, id := range t.roles {
		t.names = append(t.names, s.roles.byID[id].Name)
	}
	if len(t.roles) == 0 {
		return nil
	}
	return t
}

func (s *Service) domainOn(id string) bool {
	d, ok := s.domains.get(id)
	return ok && d.Enabled
}

// describe is the token as Keystone shows it.
func (s *Service) describe(t *token, noCatalog bool) object {
	holder := s.holder(t)
	u := s.users.byID[holder]
	body := object{
		"methods": t.methods, "audit_ids": t.audit,
		"issued_at": t.issued.Format(timeLayout), "expires_at": t.expires.Format(timeLayout),
	}
	user := object{"id": holder, "name": u.Name, "domain": s.brief(u.DomainID), "password_expires_at": nil}
	if t.federated {
		delete(user, "password_expires_at")
		groups := []object{}
		for _, id := range t.groups {
			groups = append(groups, object{"id": id})
		}
		user["OS-FEDERATION"] = object{"groups": groups, "identity_provider": object{"id": "devcloud"}, "protocol": object{"id": "openid"}}
	}
	body["user"] = user
	if p, ok := s.projects.get(t.scope.project); ok {
		body["project"] = object{"id": t.scope.project, "name": p.Name, "domain": s.brief(p.DomainID)}
		body["is_domain"] = false
	}
	if t.scope.domain != "" {
		body["domain"] = s.brief(t.scope.domain)
	}
	if t.scope.system {
		body["system"] = object{"all": true}
	}
	if t.cred != "" {
		cred := s.creds.byID[t.cred]
		shown := object{"id": t.cred, "name": cred.Name, "restricted": !cred.unrestricted}
		if len(cred.rules) > 0 {
			shown["access_rules"] = cred.rules
		}
		body["application_credential"] = shown
	}
	if t.trust != "" {
		lent := s.trusts.byID[t.trust]
		body["OS-TRUST:trust"] = object{"id": t.trust, "impersonation": lent.impersonation,
			"trustor_user": object{"id": lent.giver}, "trustee_user": object{"id": lent.taker}}
	}
	if t.scope != (scope{}) {
		roles := []object{}
		for _, id := range t.roles {
			roles = append(roles, object{"id": id, "name": s.roles.byID[id].Name})
		}
		body["roles"] = roles
		if !noCatalog {
			body["catalog"] = s.catalog()
		}
	}
	return object{"token": body}
}

func (s *Service) brief(domainID string) object {
	d, ok := s.domains.get(domainID)
	if !ok {
		return object{"id": domainID}
	}
	return object{"id": domainID, "name": d.Name}
}

// subject finds the token in X-Subject-Token and checks that the caller may see it.
func (s *Service) subject(c *call, action string) (*token, *failure) {
	id := c.Header.Get("X-Subject-Token")
	if id == "" {
		return nil, &failure{http.StatusNotFound, "No token in the request"}
	}
	if !c.isAdmin() && !c.has("service") && c.token.id != id {
		return nil, forbidden(action)
	}
	t := s.valid(id)
	if t == nil && c.URL.Query().Get("allow_expired") == "1" {
		t = s.validThoughExpired(id)
	}
	if kept, ok := s.tokens[id]; t == nil && ok && s.now().Before(kept.expires) && s.spoilt(kept) {
		return nil, spoilt()
	}
	if t == nil || t.cred != "" && len(s.creds.byID[t.cred].rules) > 0 && c.Header.Get("OpenStack-Identity-Access-Rules") == "" {
		return nil, &failure{http.StatusNotFound, "Failed to validate token"}
	}
	return t, nil
}

// expiredWindow is how long expired tokens can be looked at with allow_expired
// (Keystone's allow_expired_window).
const expiredWindow = 48 * time.Hour

func (s *Service) validThoughExpired(id string) *token {
	t, ok := s.tokens[id]
	if !ok || s.now().Sub(t.expires) > expiredWindow {
		return nil
	}
	expires := t.expires
	defer func() { t.expires = expires }()
	t.expires = s.now().Add(time.Second)
	return s.valid(id)
}

func (s *Service) showToken(c *call) (any, *failure) {
	t, fail := s.subject(c, "validate_token")
	if fail != nil {
		return nil, fail
	}
	c.header.Set("X-Subject-Token", t.id)
	return s.describe(t, c.URL.Query().Has("nocatalog")), nil
}

func (s *Service) deleteToken(c *call) (any, *failure) {
	t, fail := s.subject(c, "revoke_token")
	if fail != nil {
		return nil, fail
	}
	delete(s.tokens, t.id)
	return nil, nil
}

// has tells whether the caller has the role.
func (c *call) has(name string) bool { return slices.Contains(c.token.names, name) }

// isAdmin is Keystone's rule admin_required, or a reader of the system who only reads.
func (c *call) isAdmin() bool {
	reads := c.Method == http.MethodGet || c.Method == http.MethodHead
	return c.has("admin") || reads && c.token.scope.system && c.has("reader")
}
