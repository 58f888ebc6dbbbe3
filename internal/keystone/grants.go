// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// projectRoleTime is how old an answer about the grants in a project may be.
const projectRoleTime = 30 * time.Second

// maxDepth bounds the way up from a project; Keystone's own limit
// (max_project_tree_depth) is 5 by default.
const maxDepth = 32

// projectGrants are the roles that are granted in a project, there or above it.
type projectGrants struct {
	subject subject
	names   []string            // of all roles, with those that they imply
	groups  map[string][]string // of those that a group has
}

// ProjectRoles returns the sorted names of the roles that are granted to
// anybody in the project: to a user or a group, there or inherited, and those
// that they imply. A group counts whoever is in it, for Keystone does not list
// whom a mapping puts there. The answer may be 30 s old, unless
// ForgetProjectRoles was called since, and the name of a role that was renamed
// another 30 s.
// Errors: ErrUnavailable, ErrForbidden, or that of ctx.
//
// Keystone is asked for the assignments as they were made: to have them
// expanded (effective) costs it a look at each user, and leaves out the groups
// that only a mapping fills.
func (c *Client) ProjectRoles(ctx context.Context, projectID string) ([]string, error) {
	granted, err := c.projectGrants(ctx, projectID)
	return slices.Clone(granted.names), err
}

// GrantedGroups returns those of the groups that have a role in the project,
// there or inherited. The answer is as old as that of ProjectRoles.
// Errors: ErrUnavailable, ErrForbidden, or that of ctx.
func (c *Client) GrantedGroups(ctx context.Context, projectID string, groupIDs []string) ([]string, error) {
	if len(groupIDs) == 0 {
		return nil, nil
	}
	granted, err := c.projectGrants(ctx, projectID)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, id := range groupIDs {
		if len(granted.groups[id]) > 0 {
			found = append(found, id)
		}
	}
	return found, nil
}

func (c *Client) projectGrants(ctx context.Context, projectID string) (projectGrants, error) {
	if !validID(projectID) {
		return projectGrants{}, nil
	}
	return c.granted.get(ctx, projectID, func(ctx context.Context) (projectGrants, time.Time, error) {
		until := c.now().Add(projectRoleTime)
		none := projectGrants{subject: subject{project: projectID, held: projectID}}
		queries, err := c.placesAbove(ctx, projectID)
		if errors.Is(err, ErrNotFound) {
			return none, until, nil
		}
		if err != nil {
			return none, time.Time{}, err
		}
		given, err := c.assignments(ctx, queries)
		if err != nil {
			return none, time.Time{}, err
		}
		found, err := c.named(ctx, given)
		found.subject = none.subject
		return found, until, err
	})
}

// placesAbove are the queries for all assignments that count in a project:
// those in it, and those that it inherits from its domain and the projects
// above it.
func (c *Client) placesAbove(ctx context.Context, projectID string) (queries []url.Values, err error) {
	project, err := c.Project(ctx, projectID)
	if err != nil {
		return nil, err
	}
	queries = []url.Values{{"scope.project.id": {projectID}},
		{"scope.domain.id": {project.DomainID}, "scope.OS-INHERIT:inherited_to": {"projects"}}}
	for range maxDepth {
		if project.ParentID == "" || project.ParentID == project.DomainID {
			return queries, nil
		}
		if project, err = c.Project(ctx, project.ParentID); err != nil {
			return nil, err
		}
		queries = append(queries, url.Values{"scope.project.id": {project.ID}, "scope.OS-INHERIT:inherited_to": {"projects"}})
	}
	return nil, &UnavailableError{RetryAfter: maxRetryAfter, Err: errors.New("the projects above a project do not end")}
}

// assignments are those that the queries find and that count in the project of
// the first.
func (c *Client) assignments(ctx context.Context, queries []url.Values) ([]assigned, error) {
	answers := make([]struct {
		Assignments []assigned `json:"role_assignments"`
	}, len(queries))
	group, together := errgroup.WithContext(ctx)
	for i, query := range queries {
		group.Go(func() error {
			err := c.session.get(together, "list role assignments", "role_assignments?"+query.Encode(), nil, &answers[i])
			if errors.Is(err, ErrNotFound) { // the place went meanwhile
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var given []assigned
	for i, answer := range answers {
		for _, one := range answer.Assignments {
			if own := i == 0; own == (one.Scope.Inherited == "") {
				given = append(given, one)
			}
		}
	}
	return given, nil
}

// named finds out the names of the roles, and those that they imply.
func (c *Client) named(ctx context.Context, given []assigned) (projectGrants, error) {
	all, groups := map[string]bool{}, map[string]map[string]bool{}
	for _, one := range given {
		names, err := c.withImplied(ctx, one.Role.ID)
		if err != nil {
			return projectGrants{}, err
		}
		for _, name := range names {
			all[name] = true
			if id := one.Group.ID; id != "" {
				if groups[id] == nil {
					groups[id] = map[string]bool{}
				}
				groups[id][name] = true
			}
		}
	}
	found := projectGrants{names: slices.Sorted(maps.Keys(all)), groups: map[string][]string{}}
	for id, names := range groups {
		found.groups[id] = slices.Sorted(maps.Keys(names))
	}
	return found, nil
}

// withImplied returns the names of a role and of all that it implies, however
// far. Roles of a domain, which stand in no token, have none.
func (c *Client) withImplied(ctx context.Context, roleID string) (names []string, err error) {
	byID, err := c.roleNames(ctx)
	if err != nil {
		return nil, err
	}
	implied, err := c.implied(ctx)
	if err != nil {
		return nil, err
	}
	all := []string{roleID}
	for i := 0; i < len(all); i++ {
		for _, next := range implied[all[i]] {
			if !slices.Contains(all, next) {
				all = append(all, next)
			}
		}
		name, err := c.roleName(ctx, byID, all[i])
		if err != nil && !errors.Is(err, ErrNotFound) { // not found: deleted meanwhile
			return nil, err
		}
		if name != "" {
			names = append(names, name)
		}
	}
	return names, nil
}

// implied maps the IDs of roles to those that they imply by themselves.
func (c *Client) implied(ctx context.Context) (map[string][]string, error) {
	return c.inferences.get(ctx, "", func(ctx context.Context) (map[string][]string, time.Time, error) {
		until := c.now().Add(projectRoleTime)
		var body struct {
			Inferences []struct {
				Prior   role   `json:"prior_role"`
				Implies []role `json:"implies"`
			} `json:"role_inferences"`
		}
		if err := c.session.get(ctx, "list implied roles", "role_inferences", nil, &body); err != nil {
			return nil, time.Time{}, unlessMissing(err)
		}
		implied := make(map[string][]string, len(body.Inferences))
		for _, rule := range body.Inferences {
			for _, next := range rule.Implies {
				implied[rule.Prior.ID] = append(implied[rule.Prior.ID], next.ID)
			}
		}
		return implied, until, nil
	})
}

// GroupGrant is what a group is granted: the names of a role and of those that
// it implies.
type GroupGrant struct {
	GroupID             string
	ProjectID, DomainID string // where; one of the two
	Inherited           bool   // it counts in the projects below, and not there
	Roles               []string
}

// EachGroupGrant calls do with everything that groups are granted in projects
// and domains: one request. Errors: as of EachProject.
func (c *Client) EachGroupGrant(ctx context.Context, do func(GroupGrant) error) error {
	return eachOf(ctx, c.session, "list role assignments", "role_assignments", nil, func(a assigned) error {
		if a.Group.ID == "" {
			return nil
		}
		names, err := c.withImplied(ctx, a.Role.ID)
		if err != nil {
			return err
		}
		return do(GroupGrant{GroupID: a.Group.ID, ProjectID: a.Scope.Project.ID, DomainID: a.Scope.Domain.ID,
			Inherited: a.Scope.Inherited != "", Roles: names})
	})
}
