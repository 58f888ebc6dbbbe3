// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"path"
	"strings"

	"github.com/muster-cloud/muster/internal/problem"
)

// The limits of names in the DNS (RFC 1035, 2.3.4).
const (
	maxLabel = 63
	maxFQDN  = 253
)

// fqdn builds the full name of an instance: HOST.DOMAIN, or HOST.PROJECT.DOMAIN. A host name that ends in the domain
// already is taken as it is; one that ends in another domain is refused.
func (r Rules) fqdn(hostname, projectName string) (string, error) {
	name := strings.TrimSuffix(lower(hostname), ".")
	if name == "" {
		return "", problem.InField("hostname", "is missing")
	}
	full := name
	if own, qualified := strings.CutSuffix(name, "."+r.Domain); qualified {
		name = own
	} else {
		if name == r.Domain || strings.Contains(name, ".") {
			return "", problem.InField("hostname", "%s is not in the domain %s; give the instance a name without dots", quoted(hostname), r.Domain)
		}
		full = name + "." + r.Domain
		if r.ProjectSubdomain {
			project, err := r.projectLabel(projectName)
			if err != nil {
				return "", err
			}
			full = name + "." + project + "." + r.Domain
		}
	}
	for label := range strings.SplitSeq(name, ".") {
		if reason := badLabel(label); reason != "" {
			return "", problem.InField("hostname", "%s: %s", quoted(hostname), reason)
		}
	}
	if len(full) > maxFQDN {
		return "", problem.InField("hostname", "the full name %s is longer than %d characters", quoted(full), maxFQDN)
	}
	return full, nil
}

// projectLabel makes the project's name a DNS label, as novajoin does with normalize_project.
func (r Rules) projectLabel(projectName string) (string, error) {
	if projectName == "" {
		return "", problem.InField("project-id", "the project's name is not known, and the instance's name needs it")
	}
	label := lower(projectName)
	if r.NormalizeProject {
		label = normalized(label)
	}
	if reason := badLabel(label); reason != "" {
		return "", problem.InField("project-id", "the project's name %s cannot be part of a host name: %s", quoted(projectName), reason)
	}
	return label, nil
}

// normalized puts a - for each byte outside of [a-z0-9-], and none at either end.
func normalized(name string) string {
	label := []byte(name)
	for i, c := range label {
		if !inLabel(c) {
			label[i] = '-'
		}
	}
	return strings.Trim(string(label), "-")
}

// badLabel says why a lower-case label can't be part of a host name (RFC 1123, 2.1), or nothing. Labels of digits alone
// are refused, for such names are easily taken for addresses.
func badLabel(label string) string {
	digits := true
	for i := range len(label) {
		c := label[i]
		if !inLabel(c) {
			return "only ASCII letters, digits and - may stand between the dots of a host name"
		}
		digits = digits && c >= '0' && c <= '9'
	}
	switch {
	case label == "":
		return "a part between the dots is empty"
	case len(label) > maxLabel:
		return "a part between the dots is longer than 63 characters"
	case label[0] == '-' || label[len(label)-1] == '-':
		return "no part between the dots may begin or end with -"
	case digits:
		return "no part between the dots may be a number alone"
	}
	return ""
}

// lower makes ASCII letters small. Others stay what they are: some become ASCII letters in Unicode's way.
func lower(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, name)
}

func inLabel(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-'
}

// badHost says why a lower-case name can't be a fully qualified host name, or nothing.
func badHost(name string) string {
	if len(name) > maxFQDN {
		return "the host name is longer than 253 characters"
	}
	if !strings.Contains(name, ".") {
		return "the host name is not fully qualified"
	}
	for label := range strings.SplitSeq(name, ".") {
		if reason := badLabel(label); reason != "" {
			return reason
		}
	}
	return ""
}

// subHost is the name of an instance in one of its networks: HOST.NETWORK.DOMAIN for HOST.DOMAIN.
func subHost(fqdn, network string) string {
	host, domain, _ := strings.Cut(fqdn, ".")
	return host + "." + network + "." + domain
}

// isOwn tells whether a host name is an instance's own: its FQDN, a name below that, or its name in a network.
func isOwn(fqdn, name string) bool {
	if name == fqdn || strings.HasSuffix(name, "."+fqdn) {
		return true
	}
	host, domain, _ := strings.Cut(fqdn, ".")
	network, ok := strings.CutPrefix(name, host+".")
	if !ok {
		return false
	}
	network, ok = strings.CutSuffix(network, "."+domain)
	return ok && network != "" && !strings.Contains(network, ".")
}

// matches tells whether a lower-case host name is among names and patterns. A * stands for any characters.
func matches(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if ok, err := path.Match(strings.ToLower(pattern), name); ok && err == nil {
			return true
		}
	}
	return false
}

// badPattern says why a name or pattern of the configuration is none, or nothing.
func badPattern(pattern string) string {
	if pattern == "" || strings.Trim(strings.ToLower(pattern), "abcdefghijklmnopqrstuvwxyz0123456789-.*") != "" {
		return "may hold ASCII letters, digits, '-', '.' and '*' only"
	}
	return ""
}

// quoted shows a foreign text in a message, cut to a readable length.
func quoted(text string) string {
	const readable = 100
	text = strings.ToValidUTF8(text, "\uFFFD")
	if runes := []rune(text); len(runes) > readable {
		text = string(runes[:readable]) + "…"
	}
	return `"` + strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '"' {
			return '.'
		}
		return r
	}, text) + `"`
}
