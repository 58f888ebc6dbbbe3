// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sudo

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
)

// newPAM is a machine with no more than PAM's files.
func newPAM(t *testing.T, content map[string]string) (string, *PAM) {
	t.Helper()
	if os.Geteuid() != 0 {
		agenttest.Missing(t, "the program must be root's")
	}
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	agenttest.Write(t, root, program, "")
	agenttest.Write(t, root, "/etc/ssh/sshd_config", "")
	agenttest.Write(t, root, "/etc/pam.d/other", "")
	agenttest.Write(t, root, "/usr/lib/x86_64-linux-gnu/security/pam_exec.so", "")
	agenttest.Write(t, root, "/usr/lib/x86_64-linux-gnu/security/pam_listfile.so", "")
	for name, text := range content {
		agenttest.Write(t, root, name, text)
	}
	tree, err := files.OpenTree(t.Context(), files.Config{Root: root, State: "/var/lib/muster-agent"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	pam, err := New(Config{Tree: tree, Program: program})
	if err != nil {
		t.Fatal(err)
	}
	return root, pam
}

func read(t *testing.T, root, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(content)
}

func TestInstall(t *testing.T) {
	const rules = "auth required pam_unix.so\n"
	for name, test := range map[string]struct {
		content map[string]string
		blocks  []string // files that have the lines
	}{
		"Debian": {
			content: map[string]string{"/etc/pam.d/sudo": "#%PAM-1.0\n" + rules, "/etc/pam.d/sudo-i": "#%PAM-1.0\n" + rules},
			blocks:  []string{"/etc/pam.d/sudo", "/etc/pam.d/sudo-i"},
		},
		"RHEL": {
			content: map[string]string{
				"/etc/pam.d/sudo": "#%PAM-1.0\n" + rules, "/etc/pam.d/sudo-i": "#%PAM-1.0\nauth       include      sudo\n",
			},
			blocks: []string{"/etc/pam.d/sudo"},
		},
		"Debian with sudo-rs alone": {
			content: map[string]string{"/etc/pam.d/other": rules, "/usr/lib/cargo/bin/sudo": ""},
			blocks:  []string{"/etc/pam.d/sudo", "/etc/pam.d/sudo-i"},
		},
		"SUSE": {content: map[string]string{"/usr/lib/pam.d/sudo": rules}, blocks: []string{"/etc/pam.d/sudo"}},
	} {
		t.Run(name, func(t *testing.T) {
			root, pam := newPAM(t, test.content)
			if changed, err := pam.Install(t.Context(), []string{"reader", "member"}); err != nil || !changed {
				t.Fatal(changed, err)
			}
			for _, file := range test.blocks {
				text := read(t, root, file)
				lines := strings.Split(strings.TrimPrefix(text, "#%PAM-1.0\n"), "\n")
				if !strings.HasPrefix(lines[1], "auth [success=ignore default=1] pam_listfile.so ") ||
					!strings.HasPrefix(lines[2], "auth [success=done default=die] pam_exec.so ") || !strings.HasSuffix(text, rules) {
					t.Errorf("%s:\n%s", file, text)
				}
			}
			if list := read(t, root, AccountsFile); list != "member\nreader\n" {
				t.Errorf("%q", list)
			}
			if changed, err := pam.Install(t.Context(), []string{"member", "reader"}); err != nil || changed {
				t.Fatal("the same again: ", changed, err)
			}
			if changed, err := pam.Remove(t.Context()); err != nil || !changed {
				t.Fatal(changed, err)
			}
			for _, file := range []string{"/etc/pam.d/sudo", "/etc/pam.d/sudo-i"} {
				if got := read(t, root, file); got != test.content[file] {
					t.Errorf("%s:\n%s", file, got)
				}
			}
		})
	}
}

func TestInstallRefused(t *testing.T) {
	good := map[string]string{"/etc/pam.d/sudo": "auth required pam_unix.so\n"}
	for name, test := range map[string]struct {
		content map[string]string
		change  func(root string) error
		want    error
	}{
		"no PAM": {want: ErrNoPAM},
		"no module": {content: good, want: ErrNoModule, change: func(root string) error {
			return os.Remove(filepath.Join(root, "/usr/lib/x86_64-linux-gnu/security/pam_listfile.so"))
		}},
		"no program": {content: good, want: ErrProgram, change: func(root string) error {
			return os.Remove(filepath.Join(root, program))
		}},
		"anybody's program": {content: good, want: ErrProgram, change: func(root string) error {
			return os.Chmod(filepath.Join(root, program), 0o777)
		}},
		"in anybody's folder": {content: good, want: ErrProgram, change: func(root string) error {
			return os.Chmod(filepath.Dir(filepath.Join(root, program)), 0o777)
		}},
		"somebody's program": {content: good, want: ErrProgram, change: func(root string) error {
			return os.Chown(filepath.Join(root, program), 1000, 0)
		}},
	} {
		root, pam := newPAM(t, test.content)
		if test.change != nil {
			if err := test.change(root); err != nil {
				t.Fatal(err)
			}
		}
		if changed, err := pam.Install(t.Context(), nil); !errors.Is(err, test.want) || changed {
			t.Error(name, changed, err)
		}
		if got := read(t, root, "/etc/pam.d/sudo"); got != test.content["/etc/pam.d/sudo"] {
			t.Errorf("%s: %s", name, got)
		}
	}
}
