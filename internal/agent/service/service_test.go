// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package service

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

// recorder is a Runner that writes down what it was asked to run.
type recorder struct {
	ran   []string
	fails string // the command that fails
}

func (r *recorder) Run(_ context.Context, _ []byte, name string, args ...string) ([]byte, error) {
	command := strings.Join(append([]string{name}, args...), " ")
	r.ran = append(r.ran, command)
	if command == r.fails {
		return nil, &files.ProgramError{Name: name, Err: errors.New("exit status 1")}
	}
	return nil, nil
}

// machine makes a tree with the named folders.
func machine(t *testing.T, folders ...string) (root string, tree *files.Tree) {
	t.Helper()
	root = t.TempDir()
	for _, folder := range append(folders, "etc") {
		if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := files.OpenTree(t.Context(), files.Config{Root: root, State: "/state"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	return root, tree
}

func TestMain(m *testing.M) { os.Exit(agenttest.Main(m)) }

const program = "/usr/local/sbin/muster-agent"

func TestInstall(t *testing.T) {
	for name, test := range map[string]struct {
		folders []string
		manager Manager
		file    string
		says    string // in the file
		mode    os.FileMode
		start   []string
	}{
		"systemd": {[]string{"run/systemd/system", "etc/systemd/system", "etc/cron.d"}, Systemd, "etc/systemd/system/muster-agent.service",
			"\nExecStart=" + program + " run\n", 0o644,
			[]string{"systemctl daemon-reload", "systemctl enable muster-agent", "systemctl --no-block restart muster-agent"}},
		"OpenRC": {[]string{"run/openrc", "etc/init.d", "etc/crontabs"}, OpenRC, "etc/init.d/muster-agent",
			"\ncommand=\"" + program + "\"\n", 0o755,
			[]string{"rc-update add muster-agent default", "rc-service muster-agent restart"}},
		"cron": {[]string{"etc/cron.d"}, Cron, "etc/cron.d/muster-agent", "\n@reboot root " + program + " run ", 0o644,
			[]string{`sh -c setsid "$1" run </dev/null >/dev/null 2>&1 & sh ` + program}},
	} {
		t.Run(name, func(t *testing.T) {
			root, tree := machine(t, test.folders...)
			ran := &recorder{}
			s, err := Find(tree.Exists, ran)
			if err != nil || s.Manager() != test.manager {
				t.Fatalf("found %v, %v", s, err)
			}
			for range 2 { // again is no harm
				if err := s.Write(t.Context(), tree, program); err != nil {
					t.Fatal(err)
				}
			}
			content, err := os.ReadFile(filepath.Join(root, test.file))
			if err != nil || !strings.Contains(string(content), test.says) || strings.Contains(string(content), "@PROGRAM@") {
				t.Errorf("%v\n%s", err, content)
			}
			if info, err := os.Stat(filepath.Join(root, test.file)); err != nil || info.Mode().Perm() != test.mode {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if err := s.Start(t.Context(), program); err != nil || !slices.Equal(ran.ran, test.start) {
				t.Errorf("%v, ran %q", err, ran.ran)
			}
			ran.fails = test.start[0]
			if err := s.Start(t.Context(), program); err == nil || !strings.Contains(err.Error(), string(test.manager)) {
				t.Errorf("a failure is not told: %v", err)
			}
			if err := tree.Undo(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(root, test.file)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the file is still there: %v", err)
			}
		})
	}
}

// TestImageMadeElsewhere: while an image was made there was cron at most. Its
// instances have systemd, and then that alone.
func TestImageMadeElsewhere(t *testing.T) {
	for _, folder := range []string{"etc/cron.d", "etc/crontabs"} {
		root, tree := machine(t, folder, "etc/systemd/system")
		if folder == "etc/crontabs" {
			if err := os.WriteFile(filepath.Join(root, busyboxTable), []byte("0 2 * * * true\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write := func(want Manager) {
			t.Helper()
			s, err := Find(tree.Exists, &recorder{})
			if err == nil {
				err = s.Write(t.Context(), tree, program)
			}
			if err != nil || s.Manager() != want {
				t.Fatal(s, err)
			}
		}
		write(Cron)
		if err := os.MkdirAll(filepath.Join(root, "run/systemd/system"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(Systemd)
		if text, err := os.ReadFile(filepath.Join(root, busyboxTable)); tree.Exists(cronFile) || !tree.Exists(unitFile) || strings.Contains(string(text), program) {
			t.Errorf("cron starts it, too: %s, %v", text, err)
		}
		if err := tree.Undo(t.Context(), ""); err != nil || tree.Exists(unitFile) {
			t.Error(err)
		}
	}
}

func TestBusyboxTable(t *testing.T) {
	root, tree := machine(t, "etc/crontabs")
	before := "0 2 * * * run-parts /etc/periodic/daily"
	table := filepath.Join(root, "etc/crontabs/root")
	if err := os.WriteFile(table, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Find(tree.Exists, &recorder{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Write(t.Context(), tree, program); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(table)
	if err != nil || strings.Count(string(content), "\n*/5 * * * * "+program+" run ") != 1 || !strings.HasPrefix(string(content), before+"\n") {
		t.Errorf("%v\n%s", err, content)
	}
	if err := tree.Undo(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(table); err != nil || string(content) != before {
		t.Errorf("after undoing: %v\n%s", err, content)
	}
}

func TestNoManager(t *testing.T) {
	_, tree := machine(t)
	if _, err := Find(tree.Exists, &recorder{}); !errors.Is(err, ErrNoManager) {
		t.Errorf("got %v", err)
	}
}

func TestStop(t *testing.T) {
	for manager, want := range map[Manager][]string{
		Systemd: {"systemctl show --property=LoadState muster-agent", "systemctl disable --now muster-agent"},
		OpenRC:  {"rc-service --exists muster-agent", "rc-service --ifstarted muster-agent stop", "rc-update --all del muster-agent", "rc-update show"},
		Cron:    nil,
	} {
		ran := &recorder{}
		if err := (&Service{manager, ran}).Stop(t.Context()); err != nil || !slices.Equal(ran.ran, want) {
			t.Errorf("%s: %v, %q", manager, err, ran.ran)
		}
	}
}

// TestUnit lets systemd judge the unit.
func TestUnit(t *testing.T) {
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		agenttest.Missing(t, "systemd-analyze: "+err.Error())
	}
	unit := filepath.Join(t.TempDir(), "muster-agent.service")
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(systemdUnit, "@PROGRAM@", "/bin/true")), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), verify, "verify", "--man=no", unit).CombinedOutput()
	if err != nil || strings.Contains(string(out), "muster-agent.service") {
		t.Errorf("%v\n%s", err, out)
	}
}
