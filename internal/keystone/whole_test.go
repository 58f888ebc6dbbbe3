// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/muster-cloud/muster/internal/keystone"
)

// wholeLists is a scenario: what a comparison asks of Keystone.
func wholeLists(t *testing.T, w *world) {
	ctx := t.Context()
	w.grant(t, "tester")
	w.withoutRights(t)
	group := w.create(t, "group", object{"name": "listed-" + w.user, "domain_id": "default"})
	w.do(t, "PUT", "/groups/"+group+"/users/"+w.user)
	w.do(t, "PUT", "/projects/"+w.project+"/groups/"+group+"/roles/"+w.roles["member"])
	if err := w.client.CheckRights(ctx); err != nil {
		t.Errorf("rights of an administrator: %v", err)
	}
	domains, err := w.client.Domains(ctx)
	if err != nil || !slices.Contains(domains, keystone.Domain{ID: "default", Name: "Default", Enabled: true}) {
		t.Errorf("domains: %v, %v", domains, err)
	}
	disabled := w.create(t, "project", object{"name": "disabled-" + w.user, "domain_id": "default"})
	w.enable(t, "project", disabled, false)
	var project keystone.Project
	if err := w.client.EachProject(ctx, "", func(p keystone.Project) error {
		if p.ID == disabled {
			project = p
		}
		return nil
	}); err != nil || project.ID == "" || project.Enabled || project.DomainID != "default" {
		t.Errorf("project: %+v, %v", project, err)
	}
	var user keystone.User
	if err := w.client.EachUser(ctx, "default", func(u keystone.User) error {
		if u.ID == w.user {
			user = u
		}
		return nil
	}); err != nil || user.ID == "" || !user.Enabled {
		t.Errorf("user: %+v, %v", user, err)
	}
	var roles []string
	if err := w.client.EachAssignment(ctx, func(a keystone.Assignment) error {
		if a.UserID == w.user && a.ProjectID == w.project {
			roles = append(roles, a.Role)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	slices.Sort(roles)
	if roles = slices.Compact(roles); !slices.Equal(roles, []string{"member", "reader", "tester"}) {
		t.Errorf("roles: %v", roles)
	}
	projects, everywhere, err := w.client.GroupProjects(ctx, group)
	if err != nil || everywhere || !slices.Equal(projects, []string{w.project}) {
		t.Errorf("projects of the group: %v, %v, %v", projects, everywhere, err)
	}
	w.do(t, "DELETE", "/groups/"+group)
	if projects, everywhere, err := w.client.GroupProjects(ctx, group); err != nil || everywhere || len(projects) != 0 {
		t.Errorf("projects of a group that is gone: %v, %v, %v", projects, everywhere, err)
	}
}

// withoutRights logs in as the scenario's user, who administers nothing.
func (w *world) withoutRights(t *testing.T) {
	t.Helper()
	plain, err := keystone.New(keystone.Config{AuthURL: w.url, UserID: w.user, Password: "secret", ProjectID: w.project})
	if err != nil {
		t.Fatal(err)
	}
	if err := plain.CheckRights(t.Context()); !errors.Is(err, keystone.ErrForbidden) {
		t.Errorf("rights of a plain user: %v", err)
	}
	for _, id := range []string{"0123456789abcdef0123456789abcdef", w.project} {
		if _, err := plain.Domain(t.Context(), id); !errors.Is(err, keystone.ErrForbidden) {
			t.Errorf("a domain asked for without rights: %v", err)
		}
	}
	if _, err := plain.User(t.Context(), "0123456789abcdef0123456789abcdef"); !errors.Is(err, keystone.ErrForbidden) {
		t.Errorf("a user who does not exist, asked for without rights: %v", err)
	}
}
