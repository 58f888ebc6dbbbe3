// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"
	"unicode"
)

func agentOptions() []option {
	at := of[Agent]
	return []option{
		{name: "directory", initial: "/usr/share/muster/agent", path: true, field: at(func(a *Agent) any { return &a.Directory }),
			help: "The folder with the agent's programs, muster-agent-linux-amd64 and -arm64, which instances fetch. " +
				"A file that is missing is not offered; one that is replaced is offered at once."},
		{name: "ca_file", path: true, field: at(func(a *Agent) any { return &a.CAFile }),
			help: "A PEM file with the authorities that signed the certificate of api_endpoint, told to instances at " +
				"boot. Empty: those that the instance's image trusts."},
		{name: "poll_interval", initial: "60s", min: "10s", max: "1h", field: at(func(a *Agent) any { return &a.PollInterval }),
			help: "How often an instance asks what has changed. Revocations do not wait for it."},
		{name: "password_authentication", initial: "false", field: at(func(a *Agent) any { return &a.PasswordAuthentication }),
			help: "Let sshd of the instances accept passwords."},
		{name: "penalty_exempt", field: at(func(a *Agent) any { return &a.PenaltyExempt }), example: "192.0.2.10, 2001:db8:5::/64",
			help: "Addresses and networks that sshd of the instances does not punish for refused log-ins: bastions, and NAT behind which " +
				"many people are. From OpenSSH 9.8 on a few refusals shut everybody behind an address out for 15 seconds to 10 minutes (PerSourcePenalties)."},
		{name: "ipa_server", field: at(func(a *Agent) any { return &a.IPAServer }), example: "ipa1.example.com",
			help: "The FreeIPA server that instances join through. Empty: they find one by DNS, and others when it is down."},
		{name: "ipa_client_options", field: at(func(a *Agent) any { return &a.IPAClientOptions }), example: "--mkhomedir, --no-ntp",
			help: "Further options for ipa-client-install."},
		{name: "install_ipa_client", initial: "false", field: at(func(a *Agent) any { return &a.InstallIPAClient }),
			help: "Install the package of ipa-client-install where an image lacks it, from the image's own sources."},
	}
}

// agent judges [agent].
func (r *rules) agent() {
	agent := r.cfg.Agent
	r.readable("agent", "ca_file", agent.CAFile)
	if agent.IPAServer != "" && !domainShape.MatchString(strings.ToLower(agent.IPAServer)) {
		r.refuse("agent", []string{"ipa_server"}, "not the name of a host", "write such as ipa1.example.com")
	}
	for _, o := range agent.IPAClientOptions {
		word, _, _ := strings.Cut(o, "=")
		switch {
		case !strings.HasPrefix(o, "-") || strings.ContainsFunc(o, unicode.IsSpace):
			r.refuse("agent", []string{"ipa_client_options"}, "not a list of options",
				"write them with their dashes, separated by commas; a value follows after =")
		case slices.Contains([]string{"-w", "--password", "-p", "--principal", "-k", "--keytab"}, word):
			r.refuse("agent", []string{"ipa_client_options"}, "an option about who joins",
				"leave it out: each instance joins with its own one-time password")
		}
	}
}
