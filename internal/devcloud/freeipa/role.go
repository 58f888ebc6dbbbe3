// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"fmt"
	"slices"
	"strings"
)

func (d *directory) privilegeView(p *privilege) entry {
	e := entry{"cn": []string{p.cn}, "dn": d.dn("cn="+p.cn, "cn=privileges", "cn=pbac")}
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
		return nil, cannotAdd(c.dir.dn("cn="+p.cn, "cn=privileges", "cn=pbac"))
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
	completed, failed := 0, [][]string{}
	for _, given := range texts(c.options["permission"]) {
		known := c.dir.permissions[strings.ToLower(given)]
		switch {
		case known == nil:
			// The server cuts its own message at the first colon, which such a name holds too.
			name, why, _ := strings.Cut(given+": permission not found", ": ")
			failed = append(failed, []string{name, why})
		case slices.Contains(p.permissions, known.cn):
			failed = append(failed, []string{given, "This entry is already a member"})
		case !c.isAdmin():
			failed = append(failed, []string{given, cannotWrite("member", c.dir.dn("cn="+known.cn, "cn=permissions", "cn=pbac")).message})
		default:
			p.permissions = append(slices.Clone(p.permissions), known.cn)
			completed++
		}
	}
	return entry{"completed": completed, "failed": entry{"member": entry{"permission": failed}}, "result": c.dir.privilegeView(p)}, nil
}

func (d *directory) roleView(r *role) entry {
	e := entry{"cn": []string{r.cn}, "dn": d.dn("cn="+r.cn, "cn=roles", "cn=accounts")}
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
		return nil, cannotAdd(c.dir.dn("cn="+r.cn, "cn=roles", "cn=accounts"))
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
	completed, failed := 0, [][]string{}
	for _, given := range texts(c.options["privilege"]) {
		known := c.dir.privileges[strings.ToLower(given)]
		switch {
		case known == nil:
			failed = append(failed, []string{given, "privilege not found"})
		case slices.Contains(r.privileges, known.cn):
			failed = append(failed, []string{given, "This entry is already a member"})
		case !c.isAdmin():
			failed = append(failed, []string{given, cannotWrite("member", c.dir.dn("cn="+known.cn, "cn=privileges", "cn=pbac")).message})
		default:
			r.privileges = append(slices.Clone(r.privileges), known.cn)
			completed++
		}
	}
	return entry{"completed": completed, "failed": entry{"member": entry{"privilege": failed}}, "result": c.dir.roleView(r)}, nil
}

func (c *call) roleAddMember() (entry, *fail) {
	r, trouble := c.findRole()
	if trouble != nil {
		return nil, trouble
	}
	failed := map[string][][]string{"user": {}, "group": {}, "host": {}, "hostgroup": {}, "service": {}, "idoverrideuser": {}}
	completed := 0
	for _, given := range texts(c.options["service"]) {
		principal, trouble := c.dir.principalName(given)
		switch {
		case trouble != nil || c.dir.services[principal] == nil:
			failed["service"] = append(failed["service"], []string{principal, "no such entry"})
		case slices.Contains(r.services, principal):
			failed["service"] = append(failed["service"], []string{principal, "This entry is already a member"})
		case !c.isAdmin():
			failed["service"] = append(failed["service"], []string{principal, cannotWrite("member", c.dir.dn("cn="+r.cn, "cn=roles", "cn=accounts")).message})
		default:
			r.services = append(slices.Clone(r.services), principal)
			completed++
		}
	}
	return entry{"completed": completed, "failed": entry{"member": failed}, "result": c.dir.roleView(r)}, nil
}
