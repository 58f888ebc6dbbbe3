// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package compute

import (
	"strings"
	"testing"
)

// TestHostname holds host names against those that sanitize_hostname of Nova
// 26.2.2 made of the same display names.
func TestHostname(t *testing.T) {
	for name, want := range map[string]string{
		"web-1": "web-1", "Web_1.example": "web-1-example", "a.b.c": "a-b-c", "a b": "a-b", " lead": "lead", "-x-": "x",
		"tab\there": "tabhere", "B\u00fcro S\u00fcd": "b\u00fcro-s\u00fcd", "a\u00bd\u00b2\u00aab": "a\u00bd\u00b2\u00aab",
		"\u00c0\u00ff\u00df\u00de": "\u00e0\u00ff\u00df\u00fe", "\u00b5": "\u00b5", "na\u00efve_\u03a9mega": "na\u00efve-mega",
		"emoji\U0001f600x": "emojix", "\u65e5\u672c": "", "\u65e5\u672c web": "web", "...": "", "!!!": "",
		strings.Repeat("x", 70): strings.Repeat("x", 63), strings.Repeat("\u00df", 63): strings.Repeat("\u00df", 63),
		strings.Repeat("x", 62) + "_y": strings.Repeat("x", 62), strings.Repeat("x", 62) + "\u00e9.": strings.Repeat("x", 62) + "\u00e9",
	} {
		if got := hostname(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}
