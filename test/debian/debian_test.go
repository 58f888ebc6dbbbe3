// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package debian

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What apt says on a Debian 12 as its installer leaves it, and on an unstable.
var (
	bookworm = []source{
		{"http://mirror.example.test/debian", "bookworm", "main"}, {"http://mirror.example.test/debian", "bookworm-updates", "main"},
		{"http://mirror.example.test/debian-security", "bookworm-security", "main"}, {"https://packages.example.com/apt", "tools", "main"},
	}
	unstable = []source{{"http://mirror.example.test/debian", "sid", "main"}}
)

// A release's packages come from where the machine's own do.
func TestSources(t *testing.T) {
	for _, test := range []struct {
		release, own string
		known, want  []source
	}{
		{"bookworm", "bookworm", bookworm, bookworm[:3]},
		{"trixie", "bookworm", bookworm, []source{
			{"http://mirror.example.test/debian", "trixie", "main"}, {"http://mirror.example.test/debian", "trixie-updates", "main"},
			{"http://mirror.example.test/debian-security", "trixie-security", "main"},
		}},
		{"sid", "bookworm", bookworm, unstable},
		{"sid", "sid", unstable, unstable},
		{"sid", "trixie", unstable, nil},
	} {
		got := sourcesOf(test.release, test.own, test.known)
		if difference := cmp.Diff(test.want, got, cmp.AllowUnexported(source{})); difference != "" {
			t.Errorf("%s on %s: %s", test.release, test.own, difference)
		}
	}
}

// Unstable's /etc/os-release has the name of the next release.
func TestOwn(t *testing.T) {
	for _, test := range []struct {
		codename string
		known    []source
		want     string
	}{{"bookworm", bookworm, "bookworm"}, {"forky", unstable, "sid"}, {"forky", nil, "forky"}} {
		if got := ownOf(test.codename, test.known); got != test.want {
			t.Errorf("%s is called %s, want %s", test.codename, got, test.want)
		}
	}
}
