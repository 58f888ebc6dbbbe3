// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"bytes"
	_ "embed"
	"log/slog"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
)

// mldsaKey is the public half of a host key that OpenSSH 10.6 makes by default
// (ssh-keygen -t mldsa44-ed25519 of Debian unstable).
//
//go:embed testdata/ssh_host_mldsa44_ed25519_key.pub
var mldsaKey string

// TestHostKeysLeftOut: those of kinds to come are told from damaged ones, keys
// that are not there are no matter, and all is said once.
func TestHostKeysLeftOut(t *testing.T) {
	h := newHost(t, "")
	var log bytes.Buffer
	h.SSHD.log = slog.New(slog.NewTextHandler(&log, nil))
	names := []string{"ed25519", "mldsa44_ed25519", "damaged", "absent"}
	var config strings.Builder
	for _, name := range names {
		config.WriteString("HostKey /etc/ssh/ssh_host_" + name + "_key\n")
	}
	agenttest.Write(t, h.root, mainFile, config.String())
	agenttest.Write(t, h.root, "/etc/ssh/ssh_host_mldsa44_ed25519_key.pub", mldsaKey)
	agenttest.Write(t, h.root, "/etc/ssh/ssh_host_damaged_key.pub", "ssh-ed25519 AAAA root@web-1\n")
	for range 2 {
		keys, err := h.HostKeys(t.Context())
		if err != nil || len(keys) != 1 || keys[0].Path != "/etc/ssh/ssh_host_ed25519_key" {
			t.Fatalf("%v, %v", keys, err)
		}
	}
	said := log.String()
	for _, want := range []string{"of a kind that Muster cannot certify yet, ssh-mldsa44-ed25519;", "ssh_host_damaged_key.pub", "level=WARN"} {
		if !strings.Contains(said, want) {
			t.Errorf("it says nothing of %q:\n%s", want, said)
		}
	}
	if strings.Count(said, "\n") != 2 {
		t.Errorf("it says:\n%s", said)
	}
}

func FuzzKind(f *testing.F) {
	f.Add([]byte(mldsaKey))
	f.Add([]byte("ssh-ed25519 AAAA"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if kind := kindOf(line); kind != "" && !bytes.HasPrefix(bytes.TrimSpace(line), []byte(kind)) {
			t.Errorf("%q is of the kind %q", line, kind)
		}
	})
}
