// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa_test

import (
	"errors"
	"testing"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/ipa"
)

// TestGiveRole makes the chain from permission to member, and finds out that the right it gives is there.
func TestGiveRole(t *testing.T) {
	t.Parallel()
	const other = "other/undercloud.example.test"
	w := newWorld(t, freeipa.Config{Passwords: map[string]string{"admin": "admin-password", nova: "nova-password", other: "other-password"}})
	cfg := config(w)
	cfg.Password = &ipa.Password{User: other, Password: "other-password"}
	limited := newClient(t, cfg)
	cfg.Password = &ipa.Password{User: "admin", Password: "admin-password"}
	admin := newClient(t, cfg)
	ctx := t.Context()
	if _, err := limited.HostAdd(ctx, "a.example.test", ipa.HostAttributes{}); !errors.Is(err, ipa.ACIError) {
		t.Fatalf("without any right: %v", err)
	}
	must(t, w.AddHost("undercloud.example.test", ""))
	must(t, w.AddService(other))
	for range 2 {
		for _, err := range []error{
			admin.PermissionAdd(ctx, ipa.Permission{Name: "Add hosts", Rights: []string{"add"}, Type: "host", Attributes: []string{"fqdn"}}),
			admin.PrivilegeAdd(ctx, "Hosts", ""),
			admin.PrivilegeAddPermission(ctx, "Hosts", "Add hosts", "System: Add Hosts"),
			admin.RoleAdd(ctx, "Host adder", "adds hosts"),
			admin.RoleAddPrivilege(ctx, "Host adder", "Hosts"),
			admin.RoleAddMember(ctx, "Host adder", ipa.RoleMembers{Services: []string{other}}),
		} {
			if err != nil && !errors.Is(err, ipa.DuplicateEntry) {
				t.Fatal(err)
			}
		}
	}
	if _, err := limited.HostAdd(ctx, "a.example.test", ipa.HostAttributes{}); err != nil {
		t.Fatal(err)
	}
	var left *ipa.MemberError
	if err := admin.PrivilegeAddPermission(ctx, "Hosts", "System: No Such Thing"); !errors.As(err, &left) || left.Failed[0].Name != "System: No Such Thing" {
		t.Fatal(err)
	}
	if err := admin.RoleAddPrivilege(ctx, "No such role", "Hosts"); !errors.Is(err, ipa.NotFound) {
		t.Fatal(err)
	}
	if err := limited.RoleAdd(ctx, "Another", ""); !errors.Is(err, ipa.ACIError) {
		t.Fatal(err)
	}
}
