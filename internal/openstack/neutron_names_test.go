// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openstack

import (
	"strings"
	"testing"
)

func TestFullName(t *testing.T) {
	for written, want := range map[string]string{
		"Web-1.example.com.":  "web-1.example.com",
		"web-1.example.com":   "web-1.example.com",
		"host-10-0-0-5.a.b.c": "host-10-0-0-5.a.b.c",
		// A label alone is the name of a host in no domain.
		"web": "", "web.": "", "": "", ".": "", "web..example.com": "", ".example.com": "", "web.example.com..": "",
		"*.example.com": "", "web_1.example.com": "", "-web.example.com": "", "web-.example.com": "", "web,root.example.com": "",
		"web.example.com\n": "", "bücher.example.com": "",
		strings.Repeat("a", 63) + ".com": strings.Repeat("a", 63) + ".com", strings.Repeat("a", 64) + ".com": "",
		strings.Repeat("a.", 126) + "a": strings.Repeat("a.", 126) + "a", strings.Repeat("a.", 126) + "ab": "",
	} {
		if got := fullName(written); got != want {
			t.Errorf("%q: %q, want %q", written, got, want)
		}
	}
}
