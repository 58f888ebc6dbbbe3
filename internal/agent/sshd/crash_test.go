// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
)

// crashVariable makes the test program an agent that is killed at a point.
const crashVariable = "SSHD_TEST_CRASH"

// doom is what such an agent does, and when it dies.
type doom struct {
	Root string
	Want *Want // nil: Remove
	At   int   // 0: never
}

// TestCrash kills the agent at each write. Whenever that is, sshd would start,
// and the next agent finishes.
func TestCrash(t *testing.T) {
	if text := os.Getenv(crashVariable); text != "" {
		meetDoom(t, text)
		return
	}
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it starts some hundred processes")
	}
	for name, config := range map[string]string{
		"its own file": debian, "a block": "UsePAM yes\nMatch User x\nX11Forwarding no\n",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, config)
			full := h.want()
			full.Port = 2222
			less := Want{UserCAs: nil, HostCerts: map[string]string{}, PasswordAuthentication: true}
			for key, cert := range full.HostCerts {
				less.HostCerts[key] = cert
				break
			}
			pristine := h.snapshot()
			if err := h.tree.Close(); err != nil {
				t.Fatal(err)
			}
			h.killEverywhere("first set-up", &full)
			h.killEverywhere("another state", &less)
			h.killEverywhere("back again", &full)
			h.killEverywhere("removal", nil)
			if diff := cmp.Diff(pristine, h.snapshot()); diff != "" {
				t.Fatal(diff)
			}
			h.open(nil)
		})
	}
}

// killEverywhere brings the host to the wanted state through a row of agents,
// each of which gets one step further before it is killed.
func (h *host) killEverywhere(what string, want *Want) {
	h.Helper()
	for point := 1; ; point++ {
		ended := h.killed(doom{Root: h.root, Want: want, At: point})
		if _, err := (files.Programs{Root: h.root}).Run(h.Context(), nil, "sshd", "-t"); err != nil {
			h.Fatalf("%s, killed at %d: %v", what, point, err)
		}
		if ended {
			h.Logf("%s: %d points", what, point-1)
			break
		}
	}
	if want == nil {
		return
	}
	settings := h.effective()
	h.expect(settings, "revokedkeys "+RevokedFile, "trustedusercakeys "+UserCAsFile)
	if _, err := os.Stat(filepath.Join(h.root, stateFolder, reloadMark)); err == nil {
		h.Errorf("%s: sshd was not told to read its configuration", what)
	}
}

// killed runs an agent and tells whether it came to its end.
func (h *host) killed(d doom) bool {
	h.Helper()
	text, err := json.Marshal(d)
	if err != nil {
		h.Fatal(err)
	}
	command := exec.Command(os.Args[0], "-test.run=^TestCrash$")
	command.Env = append(os.Environ(), crashVariable+"="+string(text))
	output, err := command.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return false
	}
	if err != nil {
		h.Fatalf("%v\n%s", err, output)
	}
	return true
}

func meetDoom(t *testing.T, text string) {
	var d doom
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	h := &host{TB: t, root: d.Root}
	points := 0
	h.open(func(string) {
		if points++; points == d.At {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
	var err error
	if d.Want == nil {
		err = h.Remove(t.Context())
	} else {
		_, err = h.Apply(t.Context(), *d.Want)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestDiskFaults: without room, or without leave to write, everything stays as
// it is, and the message says why.
func TestDiskFaults(t *testing.T) {
	for name, test := range map[string]struct {
		options string
		flags   uintptr
		fill    bool
		want    error
	}{
		"read-only": {options: "mode=0755", flags: syscall.MS_REMOUNT | syscall.MS_RDONLY, want: files.ErrReadOnly},
		"full":      {options: "mode=0755,size=200k", fill: true, want: files.ErrNoSpace},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, debian)
			ssh := filepath.Join(h.root, "etc/ssh")

			if err := syscall.Mount("tmpfs", ssh, "tmpfs", 0, test.options); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Unmount(ssh, syscall.MNT_DETACH) })
			if err := os.Mkdir(filepath.Join(ssh, "sshd_config.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			agenttest.Write(t, h.root, mainFile, debian)
			agenttest.Run(t, h.root, "ssh-keygen", "-A")
			w := h.want()
			if test.fill {
				h.fill(filepath.Join(ssh, "filler"))
			} else if err := syscall.Mount("", ssh, "", test.flags, ""); err != nil {
				t.Fatal(err)
			}
			before := h.snapshot()
			if changed, err := h.Apply(t.Context(), w); changed || !errors.Is(err, test.want) {
				t.Fatal(changed, err)
			}
			if diff := cmp.Diff(before, h.snapshot()); diff != "" {
				t.Fatal(diff)
			}
			agenttest.Run(t, h.root, "sshd", "-t")
			if test.fill {
				if err := os.Remove(filepath.Join(ssh, "filler")); err != nil {
					t.Fatal(err)
				}
			} else if err := syscall.Mount("", ssh, "", syscall.MS_REMOUNT, ""); err != nil {
				t.Fatal(err)
			}
			h.apply(w)
		})
	}
}

// fill writes until the disk is full, but for a page.
func (h *host) fill(name string) {
	h.Helper()
	f, err := os.Create(name)
	if err != nil {
		h.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	info, err := f.Stat()
	if err == nil {
		err = f.Truncate(info.Size() - 8192)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		h.Fatal(err)
	}
}
