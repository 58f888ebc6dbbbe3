// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package identity

// Service is a Keystone.
type Service struct{}

// CreateProject makes an enabled project in domain Default and returns its ID.
func (s *Service) CreateProject(name string) (string, error) { return "", nil }

// CreateUser makes an enabled user in domain Default and returns its ID.
func (s *Service) CreateUser(name, password string) (string, error) { return "", nil }

// UserID, ProjectID and RoleID return the ID of what has this name in domain Default, or "".
func (s *Service) UserID(name string) string    { return "" }
func (s *Service) ProjectID(name string) string { return "" }
func (s *Service) RoleID(name string) string    { return "" }

// Password is the password that the user was seeded or made with.
func (s *Service) Password(name string) string { return "" }

// Grant gives the user a role (made if it is not there) in the project; Ungrant takes it.
func (s *Service) Grant(userID, projectID, role string) error   { return nil }
func (s *Service) Ungrant(userID, projectID, role string) error { return nil }

// Token logs the user in and returns a token for the project, by names in domain Default.
// An empty project gives an unscoped token.
func (s *Service) Token(user, password, project string) (string, error) { return "", nil }

// RevokeToken ends a token.
func (s *Service) RevokeToken(token string) {}

// EnableUser and EnableProject set whether the user or project is enabled.
func (s *Service) EnableUser(id string, enabled bool) error    { return nil }
func (s *Service) EnableProject(id string, enabled bool) error { return nil }

// DeleteUser and DeleteProject remove it with its role assignments.
func (s *Service) DeleteUser(id string) error    { return nil }
func (s *Service) DeleteProject(id string) error { return nil }
