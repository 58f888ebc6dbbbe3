// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The page is what the record says, and nobody wrote it by hand.
func TestPage(t *testing.T) {
	all, err := load("../../" + record)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../" + page)
	if err != nil {
		t.Fatal(err)
	}
	if difference := cmp.Diff(render(all), string(text)); difference != "" {
		t.Errorf("%s is not what %s says; only runs write it (make e2e RELEASE=...): %s", page, record, difference)
	}
	for _, r := range all {
		if _, known := targets[r.Target]; !known || r.Release == "" || r.Date == "" || r.Commit == "" || len(r.Versions) == 0 {
			t.Errorf("the record has %+v", r)
		}
	}
}

// The lines are of a go test -json of Go 1.26, but for the packages' names.
const said = `{"Time":"2026-12-01T03:00:00Z","Action":"start","Package":"github.com/muster-cloud/muster/test/e2e"}
make[1]: Entering directory
{"Action":"output","Package":"github.com/muster-cloud/muster/test/e2e","Test":"TestRoleGoes","Output":"=== RUN   TestRoleGoes\n"}
{"Action":"pass","Package":"github.com/muster-cloud/muster/test/e2e","Test":"TestRoleGoes/openstack/one","Elapsed":1}
{"Action":"pass","Package":"github.com/muster-cloud/muster/test/e2e","Test":"TestRoleGoes/openstack","Elapsed":1}
{"Action":"pass","Package":"github.com/muster-cloud/muster/test/e2e","Test":"TestRoleGoes","Elapsed":1}
{"Action":"fail","Package":"github.com/muster-cloud/muster/test/e2e","Test":"TestBoot/openstack","Elapsed":1}
{"Action":"pass","Package":"github.com/muster-cloud/muster/test/e2e","Test":"TestUnit","Elapsed":0}
{"Action":"fail","Package":"github.com/muster-cloud/muster/test/e2e","Elapsed":2}
{"Action":"pass","Package":"github.com/muster-cloud/muster/test/instance","Test":"TestLife","Elapsed":2}
{"Action":"skip","Package":"github.com/muster-cloud/muster/test/instance","Test":"TestSudo","Elapsed":2}
{"Action":"pass","Package":"github.com/muster-cloud/muster/test/instance","Test":"TestSudo/two_words","Elapsed":2}
{"Action":"pass","Package":"github.com/muster-cloud/muster/test/instance","Test":"TestSudo/two_words/deep","Elapsed":2}
{"Action":"pass","Package":"github.com/muster-cloud/muster/test/instance","Elapsed":2}`

// What tests say becomes a result, and is shown as go test shows it.
func TestFollow(t *testing.T) {
	for name, want := range map[string]result{
		"test":          {Passed: []string{"test/instance"}, Failed: []string{"test/e2e"}},
		"e2e":           {Passed: []string{"TestRoleGoes"}, Failed: []string{"TestBoot"}},
		"test-instance": {Passed: []string{"TestLife", "TestSudo/two words"}, Skipped: []string{"TestSudo"}},
	} {
		var shown strings.Builder
		if difference := cmp.Diff(want, follow(strings.NewReader(said), &shown, targets[name])); difference != "" {
			t.Errorf("%s: %s", name, difference)
		}
		if want := "make[1]: Entering directory\n=== RUN   TestRoleGoes\n"; shown.String() != want {
			t.Errorf("%s: it showed %q, want %q", name, shown.String(), want)
		}
	}
	if got := follow(strings.NewReader("make: *** [e2e] Error 2"), io.Discard, targets["e2e"]); len(got.Passed)+len(got.Failed) > 0 {
		t.Errorf("where no test ran it found %+v", got)
	}
}

// A run takes the place of the one before of that target and release.
func TestReplace(t *testing.T) {
	old := []result{{Target: "e2e", Release: "bookworm", Date: "2026-01-01"}, {Target: "e2e", Release: "sid", Date: "2026-01-01"}}
	got := replace(replace(old, result{Target: "e2e", Release: "trixie", Date: "2026-02-02"}), result{Target: "e2e", Release: "sid", Date: "2026-02-02"})
	want := []result{old[0], {Target: "e2e", Release: "trixie", Date: "2026-02-02"}, {Target: "e2e", Release: "sid", Date: "2026-02-02"}}
	if difference := cmp.Diff(want, got); difference != "" {
		t.Error(difference)
	}
	if old[1].Date != "2026-01-01" {
		t.Error("the old list was changed")
	}
}

// Versions of Debian 12 and unstable, as dpkg has them.
func TestUpstream(t *testing.T) {
	for full, want := range map[string]string{
		"1:9.2p1-2+deb12u7": "9.2p1", "2:30.0.0-3": "30.0.0", "262.1-1": "262.1", "1.9.16p2-3": "1.9.16p2", "17.12-0+deb13u1": "17.12", "9": "9",
	} {
		if got := upstream(full); got != want {
			t.Errorf("%s is %s, want %s", full, got, want)
		}
	}
}

// Releases are told in the order of their age.
func TestOrder(t *testing.T) {
	got := []string{"sid", "trixie", "bookworm", "next", "forky"}
	slices.SortFunc(got, order)
	if want := []string{"bookworm", "trixie", "forky", "next", "sid"}; !slices.Equal(got, want) {
		t.Errorf("the order is %v", got)
	}
}
