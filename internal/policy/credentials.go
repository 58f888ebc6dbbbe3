// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package policy

import "maps"

// Target holds the attributes of what a call is about, for %(NAME)s in rules.
// Names are flat: %(role.name)s looks for the key "role.name". Values are
// text, numbers, bools or nil; any other makes the check that asks false.
type Target map[string]any

// Caller is who a Keystone token speaks for. Empty text means that the token
// says nothing about it.
type Caller struct {
	UserID, UserName, UserDomainID          string
	ProjectID, ProjectName, ProjectDomainID string // of a project-scoped token
	DomainID                                string // of a domain-scoped token
	SystemScope                             string // "all" of a system-scoped token
	Roles                                   []string
	IsAdminProject                          bool

	// The service that passed the request on, by its X-Service-Token.
	ServiceUserID, ServiceUserDomainID       string
	ServiceProjectID, ServiceProjectDomainID string
	ServiceRoles                             []string
}

// Credentials are a caller's attributes in the form that rules read. They do
// not change, and may be used for any number of calls at once.
type Credentials struct {
	values map[string]any
	roles  []string // lower-case
}

// Credentials returns the attributes that oslo.context's to_policy_values
// gives to rules, under the same names, and user_name, project_name, is_admin
// (has the role admin) and system (oslo.policy's own name for system_scope).
// What the token doesn't say is None, as it is there.
func (c Caller) Credentials() Credentials {
	creds := credentials(map[string]any{
		"user_id":                   orNone(c.UserID),
		"user_name":                 orNone(c.UserName),
		"user_domain_id":            orNone(c.UserDomainID),
		"project_id":                orNone(c.ProjectID),
		"project_name":              orNone(c.ProjectName),
		"project_domain_id":         orNone(c.ProjectDomainID),
		"domain_id":                 orNone(c.DomainID),
		"system_scope":              orNone(c.SystemScope),
		"is_admin_project":          c.IsAdminProject,
		"service_user_id":           orNone(c.ServiceUserID),
		"service_user_domain_id":    orNone(c.ServiceUserDomainID),
		"service_project_id":        orNone(c.ServiceProjectID),
		"service_project_domain_id": orNone(c.ServiceProjectDomainID),
		"service_roles":             c.ServiceRoles,
		"roles":                     c.Roles,
	})
	isAdmin := false
	for _, role := range creds.roles {
		isAdmin = isAdmin || role == "admin"
	}
	creds.values["is_admin"] = isAdmin
	return creds
}

// NewCredentials takes attributes as they are, with the role names under
// "roles" ([]string, or []any holding text). Values may be text, numbers,
// bools, nil, []any, []string and map[string]any; they must not change later.
func NewCredentials(values map[string]any) Credentials {
	if values == nil {
		return Credentials{}
	}
	return credentials(maps.Clone(values))
}

// credentials is NewCredentials on a map that it may keep.
func credentials(values map[string]any) Credentials {
	creds := Credentials{values: values}
	if scope := creds.values["system_scope"]; scope != nil && scope != "" {
		creds.values["system"] = scope
	}
	switch roles := values["roles"].(type) {
	case []string:
		for _, role := range roles {
			creds.roles = append(creds.roles, lower(role))
		}
	case []any:
		for _, role := range roles {
			if name, ok := role.(string); ok {
				creds.roles = append(creds.roles, lower(name))
			}
		}
	}
	return creds
}

func orNone(s string) any {
	if s == "" {
		return nil
	}
	return s
}
