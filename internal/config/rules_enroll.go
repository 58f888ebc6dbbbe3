// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/muster-cloud/muster/internal/uuid"
)

// enrolment judges [ipa], [enroll] and [project:NAME].
func (r *rules) enrolment() {
	ipa, enroll := r.cfg.IPA, r.cfg.Enroll
	r.domain("ipa", ipa.Domain)
	r.domain("enroll", enroll.Domain)
	r.domains("ssh", "host_domains", r.cfg.SSH.HostDomains, projectPlaceholder)
	if !slices.Equal(r.cfg.Neutron.TrustedDomains, []string{anyDomain}) {
		r.domains("neutron", "trusted_domains", r.cfg.Neutron.TrustedDomains, "")
	}
	for _, server := range ipa.Servers {
		host, port, err := net.SplitHostPort(server)
		if err != nil {
			host, port = server, "443"
		}
		if !domainShape.MatchString(strings.ToLower(host)) && net.ParseIP(host) == nil || addressFault(":"+port) != "" {
			r.refuse("ipa", []string{"servers"}, "not a list of servers", "write HOST or HOST:PORT, separated by commas")
		}
	}
	if ipa.Principal != "" && !principalShape.MatchString(ipa.Principal) {
		r.refuse("ipa", []string{"principal"}, "not the principal of a service", "write SERVICE/HOST or SERVICE/HOST@REALM")
	}
	r.patterns("enroll", "protected", enroll.Protected)
	for _, p := range r.cfg.Projects {
		section := "project:" + p.Name
		r.patterns(section, "service_hosts", p.ServiceHosts)
		if slices.Contains(p.AllowedClasses, "") {
			r.refuse(section, []string{"allowed_classes"}, "a class without a name", "write names separated by commas, or *")
		}
	}
	r.networks("floating_networks", r.cfg.DNS.FloatingNetworks)
	r.networks("fixed_networks", r.cfg.DNS.FixedNetworks)
	r.reverseZones()
	if enroll.Enabled {
		r.ipaLogin()
	}
}

// networks judges an option of [dns]. Names are no good: every project may call
// a network of its own as it likes.
func (r *rules) networks(option string, networks []string) {
	for _, network := range networks {
		if _, err := uuid.Parse(network); err != nil && network != "*" {
			r.refuse("dns", []string{option}, "not a list of networks' IDs", "write IDs separated by commas, as openstack network list shows them, or *")
		}
	}
}

// reverseZones judges [dns] reverse_zones.
func (r *rules) reverseZones() {
	option := []string{"reverse_zones"}
	zones := make(map[netip.Prefix]bool)
	for zone, network := range r.cfg.DNS.ReverseZones {
		prefix, err := netip.ParsePrefix(network)
		switch {
		case err != nil || prefix != prefix.Masked() || prefix.Addr().Is4In6():
			r.refuse("dns", option, "not a network after the colon", "write ZONE:NETWORK such as 64/26.113.0.203.in-addr.arpa:203.0.113.64/26, without host bits")
		case !zoneShape.MatchString(strings.ToLower(zone)) || len(zone) > 180:
			r.refuse("dns", option, "not a zone before the colon", "write ZONE:NETWORK such as 64/26.113.0.203.in-addr.arpa:203.0.113.64/26")
		case zones[prefix]:
			r.refuse("dns", option, "two zones for one network", "write each network once")
		}
		zones[prefix] = true
	}
}

// ipaLogin asks for what a log-in to FreeIPA needs.
func (r *rules) ipaLogin() {
	ipa := r.cfg.IPA
	switch {
	case ipa.Username != "" && ipa.Password == "":
		r.refuse("ipa", []string{"password", "username"}, "not set",
			"set it, or password_file, or give the systemd credential ipa.password")
	case ipa.Username == "" && ipa.Password != "":
		r.refuse("ipa", []string{"username", "password"}, "a password without its username",
			"set username, or remove the password to log in by keytab")
	case ipa.Username == "":
		r.private("ipa", "keytab", ipa.Keytab)
	}
	r.readable("ipa", "cafile", ipa.CAFile)
	if r.cfg.Enroll.AnswerWithin >= r.cfg.API.RequestTimeout {
		r.refuse("enroll", []string{"answer_within"}, "not shorter than [api] request_timeout",
			"shorten it, or raise request_timeout")
	}
}

var (
	// domainShape is a name of the DNS in lower case (RFC 1123, 2.1).
	domainShape = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	// zoneShape is a name of labels that a zone may have, those of RFC 2317 too.
	zoneShape      = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_/-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_/-]{0,61}[a-z0-9_])?)*\.?$`)
	principalShape = regexp.MustCompile(`^[A-Za-z0-9_.-]+/[A-Za-z0-9.-]+(@[A-Za-z0-9.-]+)?$`)
	patternShape   = regexp.MustCompile(`^[A-Za-z0-9.*-]+$`)
)

func (r *rules) domain(section, domain string) {
	if domain != "" && (!domainShape.MatchString(strings.ToLower(domain)) || len(domain) > 200) {
		r.refuse(section, []string{"domain"}, "not a DNS domain", "write such as example.com, without dots at the ends")
	}
}

// projectPlaceholder stands for a project's ID in [ssh] host_domains. Neutron writes it like this in
// its dns_domain.
const projectPlaceholder = "<project_id>"

// anyDomain is every domain, in [neutron] trusted_domains.
const anyDomain = "*"

// domains judges a list of domains. The placeholder, if there is one, stands for a label in them.
func (r *rules) domains(section, option string, domains []string, placeholder string) {
	hint := "write such as example.com, without dots at the ends, separated by commas"
	if placeholder != "" {
		hint += "; " + placeholder + " may stand there too"
	}
	for _, domain := range domains {
		plain := strings.ToLower(domain)
		if placeholder != "" {
			plain = strings.ReplaceAll(plain, placeholder, strings.Repeat("0", 32))
		}
		if !domainShape.MatchString(plain) || len(plain) > 200 {
			r.refuse(section, []string{option}, "not a list of DNS domains", hint)
		}
	}
}

func (r *rules) patterns(section, option string, patterns []string) {
	for _, pattern := range patterns {
		if !patternShape.MatchString(pattern) {
			r.refuse(section, []string{option}, "not a list of host names or patterns",
				"write names with letters, digits, dots and dashes, and * for what may differ")
		}
	}
}
