// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"fmt"
	"slices"
	"strings"

	"github.com/muster-cloud/muster/internal/ipa"
)

// Right is something that FreeIPA must let Muster do.
type Right struct {
	Permission string // of the name that docs/enrolment.md has
	Verdict    Verdict
	Reason     string // by what Muster knows it
	Command    string // what an administrator of FreeIPA types to give it; "" if Muster has it
}

// Verdict says whether Muster has a right.
type Verdict string

// The verdicts.
const (
	Granted Verdict = "ok"
	Lacking Verdict = "lacks"
	Unseen  Verdict = "not seen" // FreeIPA does not show Muster enough to tell
)

// need is a right that enrolment, or with dns the address records, cannot do without.
type need struct {
	permission string
	dns        bool
	// The attribute that it lets write, and of what: there FreeIPA tells whether Muster may. Else the permission's name alone does.
	of        func(ipa.Standing) ipa.Writable
	what      string
	attribute string
	kind      string // of entry, if the permission is none of FreeIPA's own
}

var (
	ofHost    = func(s ipa.Standing) ipa.Writable { return s.Host }
	ofService = func(s ipa.Standing) ipa.Writable { return s.Service }
	ofZone    = func(s ipa.Standing) ipa.Writable { return s.Zone }
)

// needs are all rights of docs/enrolment.md without which something fails. They were taken away one by one, from a FreeIPA 4.9.
var needs = []need{
	{permission: "System: Add Hosts"},
	{permission: "System: Remove Hosts"},
	{permission: "Modify host password", of: ofHost, what: "its own host", attribute: "userpassword", kind: "host"},
	{permission: "System: Manage Host Keytab", of: ofHost, what: "its own host", attribute: "krbprincipalkey"},
	{permission: "System: Add Services"},
	{permission: "System: Remove Services"},
	{permission: "System: Manage Service Keytab"}, // of its own entry, any service may write the key
	{permission: "Modify service managedBy attribute", of: ofService, what: "its own service", attribute: "managedby", kind: "service"},
	{permission: "System: Read DNS Entries", dns: true},
	{permission: "System: Add DNS Entries", dns: true},
	{permission: "System: Update DNS Entries", dns: true, of: ofZone, what: "a DNS zone", attribute: "arecord"},
	{permission: "System: Remove DNS Entries", dns: true},
}

// harmless are permissions that the page, or novajoin's installer, gives besides: none of them is any of the needs.
var harmless = []string{
	"Write host certificate", "Modify host userclass", "System: Modify Services", "System: Add krbPrincipalName to a Host",
	"Retrieve Certificates from the CA", "Revoke Certificate",
}

// Rights judges, by what FreeIPA shows Muster of itself, whether it has what enrolment needs, and with dns what address records need.
func Rights(s ipa.Standing, dns bool) []Right {
	unknown := slices.DeleteFunc(slices.Clone(s.Permissions), func(name string) bool {
		return contains(harmless, name) || slices.ContainsFunc(needs, func(n need) bool { return strings.EqualFold(n.permission, name) })
	})
	var all []Right
	for _, n := range needs {
		if n.dns && !dns {
			continue
		}
		r := Right{Permission: n.permission}
		if r.Verdict, r.Reason = n.judge(s, unknown); r.Verdict != Granted {
			r.Command = n.command(s)
		}
		all = append(all, r)
	}
	return all
}

func contains(list []string, name string) bool {
	return slices.ContainsFunc(list, func(one string) bool { return strings.EqualFold(one, name) })
}

func (n need) judge(s ipa.Standing, unknown []string) (Verdict, string) {
	var writable ipa.Writable
	if n.of != nil {
		writable = n.of(s)
	}
	may, shown := writable[n.attribute]
	switch {
	case s.Admin:
		return Granted, "an administrator of FreeIPA"
	case contains(s.Permissions, n.permission):
		return Granted, "has the permission"
	case may:
		return Granted, fmt.Sprintf("may write %s of %s", n.attribute, n.what)
	case n.permission == "System: Read DNS Entries" && s.Zone != nil:
		return Granted, "sees a DNS zone"
	case shown:
		return Lacking, fmt.Sprintf("may not write %s of %s", n.attribute, n.what)
	case !s.Listed:
		return Unseen, "FreeIPA does not show Muster its own permissions"
	case len(unknown) > 0:
		return Unseen, "unless one of these gives it, which FreeIPA does not show Muster: " + strings.Join(unknown, ", ")
	}
	return Lacking, "no permission of this name"
}

// command is what gives the right.
func (n need) command(s ipa.Standing) string {
	service, _, _ := strings.Cut(s.Principal, "@")
	if len(s.Privileges) == 0 {
		return fmt.Sprintf("ipa role-add-member 'Muster Host Manager' --services=%s (the role is made as docs/enrolment.md says)", service)
	}
	privilege := s.Privileges[0]
	for _, known := range []string{"Nova Host Management", "Muster Host Management"} {
		if contains(s.Privileges, known) {
			privilege = known
		}
	}
	give := fmt.Sprintf("ipa privilege-add-permission %s --permissions=%s", quote(privilege), quote(n.permission))
	if n.kind == "" {
		return give
	}
	return fmt.Sprintf("ipa permission-add %s --right=write --type=%s --attrs=%s; %s", quote(n.permission), n.kind, n.attribute, give)
}

// quote makes a name one word of a shell's.
func quote(name string) string { return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'" }
