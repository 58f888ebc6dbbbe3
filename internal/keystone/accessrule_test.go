// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/muster-cloud/muster/internal/keystone"
)

// The patterns are those of Keystone's documentation of access rules.
func TestAccessRules(t *testing.T) {
	for _, test := range []struct {
		path, asked string
		want        bool
	}{
		{"/v1/usercerts", "/v1/usercerts", true},
		{"/v1/usercerts", "/v1/usercerts/", false},
		{"/v1/usercerts", "/usercerts", false},
		{"/v1/usercerts", "/v1/usercertsX", false},
		{"/v1/usercerts", "/x/v1/usercerts", false},
		{"/v1/*", "/v1/usercerts", true},
		{"/v1/*", "/v1/", false},
		{"/v1/*", "/v1/usercerts/7", false},
		{"/v1/*/7", "/v1/usercerts/7", true},
		{"/v1/usercerts/{serial}", "/v1/usercerts/7", true},
		{"/v1/usercerts/{serial}", "/v1/usercerts/7/8", false},
		{"/v1/**", "/v1/usercerts/7/8", true},
		{"/v1/**", "/v1/", true},
		{"/v1/**", "/v2/usercerts", false},
		{"/**", "/usercerts", true},
		{"/**/7", "/v1/usercerts/7", true},
		{"/v1/user**", "/v1/usercerts/7", true},
		{"/v1/u*s", "/v1/usercerts", true},
		{"/v1/user.erts", "/v1/usercerts", false},
		{"/v1/(usercerts)", "/v1/usercerts", false},
		{"/v1/{usercerts", "/v1/usercerts", false},
		{"/v1/[a-z]+", "/v1/usercerts", false},
		{"/v1/**", "/v1/a\nb", true},
		{"/v1/usercerts", "/v1/usercerts\n", false},
		{"", "/v1/usercerts", false},
	} {
		rule := keystone.AccessRule{Service: "ssh", Method: "POST", Path: test.path}
		if got := rule.Allows("ssh", "POST", test.asked); got != test.want {
			t.Errorf("%q allows %q: %v", test.path, test.asked, got)
		}
		if rule.Allows("compute", "POST", test.asked) || rule.Allows("ssh", "GET", test.asked) {
			t.Errorf("%q allows another service or method", test.path)
		}
	}
}

// Whatever Keystone sends as a rule is read, and one that names a path as it is
// allows that path.
func FuzzAccessRule(f *testing.F) {
	for _, seed := range []string{"/v1/**", "/{a}/*", "/***/", "/v1/(", "{}{}", "/\xff\\"} {
		f.Add(seed, "/v1/usercerts")
	}
	f.Fuzz(func(t *testing.T, pattern, path string) {
		rule := keystone.AccessRule{Service: "ssh", Method: "GET", Path: pattern}
		got := rule.Allows("ssh", "GET", path)
		if utf8.ValidString(pattern) && !strings.ContainsAny(pattern, "*{") && got != (pattern == path) {
			t.Errorf("%q allows %q: %v", pattern, path, got)
		}
	})
}
