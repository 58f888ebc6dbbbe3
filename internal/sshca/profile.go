// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/problem"
)

// Extensions are those that ssh-keygen gives a user certificate by default
// (PROTOCOL.certkeys, "Extensions").
var Extensions = []string{
	"permit-X11-forwarding", "permit-agent-forwarding", "permit-port-forwarding", "permit-pty", "permit-user-rc",
}

// RoleRule restricts the certificates of those who hold a role.
type RoleRule struct {
	Lifetime      time.Duration  // the longest life; zero: no limit of its own
	Extensions    []string       // those that are allowed; nil: the common ones
	SourceAddress []netip.Prefix // where the certificate may be used from; nil: anywhere
	ForceCommand  string         // the only command that may be run; empty: any
}

// UserRules decide what a user certificate holds.
type UserRules struct {
	Accounts    AccountRules
	Lifetime    time.Duration // when the client asks for none
	MaxLifetime time.Duration // the most that a client may ask for
	Extensions  []string      // what every certificate is given
	Roles       map[string]RoleRule
}

// profile is what a certificate will say, short of key, serial and times.
type profile struct {
	principals []string
	extensions map[string]string
	critical   map[string]string
	lifetime   time.Duration
	// span is the same for all who ask for the same life, whenever they do.
	span    string
	leftOut []LeftOut
	// digest identifies what a certificate grants and what it rests on: two with
	// equal digests differ in nothing but serial and times.
	digest string
}

// decide makes the profile of a user who holds the roles, of which the limits
// let some count. A certificate is one key to all of its principals, so the
// restrictions of all roles apply at once: the shortest life, the extensions
// that every role allows, the source addresses that every role accepts. Those of
// roles that the user holds and the token leaves out apply too: who narrows a
// token gets nothing that the whole one does not give.
func (r UserRules) decide(roles []string, limits Limits, asked time.Duration, now time.Time) (profile, error) {
	p := profile{extensions: map[string]string{}, critical: map[string]string{}}
	counting := roles
	if limits.Roles != nil {
		counting = slices.DeleteFunc(slices.Clone(roles), func(role string) bool { return !slices.Contains(limits.Roles, role) })
	}
	p.principals, p.leftOut = r.Accounts.Of(counting)
	switch {
	case len(counting) == 0 && len(roles) > 0:
		return p, problem.New(problem.Forbidden, "the user has roles in the project, and the token none of them")
	case len(p.principals) == 0:
		return p, problem.New(problem.Forbidden, "%s", noPrincipals(counting, p.leftOut))
	}
	extensions := slices.Clone(r.Extensions)
	limit := r.MaxLifetime
	var sources []netip.Prefix
	for _, role := range slices.Sorted(slices.Values(roles)) {
		rule, ok := r.Roles[role]
		if !ok {
			continue
		}
		if rule.Lifetime > 0 {
			limit = min(limit, rule.Lifetime)
		}
		if rule.Extensions != nil {
			extensions = slices.DeleteFunc(extensions, func(e string) bool { return !slices.Contains(rule.Extensions, e) })
		}
		if rule.SourceAddress != nil {
			if sources = intersect(sources, rule.SourceAddress); len(sources) == 0 {
				return p, problem.New(problem.Forbidden, "the source addresses of your roles exclude each other; ask the cloud's operator")
			}
		}
		if command := rule.ForceCommand; command != "" {
			if other, ok := p.critical["force-command"]; ok && other != command {
				return p, problem.New(problem.Forbidden, "your roles force different commands; ask the cloud's operator")
			}
			p.critical["force-command"] = command
		}
	}
	for _, extension := range extensions {
		p.extensions[extension] = ""
	}
	if sources != nil {
		p.critical["source-address"] = joinPrefixes(sources)
	}
	var err error
	if p.lifetime, err = r.lifetime(asked, limit); err != nil {
		return p, err
	}
	p.digest, p.span = p.computeDigest(limits), p.lifetime.String()
	if until := limits.Until; !until.IsZero() {
		// Certificates end at whole seconds.
		p.span += " " + until.UTC().Format(time.RFC3339)
		if p.lifetime = min(p.lifetime, until.Truncate(time.Second).Sub(now)); p.lifetime < shortest {
			return p, problem.New(problem.Forbidden, "what the certificate would rest on, the token or what it was made with, ends within a minute; log in again")
		}
	}
	return p, nil
}

// shortest is the least life of a certificate.
const shortest = time.Minute

func (r UserRules) lifetime(asked, limit time.Duration) (time.Duration, error) {
	switch {
	case asked == 0:
		return min(r.Lifetime, limit), nil
	case asked < shortest:
		return 0, problem.InField("lifetime", "less than a minute is too short to log in")
	case asked > limit:
		return 0, problem.InField("lifetime", "at most %d seconds are allowed to your roles", int(limit/time.Second))
	default:
		return asked, nil
	}
}

func noPrincipals(roles []string, leftOut []LeftOut) string {
	if len(roles) == 0 {
		return "the user has no role in the project"
	}
	reasons := make([]string, len(leftOut))
	for i, left := range leftOut {
		reasons[i] = fmt.Sprintf("role %q: %s", left.Role, left.Reason)
	}
	return "none of the user's roles can be an account: " + strings.Join(reasons, "; ")
}

func (p profile) computeDigest(limits Limits) string {
	lists := [][]string{p.principals, flatten(p.extensions), flatten(p.critical)}
	// Without any, the digests are those of certificates that know of no limits.
	if limits.Credential.ID != "" {
		lists = append(lists, []string{"credential", limits.Credential.Kind, limits.Credential.ID})
	}
	if len(limits.GroupIDs) > 0 {
		lists = append(lists, append([]string{"groups"}, limits.GroupIDs...))
	}
	h := sha256.New()
	for _, list := range lists {
		fmt.Fprintf(h, "%d\n", len(list))
		for _, item := range list {
			fmt.Fprintf(h, "%q\n", item)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func flatten(options map[string]string) []string {
	var flat []string
	for _, name := range slices.Sorted(maps.Keys(options)) {
		flat = append(flat, name, options[name])
	}
	return flat
}

// intersect returns what both lists cover. A nil list covers everything.
func intersect(a, b []netip.Prefix) []netip.Prefix {
	if a == nil {
		return slices.Clone(b)
	}
	var both []netip.Prefix
	for _, p := range a {
		for _, q := range b {
			switch {
			case p.Overlaps(q) && p.Bits() >= q.Bits():
				both = append(both, p)
			case p.Overlaps(q):
				both = append(both, q)
			}
		}
	}
	return slices.Compact(both)
}

func joinPrefixes(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		texts[i] = prefix.Masked().String()
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), ",")
}
