// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"fmt"
	"strings"
)

func (d *directory) privilegeDN(p *privilege) string {
	return d.dn("cn="+p.cn, "cn=privileges", "cn=pbac")
}

func (d *directory) roleDN(r *role) string { return d.dn("cn="+r.cn, "cn=roles", "cn=accounts") }

func (d *directory) privilegeView(p *privilege) entry {
	e := entry{"cn": []string{p.cn}, "dn": d.privilegeDN(p)}
	if p.description != "" {
		e["description"] = []string{p.description}
	}
	if len(p.permissions) > 0 {
		e["memberof_permission"] = p.permissions
	}
	return e
}

func (c *call) privilegeAdd() (entry, *fail) {
	p := &privilege{cn: c.arg(0), description: text(c.options["description"])}
	if !c.isAdmin() {
		return nil, cannotAdd(c.dir.privilegeDN(p))
	}
	if c.dir.privileges[strings.ToLower(p.cn)] != nil {
		return nil, duplicateNamed("privilege", p.cn)
	}
	c.dir.privileges[strings.ToLower(p.cn)] = p
	result := c.dir.privilegeView(p)
	result["objectclass"] = []string{"nestedgroup", "groupofnames", "top"}
	return entry{"result": result, "value": p.cn, "summary": fmt.Sprintf("Added privilege \"%s\"", p.cn)}, nil
}

func (c *call) privilegeShow() (entry, *fail) {
	p := c.dir.privileges[strings.ToLower(c.arg(0))]
	if p == nil {
		return nil, notFound(c.arg(0) + ": privilege not found")
	}
	return entry{"result": c.dir.privilegeView(p), "value": p.cn, "summary": nil}, nil
}

func (c *call) privilegeAddPermission() (entry, *fail) {
	p := c.dir.privileges[strings.ToLower(c.arg(0))]
	if p == nil {
		return nil, notFound(c.arg(0) + ": privilege not found")
	}
	denied := c.deniedTo("", "", cannotWrite("member", c.dir.privilegeDN(p)))
	find := func(given string) (string, string, string) {
		if known := c.dir.permissions[strings.ToLower(given)]; known != nil {
			return known.cn, given, ""
		}
		// The server cuts its own message at the first colon, which such a name holds too.
		name, why, _ := strings.Cut(given+": permission not found", ": ")
		return "", name, why
	}
	permissions, completed, failed := enlist(p.permissions, texts(c.options["permission"]), denied, find)
	p.permissions = permissions
	return entry{
		"completed": completed, "failed": entry{"member": entry{"permission": failed}}, "result": c.dir.privilegeView(p),
	}, nil
}

func (d *directory) roleView(r *role) entry {
	e := entry{"cn": []string{r.cn}, "dn": d.roleDN(r)}
	if r.description != "" {
		e["description"] = []string{r.description}
	}
	for name, list := range map[string][]string{
		"memberof_privilege": r.privileges, "member_service": r.services, "member_user": r.users,
	} {
		if len(list) > 0 {
			e[name] = list
		}
	}
	return e
}

func (c *call) roleAdd() (entry, *fail) {
	r := &role{cn: c.arg(0), description: text(c.options["description"])}
	if !c.isAdmin() {
		return nil, cannotAdd(c.dir.roleDN(r))
	}
	if c.dir.roles[strings.ToLower(r.cn)] != nil {
		return nil, duplicateNamed("role", r.cn)
	}
	c.dir.roles[strings.ToLower(r.cn)] = r
	result := c.dir.roleView(r)
	result["objectclass"] = []string{"groupofnames", "nestedgroup", "top"}
	return entry{"result": result, "value": r.cn, "summary": fmt.Sprintf("Added role \"%s\"", r.cn)}, nil
}

func (c *call) findRole() (*role, *fail) {
	if r := c.dir.roles[strings.ToLower(c.arg(0))]; r != nil {
		return r, nil
	}
	return nil, notFound(c.arg(0) + ": role not found")
}

func (c *call) roleShow() (entry, *fail) {
	r, trouble := c.findRole()
	if trouble != nil {
		return nil, trouble
	}
	return entry{"result": c.dir.roleView(r), "value": r.cn, "summary": nil}, nil
}

func (c *call) roleAddPrivilege() (entry, *fail) {
	r, trouble := c.findRole()
	if trouble != nil {
		return nil, trouble
	}
	denied := c.deniedTo("", "", cannotWrite("memberOf", c.dir.roleDN(r)))
	find := func(given string) (string, string, string) {
		if known := c.dir.privileges[strings.ToLower(given)]; known != nil {
			return known.cn, given, ""
		}
		return "", given, "privilege not found"
	}
	privileges, completed, failed := enlist(r.privileges, texts(c.options["privilege"]), denied, find)
	r.privileges = privileges
	return entry{
		"completed": completed, "failed": entry{"member": entry{"privilege": failed}}, "result": c.dir.roleView(r),
	}, nil
}

func (c *call) roleAddMember() (entry, *fail) {
	r, trouble := c.findRole()
	if trouble != nil {
		return nil, trouble
	}
	denied := c.deniedTo("", "", cannotWrite("member", c.dir.roleDN(r)))
	find := func(given string) (string, string, string) {
		principal, trouble := c.dir.principalName(given)
		if trouble != nil || c.dir.services[principal] == nil {
			return "", principal, "no such entry"
		}
		return principal, principal, ""
	}
	services, completed, left := enlist(r.services, texts(c.options["service"]), denied, find)
	r.services = services
	none := [][]string{}
	failed := entry{"user": none, "group": none, "host": none, "hostgroup": none, "service": left, "idoverrideuser": none}
	return entry{"completed": completed, "failed": entry{"member": failed}, "result": c.dir.roleView(r)}, nil
}
