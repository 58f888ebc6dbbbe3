// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"context"
	"maps"
	"net/http"
	"net/url"
)

// identified is an answer that holds one entity with an ID.
type identified map[string]struct{ ID string }

// Create makes an entity of Keystone ("project", "group") and returns its ID.
// Without a domain_id it is in the domain default, if it is of a domain at all.
func (s *Session) Create(ctx context.Context, kind string, fields map[string]any) (string, error) {
	all := object{}
	if kind == "project" || kind == "user" || kind == "group" {
		all["domain_id"] = "default"
	}
	maps.Copy(all, fields)
	var made identified
	err := s.Call(ctx, "identity", http.MethodPost, "/"+kind+"s", object{kind: all}, &made)
	return made[kind].ID, err
}

// Find returns the ID of the entity of that kind ("project", "role") and name;
// empty: there is none.
func (s *Session) Find(ctx context.Context, kind, name string) (string, error) {
	var found map[string]any
	if err := s.Call(ctx, "identity", http.MethodGet, "/"+kind+"s?name="+url.QueryEscape(name), nil, &found); err != nil {
		return "", err
	}
	list, _ := found[kind+"s"].([]any)
	for _, one := range list {
		fields, _ := one.(object)
		if id, ok := fields["id"].(string); ok && fields["name"] == name {
			return id, nil
		}
	}
	return "", nil
}

// Delete removes an entity of Keystone.
func (s *Session) Delete(ctx context.Context, kind, id string) error {
	return s.Call(ctx, "identity", http.MethodDelete, "/"+kind+"s/"+id, nil, nil)
}

// Change sets fields of an entity of Keystone, such as {"enabled": false}.
func (s *Session) Change(ctx context.Context, kind, id string, fields map[string]any) error {
	return s.Call(ctx, "identity", http.MethodPatch, "/"+kind+"s/"+id, object{kind: fields}, nil)
}

// Give gives a role, by the path of its assignment: Assignment or InheritedBy.
func (s *Session) Give(ctx context.Context, assignment string) error {
	return s.Call(ctx, "identity", http.MethodPut, assignment, nil, nil)
}

// Take takes what Give has given.
func (s *Session) Take(ctx context.Context, assignment string) error {
	return s.Call(ctx, "identity", http.MethodDelete, assignment, nil, nil)
}

// Assignment is the path of a role of an actor ("users" or "groups") on a
// target ("projects" or "domains").
func Assignment(actors, actor, targets, target, role string) string {
	return "/" + targets + "/" + target + "/" + actors + "/" + actor + "/roles/" + role
}

// InheritedBy is the path of a role that an actor has in all projects below
// the target.
func InheritedBy(actors, actor, targets, target, role string) string {
	return "/OS-INHERIT" + Assignment(actors, actor, targets, target, role) + "/inherited_to_projects"
}

// Implied is the path by which a role implies another.
func Implied(role, implied string) string { return "/roles/" + role + "/implies/" + implied }

// Membership is the path of a user's membership in a group.
func Membership(group, user string) string { return "/groups/" + group + "/users/" + user }
