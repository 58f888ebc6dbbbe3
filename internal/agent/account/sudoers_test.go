// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
)

// rust is a machine with sudo-rs: its visudo-rs knows the settings, and nothing
// else. Which ones each release of it accepts was tried one by one in the
// Debians that have it.
type rust struct {
	files.Runner
	root   string
	knows  []string
	alone  bool // there is no other sudo
	judged int
}

var (
	rust025  = []string{"timestamp_timeout=0", "!targetpw", "!rootpw"}
	rust0215 = []string{"timestamp_timeout=0", "!targetpw", "!rootpw", "noninteractive_auth"}
)

func (r *rust) Run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	switch {
	case name == "visudo" && r.alone:
		return nil, exec.ErrNotFound
	case name != "visudo-rs" || slices.Contains(args, "--version"):
		if name == "visudo-rs" {
			return []byte("visudo-rs 0.2.15\n"), nil
		}
		return r.Runner.Run(ctx, stdin, name, args...)
	}
	r.judged++
	file := SudoersFile
	if n := slices.Index(args, "-f"); n >= 0 {
		file = args[n+1]
	}
	text, err := os.ReadFile(filepath.Join(r.root, file))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		who, settings, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(who, "Defaults") {
			continue
		}
		for setting := range strings.SplitSeq(settings, ", ") {
			if !slices.Contains(r.knows, setting) {
				return nil, &files.ProgramError{Name: name, Stderr: "syntax error: unknown setting: '" + setting + "'", Err: exec.ErrDot}
			}
		}
	}
	return nil, nil
}

func TestRulesOfSudoRS(t *testing.T) {
	for name, test := range map[string]struct {
		rust rust
		want string // settings with pam_sudo
	}{
		"0.2.5":           {rust{knows: rust025, alone: true}, "timestamp_timeout=0, !targetpw, !rootpw"},
		"0.2.15":          {rust{knows: rust0215, alone: true}, "timestamp_timeout=0, !targetpw, !rootpw, noninteractive_auth"},
		"beside the real": {rust{knows: rust025}, "timestamp_timeout=0, !targetpw, !rootpw"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			r := &test.rust
			r.Runner, r.root = h.runner, h.root
			h.runner = r
			h.restart()
			h.apply(true, "member+")
			rules, err := os.ReadFile(filepath.Join(h.root, SudoersFile))
			if err != nil || !strings.Contains(string(rules), " "+test.want+"\n") || !strings.Contains(string(rules), " PASSWD: ALL\n") {
				t.Errorf("%v:\n%s", err, rules)
			}
			h.apply(false, "member+")
			rules, err = os.ReadFile(filepath.Join(h.root, SudoersFile))
			if err != nil || strings.Contains(string(rules), "Defaults") || !strings.Contains(string(rules), " NOPASSWD: ALL\n") {
				t.Errorf("%v:\n%s", err, rules)
			}
			if r.judged == 0 {
				t.Error("visudo-rs was not asked")
			}
			agenttest.Run(t, h.root, "visudo", "-c", "-q") // the original one likes them as well
		})
	}
}

// TestSudoIsExchanged: rules that another sudo does not know are made anew.
func TestSudoIsExchanged(t *testing.T) {
	h := newHost(t)
	h.apply(true, "member+")
	h.runner = &rust{Runner: h.runner, root: h.root, knows: rust025, alone: true}
	h.restart()
	if result := h.apply(true, "member+"); !result.Changed {
		t.Error("nothing changed")
	}
	// sudo-rs reads this in the place of /etc/sudoers.
	agenttest.Write(t, h.root, "/etc/sudoers-rs", "root ALL=(ALL:ALL) ALL\n")
	if h.sudoReadsFolder([]string{"visudo-rs"}) || !h.sudoReadsFolder([]string{"visudo", "visudo-rs"}) {
		t.Error("which file counts")
	}
}
