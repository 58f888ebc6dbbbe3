// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/problem"
)

func TestFQDN(t *testing.T) {
	plain := Rules{Domain: "example.test"}
	perProject := Rules{Domain: "example.test", ProjectSubdomain: true, NormalizeProject: true}
	strict := Rules{Domain: "example.test", ProjectSubdomain: true}
	long := strings.Repeat("a", 63)
	for _, test := range []struct {
		name              string
		rules             Rules
		hostname, project string
		want              string // "" if refused
	}{
		{"short", plain, "web", "", "web.example.test"},
		{"capitals", plain, "WEB-1", "", "web-1.example.test"},
		{"digits inside", plain, "0web9", "", "0web9.example.test"},
		{"dot at the end", plain, "web.", "", "web.example.test"},
		{"qualified", plain, "web.example.test", "", "web.example.test"},
		{"qualified, capitals, dot", plain, "Web.Example.TEST.", "", "web.example.test"},
		{"qualified, deeper", plain, "web.lab.example.test", "", "web.lab.example.test"},
		{"qualified, with projects", perProject, "web.example.test", "p", "web.example.test"},
		{"longest label", plain, long, "", long + ".example.test"},
		{"project", perProject, "web", "Team A", "web.team-a.example.test"},
		{"project, bytes", perProject, "web", "Ä_b!", "web.b.example.test"},
		{"project, bytes inside", perProject, "web", "aäb", "web.a--b.example.test"},
		{"project, dashes", perProject, "web", "--x--", "web.x.example.test"},
		{"project that is a label", strict, "web", "Team-A", "web.team-a.example.test"},

		{"nothing", plain, "", "", ""},
		{"a dot", plain, ".", "", ""},
		{"the domain itself", plain, "example.test", "", ""},
		{"dot and domain", plain, ".example.test", "", ""},
		{"another domain", plain, "web.example.org", "", ""},
		{"looks like the domain", plain, "web.notexample.test", "", ""},
		{"domain in the middle", plain, "web.example.test.evil.org", "", ""},
		{"empty label", plain, "web..example.test", "", ""},
		{"two dots at the end", plain, "web..", "", ""},
		{"number", plain, "42", "", ""},
		{"number in front", plain, "42.example.test", "", ""},
		{"address", plain, "10.0.0.1", "", ""},
		{"dash in front", plain, "-web", "", ""},
		{"dash at the end", plain, "web-", "", ""},
		{"underscore", plain, "web_1", "", ""},
		{"blank", plain, "web 1", "", ""},
		{"Unicode", plain, "wéb", "", ""},
		{"Kelvin sign, whose small letter is k", plain, "\u212Aube", "", ""},
		{"zero byte", plain, "web\x00", "", ""},
		{"slash", plain, "web/x", "", ""},
		{"long label", plain, long + "a", "", ""},
		{"long name", plain, strings.Repeat(long+".", 4) + "example.test", "", ""},
		{"no project", perProject, "web", "", ""},
		{"project of nothing", perProject, "web", "--", ""},
		{"project of other letters", perProject, "web", "Ж", ""},
		{"numeric project", perProject, "web", "2024", ""},
		{"project that is no label", strict, "web", "Team A", ""},
		{"project with dots", strict, "web", "a.b", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.rules.fqdn(test.hostname, test.project)
			if test.want == "" {
				refused(t, err, problem.Invalid)
				return
			}
			must(t, err)
			equal(t, got, test.want)
		})
	}
}

func TestOwnHosts(t *testing.T) {
	equal(t, subHost("web.example.test", "internal"), "web.internal.example.test")
	equal(t, subHost("web.team.example.test", "internal"), "web.internal.team.example.test")
	for name, own := range map[string]bool{
		"web.example.test": true, "www.web.example.test": true, "a.b.web.example.test": true, "web.internal.example.test": true,
		"web.a.b.example.test": false, "web2.example.test": false, "xweb.example.test": false, "example.test": false,
		"web.example.test.evil.org": false, "web.internal.other.test": false, "web": false, "db.internal.example.test": false,
	} {
		equal(t, map[string]bool{name: isOwn("web.example.test", name)}, map[string]bool{name: own})
	}
}

func TestPatterns(t *testing.T) {
	patterns := []string{"IPA*.example.test", "vault.example.test", "*.mgmt.example.test"}
	for name, want := range map[string]bool{
		"ipa.example.test": true, "ipa2.example.test": true, "ipa.x.example.test": true, "vault.example.test": true,
		"a.mgmt.example.test": true, "a.b.mgmt.example.test": true, "mgmt.example.test": false, "vault1.example.test": false,
		"xipa.example.test": false,
	} {
		equal(t, map[string]bool{name: matches(patterns, name)}, map[string]bool{name: want})
	}
}

func TestRulesThatDoNotFit(t *testing.T) {
	for name, rules := range map[string]Rules{
		"no domain":       {},
		"domain":          {Domain: "exa mple.test"},
		"Unicode domain":  {Domain: "exämple.test"},
		"empty label":     {Domain: "example..test"},
		"protected":       {Domain: "example.test", Protected: []string{"[a"}},
		"empty pattern":   {Domain: "example.test", Protected: []string{""}},
		"default pattern": {Domain: "example.test", Default: ProjectRules{ServiceHosts: []string{"a/b"}}},
		"project pattern": {Domain: "example.test", Projects: map[string]ProjectRules{"x": {ServiceHosts: []string{"a b"}}}},
		"description":     {Domain: "example.test", Description: "a\nb"},
	} {
		if _, err := rules.complete(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	rules, err := Rules{Domain: ".Example.TEST."}.complete()
	must(t, err)
	equal(t, rules.Domain, "example.test")
}

// FuzzFQDN sees that any name is refused, or is a host name of the domain.
func FuzzFQDN(f *testing.F) {
	for _, seed := range []string{"web", "Web.Example.TEST.", "a..b", "-", "42", "wéb", "web.example.org", strings.Repeat("a.", 130), "\xff", "\u212A"} {
		f.Add(seed, "Team A", true)
		f.Add("web", seed, false)
	}
	f.Fuzz(func(t *testing.T, hostname, project string, normalize bool) {
		for _, rules := range []Rules{{Domain: "example.test"}, {Domain: "example.test", ProjectSubdomain: true, NormalizeProject: normalize}} {
			fqdn, err := rules.fqdn(hostname, project)
			if err != nil {
				continue
			}
			if reason := badHost(fqdn); reason != "" || !strings.HasSuffix(fqdn, ".example.test") || len(fqdn) > 253 {
				t.Errorf("%q, %q: %q %s", hostname, project, fqdn, reason)
			}
			if again, err := rules.fqdn(fqdn, project); err != nil || again != fqdn {
				t.Errorf("%q read again: %q, %v", fqdn, again, err)
			}
		}
	})
}
