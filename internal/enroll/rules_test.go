// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"strings"
	"testing"
)

// A project has the rules of its section, and no other project does, whatever its name.
func TestRulesOfAProject(t *testing.T) {
	id := strings.Repeat("c", 32)
	rules := Rules{
		Default: ProjectRules{AllowedClasses: []string{"default"}},
		Projects: map[string]ProjectRules{
			"shop": {DomainID: "default", AllowedClasses: []string{"shop"}},
			"any":  {AllowedClasses: []string{"any"}},
			id:     {DomainID: "default", AllowedClasses: []string{"by ID"}},
		},
	}
	for _, test := range []struct {
		name string
		req  Request
		want string
	}{
		{"name and domain", Request{ProjectID: "1", ProjectName: "shop", ProjectDomainID: "default"}, "shop"},
		{"name in another domain", Request{ProjectID: "1", ProjectName: "shop", ProjectDomainID: "tenants"}, "default"},
		{"name in no domain", Request{ProjectID: "1", ProjectName: "shop"}, "default"},
		{"name in any domain", Request{ProjectID: "1", ProjectName: "any", ProjectDomainID: "tenants"}, "any"},
		{"ID", Request{ProjectID: id, ProjectName: "x", ProjectDomainID: "tenants"}, "by ID"},
		{"ID as a name", Request{ProjectID: "1", ProjectName: id, ProjectDomainID: "default"}, "default"},
		{"no name", Request{ProjectID: "1"}, "default"},
	} {
		if got := rules.of(test.req).AllowedClasses[0]; got != test.want {
			t.Errorf("%s: the rules of %q, want %q", test.name, got, test.want)
		}
	}
}
