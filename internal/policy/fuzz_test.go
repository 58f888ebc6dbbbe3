// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package policy

import "testing"

// FuzzRule feeds text to the parser of rules: no panic, and what it accepts
// can be evaluated.
func FuzzRule(f *testing.F) {
	for _, seed := range []string{
		"", "@", "!", "role:admin", "role:admin and not (user_id:%(user_id)s or rule:x)", "'Member':%(role.name)s",
		"True:%(user.enabled)s", "token.roles.name:x%(a)sy%%", "((", "))", "not", "'a':'b'", "a:%(b", "1.5e3:1", "\x1c\u3000",
		"-0:%(x)s", "a.b-c.d:e", "http://x", "role:%((x))s",
	} {
		f.Add(seed)
	}
	creds := NewCredentials(map[string]any{
		"user_id": "u", "roles": []string{"admin"},
		"token": map[string]any{"roles": []any{map[string]any{"name": "x"}, nil}},
	})
	f.Fuzz(func(t *testing.T, text string) {
		sources := []source{{name: "r", text: text}, {name: "x", text: "@"}, {name: fallback, text: "!"}}
		e, err := build(sources, nil)
		if err != nil {
			return
		}
		e.Allow("r", creds, Target{"user_id": "u", "role.name": "Member", "x": 1.5})
	})
}

// FuzzFile feeds bytes to the loader of policy files.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "a: '@'", "{\"a\":\t[[\"role:x\"], \"role:y\"]}", "a: &x [*x]", "a: [[]]\nb: ''\n", "---\n---\n", "? [a]\n: b",
		"<<: {a: b}",
		"a: !!binary aGVsbG8=", "default: rule:a\na: role:b", "a: |\n  role:x\n  or role:y\n", "\xff", "- a", "a",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		sources, err := parseFile("policy.yaml", data)
		if err != nil {
			return
		}
		e, err := build(sources, nil)
		if err != nil {
			return
		}
		for _, s := range sources {
			e.Allow(s.name, Credentials{}, nil)
		}
	})
}

func BenchmarkAllow(b *testing.B) {
	e := mustLoad(b, "", Defaults())
	member := Caller{UserID: "u1", ProjectID: "p1", Roles: []string{"reader", "member"}}.Credentials()
	target := Target{"user_id": "u1", "project_id": "p1"}
	for _, name := range []string{UserCertCreate, UserCertRevoke, VendordataCreate, AllProjects, KRLShow} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.Allow(name, member, target)
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	defaults := Defaults()
	for b.Loop() {
		if _, err := Load("", defaults); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCredentials(b *testing.B) {
	caller := Caller{UserID: "u1", ProjectID: "p1", Roles: []string{"reader", "member"}}
	b.ReportAllocs()
	for b.Loop() {
		caller.Credentials()
	}
}
