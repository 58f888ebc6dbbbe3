// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package service

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
)

// openRC makes a machine on which OpenRC has reached its default runlevel.
func openRC(t *testing.T) string {
	t.Helper()
	root := agenttest.Machine(t)
	agenttest.Guards(t, root, "rc-service", "rc-update", "openrc-run")
	services := filepath.Join(root, "etc/init.d")
	entries, err := os.ReadDir(services)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries { // those of Debian's packages are for systemd or sysvinit
		if entry.Name() != "functions.sh" {
			if err := os.RemoveAll(filepath.Join(services, entry.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range strings.Fields("daemons exclusive failed hotplugged inactive options scheduled started starting stopping tmp wasinactive") {
		if err := os.MkdirAll(filepath.Join(root, "run/openrc", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	agenttest.Write(t, root, "/run/openrc/softlevel", "default\n")
	return root
}

// TestOpenRC lets the real OpenRC judge the service: it starts with the machine,
// comes back when it is killed, and goes; each command may be repeated.
func TestOpenRC(t *testing.T) {
	root := openRC(t)
	programs := files.Programs{Root: root}
	agenttest.Write(t, root, program, "#!/bin/sh\necho $$ >>/run/agents\nexec sleep 1000\n")
	if err := os.Chmod(filepath.Join(root, program), 0o755); err != nil {
		t.Fatal(err)
	}
	tree, err := files.OpenTree(t.Context(), files.Config{Root: root, State: "/var/lib/muster-agent", Runner: programs})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	s, err := Find(tree.Exists, programs)
	if err != nil || s.Manager() != OpenRC {
		t.Fatal(s, err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Errorf("before there was one: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Stop(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	for round := range 2 { // an agent that is installed again is replaced
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Write(t.Context(), tree, program); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context(), program); err != nil {
			t.Fatal(err)
		}
		if pids := started(t, root, round+1); !runs(pids[round]) {
			t.Errorf("in round %d it does not run", round)
		}
	}
	if shown := agenttest.Run(t, root, "rc-update", "show", "default"); !strings.Contains(shown, " muster-agent |") {
		t.Errorf("it does not start with the machine: %q", shown)
	}
	agenttest.Run(t, root, "rc-service", "muster-agent", "status")
	if err := syscall.Kill(started(t, root, 2)[1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	pids := started(t, root, 3)

	for range 2 {
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if runs(pids[2]) {
		t.Error("it runs after all")
	}
	if err := tree.Undo(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget(t.Context()); err != nil {
		t.Error(err)
	}
	if shown := agenttest.Run(t, root, "rc-update", "show"); strings.Contains(shown, "muster-agent") {
		t.Errorf("afterwards: %q", shown)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Errorf("after it is gone: %v", err)
	}
}

// started waits until so many agents have been started, and returns their
// processes.
func started(t *testing.T, root string, count int) []int {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(root, "run/agents"))
		lines := strings.Fields(string(text))
		if err == nil && len(lines) >= count {
			return numbers(t, lines)
		}
		if time.Now().After(deadline) {
			t.Fatalf("of %d agents there were %q", count, lines)
		}
	}
}

func numbers(t *testing.T, words []string) []int {
	t.Helper()
	var all []int
	for _, word := range words {
		number, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, number)
	}
	return all
}

// runs tells whether a process is there.
func runs(pid int) bool { return syscall.Kill(pid, 0) == nil }
