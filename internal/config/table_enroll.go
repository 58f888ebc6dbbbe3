// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

func ipaOptions() []option {
	at := of[IPA]
	return []option{
		{name: "servers", field: at(func(i *IPA) any { return &i.Servers }), example: "ipa1.example.com, ipa2.example.com",
			help: "FreeIPA's servers as HOST or HOST:PORT, the preferred one first. Empty: the one that client_conf " +
				"names, and when it is away those that the DNS names for the domain."},
		{name: "domain", field: at(func(i *IPA) any { return &i.Domain }), example: "example.com",
			help: "FreeIPA's DNS domain. Empty: as client_conf says."},
		{name: "realm", field: at(func(i *IPA) any { return &i.Realm }), example: "EXAMPLE.COM",
			help: "FreeIPA's Kerberos realm. Empty: as client_conf says, else the domain in capitals."},
		{name: "principal", field: at(func(i *IPA) any { return &i.Principal }), example: "nova/controller.example.com",
			help: "Who Muster is in FreeIPA. Empty: the first principal in the keytab."},
		{name: "keytab", initial: "/etc/muster/krb5.keytab", path: true, field: at(func(i *IPA) any { return &i.Keytab }),
			help: "The file with the principal's keys. It is read again at each log-in."},
		{name: "username", field: at(func(i *IPA) any { return &i.Username }),
			help: "Log in by this name and a password, without Kerberos. Empty: by the keytab."},
		{name: "password", field: at(func(i *IPA) any { return &i.Password }), help: "The password of username."},
		{name: "cafile", path: true, field: at(func(i *IPA) any { return &i.CAFile }),
			help: "A PEM file with the authorities that may sign the servers' certificates. Empty: /etc/ipa/ca.crt, " +
				"else the system's."},
		{name: "client_conf", initial: "/etc/ipa/default.conf", path: true,
			field: at(func(i *IPA) any { return &i.ClientConf }),
			help:  "What this machine, as a client, knows of FreeIPA. The file may be missing."},
		{name: "kerberos_conf", initial: "/etc/krb5.conf", path: true, field: at(func(i *IPA) any { return &i.KerberosConf }),
			help: "The configuration of Kerberos. The file may be missing: then the DNS names the servers."},
		{name: "timeout", initial: "30s", min: "1s", max: "5m", field: at(func(i *IPA) any { return &i.Timeout }),
			help: "How long one call may take, with log-in and other servers in place of one that is down."},
		{name: "max_in_flight", initial: "8", min: "1", max: "256", field: at(func(i *IPA) any { return &i.MaxInFlight }),
			help: "How many calls one server works on at once; more of them wait."},
	}
}

func enrollOptions() []option {
	at := of[Enroll]
	return []option{
		{name: "enabled", initial: "false", field: at(func(e *Enroll) any { return &e.Enabled }),
			help: "Enrol instances that ask for it (ipa_enroll). Without it the face join is not served."},
		{name: "domain", field: at(func(e *Enroll) any { return &e.Domain }), example: "cloud.example.com",
			help: "What the names of instances end in. Empty: FreeIPA's domain."},
		{name: "project_subdomain", initial: "false", field: at(func(e *Enroll) any { return &e.ProjectSubdomain }),
			help: "Name instances NAME.PROJECT.DOMAIN instead of NAME.DOMAIN."},
		{name: "normalize_project", initial: "true", field: at(func(e *Enroll) any { return &e.NormalizeProject }),
			help: "Make a DNS label of a project's name: what is no letter, digit or dash becomes a dash. " +
				"Without it, instances of projects whose name is no label are refused."},
		{name: "protected", field: at(func(e *Enroll) any { return &e.Protected }), example: "ldap*, *.infra.example.com",
			help: "Host names, or patterns with *, that no instance gets. FreeIPA's servers are always among them."},
		{name: "answer_within", initial: "4s", min: "500ms", max: "60s",
			field: at(func(e *Enroll) any { return &e.AnswerWithin }),
			help: "Within what time Nova's call is answered. Muster waits for FreeIPA for nine tenths of it, less in a storm. Then the " +
				"enrolment goes on in the background, and a later read of the metadata finds it. Keep it below Nova's " +
				"vendordata_dynamic_read_timeout (5 s)."},
		{name: "remove_unnamed_services", initial: "false", field: at(func(e *Enroll) any { return &e.RemoveUnnamedServices }),
			help: "When the metadata of an instance that is there names a service no longer, remove it from FreeIPA. " +
				"Without it, as in novajoin, services go only with the instance."},
		{name: "remove_dns", initial: "true", field: at(func(e *Enroll) any { return &e.RemoveDNS }),
			help: "When an instance leaves, also remove the address records that its host made in FreeIPA's DNS."},
		{name: "on_failure", initial: "empty", choices: []string{"empty", "error"},
			field: at(func(e *Enroll) any { return &e.OnFailure }),
			help: "What Nova gets while FreeIPA does not answer. empty: name and realm without a password, and the " +
				"boot goes on; error: 503, with which Nova can let the boot fail (vendordata_dynamic_failure_fatal)."},
	}
}

func projectOptions() []option {
	at := of[Project]
	return []option{
		{name: "domain_id", initial: "default", field: at(func(p *Project) any { return &p.DomainID }),
			help: "The ID of the Keystone domain of a project that is given by name: names are unique only within one."},
		{name: "allowed_classes", field: at(func(p *Project) any { return &p.AllowedClasses }), example: "web, db",
			help: "The host classes (ipa_hostclass) that instances may have. *: any. Empty: none."},
		{name: "service_hosts", field: at(func(p *Project) any { return &p.ServiceHosts }), example: "*.vip.example.com",
			help: "Host names, or patterns with *, that instances may manage services of, besides their own " +
				"name and its sub-hosts."},
		{name: "any_service_host", initial: "false", field: at(func(p *Project) any { return &p.AnyServiceHost }),
			help: "Instances may manage services of any host that is not protected, as in novajoin. TripleO's virtual " +
				"addresses need it. Whoever starts instances in the project can then get certificates for all these hosts."},
	}
}

func glanceOptions() []option {
	at := of[Glance]
	return []option{
		{name: "endpoint_override", field: at(func(g *Glance) any { return &g.EndpointOverride }),
			example: "https://glance.example.com:9292",
			help:    "Glance's URL, without version. Empty: from Keystone's catalog."},
		{name: "interface", initial: "internal", choices: []string{"public", "internal", "admin"},
			field: at(func(g *Glance) any { return &g.Interface }), help: "Which of the catalog's endpoints is used."},
		{name: "cache_time", initial: "60s", min: "1s", max: "1h", field: at(func(g *Glance) any { return &g.CacheTime }),
			help: "How long an image's properties are believed without asking again."},
	}
}
