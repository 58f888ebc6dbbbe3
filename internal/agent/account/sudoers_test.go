// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"errors"
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
	root  string
	knows []string
	alone bool // there is no other sudo
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
		if !slices.Contains(r.knows, settings) {
			return nil, &files.ProgramError{Name: name, Stderr: "syntax error: unknown setting: '" + settings + "'", Err: errors.New("exit status 1")}
		}
	}
	return nil, nil
}

func TestRulesOfSudoRS(t *testing.T) {
	for name, test := range map[string]struct {
		rust rust
		want []string // settings with pam_sudo
	}{
		"0.2.5":  {rust{knows: rust025, alone: true}, rust025},
		"0.2.15": {rust{knows: rust0215, alone: true}, rust0215},
		// It passes over lines that it does not know.
		"beside the original": {rust{knows: rust025}, []string{
			"timestamp_timeout=0", "!requiretty", "authenticate", "!targetpw", "!rootpw", "!runaspw", "noninteractive_auth",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			r := &test.rust
			r.Runner, r.root = h.runner, h.root
			h.runner = r
			h.restart()
			h.apply(true, "member+")
			rules, err := os.ReadFile(filepath.Join(h.root, SudoersFile))
			if err != nil || !slices.Equal(defaults(rules), test.want) || !strings.Contains(string(rules), " PASSWD: ALL\n") {
				t.Errorf("%v:\n%s", err, rules)
			}
			h.apply(false, "member+")
			rules, err = os.ReadFile(filepath.Join(h.root, SudoersFile))
			if err != nil || r.alone && len(defaults(rules)) > 0 || !strings.Contains(string(rules), " NOPASSWD: ALL\n") {
				t.Errorf("%v:\n%s", err, rules)
			}
			agenttest.Run(t, h.root, "visudo", "-c", "-q") // the original one likes them as well
		})
	}
}

// defaults are the settings that rules have.
func defaults(rules []byte) (settings []string) {
	for line := range strings.Lines(string(rules)) {
		if who, setting, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(who, "Defaults:#") {
			settings = append(settings, setting)
		}
	}
	return settings
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
	if h.sudoReadsFolder("visudo-rs") || !h.sudoReadsFolder("visudo") {
		t.Error("which file counts")
	}
}
