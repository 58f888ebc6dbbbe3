// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/http"
	"slices"
)

// grantRoutes registers the paths of grants, /v3/PLACE/WHO/roles/ROLE, of the
// inherited ones, of implied roles, and of the list of all.
func (s *Service) grantRoutes() {
	for _, place := range []string{"/projects/{project}", "/domains/{domain}", "/system"} {
		for _, who := range []string{"/users/{user}", "/groups/{group}"} {
			path := place + who + "/roles"
			s.route("GET /v3"+path, "list_grants", http.StatusOK, (*call).isAdmin, s.listGrants)
			s.grantPath("/v3"+path+"/{role}", false)
			if place != "/system" {
				s.grantPath("/v3/OS-INHERIT"+path+"/{role}/inherited_to_projects", true)
			}
		}
	}
	s.route("GET /v3/role_assignments", "list_role_assignments", http.StatusOK, (*call).isAdmin, s.listAssignments)
	s.route("GET /v3/role_inferences", "list_role_inference_rules", http.StatusOK, (*call).isAdmin, s.listInferences)
	s.route("GET /v3/roles/{role}/implies", "list_implied_roles", http.StatusOK, (*call).isAdmin,
		func(c *call) (any, *failure) { return object{"role_inference": s.inference(c.PathValue("role"))}, nil })
	implies := "/v3/roles/{role}/implies/{implied}"
	s.route("PUT "+implies, "create_implied_role", http.StatusCreated, (*call).isAdmin, s.imply)
	s.route("GET "+implies, "get_implied_role", http.StatusOK, (*call).isAdmin, s.showImplied)
	s.route("DELETE "+implies, "delete_implied_role", http.StatusNoContent, (*call).isAdmin, s.deleteImplied)
}

func (s *Service) grantPath(path string, inherited bool) {
	handle := func(act func(grant) *failure) func(*call) (any, *failure) {
		return func(c *call) (any, *failure) {
			g, fail := s.grantOf(c)
			if fail != nil {
				return nil, fail
			}
			g.inherited = inherited
			return nil, act(g)
		}
	}
	existing := func(act func(grant)) func(grant) *failure {
		return func(g grant) *failure {
			if !slices.Contains(s.grants, g) {
				return notFound("role assignment with role", g.role)
			}
			act(g)
			return nil
		}
	}
	s.route("PUT "+path, "create_grant", http.StatusNoContent, (*call).isAdmin, handle(func(g grant) *failure {
		s.addGrant(g)
		s.announceGrant("created", g)
		return nil
	}))
	s.route("GET "+path, "check_grant", http.StatusNoContent, (*call).isAdmin, handle(existing(func(grant) {})))
	s.route("DELETE "+path, "revoke_grant", http.StatusNoContent, (*call).isAdmin, handle(existing(func(g grant) {
		s.dropGrants(func(other grant) bool { return other == g })
		s.announceGrant("deleted", g)
	})))
}

// grantOf reads the path, and refuses it when part of it does not exist.
func (s *Service) grantOf(c *call) (grant, *failure) {
	g := grant{user: c.PathValue("user"), group: c.PathValue("group"), project: c.PathValue("project"),
		domain: c.PathValue("domain"), role: c.PathValue("role")}
	g.system = g.project == "" && g.domain == ""
	for _, part := range []struct {
		kind, id string
		found    bool
	}{
		{"user", g.user, s.users.byID[g.user] != nil}, {"group", g.group, s.groups.byID[g.group] != nil},
		{"project", g.project, s.projects.byID[g.project] != nil}, {"domain", g.domain, s.domains.byID[g.domain] != nil},
		{"role", g.role, s.roles.byID[g.role] != nil},
	} {
		if part.id != "" && !part.found {
			return g, notFound(part.kind, part.id)
		}
	}
	return g, nil
}

func (s *Service) listGrants(c *call) (any, *failure) {
	wanted, fail := s.grantOf(c)
	if fail != nil {
		return nil, fail
	}
	var ids []string
	for _, g := range s.grants {
		wanted.role = g.role
		if g == wanted {
			ids = append(ids, g.role)
		}
	}
	return s.list(c, "roles", pick(s, s.roleKind(), ids)), nil
}

// listAssignments is GET /v3/role_assignments.
func (s *Service) listAssignments(c *call) (any, *failure) {
	query := c.URL.Query()
	userID, groupID := query.Get("user.id"), query.Get("group.id")
	projectID, domainID, roleID := query.Get("scope.project.id"), query.Get("scope.domain.id"), query.Get("role.id")
	for _, part := range []struct {
		kind, id string
		found    bool
	}{
		{"user", userID, s.users.byID[userID] != nil}, {"project", projectID, s.projects.byID[projectID] != nil},
	} {
		if query.Has("effective") && part.id != "" && !part.found {
			return nil, notFound(part.kind, part.id)
		}
	}
	if query.Has("effective") && groupID != "" {
		return nil, badRequest("Combining effective and group filter will always result in an empty list.")
	}
	names := query.Has("include_names")
	list := []object{}
	for _, g := range s.assignments(query.Has("effective"), userID) {
		if (userID == "" || g.user == userID) && (groupID == "" || g.group == groupID) &&
			(projectID == "" || g.project == projectID) && (domainID == "" || g.domain == domainID) &&
			(roleID == "" || g.role == roleID) && (!query.Has("scope.system") || query.Has("effective") || g.system) {
			list = append(list, s.assignmentView(g, names))
		}
	}
	return object{"role_assignments": list, "links": object{"self": s.url + "/role_assignments",
		"previous": nil, "next": nil}}, nil
}

// assignments lists them as they were given, or as they count. Keystone leaves
// those in the system out of the latter.
func (s *Service) assignments(effectiveOnes bool, userID string) []grant {
	if !effectiveOnes {
		return s.grants
	}
	var list []grant
	for _, e := range s.effectiveGrants(userID) {
		if e.scope.system {
			continue
		}
		list = append(list, grant{user: e.user, project: e.scope.project, domain: e.scope.domain,
			role: e.role, inherited: e.inherited})
	}
	return list
}

func (s *Service) assignmentView(g grant, names bool) object {
	place := object{}
	switch {
	case g.project != "":
		entry := object{"id": g.project}
		if p := s.projects.byID[g.project]; names && p != nil {
			entry["name"], entry["domain"] = p.Name, s.brief(p.DomainID)
		}
		place["project"] = entry
	case g.domain != "":
		entry := object{"id": g.domain}
		if names {
			entry = s.brief(g.domain)
		}
		place["domain"] = entry
	default:
		place["system"] = object{"all": true}
	}
	if g.inherited {
		place["OS-INHERIT:inherited_to"] = "projects"
	}
	held := object{"id": g.role}
	if names {
		held["name"] = s.roles.byID[g.role].Name
	}
	view := object{"scope": place, "role": held, "links": object{}}
	if g.user != "" {
		entry := object{"id": g.user}
		if u := s.users.byID[g.user]; names && u != nil {
			entry["name"], entry["domain"] = u.Name, s.brief(u.DomainID)
		}
		view["user"] = entry
	} else {
		entry := object{"id": g.group}
		if other := s.groups.byID[g.group]; names && other != nil {
			entry["name"], entry["domain"] = other.Name, s.brief(other.DomainID)
		}
		view["group"] = entry
	}
	return view
}

func (s *Service) inference(prior string) object {
	implies := []object{}
	for _, id := range s.implied[prior] {
		implies = append(implies, s.roleBrief(id))
	}
	return object{"prior_role": s.roleBrief(prior), "implies": implies}
}

func (s *Service) roleBrief(id string) object {
	o := object{"id": id, "links": object{"self": s.url + "/roles/" + id}}
	if r, ok := s.roles.get(id); ok {
		o["name"] = r.Name
	}
	return o
}

func (s *Service) listInferences(*call) (any, *failure) {
	list := []object{}
	for _, id := range s.roles.order {
		if len(s.implied[id]) > 0 {
			list = append(list, s.inference(id))
		}
	}
	return object{"role_inferences": list, "links": object{"self": s.url + "/role_inferences"}}, nil
}

func (s *Service) imply(c *call) (any, *failure) {
	prior, next := c.PathValue("role"), c.PathValue("implied")
	for _, id := range []string{prior, next} {
		if _, ok := s.roles.get(id); !ok {
			return nil, notFound("role", id)
		}
	}
	if !slices.Contains(s.implied[prior], next) {
		s.implied[prior] = append(s.implied[prior], next)
	}
	return s.showImplied(c)
}

func (s *Service) showImplied(c *call) (any, *failure) {
	prior, next := c.PathValue("role"), c.PathValue("implied")
	if !slices.Contains(s.implied[prior], next) {
		return nil, notFound("implied role", next)
	}
	return object{"role_inference": object{"prior_role": s.roleBrief(prior), "implies": s.roleBrief(next)}}, nil
}

func (s *Service) deleteImplied(c *call) (any, *failure) {
	prior, next := c.PathValue("role"), c.PathValue("implied")
	if !slices.Contains(s.implied[prior], next) {
		return nil, notFound("implied role", next)
	}
	s.implied[prior] = slices.DeleteFunc(slices.Clone(s.implied[prior]), func(r string) bool { return r == next })
	return nil, nil
}
