// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// faulty is an instance with a program that is killed at the step that a file
// names, as in the tests of whole machines.
type faulty struct {
	*instance
	built []byte
}

// carried is where somebody has put the program who installs by hand.
const carried = "/tmp/muster-agent"

func newFaulty(t *testing.T) *faulty {
	i := newInstance(t)
	built := filepath.Join(t.TempDir(), "muster-agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "faults", "-o", built, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{i, content}
	for name, content := range map[string][]byte{carried: content, "/etc/cron.d/.placeholder": nil} {
		if err := os.MkdirAll(filepath.Join(i.root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(i.root, name), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// touched is what the agent changes on such a machine.
var touched = []string{
	"/etc/ssh", "/etc/pam.d", "/etc/sudoers.d", "/etc/cron.d", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow",
	"/etc/subuid", "/etc/subgid", "/home/member", "/home/reader", stateFolder, "/usr/local/sbin",
}

// killed runs the program in its machine and tells whether it was killed at the
// step; at step 0 it is not.
func (f *faulty) killed(step int, args ...string) bool {
	f.t.Helper()
	crash := filepath.Join(f.root, "run/muster-agent-crash")
	if err := os.WriteFile(crash, fmt.Append(nil, step), 0o600); err != nil {
		f.t.Fatal(err)
	}
	command := exec.CommandContext(f.t.Context(), carried, args...)
	command.SysProcAttr, command.Dir = &syscall.SysProcAttr{Chroot: f.root}, "/"
	out, err := command.CombinedOutput()
	if err := os.Remove(crash); err != nil {
		f.t.Fatal(err)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL && strings.Contains(string(out), "killed before step") {
		return true
	}
	if err != nil {
		f.t.Fatalf("muster-agent %s: %v\n%s", args[0], err, out)
	}
	return false
}

// TestKilledWhileInstalled: the program and its service are whole or not there
// after a kill at each step, and installing again finishes.
func TestKilledWhileInstalled(t *testing.T) {
	f := newFaulty(t)
	whole := func() (there int) {
		t.Helper()
		for name, want := range map[string]string{installed: string(f.built), "/etc/cron.d/muster-agent": installed + " run"} {
			content, err := os.ReadFile(filepath.Join(f.root, name))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil || !bytes.Contains(content, []byte(want)) {
				t.Errorf("%s is not whole: %v", name, err)
			}
			there++
		}
		return there
	}
	before := f.tree("/etc/cron.d", "/usr/local/sbin", "/var/lib")
	step := 1
	for ; f.killed(step, "install", "--start=false"); step++ {
		whole()
		f.killed(0, "install", "--start=false")
		if there := whole(); there != 2 {
			t.Fatalf("killed at step %d, installed again: %d of 2 files", step, there)
		}
		f.killed(0, "uninstall")
		if diff := cmp.Diff(before, f.tree("/etc/cron.d", "/usr/local/sbin", "/var/lib")); diff != "" {
			t.Fatalf("killed at step %d, installed again and taken away:\n%s", step, diff)
		}
	}
	t.Logf("installing has %d steps", step-1)
	if step < 8 {
		t.Error("they are too few")
	}
}

// TestKilledWhileUninstalled: after a kill at each step of taking everything
// away, sshd is content, and doing it again finishes. The program stays until
// nothing but its own folders are left.
func TestKilledWhileUninstalled(t *testing.T) {
	f := newFaulty(t)
	before := f.tree(touched...)
	steps, left := 0, 1
	for step := 1; left > 0; step++ {
		f.killed(0, "install", "--start=false")
		f.killed(0, "once", "--metadata", f.metadata)
		if !f.killed(step, "uninstall") {
			left = 0
		}
		if _, err := f.programs().Run(t.Context(), nil, "sshd", "-t"); err != nil {
			t.Fatalf("killed at step %d: %v", step, err)
		}
		if _, err := os.Stat(filepath.Join(f.root, installed)); err != nil {
			rest := f.tree(touched...)
			maps.DeleteFunc(rest, func(name, _ string) bool {
				return strings.HasPrefix(name, stateFolder) || strings.HasSuffix(name, "/.muster-agent.muster-old")
			})
			if diff := cmp.Diff(before, rest); diff != "" {
				t.Fatalf("killed at step %d the program is gone, and this is left:\n%s", step, diff)
			}
		}
		f.killed(0, "uninstall")
		if diff := cmp.Diff(before, f.tree(touched...)); diff != "" {
			t.Fatalf("killed at step %d, uninstalled again:\n%s", step, diff)
		}
		steps = step
	}
	t.Logf("uninstalling has %d steps", steps-1)
	if steps < 20 {
		t.Error("they are too few")
	}
}
