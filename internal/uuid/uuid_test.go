// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package uuid

import (
	"regexp"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const canonical = "c65eb6614472402eac3aa112fd82693f"
	tests := []struct {
		name, in, want string
	}{
		{"bare", canonical, canonical},
		{"dashed", "c65eb661-4472-402e-ac3a-a112fd82693f", canonical},
		{"upper case", "C65EB661-4472-402E-AC3A-A112FD82693F", canonical},
		{"empty", "", ""},
		{"short", canonical[1:], ""},
		{"long", canonical + "0", ""},
		{"braces", "{c65eb661-4472-402e-ac3a-a112fd82693f}", ""},
		{"urn", "urn:uuid:c65eb661-4472-402e-ac3a-a112fd82693f", ""},
		{"dashes elsewhere", "c65eb6614-472-402e-ac3a-a112fd82693f", ""},
		{"not hexadecimal", "g65eb6614472402eac3aa112fd82693f", ""},
		{"non-ASCII digit", "٣65eb6614472402eac3aa112fd82693", ""},
		{"line feed", canonical[:31] + "\n", ""},
		{"user ID", strings.Repeat("ab", 32), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.in)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("Parse(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestParseUser(t *testing.T) {
	ldap := strings.Repeat("AB", 32)
	if got, err := ParseUser(ldap); err != nil || got != strings.ToLower(ldap) {
		t.Errorf("ParseUser(%q) = %q, %v", ldap, got, err)
	}
	if got, err := ParseUser(ldap[1:]); err == nil {
		t.Errorf("ParseUser of 63 digits = %q, want an error", got)
	}
}

func TestDashed(t *testing.T) {
	if got, want := Dashed("c65eb6614472402eac3aa112fd82693f"), "c65eb661-4472-402e-ac3a-a112fd82693f"; got != want {
		t.Errorf("Dashed = %q, want %q", got, want)
	}
}

var spelling = regexp.MustCompile(`^(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$`)

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "c65eb6614472402eac3aa112fd82693f", "C65EB661-4472-402E-AC3A-A112FD82693F", "{c65eb661-4472-402e-ac3a-a112fd82693f}", strings.Repeat("-", 36)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Parse(s)
		if want := spelling.MatchString(s); (err == nil) != want {
			t.Fatalf("Parse(%q): err = %v, want acceptance %v", s, err, want)
		}
		if err == nil && got != strings.ToLower(strings.ReplaceAll(s, "-", "")) {
			t.Fatalf("Parse(%q) = %q", s, got)
		}
	})
}
