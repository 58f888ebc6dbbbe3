// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// heldRoles is what a user holds in a project, whoever of the two is enabled.
type heldRoles struct {
	subject subject
	names   []string
}

// EffectiveRoles returns the sorted names of the roles that the user has in the
// project: assigned, inherited, through groups, and implied. groupIDs are groups
// that the user is in beside those that Keystone knows of, by a mapping, as a
// token says. It is empty when the user, the project or a domain of theirs is
// disabled or gone. Errors: ErrUnavailable, ErrForbidden, or that of ctx.
//
// Keystone's role_assignments lists what is assigned to the disabled too, so
// the user, the project and their domains are looked at beside it.
func (c *Client) EffectiveRoles(ctx context.Context, userID, projectID string, groupIDs ...string) ([]string, error) {
	if !validID(userID) || !validID(projectID) {
		return nil, nil
	}
	var names []string
	var granted projectGrants
	var userOn, projectOn bool
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { names, err = c.assignedRoles(groupCtx, userID, projectID); return })
	group.Go(func() (err error) { userOn, err = c.userEnabled(groupCtx, userID); return })
	group.Go(func() (err error) { projectOn, err = c.projectEnabled(groupCtx, projectID); return })
	if len(groupIDs) > 0 {
		group.Go(func() (err error) { granted, err = c.projectGrants(groupCtx, projectID); return })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if !userOn || !projectOn {
		return nil, nil
	}
	names = slices.Clone(names)
	for _, id := range groupIDs {
		names = append(names, granted.groups[id]...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (c *Client) assignedRoles(ctx context.Context, userID, projectID string) ([]string, error) {
	who := subject{user: userID, project: projectID}
	held, err := c.roles.get(ctx, userID+" "+projectID, func(ctx context.Context) (heldRoles, time.Time, error) {
		until := c.now().Add(c.roleCacheTime)
		query := url.Values{"effective": {""}, "include_names": {""},
			"user.id": {userID}, "scope.project.id": {projectID}}
		var body assignmentsBody
		err := c.session.get(ctx, "list role assignments", "role_assignments?"+query.Encode(), nil, &body)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return heldRoles{}, time.Time{}, err
		}
		return heldRoles{who, body.names()}, until, nil
	})
	return held.names, err
}

func (c *Client) userEnabled(ctx context.Context, id string) (bool, error) {
	user, err := c.User(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil || !user.Enabled {
		return false, err
	}
	return c.domainEnabled(ctx, user.DomainID)
}

func (c *Client) projectEnabled(ctx context.Context, id string) (bool, error) {
	project, err := c.Project(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil || !project.Enabled {
		return false, err
	}
	return c.domainEnabled(ctx, project.DomainID)
}

func (c *Client) domainEnabled(ctx context.Context, id string) (bool, error) {
	domain, err := lookUp(ctx, c, c.domains, "domain", id)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return domain.Enabled, err
}

// roleName returns the name of one role; of a domain's own role, none. One that
// the list at hand lacks, because it is newer, or because Keystone gives only a
// part of the list (list_limit), is asked for by itself.
func (c *Client) roleName(ctx context.Context, byID map[string]string, id string) (string, error) {
	if name, listed := byID[id]; listed {
		return name, nil
	}
	one, err := lookUp(ctx, c, c.unlisted, "role", id)
	if one.DomainID != "" {
		return "", err
	}
	return one.Name, err
}

// roleNames maps the IDs of the cloud's roles to their names.
func (c *Client) roleNames(ctx context.Context) (map[string]string, error) {
	return c.names.get(ctx, "", func(ctx context.Context) (map[string]string, time.Time, error) {
		until := c.now().Add(projectRoleTime)
		var body struct{ Roles []role }
		if err := c.session.get(ctx, "list roles", "roles", nil, &body); err != nil {
			return nil, time.Time{}, err
		}
		names := make(map[string]string, len(body.Roles))
		for _, r := range body.Roles {
			names[r.ID] = r.Name
		}
		return names, until, nil
	})
}

// User returns the user with this ID.
// Errors: ErrNotFound, ErrUnavailable, ErrForbidden, or that of ctx.
func (c *Client) User(ctx context.Context, id string) (User, error) {
	user, err := lookUp(ctx, c, c.users, "user", id)
	return User{ID: user.ID, Name: user.Name, DomainID: user.DomainID, Enabled: user.Enabled}, err
}

// Project returns the project with this ID. A domain, which Keystone keeps among
// the projects and shows as one to whoever has its ID, is none: nothing runs in it.
// Errors: ErrNotFound, ErrUnavailable, ErrForbidden, or that of ctx.
func (c *Client) Project(ctx context.Context, id string) (Project, error) {
	project, err := lookUp(ctx, c, c.projects, "project", id)
	return Project(project), err
}

// entry is what users, projects and domains have in common.
type entry struct {
	ID, Name, DomainID string
	Enabled            bool
	ParentID           string
}

// lookUp asks GET /v3/KINDs/ID.
func lookUp(ctx context.Context, c *Client, kept *memo[entry], kind, id string) (entry, error) {
	if !validID(id) {
		return entry{}, ErrNotFound
	}
	return kept.get(ctx, id, func(ctx context.Context) (entry, time.Time, error) {
		until := c.now().Add(c.roleCacheTime)
		var body map[string]struct {
			ID       string `json:"id"`
			Name     string `json:"name"`
			DomainID string `json:"domain_id"`
			Enabled  *bool  `json:"enabled"`
			IsDomain bool   `json:"is_domain"`
			ParentID string `json:"parent_id"`
		}
		if err := c.session.get(ctx, "show "+kind, kind+"s/"+id, nil, &body); err != nil {
			return entry{}, time.Time{}, err
		}
		found := body[kind]
		if found.ID != id {
			return entry{}, time.Time{}, &UnavailableError{RetryAfter: usualRetryAfter,
				Err: errors.New("show " + kind + ": the answer is about something else")}
		}
		if found.IsDomain && kind == "project" {
			return entry{}, time.Time{}, ErrNotFound
		}
		// A backend that does not know of disabling leaves the field out.
		enabled := found.Enabled == nil || *found.Enabled
		return entry{ID: id, Name: found.Name, DomainID: found.DomainID, Enabled: enabled, ParentID: found.ParentID}, until, nil
	})
}

type role struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// assignmentsBody is the answer of GET /v3/role_assignments.
type assignmentsBody struct {
	Assignments []struct {
		Role role `json:"role"`
	} `json:"role_assignments"`
}

// names returns the sorted names of the assigned roles, each once.
func (b assignmentsBody) names() []string {
	names := make([]string, 0, 4)
	for _, assignment := range b.Assignments {
		if name := assignment.Role.Name; name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// validID tells whether id can be one of Keystone's, which are letters and
// digits (a few clouds have others from before, with - or _), so that it can
// stand in a path. Keystone's columns hold 64 characters.
func validID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
