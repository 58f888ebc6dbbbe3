// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"maps"
	"slices"
	"strings"
)

// commandTable describes every command that this server knows.
func (s *Server) commandTable() map[string]command {
	table := map[string]command{
		"batch":  {options: []string{"methods"}},
		"ping":   {run: (*call).ping},
		"whoami": {run: (*call).whoami},
	}
	for _, part := range []map[string]command{
		hostCommands(), serviceCommands(), dnsCommands(), accessCommands(), groupCommands(),
	} {
		maps.Copy(table, part)
	}
	return table
}

// finding are the options of every find command.
var finding = []string{"sizelimit", "timelimit", "pkey_only"}

// on makes a command that needs one argument, the name of an entry.
func on(name string, run func(*call) (entry, *fail), options ...string) command {
	return command{args: []string{name}, required: 1, options: options, run: run}
}

// search makes a command that looks entries up.
func search(run func(*call) (entry, *fail), options ...string) command {
	return command{args: []string{"criteria"}, options: append(options, finding...), run: run}
}

func hostCommands() map[string]command {
	settable := append([]string{
		"userpassword", "random", "force", "ip_address", "no_reverse", "updatedns", "usercertificate", "ipakrb*", "setattr",
		"addattr", "rights",
	}, hostAttributes...)
	return map[string]command{
		"host_add":     on("fqdn", (*call).hostAdd, settable...),
		"host_mod":     on("fqdn", (*call).hostMod, settable...),
		"host_show":    on("fqdn", (*call).hostShow, "rights"),
		"host_find":    search((*call).hostFind, append([]string{"fqdn", "man_by_host", "in_hostgroup"}, hostAttributes...)...),
		"host_del":     on("fqdn", (*call).hostDel, "continue", "updatedns"),
		"host_disable": on("fqdn", (*call).hostDisable),
		"join":         on("fqdn", (*call).join, "realm", "nsosversion", "nshardwareplatform"),
	}
}

func serviceCommands() map[string]command {
	const name = "krbcanonicalname"
	return map[string]command{
		"service_add":         on(name, (*call).serviceAdd, "force", "skip_host_check", "ipakrb*"),
		"service_add_host":    on(name, (*call).serviceAddHost, "host"),
		"service_remove_host": on(name, (*call).serviceRemoveHost, "host"),
		"service_show":        on(name, (*call).serviceShow, "rights"),
		"service_find":        search((*call).serviceFind, name, "krbprincipalname", "man_by_host"),
		"service_disable":     on(name, (*call).serviceDisable),
		"service_del":         on(name, (*call).serviceDel, "continue"),
	}
}

func dnsCommands() map[string]command {
	records := []string{
		"*record", "a_part_*", "aaaa_part_*", "ptr_part_*", "cname_part_*", "ns_part_*", "txt_part_*", "srv_part_*",
		"a_extra_create_reverse", "aaaa_extra_create_reverse", "dnsttl", "force", "structured",
	}
	inZone := func(required int, second string, run func(*call) (entry, *fail), options ...string) command {
		return command{args: []string{"dnszoneidnsname", second}, required: required, options: options, run: run}
	}
	looking := slices.Concat(records, finding, []string{"idnsname"})
	return map[string]command{
		"dnszone_add":    on("idnsname", (*call).dnszoneAdd, "skip_overlap_check", "force"),
		"dnszone_show":   on("idnsname", (*call).dnszoneShow, "rights"),
		"dnszone_find":   search((*call).dnszoneFind, "idnsname", "forward_only"),
		"dnsrecord_add":  inZone(2, "idnsname", (*call).dnsrecordAdd, records...),
		"dnsrecord_show": inZone(2, "idnsname", (*call).dnsrecordShow, "structured", "rights"),
		"dnsrecord_find": inZone(1, "criteria", (*call).dnsrecordFind, looking...),
		"dnsrecord_del":  inZone(2, "idnsname", (*call).dnsrecordDel, append([]string{"del_all"}, records...)...),
	}
}

func accessCommands() map[string]command {
	return map[string]command{
		"permission_add":           on("cn", (*call).permissionAdd, "ipapermright", "type", "attrs"),
		"permission_show":          on("cn", (*call).permissionShow),
		"permission_find":          search((*call).permissionFind),
		"permission_del":           on("cn", (*call).permissionDel, "continue", "force"),
		"privilege_add":            on("cn", (*call).privilegeAdd, "description"),
		"privilege_show":           on("cn", (*call).privilegeShow),
		"privilege_add_permission": on("cn", (*call).privilegeAddPermission, "permission"),
		"role_add":                 on("cn", (*call).roleAdd, "description"),
		"role_show":                on("cn", (*call).roleShow),
		"role_add_privilege":       on("cn", (*call).roleAddPrivilege, "privilege"),
		"role_add_member":          on("cn", (*call).roleAddMember, "service", "user", "group", "host", "hostgroup"),
	}
}

func groupCommands() map[string]command {
	return map[string]command{
		"hostgroup_add":            on("cn", (*call).hostgroupAdd, "description"),
		"hostgroup_add_member":     on("cn", (*call).hostgroupAddMember, "host", "hostgroup"),
		"automember_add":           on("cn", (*call).automemberAdd, "type", "description"),
		"automember_add_condition": on("cn", (*call).automemberAddCondition, "type", "key", "automemberinclusiveregex"),
	}
}

func (c *call) ping() (entry, *fail) {
	return entry{"summary": "IPA server version " + release + ". API version " + apiVersion}, nil
}

func (c *call) whoami() (entry, *fail) {
	object, name := "user", strings.TrimSuffix(c.principal, "@"+c.dir.realm)
	if strings.HasPrefix(name, "host/") {
		object, name = "host", strings.TrimPrefix(name, "host/")
	} else if strings.Contains(name, "/") {
		object, name = "service", c.principal
	}
	return entry{"object": object, "command": object + "_show/1", "arguments": []string{name}}, nil
}
