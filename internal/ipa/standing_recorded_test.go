// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// TestRecordedStanding reads what a real FreeIPA 4.9.11 told Muster's service of itself. It had the permissions that docs/enrolment.md then named.
func TestRecordedStanding(t *testing.T) {
	text, err := os.ReadFile("testdata/standing.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded map[string]json.RawMessage
	if err := json.Unmarshal(text, &recorded); err != nil {
		t.Fatal(err)
	}
	entry := func(name string) rightsEntry {
		t.Helper()
		e, err := decodeEntry[rightsEntry](recorded[name])
		if err != nil || e.Rights == nil {
			t.Fatalf("%s: %v", name, err)
		}
		return e
	}
	var s Standing
	s.read(entry("service_show"))
	slices.Sort(s.Permissions)
	want := []string{
		"Modify host password", "Modify host userclass", "Modify service managedBy attribute", "Retrieve Certificates from the CA",
		"Revoke Certificate", "System: Add DNS Entries", "System: Add Hosts", "System: Add Services", "System: Add krbPrincipalName to a Host",
		"System: Manage Host Keytab", "System: Manage Service Keytab", "System: Modify Services", "System: Read DNS Entries",
		"System: Remove DNS Entries", "System: Remove Hosts", "System: Remove Services", "System: Update DNS Entries", "Write host certificate",
	}
	if !slices.Equal(s.Permissions, want) || !slices.Equal(s.Privileges, []string{"Muster Host Management"}) || s.Admin || !s.Listed {
		t.Errorf("%+v", s)
	}
	for name, rights := range map[string]map[string]bool{
		"service_show": {"managedby": true, "krbprincipalkey": true, "krbcanonicalname": false},
		"host_show":    {"userpassword": true, "krbprincipalkey": true, "description": false, "managedby": false},
		"dnszone_show": {"arecord": true, "aci": false},
	} {
		writable := entry(name).writable()
		for attribute, want := range rights {
			if may, shown := writable[attribute]; may != want || !shown {
				t.Errorf("%s: %s is writable: %v, shown: %v", name, attribute, may, shown)
			}
		}
	}
}

// TestCutDN takes names apart as RFC 4514 writes them.
func TestCutDN(t *testing.T) {
	for dn, want := range map[string][2]string{
		"cn=System: Add Hosts,cn=Permissions,cn=pbac,dc=a": {"System: Add Hosts", "cn=permissions,cn=pbac,dc=a"},
		`cn=One\, two,cn=privileges,cn=pbac,dc=a`:          {"One, two", "cn=privileges,cn=pbac,dc=a"},
		"cn=alone": {}, "": {}, `cn=\`: {},
	} {
		if name, place, _ := cutDN(dn); name != want[0] || place != want[1] {
			t.Errorf("%s: %q, %q", dn, name, place)
		}
	}
}
