// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openssh

import (
	"errors"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/demo/openssh"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/test/deployment"
)

// documentedLine is the command of docs/install.md that has people's ssh trust a project's hosts.
func documentedLine(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if command := strings.TrimSpace(line); strings.HasPrefix(command, `echo "@cert-authority `) {
			return command
		}
	}
	t.Fatal("docs/install.md has no command that writes a @cert-authority line")
	return ""
}

// TestDocumentedKnownHosts: who types the command of docs/install.md, word for word, logs in to an
// instance by its name in the operator's domain and by its address, and by no other.
func TestDocumentedKnownHosts(t *testing.T) {
	t.Parallel()
	s := newSite(t, deployment.Settings{"ssh": {"host_domains": "example.com"}}, "ed25519")
	s.reboot(t, "203.0.113.7")
	m := s.newMember(t, "alpha", "ed25519", "member")
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", documentedLine(t))
	command.Env = append(os.Environ(), "HOME="+home, "MUSTER="+s.url, "PROJECT="+s.project, "TOKEN="+m.Token)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, known := range map[string]bool{
		hostName + ".example.com": true, "203.0.113.7": true,
		hostName: false, "vm-2.example.com": false, hostName + ".example.org": false, "203.0.113.8": false, "198.51.100.7": false,
	} {
		_, err := s.server.Login(t.Context(), openssh.Client{
			Account: s.account, Key: m.key, Certificate: m.certificate, HostName: name, Command: "true", KnownHosts: filepath.Join(home, ".ssh", "known_hosts"),
		})
		if known && err != nil || !known && !errors.Is(err, openssh.ErrHostRefused) {
			t.Errorf("ssh member@%s: %v, want it known: %t", name, err, known)
		}
	}
}

// reboot gives the instance an address, and what it gets after a rebuild: another certificate.
func (s *site) reboot(t *testing.T, address string) {
	t.Helper()
	_, records := s.OpenStore(t)
	err := records.SetAddresses(t.Context(), s.instance, []store.Address{
		{SourceID: deployment.NewID(), IP: netip.MustParseAddr(address), Kind: store.AddressFloating, NetworkID: deployment.NewID()},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.root.Want(t, http.StatusCreated, "POST", "/v1/hosts/"+s.instance+"/token", nil, nil)
	if err := s.server.Close(); err != nil {
		t.Fatal(err)
	}
	s.folder = t.TempDir()
	s.boot(t, "ed25519", nil)
}
