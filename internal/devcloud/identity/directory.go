// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
)

// attributes are the fields of all the kinds of things; nil is one not given.
type attributes struct {
	Name, Description, Password, Email *string
	DomainID                           *string `json:"domain_id"`
	ParentID                           *string `json:"parent_id"`
	DefaultProjectID                   *string `json:"default_project_id"`
	Enabled                            *bool
}

func set[T any](field *T, given *T) {
	if given != nil {
		*field = *given
	}
}

// kind is what users, projects, domains, groups and roles have in common.
type kind[T any] struct {
	name   string
	things *table[T]
	// view is the thing as Keystone shows it, without id and links.
	view func(*T) object
	// fill sets what the attributes give.
	fill func(*T, attributes)
	// mayRemove refuses to have a thing deleted that others still need; nil: any may be.
	mayRemove func(id string) *failure
	// remove undoes what hangs on the thing; nil: nothing does.
	remove func(id string)
	// mayShow tells who may look at the thing, beside an admin; nil: nobody.
	mayShow func(c *call, id string) bool
}

// serve registers the five usual calls of a kind.
func serve[T any](s *Service, k kind[T]) {
	path := "/v3/" + k.name + "s"
	show := func(c *call) bool { return c.isAdmin() || k.mayShow != nil && k.mayShow(c, c.PathValue("id")) }
	s.route("GET "+path, "list_"+k.name+"s", http.StatusOK, (*call).isAdmin, func(c *call) (any, *failure) {
		return s.list(c, k.name+"s", all(s, k)), nil
	})
	s.route("GET "+path+"/{id}", "get_"+k.name, http.StatusOK, show, func(c *call) (any, *failure) {
		if d, ok := s.domains.get(c.PathValue("id")); ok && k.name == "project" {
			return object{"project": s.linked("project", c.PathValue("id"), domainAsProject(d))}, nil
		}
		return present(s, k, c.PathValue("id"))
	})
	s.route("POST "+path, "create_"+k.name, http.StatusCreated, (*call).isAdmin, func(c *call) (any, *failure) {
		var body map[string]attributes
		if fail := c.decode(&body); fail != nil {
			return nil, fail
		}
		given := body[k.name]
		if given.Name == nil || *given.Name == "" {
			return nil, badRequest("'name' is a required property")
		}
		if given.DomainID == nil && k.name != "role" {
			given.DomainID = new(cmp.Or(c.token.scope.domain, defaultDomain))
		}
		id := newID()
		if fail := create(s, k, id, given); fail != nil {
			return nil, fail
		}
		return present(s, k, id)
	})
	s.route("PATCH "+path+"/{id}", "update_"+k.name, http.StatusOK, (*call).isAdmin, func(c *call) (any, *failure) {
		thing, ok := k.things.get(c.PathValue("id"))
		if !ok {
			return nil, notFound(k.name, c.PathValue("id"))
		}
		var body map[string]attributes
		if fail := c.decode(&body); fail != nil {
			return nil, fail
		}
		k.fill(thing, body[k.name])
		s.announce(k.name, "updated", c.PathValue("id"))
		return present(s, k, c.PathValue("id"))
	})
	s.route("DELETE "+path+"/{id}", "delete_"+k.name, http.StatusNoContent, (*call).isAdmin,
		func(c *call) (any, *failure) { return nil, destroy(s, k, c.PathValue("id")) })
}

func create[T any](s *Service, k kind[T], id string, given attributes) *failure {
	thing := new(T)
	k.fill(thing, given)
	view := k.view(thing)
	twin := k.things.find(func(other *T) bool {
		o := k.view(other)
		return o["name"] == view["name"] && o["domain_id"] == view["domain_id"]
	})
	if twin != "" {
		return conflict(k.name, *given.Name)
	}
	if in, ok := view["domain_id"].(string); ok {
		if _, ok := s.domains.get(in); !ok {
			return notFound("domain", in)
		}
	}
	k.things.add(id, thing)
	s.announce(k.name, "created", id)
	return nil
}

func destroy[T any](s *Service, k kind[T], id string) *failure {
	if _, ok := k.things.get(id); !ok {
		return notFound(k.name, id)
	}
	if k.mayRemove != nil {
		if fail := k.mayRemove(id); fail != nil {
			return fail
		}
	}
	if k.remove != nil {
		k.remove(id)
	}
	k.things.remove(id)
	s.announce(k.name, "deleted", id)
	return nil
}

func present[T any](s *Service, k kind[T], id string) (any, *failure) {
	thing, ok := k.things.get(id)
	if !ok {
		return nil, notFound(k.name, id)
	}
	return object{k.name: s.linked(k.name, id, k.view(thing))}, nil
}

func all[T any](s *Service, k kind[T]) []object {
	views := []object{}
	for _, id := range k.things.order {
		views = append(views, s.linked(k.name, id, k.view(k.things.byID[id])))
	}
	return views
}

// pick returns the views of the things with these IDs.
func pick[T any](s *Service, k kind[T], ids []string) []object {
	return slices.DeleteFunc(all(s, k), func(o object) bool { return !slices.Contains(ids, o["id"].(string)) })
}

func (s *Service) linked(kind, id string, view object) object {
	view["id"] = id
	view["links"] = object{"self": s.url + "/" + kind + "s/" + id}
	return view
}

// list wraps views in Keystone's form, without those that the query filters out.
func (s *Service) list(c *call, plural string, views []object) object {
	for _, filter := range []string{"name", "domain_id", "enabled", "parent_id", "is_domain"} {
		if wanted := c.URL.Query().Get(filter); wanted != "" {
			views = slices.DeleteFunc(views, func(o object) bool { return !sameValue(o[filter], wanted) })
		}
	}
	return object{plural: views, "links": object{"self": s.url + "/" + plural, "previous": nil, "next": nil}}
}

func sameValue(value any, wanted string) bool {
	if b, ok := value.(bool); ok {
		return b == !slices.Contains([]string{"false", "False", "0"}, wanted)
	}
	return value != nil && fmt.Sprint(value) == wanted
}

func (s *Service) userKind() kind[user] {
	return kind[user]{name: "user", things: &s.users,
		view: func(u *user) object {
			o := object{"name": u.Name, "domain_id": u.DomainID, "enabled": u.Enabled, "password_expires_at": nil, "options": object{}}
			for field, value := range map[string]string{"description": u.Description, "email": u.Email,
				"default_project_id": u.DefaultProjectID} {
				if value != "" {
					o[field] = value
				}
			}
			return o
		},
		fill: func(u *user, a attributes) {
			if u.Name == "" {
				u.Enabled = true
			}
			set(&u.Name, a.Name)
			set(&u.Description, a.Description)
			set(&u.Email, a.Email)
			set(&u.DomainID, a.DomainID)
			set(&u.DefaultProjectID, a.DefaultProjectID)
			set(&u.Enabled, a.Enabled)
			set(&u.password, a.Password)
			if a.Password != nil || !u.Enabled {
				u.epoch++
			}
		},
		remove: func(id string) {
			for _, group := range s.groups.byID {
				group.members = slices.DeleteFunc(group.members, func(m string) bool { return m == id })
			}
			for _, cred := range slices.Clone(s.creds.order) {
				if s.creds.byID[cred].UserID == id {
					s.creds.remove(cred)
					s.announce("application_credential", "deleted", cred)
				}
			}
			for _, lent := range slices.Clone(s.trusts.order) {
				if one, ok := s.trusts.get(lent); ok && (one.giver == id || one.taker == id) {
					s.deleteTrust(lent)
				}
			}
			s.dropGrants(func(g grant) bool { return g.user == id })
		},
		mayShow: func(c *call, id string) bool { return c.token.userID == id },
	}
}

func (s *Service) projectKind() kind[project] {
	return kind[project]{name: "project", things: &s.projects,
		view: func(p *project) object {
			return object{"name": p.Name, "domain_id": p.DomainID, "description": p.Description, "enabled": p.Enabled,
				"parent_id": p.ParentID, "is_domain": false, "tags": []string{}, "options": object{}}
		},
		fill: func(p *project, a attributes) {
			if p.Name == "" {
				p.Enabled = true
			}
			set(&p.Name, a.Name)
			set(&p.Description, a.Description)
			set(&p.DomainID, a.DomainID)
			set(&p.Enabled, a.Enabled)
			set(&p.ParentID, a.ParentID)
			p.ParentID = cmp.Or(p.ParentID, p.DomainID)
		},
		mayRemove: func(id string) *failure {
			if s.projects.find(func(below *project) bool { return below.ParentID == id }) == "" {
				return nil
			}
			return &failure{http.StatusForbidden, "Cannot delete the project " + id + " since it is not a leaf in the hierarchy. " +
				"Use the cascade option if you want to delete a whole subtree."}
		},
		remove:  func(id string) { s.dropGrants(func(g grant) bool { return g.project == id }) },
		mayShow: func(c *call, id string) bool { return c.token.scope.project == id },
	}
}

func (s *Service) domainKind() kind[domain] {
	return kind[domain]{name: "domain", things: &s.domains,
		view: func(d *domain) object {
			return object{"name": d.Name, "description": d.Description, "enabled": d.Enabled,
				"tags": []string{}, "options": object{}}
		},
		fill: func(d *domain, a attributes) {
			if d.Name == "" {
				d.Enabled = true
			}
			set(&d.Name, a.Name)
			set(&d.Description, a.Description)
			set(&d.Enabled, a.Enabled)
		},
		mayRemove: func(id string) *failure {
			if !s.domains.byID[id].Enabled {
				return nil
			}
			return &failure{http.StatusForbidden, "Cannot delete a domain that is enabled, please disable it first."}
		},
		remove:  s.emptyDomain,
		mayShow: func(c *call, id string) bool { return c.token.scope.domain == id },
	}
}

// domainAsProject is how Keystone, which keeps domains among the projects, shows
// one to whoever asks for a project by its ID.
func domainAsProject(d *domain) object {
	return object{"name": d.Name, "domain_id": nil, "description": d.Description, "enabled": d.Enabled,
		"parent_id": nil, "is_domain": true, "tags": []string{}, "options": object{}}
}

// emptyDomain deletes what is in a domain, as Keystone does before it deletes
// the domain: projects, those below others first, then groups, then users.
func (s *Service) emptyDomain(id string) {
	for _, project := range slices.Backward(slices.Clone(s.projects.order)) {
		if s.projects.byID[project].DomainID == id {
			_ = destroy(s, s.projectKind(), project) // nothing is below it any more
		}
	}
	for _, group := range slices.Clone(s.groups.order) {
		if s.groups.byID[group].DomainID == id {
			_ = destroy(s, s.groupKind(), group)
		}
	}
	for _, user := range slices.Clone(s.users.order) {
		if s.users.byID[user].DomainID == id {
			_ = destroy(s, s.userKind(), user)
		}
	}
	s.dropGrants(func(g grant) bool { return g.domain == id })
}

func (s *Service) groupKind() kind[group] {
	return kind[group]{name: "group", things: &s.groups,
		view: func(g *group) object {
			return object{"name": g.Name, "domain_id": g.DomainID, "description": g.Description}
		},
		fill: func(g *group, a attributes) {
			set(&g.Name, a.Name)
			set(&g.Description, a.Description)
			set(&g.DomainID, a.DomainID)
		},
		remove: func(id string) { s.dropGrants(func(g grant) bool { return g.group == id }) },
	}
}

func (s *Service) roleKind() kind[role] {
	return kind[role]{name: "role", things: &s.roles,
		view: func(r *role) object {
			o := object{"name": r.Name, "domain_id": nil, "description": nil, "options": object{}}
			if r.DomainID != "" {
				o["domain_id"] = r.DomainID
			}
			if r.Description != "" {
				o["description"] = r.Description
			}
			return o
		},
		fill: func(r *role, a attributes) {
			set(&r.Name, a.Name)
			set(&r.Description, a.Description)
			set(&r.DomainID, a.DomainID)
		},
		remove: func(id string) {
			delete(s.implied, id)
			for prior, next := range s.implied {
				s.implied[prior] = slices.DeleteFunc(next, func(r string) bool { return r == id })
			}
			s.dropGrants(func(g grant) bool { return g.role == id })
		},
	}
}
