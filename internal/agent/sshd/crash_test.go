// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
)

// TestCrash kills the agent at each write. Whenever that is, sshd would start,
// and the next agent finishes.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it runs sshd some hundred times")
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
			h.open()
		})
	}
}

// killEverywhere brings the host to the wanted state through a row of agents,
// each of which gets one step further before it is killed.
func (h *host) killEverywhere(what string, want *Want) {
	h.Helper()
	for point := 1; ; point++ {
		ended := h.killed(want, point)
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

// killed runs an agent up to a point and tells whether it came to its end
// before. As after a kill, nothing of it runs any more from there on, nothing
// deferred either, and its lock is nobody's.
func (h *host) killed(want *Want, at int) bool {
	h.Helper()
	died, ended := make(chan struct{}), make(chan error, 1)
	points := 0
	go func() {
		ended <- h.live(want, func(string) {
			if points++; points == at {
				close(died)
				select {}
			}
		})
	}()
	select {
	case <-died:
		if err := os.Remove(filepath.Join(h.root, stateFolder, "lock")); err != nil {
			h.Fatal(err)
		}
		return false
	case err := <-ended:
		if err != nil {
			h.Fatal(err)
		}
		return true
	}
}

// live is an agent's life: it makes the host as wanted, or takes everything back.
func (h *host) live(want *Want, crash func(string)) error {
	programs := files.Programs{Root: h.root}
	tree, err := files.OpenTree(h.Context(), files.Config{Root: h.root, State: stateFolder, Runner: programs, Crash: crash})
	if err != nil {
		return err
	}
	agent, err := New(Config{Tree: tree, Runner: programs})
	switch {
	case err != nil:
	case want == nil:
		err = agent.Remove(h.Context())
	default:
		_, err = agent.Apply(h.Context(), *want)
	}
	return errors.Join(err, tree.Close())
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
