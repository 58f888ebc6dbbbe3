// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// hostgroup is a group of hosts, with the automember rule of its name if there is one.
type hostgroup struct {
	cn, description, id string
	hosts               []string
	automember          bool
	conditions          []condition
}

// condition puts hosts into a group whose attribute matches.
type condition struct {
	key     string
	pattern *regexp.Regexp
}

func (d *directory) groupsOf(fqdn string) []string {
	var names []string
	for _, g := range sortedValues(d.groups) {
		if slices.Contains(g.hosts, fqdn) {
			names = append(names, g.cn)
		}
	}
	return names
}

func (d *directory) applyAutomember(h *host) {
	for _, g := range d.groups {
		for _, rule := range g.conditions {
			if slices.ContainsFunc(h.attrs[rule.key], rule.pattern.MatchString) && !slices.Contains(g.hosts, h.fqdn) {
				g.hosts = append(slices.Clone(g.hosts), h.fqdn)
			}
		}
	}
}

func (d *directory) groupDN(cn string) string { return d.dn("cn="+cn, "cn=hostgroups", "cn=accounts") }

func (c *call) hostgroupAdd() (entry, *fail) {
	g := &hostgroup{cn: strings.ToLower(c.arg(0)), description: text(c.options["description"])}
	if !c.isAdmin() {
		return nil, cannotAdd(c.dir.groupDN(g.cn))
	}
	if c.dir.groups[g.cn] != nil {
		return nil, duplicateNamed("host group", g.cn)
	}
	g.id = c.dir.newID()
	c.dir.groups[g.cn] = g
	result := entry{
		"cn": []string{g.cn}, "ipauniqueid": []string{g.id}, "dn": c.dir.groupDN(g.cn),
		"objectclass":     []string{"ipaobject", "ipahostgroup", "nestedGroup", "groupOfNames", "top", "mepOriginEntry"},
		"mepmanagedentry": []string{c.dir.dn("cn="+g.cn, "cn=ng", "cn=alt")},
	}
	if g.description != "" {
		result["description"] = []string{g.description}
	}
	return entry{"result": result, "value": g.cn, "summary": fmt.Sprintf("Added hostgroup \"%s\"", g.cn)}, nil
}

func (c *call) hostgroupAddMember() (entry, *fail) {
	g := c.dir.groups[strings.ToLower(c.arg(0))]
	if g == nil {
		return nil, notFound(c.arg(0) + ": host group not found")
	}
	denied := c.deniedTo("hostgroup", "member", cannotWrite("member", c.dir.groupDN(g.cn)))
	find := func(fqdn string) (string, string, string) {
		if c.dir.hosts[fqdn] == nil {
			return "", fqdn, "no such entry"
		}
		return fqdn, fqdn, ""
	}
	hosts, completed, failed := enlist(g.hosts, texts(c.options["host"]), denied, find)
	g.hosts = hosts
	result := entry{
		"cn": []string{g.cn}, "description": []string{g.description}, "dn": c.dir.groupDN(g.cn), "member_host": g.hosts,
	}
	return entry{
		"completed": completed, "result": result,
		"failed": entry{"member": entry{"host": failed, "hostgroup": [][]string{}}},
	}, nil
}

func (c *call) automemberAdd() (entry, *fail) {
	g := c.dir.groups[c.arg(0)]
	if g == nil {
		return nil, notFound(fmt.Sprintf("hostgroup \"%s\" not found", c.arg(0)))
	}
	dn := c.dir.dn("cn="+g.cn, "cn=hostgroup", "cn=automember", "cn=etc")
	if !c.isAdmin() {
		return nil, cannotAdd(dn)
	}
	if g.automember {
		return nil, duplicateNamed("Automember rule", g.cn)
	}
	g.automember = true
	result := entry{
		"cn": []string{g.cn}, "objectclass": []string{"top", "automemberregexrule"}, "dn": dn,
		"automembertargetgroup": []string{c.dir.groupDN(g.cn)},
	}
	return entry{"result": result, "value": g.cn, "summary": fmt.Sprintf("Added automember rule \"%s\"", g.cn)}, nil
}

func (c *call) automemberAddCondition() (entry, *fail) {
	g := c.dir.groups[c.arg(0)]
	if g == nil || !g.automember {
		return nil, notFound(fmt.Sprintf("Automember rule: %s not found", c.arg(0)))
	}
	if !c.isAdmin() {
		return nil, cannotWrite("automemberInclusiveRegex", c.dir.dn("cn="+g.cn, "cn=hostgroup", "cn=automember", "cn=etc"))
	}
	key, completed := text(c.options["key"]), 0
	for _, given := range texts(c.options["automemberinclusiveregex"]) {
		pattern, err := regexp.Compile(given)
		if err != nil {
			return nil, validationError("automemberinclusiveregex", "not a regular expression")
		}
		same := func(old condition) bool { return old.key == key && old.pattern.String() == given }
		if slices.ContainsFunc(g.conditions, same) {
			continue
		}
		g.conditions = append(g.conditions, condition{key: key, pattern: pattern})
		completed++
	}
	rules := []string{}
	for _, rule := range g.conditions {
		rules = append(rules, rule.key+"="+rule.pattern.String())
	}
	result := entry{"automemberinclusiveregex": rules}
	if completed > 0 {
		result["automembertargetgroup"] = []string{c.dir.groupDN(g.cn)}
		result["cn"] = []string{g.cn}
	}
	none := []string{}
	return entry{
		"result": result, "value": g.cn, "completed": completed, "summary": fmt.Sprintf("Added condition(s) to \"%s\"", g.cn),
		"failed": entry{"failed": entry{"automemberinclusiveregex": none, "automemberexclusiveregex": none}},
	}, nil
}
