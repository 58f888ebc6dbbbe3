// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import "strings"

// commandTable describes every command that this server knows.
func (s *Server) commandTable() map[string]command {
	host, record := []string{"fqdn"}, []string{"dnszoneidnsname", "idnsname"}
	hostOptions := append([]string{
		"userpassword", "random", "force", "ip_address", "no_reverse", "updatedns", "usercertificate", "ipakrb*", "setattr", "addattr",
	}, hostAttributes...)
	finding := []string{"sizelimit", "timelimit", "pkey_only"}
	recordOptions := []string{"*record", "*_part_*", "a_part_*", "aaaa_part_*", "ptr_part_*", "cname_part_*", "ns_part_*", "txt_part_*",
		"srv_part_*", "a_extra_create_reverse", "aaaa_extra_create_reverse", "dnsttl", "force", "structured"}
	with := func(more ...[]string) []string {
		var all []string
		for _, list := range more {
			all = append(all, list...)
		}
		return all
	}
	return map[string]command{
		"batch":  {options: []string{"methods"}},
		"ping":   {run: (*call).ping},
		"whoami": {run: (*call).whoami},
		"join":   {args: host, required: 1, options: []string{"realm", "nsosversion", "nshardwareplatform"}, run: (*call).join},

		"host_add":     {args: host, required: 1, options: hostOptions, run: (*call).hostAdd},
		"host_mod":     {args: host, required: 1, options: with(hostOptions, []string{"rights"}), run: (*call).hostMod},
		"host_show":    {args: host, required: 1, options: []string{"rights"}, run: (*call).hostShow},
		"host_find":    {args: []string{"criteria"}, options: with(finding, host, hostAttributes, []string{"man_by_host", "in_hostgroup"}), run: (*call).hostFind},
		"host_del":     {args: host, required: 1, options: []string{"continue", "updatedns"}, run: (*call).hostDel},
		"host_disable": {args: host, required: 1, run: (*call).hostDisable},

		"service_add":         {args: []string{"krbcanonicalname"}, required: 1, options: []string{"force", "skip_host_check", "ipakrb*"}, run: (*call).serviceAdd},
		"service_add_host":    {args: []string{"krbcanonicalname"}, required: 1, options: []string{"host"}, run: (*call).serviceAddHost},
		"service_remove_host": {args: []string{"krbcanonicalname"}, required: 1, options: []string{"host"}, run: (*call).serviceRemoveHost},
		"service_show":        {args: []string{"krbcanonicalname"}, required: 1, options: []string{"rights"}, run: (*call).serviceShow},
		"service_find":        {args: []string{"criteria"}, options: with(finding, []string{"krbcanonicalname", "krbprincipalname", "man_by_host"}), run: (*call).serviceFind},
		"service_del":         {args: []string{"krbcanonicalname"}, required: 1, options: []string{"continue"}, run: (*call).serviceDel},

		"dnszone_add":    {args: []string{"idnsname"}, required: 1, options: []string{"skip_overlap_check", "force"}, run: (*call).dnszoneAdd},
		"dnszone_show":   {args: []string{"idnsname"}, required: 1, options: []string{"rights"}, run: (*call).dnszoneShow},
		"dnszone_find":   {args: []string{"criteria"}, options: with(finding, []string{"idnsname", "forward_only"}), run: (*call).dnszoneFind},
		"dnsrecord_add":  {args: record, required: 2, options: recordOptions, run: (*call).dnsrecordAdd},
		"dnsrecord_show": {args: record, required: 2, options: []string{"structured", "rights"}, run: (*call).dnsrecordShow},
		"dnsrecord_find": {args: []string{"dnszoneidnsname", "criteria"}, required: 1, options: with(finding, recordOptions, []string{"idnsname"}), run: (*call).dnsrecordFind},
		"dnsrecord_del":  {args: record, required: 2, options: with(recordOptions, []string{"del_all"}), run: (*call).dnsrecordDel},

		"permission_add":           {args: []string{"cn"}, required: 1, options: []string{"ipapermright", "type", "attrs"}, run: (*call).permissionAdd},
		"permission_show":          {args: []string{"cn"}, required: 1, run: (*call).permissionShow},
		"permission_find":          {args: []string{"criteria"}, options: finding, run: (*call).permissionFind},
		"permission_del":           {args: []string{"cn"}, required: 1, options: []string{"continue", "force"}, run: (*call).permissionDel},
		"privilege_add":            {args: []string{"cn"}, required: 1, options: []string{"description"}, run: (*call).privilegeAdd},
		"privilege_show":           {args: []string{"cn"}, required: 1, run: (*call).privilegeShow},
		"privilege_add_permission": {args: []string{"cn"}, required: 1, options: []string{"permission"}, run: (*call).privilegeAddPermission},
		"role_add":                 {args: []string{"cn"}, required: 1, options: []string{"description"}, run: (*call).roleAdd},
		"role_show":                {args: []string{"cn"}, required: 1, run: (*call).roleShow},
		"role_add_privilege":       {args: []string{"cn"}, required: 1, options: []string{"privilege"}, run: (*call).roleAddPrivilege},
		"role_add_member":          {args: []string{"cn"}, required: 1, options: []string{"service", "user", "group", "host", "hostgroup"}, run: (*call).roleAddMember},

		"hostgroup_add":            {args: []string{"cn"}, required: 1, options: []string{"description"}, run: (*call).hostgroupAdd},
		"hostgroup_add_member":     {args: []string{"cn"}, required: 1, options: []string{"host", "hostgroup"}, run: (*call).hostgroupAddMember},
		"automember_add":           {args: []string{"cn"}, required: 1, options: []string{"type", "description"}, run: (*call).automemberAdd},
		"automember_add_condition": {args: []string{"cn"}, required: 1, options: []string{"type", "key", "automemberinclusiveregex"}, run: (*call).automemberAddCondition},
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
