// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package account

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
)

// TestSocketsKeepNoHome: sshd and ssh-agent leave sockets in homes, which are
// nothing that somebody would miss. Pipes are somebody's.
func TestSocketsKeepNoHome(t *testing.T) {
	h := newHost(t)
	h.apply(false, "member", "reader", "writer")
	for _, name := range []string{"member", "reader"} {
		folder := filepath.Join(h.root, "home", name, ".ssh/agent")
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		// As OpenSSH 10.6 names it, of a session that was cut off.
		if err := syscall.Mknod(filepath.Join(folder, "s.2N0me1rP8M.sshd.178.Zb1LOpRX6I"), syscall.S_IFSOCK|0o600, 0); err != nil {
			t.Fatal(err)
		}
	}
	agenttest.Write(t, h.root, "/home/reader/.ssh/known_hosts", "a\n")
	if err := syscall.Mkfifo(filepath.Join(h.root, "home/writer/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := h.Remove(t.Context())
	if err != nil || !slices.Equal(kept, []string{"/home/reader", "/home/writer"}) {
		t.Errorf("kept: %q, %v", kept, err)
	}
	if _, err := os.Stat(filepath.Join(h.root, "home/member")); !os.IsNotExist(err) {
		t.Errorf("the home with nothing but a socket: %v", err)
	}
}
