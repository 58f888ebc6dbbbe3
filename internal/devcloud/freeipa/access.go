// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"fmt"
	"slices"
	"strings"
)

// permission is a right to do something to a kind of entry.
type permission struct {
	cn           string
	rights       []string
	kind         string   // host, service, hostgroup, dns or "" for what this server does not play
	attrs        []string // for the right "write"
	defaultAttrs []string // a managed permission's own attributes; nil for one that somebody added
	filter       []string
}

// privilege collects permissions, a role collects privileges and has members.
type privilege struct {
	cn, description string
	permissions     []string // canonical names
}

type role struct {
	cn, description string
	privileges      []string
	services, users []string
}

var permissionLocations = map[string]string{
	"host": "cn=computers,cn=accounts", "service": "cn=services,cn=accounts", "hostgroup": "cn=hostgroups,cn=accounts",
	"user": "cn=users,cn=accounts", "group": "cn=groups,cn=accounts",
}

// permissionAttrs are the attributes that the schema knows for each type of permission.
var permissionAttrs = []string{
	"cn", "description", "fqdn", "ipaassignedidview", "ipasshpubkey", "krbcanonicalname", "krblastpwdchange",
	"krbprincipalauthind", "krbprincipalkey", "krbprincipalname", "l", "macaddress", "managedby", "member", "membermanager",
	"nshardwareplatform", "nshostlocation", "nsosversion", "usercertificate", "userclass", "userpassword",
}

func builtinPermissions() map[string]*permission {
	modifyHosts := []string{
		"krbprincipalauthind", "userclass", "nshardwareplatform", "macaddress", "description", "ipaassignedidview", "l",
		"nsosversion", "nshostlocation",
	}
	all := map[string]*permission{}
	for _, p := range []*permission{
		{cn: "Retrieve Certificates from the CA"},
		{cn: "Revoke Certificate"},
		{cn: "System: Add DNS Entries", rights: []string{"add"}, kind: "dns"},
		{cn: "System: Read DNS Entries", rights: []string{"read"}, kind: "dns"},
		{cn: "System: Remove DNS Entries", rights: []string{"delete"}, kind: "dns"},
		{cn: "System: Update DNS Entries", rights: []string{"write"}, kind: "dns"},
		{cn: "System: Add Hosts", rights: []string{"add"}, kind: "host"},
		{cn: "System: Remove Hosts", rights: []string{"delete"}, kind: "host"},
		{cn: "System: Add krbPrincipalName to a Host", rights: []string{"write"}, kind: "host", attrs: []string{"krbprincipalname"}},
		{cn: "System: Manage Host Keytab", rights: []string{"write"}, kind: "host",
			attrs: []string{"krblastpwdchange", "krbprincipalkey"}},
		{cn: "System: Modify Hosts", rights: []string{"write"}, kind: "host", attrs: modifyHosts},
		{cn: "System: Add Services", rights: []string{"add"}, kind: "service"},
		{cn: "System: Remove Services", rights: []string{"delete"}, kind: "service"},
		{cn: "System: Modify Services", rights: []string{"write"}, kind: "service", attrs: []string{"usercertificate"}},
		{cn: "System: Manage Service Keytab", rights: []string{"write"}, kind: "service",
			attrs: []string{"krblastpwdchange", "krbprincipalkey"}},
		{cn: "System: Modify Hostgroup Membership", rights: []string{"write"}, kind: "hostgroup", attrs: []string{"member"},
			filter: []string{"(!(cn=ipaservers))"}},
		{cn: "System: Modify Hostgroups", rights: []string{"write"}, kind: "hostgroup",
			attrs: []string{"cn", "description", "membermanager"}},
	} {
		p.defaultAttrs = append([]string{}, p.attrs...)
		slices.Sort(p.attrs)
		all[strings.ToLower(p.cn)] = p
	}
	return all
}

func cannotAdd(dn string) *fail {
	return aciError(fmt.Sprintf("Insufficient 'add' privilege to add the entry '%s'.", dn))
}

func cannotDelete(dn string) *fail {
	return aciError(fmt.Sprintf("Insufficient 'delete' privilege to delete the entry '%s'.", dn))
}

func cannotWrite(attr, dn string) *fail {
	return aciError(fmt.Sprintf("Insufficient 'write' privilege to the '%s' attribute of entry '%s'.", attr, dn))
}

func (c *call) isAdmin() bool { return c.principal == "admin@"+c.dir.realm }

// may tells whether the caller's roles give a right on a kind of entry, for "write" on one attribute.
func (c *call) may(right, kind, attr string) bool {
	if c.isAdmin() {
		return true
	}
	user := strings.TrimSuffix(c.principal, "@"+c.dir.realm)
	for _, r := range c.dir.roles {
		if !slices.Contains(r.services, c.principal) && !slices.Contains(r.users, user) {
			continue
		}
		for _, name := range r.privileges {
			for _, granted := range c.dir.privileges[strings.ToLower(name)].permissions {
				p := c.dir.permissions[strings.ToLower(granted)]
				if p != nil && p.kind == kind && slices.Contains(p.rights, right) && (attr == "" || kind == "dns" || slices.Contains(p.attrs, attr)) {
					return true
				}
			}
		}
	}
	return false
}

// recordAttributes are those of DNS entries that permissions are about.
var recordAttributes = []string{"aaaarecord", "arecord", "idnsname", "ptrrecord"}

// addRights tells what the caller may do to an entry's attributes, if it asks.
func (c *call) addRights(result entry, kind string, attributes []string) {
	if !c.flag("rights") || !c.flag("all") {
		return
	}
	rights := entry{}
	for _, attribute := range attributes {
		may := "rsc"
		if attribute == "userpassword" || attribute == "krbprincipalkey" {
			may = "" // nobody may read those
		}
		if c.may("write", kind, attribute) {
			may += "wo"
		}
		rights[attribute] = may
	}
	result["attributelevelrights"] = rights
}

// memberOf are the roles of a member, their privileges, and the permissions of those.
func (d *directory) memberOf(has func(*role) bool) (all []string) {
	add := func(dn string) {
		if !slices.Contains(all, dn) {
			all = append(all, dn)
		}
	}
	for _, r := range sortedValues(d.roles) {
		if !has(r) {
			continue
		}
		add(d.roleDN(r))
		for _, name := range r.privileges {
			p := d.privileges[strings.ToLower(name)]
			add(d.privilegeDN(p))
			for _, permission := range p.permissions {
				add(d.permissionDN(permission))
			}
		}
	}
	return all
}

// deniedTo returns "" if the caller may write the attribute, else what FreeIPA says of a member that is left out for it.
func (c *call) deniedTo(kind, attr string, refusal *fail) string {
	if c.may("write", kind, attr) {
		return ""
	}
	return refusal.message
}

// lookup returns a member's canonical name, or "" and what is missing, and the name to tell it by.
type lookup func(given string) (canonical, shown, missing string)

// enlist adds members to a list, as all of FreeIPA's add_member commands do: they fail for none, but tell of each that
// is left out, and why.
func enlist(list, given []string, denied string, find lookup) ([]string, int, [][]string) {
	list = slices.Clone(list)
	completed, failed := 0, [][]string{}
	for _, name := range given {
		canonical, shown, missing := find(name)
		switch {
		case canonical == "":
			failed = append(failed, []string{shown, missing})
		case slices.Contains(list, canonical):
			failed = append(failed, []string{shown, "This entry is already a member"})
		case denied != "":
			failed = append(failed, []string{shown, denied})
		default:
			list = append(list, canonical)
			completed++
		}
	}
	return list, completed, failed
}

// permissionDN names a permission in the directory.
func (d *directory) permissionDN(cn string) string {
	return d.dn("cn="+cn, "cn=permissions", "cn=pbac")
}

func (d *directory) permissionView(p *permission) entry {
	e := entry{
		"cn": []string{p.cn}, "ipapermright": p.rights, "ipapermbindruletype": []string{"permission"},
		"ipapermissiontype": []string{"SYSTEM", "V2"},
		"objectclass":       []string{"top", "groupofnames", "ipapermission", "ipapermissionv2"},
		"dn":                d.permissionDN(p.cn),
	}
	if location := permissionLocations[p.kind]; location != "" {
		e["type"] = []string{p.kind}
		e["ipapermlocation"] = []string{d.dn(location)}
	}
	if len(p.attrs) > 0 {
		e["attrs"] = p.attrs
	}
	if p.defaultAttrs != nil {
		e["ipapermissiontype"] = []string{"SYSTEM", "V2", "MANAGED"}
		e["ipapermdefaultattr"] = p.defaultAttrs
	}
	if p.filter != nil {
		e["extratargetfilter"] = p.filter
	}
	return e
}

func (c *call) permissionAdd() (entry, *fail) {
	p := &permission{
		cn: c.arg(0), rights: texts(c.options["ipapermright"]), kind: text(c.options["type"]), attrs: texts(c.options["attrs"]),
	}
	dn := c.dir.permissionDN(p.cn)
	if permissionLocations[p.kind] == "" {
		return nil, validationError("type", fmt.Sprintf("\"%s\" is not an object type", p.kind))
	}
	if !c.isAdmin() {
		return nil, cannotAdd(dn)
	}
	if c.dir.permissions[strings.ToLower(p.cn)] != nil {
		return nil, duplicateNamed("permission", p.cn)
	}
	for _, attr := range p.attrs {
		if !slices.Contains(permissionAttrs, strings.ToLower(attr)) {
			return nil, invalidSyntax(fmt.Sprintf("targetattr \"%[1]s\" does not exist in schema. "+
				"Please add attributeTypes \"%[1]s\" to "+
				"schema if necessary. ACL Syntax Error(-5):(targetattr = \\22%[1]s\\22)(targetfilter = \\22(objectclass=ipa%[2]s)\\22)"+
				"(version 3.0;acl \\22permission:%[3]s\\22;allow (%[4]s) groupdn = \\22ldap:///%[5]s\\22;)",
				attr, p.kind, p.cn, strings.Join(p.rights, ","), dn))
		}
	}
	slices.Sort(p.attrs)
	c.dir.permissions[strings.ToLower(p.cn)] = p
	return entry{"result": c.dir.permissionView(p), "value": p.cn, "summary": fmt.Sprintf("Added permission \"%s\"", p.cn)}, nil
}

func (c *call) permissionShow() (entry, *fail) {
	p := c.dir.permissions[strings.ToLower(c.arg(0))]
	if p == nil {
		return nil, notFound(c.arg(0) + ": permission not found")
	}
	return entry{"result": c.dir.permissionView(p), "value": p.cn, "summary": nil}, nil
}

func (c *call) permissionFind() (entry, *fail) {
	var found []any
	for _, p := range sortedValues(c.dir.permissions) {
		if strings.Contains(strings.ToLower(p.cn), strings.ToLower(c.arg(0))) {
			found = append(found, c.dir.permissionView(p))
		}
	}
	return c.listed(found, "permission", "permissions"), nil
}

func (c *call) permissionDel() (entry, *fail) {
	p := c.dir.permissions[strings.ToLower(c.arg(0))]
	if p == nil {
		return nil, notFound(c.arg(0) + ": permission not found")
	}
	if !c.isAdmin() {
		return nil, cannotDelete(c.dir.permissionDN(p.cn))
	}
	delete(c.dir.permissions, strings.ToLower(p.cn))
	return entry{
		"result": entry{"failed": []string{}}, "value": []string{p.cn}, "summary": fmt.Sprintf("Deleted permission \"%s\"", p.cn),
	}, nil
}
