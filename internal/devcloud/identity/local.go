// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"fmt"
	"time"
)

// The methods here do without HTTP what an administrator does with it.

// CreateProject makes an enabled project in domain Default and returns its ID.
func (s *Service) CreateProject(name string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := newID()
	return id, asError(create(s, s.projectKind(), id, attributes{Name: &name, DomainID: new(defaultDomain)}))
}

// CreateUser makes an enabled user in domain Default and returns its ID.
func (s *Service) CreateUser(name, password string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := newID()
	return id, asError(create(s, s.userKind(), id,
		attributes{Name: &name, Password: &password, DomainID: new(defaultDomain)}))
}

// asError keeps a nil *failure from becoming an error that is not nil.
func asError(fail *failure) error {
	if fail == nil {
		return nil
	}
	return fail
}

// UserID returns the ID of the user with this name in domain Default, or "".
func (s *Service) UserID(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users.find(func(u *user) bool { return u.Name == name && u.DomainID == defaultDomain })
}

// ProjectID returns the ID of the project with this name in domain Default, or "".
func (s *Service) ProjectID(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.projects.find(func(p *project) bool { return p.Name == name && p.DomainID == defaultDomain })
}

// RoleID returns the ID of the role with this name, or "".
func (s *Service) RoleID(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roleNamed(name)
}

func (s *Service) roleNamed(name string) string {
	return s.roles.find(func(r *role) bool { return r.Name == name && r.DomainID == "" })
}

// Password is the password of the user with this name in domain Default, or "".
func (s *Service) Password(name string) string {
	id := s.UserID(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.users.get(id); ok {
		return u.password
	}
	return ""
}

// Grant gives the user a role in the project. The role is made if there is none.
func (s *Service) Grant(userID, projectID, roleName string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users.byID[userID] == nil || s.projects.byID[projectID] == nil {
		return errors.New("no such user or project")
	}
	id := s.roleNamed(roleName)
	if id == "" {
		id = newID()
		s.roles.add(id, &role{Name: roleName})
	}
	given := grant{user: userID, project: projectID, role: id}
	s.addGrant(given)
	s.announceGrant("created", given)
	return nil
}

// Ungrant takes what Grant gave.
func (s *Service) Ungrant(userID, projectID, roleName string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := grant{user: userID, project: projectID, role: s.roleNamed(roleName)}
	before := len(s.grants)
	s.dropGrants(func(g grant) bool { return g == gone })
	if len(s.grants) == before {
		return fmt.Errorf("the user does not have role %q in the project", roleName)
	}
	s.announceGrant("deleted", gone)
	return nil
}

// Token logs a user of domain Default in and returns a token for the project of
// that name there. An empty name gives a token without scope.
func (s *Service) Token(userName, password, projectName string) (string, error) {
	userID, projectID := s.UserID(userName), s.ProjectID(projectName)
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.users.get(userID)
	if !ok || !same(u.password, password) || projectName != "" && projectID == "" {
		return "", unauthorized()
	}
	t := s.newToken([]string{"password"})
	t.userID, t.scope, t.epoch = userID, scope{project: projectID}, u.epoch
	return t.id, asError(s.keep(t))
}

// TokenOf returns a token of a user for a project, as a login by password does.
func (s *Service) TokenOf(userID, projectID string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.users.get(userID)
	if !ok {
		return "", notFound("user", userID)
	}
	t := s.newToken([]string{"password"})
	t.userID, t.scope, t.epoch = userID, scope{project: projectID}, u.epoch
	return t.id, asError(s.keep(t))
}

// MapIntoGroup makes the user a member of the group for a while, as a mapping
// does where the identity provider has an authorization_ttl: lists of all
// assignments don't show what that gives.
func (s *Service) MapIntoGroup(userID, groupID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.groups.get(groupID)
	if !ok {
		return notFound("group", groupID)
	}
	g.mapped = append(g.mapped, userID)
	return nil
}

// FederatedToken returns a token for a project of a user whom an identity
// provider knows and a mapping has put in the groups.
func (s *Service) FederatedToken(userID, projectID string, groupIDs ...string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.users.get(userID)
	if !ok {
		return "", notFound("user", userID)
	}
	t := s.newToken([]string{"token", "openid"})
	t.userID, t.scope, t.epoch = userID, scope{project: projectID}, u.epoch
	t.federated, t.groups = true, groupIDs
	return t.id, asError(s.keep(t))
}

// RevokeToken ends a token.
func (s *Service) RevokeToken(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, id)
}

// ExpireToken makes a token one that has expired.
func (s *Service) ExpireToken(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.tokens[id]; ok {
		t.expires = s.now().Add(-time.Second)
	}
}

// EnableUser sets whether the user is enabled. Disabling ends the user's tokens.
func (s *Service) EnableUser(id string, enabled bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.users.get(id)
	if !ok {
		return notFound("user", id)
	}
	s.userKind().fill(u, attributes{Enabled: &enabled})
	s.announce("user", "updated", id)
	return nil
}

// EnableProject sets whether the project is enabled.
func (s *Service) EnableProject(id string, enabled bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.projects.get(id)
	if !ok {
		return notFound("project", id)
	}
	p.Enabled = enabled
	s.announce("project", "updated", id)
	return nil
}

// DeleteUser removes the user and what was granted to it.
func (s *Service) DeleteUser(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return asError(destroy(s, s.userKind(), id))
}

// DeleteProject removes the project and what was granted in it.
func (s *Service) DeleteProject(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return asError(destroy(s, s.projectKind(), id))
}

// Caller is who holds a token, for the other services of the cloud.
type Caller struct {
	UserID, ProjectID string
	Roles             []string
}

// Caller tells who holds the token; false if it is not valid.
func (s *Service) Caller(id string) (Caller, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.valid(id)
	if t == nil {
		return Caller{}, false
	}
	return Caller{UserID: s.holder(t), ProjectID: t.scope.project, Roles: append([]string{}, t.names...)}, true
}

// RoleNames are the names of the roles that the user has in the project.
func (s *Service) RoleNames(userID, projectID string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, id := range s.heldIn(userID, scope{project: projectID}) {
		names = append(names, s.roles.byID[id].Name)
	}
	return names
}
