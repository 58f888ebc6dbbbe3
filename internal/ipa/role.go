// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import "context"

// What FreeIPA lets somebody do is a chain: permissions are put into privileges, privileges into roles, and users, hosts
// and services are members of roles. The calls here make such a chain, for whom may make one: FreeIPA's administrators.

// Permission is a right to attributes of one type of entry.
type Permission struct {
	Name       string
	Rights     []string // "read", "search", "compare", "write", "add", "delete", "all"
	Type       string   // of entry: "host", "service", ...
	Attributes []string
}

// RoleMembers are who gets a role.
type RoleMembers struct {
	Users    []string
	Hosts    []string
	Services []string // principals "NAME/HOST"
}

// PermissionAdd adds a permission. DuplicateEntry: there is one of this name.
func PermissionAdd(p Permission) Command {
	return Command{name: "permission_add", args: []any{p.Name}, options: map[string]any{
		"ipapermright": p.Rights, "type": p.Type, "attrs": p.Attributes,
	}}
}

// PrivilegeAdd adds a privilege. DuplicateEntry: there is one of this name.
func PrivilegeAdd(name, description string) Command {
	return Command{name: "privilege_add", args: []any{name}, options: nonEmpty(map[string]string{"description": description})}
}

// PrivilegeAddPermission puts permissions into a privilege. The answer is Membership; use its Err.
func PrivilegeAddPermission(privilege string, permissions ...string) Command {
	return Command{name: "privilege_add_permission", args: []any{privilege}, options: map[string]any{"permission": permissions}, repeat: true}
}

// RoleAdd adds a role. DuplicateEntry: there is one of this name.
func RoleAdd(name, description string) Command {
	return Command{name: "role_add", args: []any{name}, options: nonEmpty(map[string]string{"description": description})}
}

// RoleAddPrivilege puts privileges into a role. The answer is Membership; use its Err.
func RoleAddPrivilege(role string, privileges ...string) Command {
	return Command{name: "role_add_privilege", args: []any{role}, options: map[string]any{"privilege": privileges}, repeat: true}
}

// RoleAddMember gives somebody a role. The answer is Membership; use its Err.
func RoleAddMember(role string, members RoleMembers) Command {
	options := map[string]any{}
	for kind, names := range map[string][]string{"user": members.Users, "host": members.Hosts, "service": members.Services} {
		if len(names) > 0 {
			options[kind] = names
		}
	}
	return Command{name: "role_add_member", args: []any{role}, options: options, repeat: true}
}

// PermissionAdd adds a permission.
func (c *Client) PermissionAdd(ctx context.Context, p Permission) error {
	_, err := c.call(ctx, PermissionAdd(p))
	return err
}

// PrivilegeAdd adds a privilege.
func (c *Client) PrivilegeAdd(ctx context.Context, name, description string) error {
	_, err := c.call(ctx, PrivilegeAdd(name, description))
	return err
}

// PrivilegeAddPermission puts permissions into a privilege. A *MemberError tells which of them now are not in it.
func (c *Client) PrivilegeAddPermission(ctx context.Context, privilege string, permissions ...string) error {
	return c.enlist(ctx, PrivilegeAddPermission(privilege, permissions...))
}

// RoleAdd adds a role.
func (c *Client) RoleAdd(ctx context.Context, name, description string) error {
	_, err := c.call(ctx, RoleAdd(name, description))
	return err
}

// RoleAddPrivilege puts privileges into a role. A *MemberError tells which of them now are not in it.
func (c *Client) RoleAddPrivilege(ctx context.Context, role string, privileges ...string) error {
	return c.enlist(ctx, RoleAddPrivilege(role, privileges...))
}

// RoleAddMember gives somebody a role. A *MemberError tells who now does not have it.
func (c *Client) RoleAddMember(ctx context.Context, role string, members RoleMembers) error {
	return c.enlist(ctx, RoleAddMember(role, members))
}

// enlist makes a call that adds or removes members.
func (c *Client) enlist(ctx context.Context, command Command) error {
	members, err := typed(ctx, c, command, decodeMembership)
	if err != nil {
		return err
	}
	return members.Err(command)
}
