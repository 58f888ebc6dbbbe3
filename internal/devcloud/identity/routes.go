// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
	"time"
)

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func anybodyKnown(*call) bool { return true }

func (s *Service) routes() {
	s.mux = http.NewServeMux()
	version := func(*call) (any, *failure) { return object{"version": s.version()}, nil }
	s.route("GET /v3", "", http.StatusOK, nil, version)
	s.route("GET /v3/{$}", "", http.StatusOK, nil, version)
	s.route("GET /{$}", "", http.StatusMultipleChoices, nil, func(c *call) (any, *failure) {
		c.header.Set("Location", s.url+"/")
		return object{"versions": object{"values": []object{s.version()}}}, nil
	})
	s.route("POST /v3/auth/tokens", "", http.StatusCreated, nil, s.createToken)
	s.route("GET /v3/auth/tokens", "validate_token", http.StatusOK, anybodyKnown, s.showToken)
	s.route("DELETE /v3/auth/tokens", "revoke_token", http.StatusNoContent, anybodyKnown, s.deleteToken)
	s.route("GET /v3/auth/projects", "get_auth_projects", http.StatusOK, anybodyKnown, func(c *call) (any, *failure) {
		return s.projectsOf(c, c.token.userID), nil
	})
	s.route("GET /v3/auth/catalog", "get_auth_catalog", http.StatusOK, anybodyKnown, func(*call) (any, *failure) {
		return object{"catalog": s.catalog(), "links": object{"self": s.url + "/auth/catalog"}}, nil
	})
	serve(s, s.userKind())
	serve(s, s.projectKind())
	serve(s, s.domainKind())
	serve(s, s.groupKind())
	serve(s, s.roleKind())
	s.memberRoutes()
	s.credentialRoutes()
	s.trustRoutes()
	s.catalogRoutes()
	s.grantRoutes()
}

func (s *Service) version() object {
	return object{"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
		"links":       []object{{"rel": "self", "href": s.url + "/"}},
		"media-types": []object{{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}}}
}

func self(c *call) bool { return c.isAdmin() || c.PathValue("user") == c.token.userID }

func (s *Service) projectsOf(c *call, userID string) object {
	var ids []string
	for _, e := range s.effectiveGrants(userID) {
		ids = append(ids, e.scope.project)
	}
	return s.list(c, "projects", pick(s, s.projectKind(), ids))
}

func (s *Service) memberRoutes() {
	s.route("GET /v3/users/{user}/projects", "list_user_projects", http.StatusOK, self, func(c *call) (any, *failure) {
		return s.projectsOf(c, c.PathValue("user")), nil
	})
	s.route("GET /v3/users/{user}/groups", "list_groups_for_user", http.StatusOK, self, func(c *call) (any, *failure) {
		var ids []string
		for _, id := range s.groups.order {
			if slices.Contains(s.groups.byID[id].members, c.PathValue("user")) {
				ids = append(ids, id)
			}
		}
		return s.list(c, "groups", pick(s, s.groupKind(), ids)), nil
	})
	s.route("GET /v3/groups/{group}/users", "list_users_in_group", http.StatusOK, (*call).isAdmin,
		func(c *call) (any, *failure) {
			g, ok := s.groups.get(c.PathValue("group"))
			if !ok {
				return nil, notFound("group", c.PathValue("group"))
			}
			return s.list(c, "users", pick(s, s.userKind(), g.members)), nil
		})
	member := "/v3/groups/{group}/users/{user}"
	s.route("GET "+member, "check_user_in_group", http.StatusNoContent, (*call).isAdmin, s.member(nil))
	s.route("DELETE "+member, "remove_user_from_group", http.StatusNoContent, (*call).isAdmin,
		s.member(func(g *group, groupID, userID string) {
			g.members = slices.DeleteFunc(g.members, func(m string) bool { return m == userID })
			s.announceMember(groupID, userID, "removed")
		}))
	s.route("PUT "+member, "add_user_to_group", http.StatusNoContent, (*call).isAdmin,
		func(c *call) (any, *failure) {
			g, ok := s.groups.get(c.PathValue("group"))
			if !ok {
				return nil, notFound("group", c.PathValue("group"))
			}
			if _, ok := s.users.get(c.PathValue("user")); !ok {
				return nil, notFound("user", c.PathValue("user"))
			}
			if !slices.Contains(g.members, c.PathValue("user")) {
				g.members = append(g.members, c.PathValue("user"))
			}
			s.announceMember(c.PathValue("group"), c.PathValue("user"), "added")
			return nil, nil
		})
}

// member finds a member of a group and does something about it.
func (s *Service) member(act func(g *group, groupID, userID string)) func(*call) (any, *failure) {
	return func(c *call) (any, *failure) {
		g, ok := s.groups.get(c.PathValue("group"))
		if !ok || !slices.Contains(g.members, c.PathValue("user")) {
			return nil, notFound("user", c.PathValue("user"))
		}
		if act != nil {
			act(g, c.PathValue("group"), c.PathValue("user"))
		}
		return nil, nil
	}
}

func (s *Service) credentialRoutes() {
	owner := func(c *call) bool { return c.PathValue("user") == c.token.userID }
	path := "/v3/users/{user}/application_credentials"
	s.route("POST "+path, "create_application_credential", http.StatusCreated, owner, s.createCredential)
	s.route("GET "+path, "list_application_credentials", http.StatusOK, self, func(c *call) (any, *failure) {
		views := []object{}
		for _, id := range s.creds.order {
			if s.creds.byID[id].UserID == c.PathValue("user") {
				views = append(views, s.credentialView(id))
			}
		}
		return s.list(c, "application_credentials", views), nil
	})
	find := func(c *call) (string, *failure) {
		cred, ok := s.creds.get(c.PathValue("id"))
		if !ok || cred.UserID != c.PathValue("user") {
			return "", notFound("Application Credential", c.PathValue("id"))
		}
		return c.PathValue("id"), nil
	}
	s.route("GET "+path+"/{id}", "get_application_credential", http.StatusOK, self, func(c *call) (any, *failure) {
		id, fail := find(c)
		if fail != nil {
			return nil, fail
		}
		return object{"application_credential": s.credentialView(id)}, nil
	})
	s.route("DELETE "+path+"/{id}", "delete_application_credential", http.StatusNoContent, self,
		func(c *call) (any, *failure) {
			id, fail := find(c)
			if fail != nil {
				return nil, fail
			}
			s.creds.remove(id)
			s.announce("application_credential", "deleted", id)
			return nil, nil
		})
}

func (s *Service) createCredential(c *call) (any, *failure) {
	var body struct {
		Given *struct {
			Name, Description, Secret string
			Roles                     []struct{ ID, Name string }
			ExpiresAt                 string `json:"expires_at"`
			Unrestricted              bool
			AccessRules               []accessRule `json:"access_rules"`
		} `json:"application_credential"`
	}
	if fail := c.decode(&body); fail != nil {
		return nil, fail
	}
	if body.Given == nil || body.Given.Name == "" {
		return nil, badRequest("'name' is a required property")
	}
	if c.token.scope.project == "" || c.token.cred != "" {
		return nil, forbidden("create_application_credential")
	}
	given := body.Given
	cred := &credential{Name: given.Name, Description: given.Description, UserID: c.token.userID,
		ProjectID: c.token.scope.project, secret: given.Secret, unrestricted: given.Unrestricted,
		rules: given.AccessRules}
	for i := range cred.rules {
		cred.rules[i].ID = newID()
	}
	if s.creds.find(func(o *credential) bool { return o.UserID == cred.UserID && o.Name == cred.Name }) != "" {
		return nil, conflict("application_credential", cred.Name)
	}
	for _, r := range given.Roles {
		id := r.ID
		if id == "" {
			id = s.roleNamed(r.Name)
		}
		if !slices.Contains(c.token.roles, id) {
			return nil, badRequest("Invalid application credential: the user does not have the role.")
		}
		cred.roles = append(cred.roles, id)
	}
	if len(given.Roles) == 0 {
		cred.roles = slices.Clone(c.token.roles)
	}
	if given.ExpiresAt != "" {
		expires, err := time.Parse("2006-01-02T15:04:05", strings.TrimSuffix(given.ExpiresAt, "Z"))
		if err != nil {
			return nil, badRequest("expires_at is not a time.")
		}
		cred.expires = expires
	}
	if cred.secret == "" {
		cred.secret = rand.Text() + rand.Text()
	}
	id := newID()
	s.creds.add(id, cred)
	s.announce("application_credential", "created", id)
	view := s.credentialView(id)
	view["secret"] = cred.secret
	return object{"application_credential": view}, nil
}

func (s *Service) credentialView(id string) object {
	cred := s.creds.byID[id]
	roles := []object{}
	for _, r := range cred.roles {
		roles = append(roles, object{"id": r, "name": s.roles.byID[r].Name, "domain_id": nil})
	}
	view := object{"id": id, "name": cred.Name, "description": cred.Description, "user_id": cred.UserID,
		"project_id": cred.ProjectID, "system": nil, "expires_at": nil, "unrestricted": cred.unrestricted, "roles": roles,
		"links": object{"self": s.url + "/users/" + cred.UserID + "/application_credentials/" + id}}
	if len(cred.rules) > 0 {
		view["access_rules"] = cred.rules
	}
	if !cred.expires.IsZero() {
		view["expires_at"] = strings.TrimSuffix(cred.expires.Format(timeLayout), "Z")
	}
	return view
}
