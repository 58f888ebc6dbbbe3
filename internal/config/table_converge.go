// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

func convergeOptions() []option {
	at := of[Converge]
	return []option{
		{name: "enabled", initial: "true", field: at(func(c *Converge) any { return &c.Enabled }),
			help: "Follow the cloud: revoke certificates whose roles are gone, end instances that are deleted. Without " +
				"it, nothing is taken away unless somebody orders it."},
		{name: "create_authorities", initial: "true", field: at(func(c *Converge) any { return &c.CreateAuthorities }),
			help: "Make an authority for every project of Keystone, before anybody asks for one."},
		{name: "grace", initial: "7d", min: "1m", field: at(func(c *Converge) any { return &c.Grace }),
			help: "How long a project is deleted or disabled before its authority is retired. Its users' certificates are " +
				"revoked at once. A retired authority issues again when the project is enabled again."},
		{name: "interval", initial: "1h", min: "1m", max: "7d", field: at(func(c *Converge) any { return &c.Interval }),
			help: "How often everything is compared with the cloud, by one replica at a time, to find what no " +
				"notification told."},
		{name: "guard_percent", initial: "10", min: "1", max: "100", field: at(func(c *Converge) any { return &c.GuardPercent }),
			help: "A comparison by which more than this share of all projects, grants, instances or addresses would be gone takes none " +
				"of them away: see muster reconcile."},
		{name: "guard_count", initial: "20", min: "1", max: "1000000", field: at(func(c *Converge) any { return &c.GuardCount }),
			help: "Up to this many may be gone whatever their share is."},
		{name: "calls_per_second", initial: "100", min: "1", max: "10000",
			field: at(func(c *Converge) any { return &c.CallsPerSecond }),
			help:  "How many questions Keystone, Nova and Neutron are asked in a second at most, on behalf of [converge]."},
		{name: "workers", initial: "16", min: "2", max: "256", field: at(func(c *Converge) any { return &c.Workers }),
			help: "How many changes are worked on at once; half of them may be of one kind."},
	}
}

func novaOptions() []option {
	at := of[Nova]
	return []option{
		{name: "endpoint_override", field: at(func(n *Nova) any { return &n.EndpointOverride }),
			example: "https://nova.example.com:8774/v2.1",
			help:    "Nova's URL, with version. Empty: from Keystone's catalog."},
		{name: "interface", initial: "internal", choices: []string{"public", "internal", "admin"},
			field: at(func(n *Nova) any { return &n.Interface }), help: "Which of the catalog's endpoints is used."},
		{name: "timeout", initial: "30s", min: "1s", max: "5m", field: at(func(n *Nova) any { return &n.Timeout }),
			help: "How long one request may take. A page of 1,000 instances takes seconds."},
	}
}

func neutronOptions() []option {
	at := of[Neutron]
	return []option{
		{name: "enabled", initial: "true", field: at(func(n *Neutron) any { return &n.Enabled }),
			help: "Ask Neutron which addresses instances have. Without it, neither DNS nor host certificates know of them. " +
				"Only with [converge]."},
		{name: "endpoint_override", field: at(func(n *Neutron) any { return &n.EndpointOverride }),
			example: "https://neutron.example.com:9696",
			help:    "Neutron's URL, without version. Empty: from Keystone's catalog."},
		{name: "interface", initial: "internal", choices: []string{"public", "internal", "admin"},
			field: at(func(n *Neutron) any { return &n.Interface }), help: "Which of the catalog's endpoints is used."},
		{name: "timeout", initial: "30s", min: "1s", max: "5m", field: at(func(n *Neutron) any { return &n.Timeout }),
			help: "How long one request may take. A page of 1,000 ports takes seconds."},
		{name: "trusted_domains", field: at(func(n *Neutron) any { return &n.TrustedDomains }),
			example: "cloud.example.com",
			help: "Names that Neutron gives ports and floating IPs (dns_assignment, dns_name) go into host certificates if they " +
				"are below one of these domains. *: any domain. Empty: none do. Members of a project choose such names, so trust " +
				"only domains in which Neutron lets them choose for their own project, or which only their own people use."},
	}
}

func dnsOptions() []option {
	at := of[DNS]
	return []option{
		{name: "enabled", initial: "true", field: at(func(d *DNS) any { return &d.Enabled }),
			help: "Make A, AAAA and PTR records for the addresses of instances that are enrolled, in FreeIPA's DNS. Without " +
				"it none are made or changed; those that Muster has made still go with their instance."},
		{name: "floating_networks", initial: "*", field: at(func(d *DNS) any { return &d.FloatingNetworks }),
			help: "The external networks whose floating IPs get records, by their IDs. *: all of them. Empty: no floating IP does."},
		{name: "fixed_networks", field: at(func(d *DNS) any { return &d.FixedNetworks }),
			example: "5a8a14bb-c943-4368-80a0-b85b8ade85f6",
			help: "The networks whose fixed addresses get records, by their IDs; IPv6 has no others. Name only networks whose " +
				"subnets the operator has made: in a network of their own, projects choose addresses freely, and the same as " +
				"others. *: all of them. Empty: no fixed address does."},
		{name: "reverse", initial: "required", choices: []string{"required", "optional", "off"},
			field: at(func(d *DNS) any { return &d.Reverse }),
			help: "What of PTR records. required: each address gets one, and that there is no zone for it is an error; " +
				"optional: where there is a zone; off: none."},
		{name: "reverse_zones", field: at(func(d *DNS) any { return &d.ReverseZones }),
			example: "64/26.113.0.203.in-addr.arpa:203.0.113.64/26",
			help: "Zones of FreeIPA's DNS for the PTR records of networks, as ZONE:NETWORK, where the addresses' own names have CNAME records into " +
				"them (RFC 2317). Needed only if the zone with the CNAME records is not in FreeIPA; those in FreeIPA are followed."},
	}
}
