// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/muster-cloud/muster/test/machine"
)

// sudos are the ways in which the release has sudo.
func sudos() map[string]func(root string) error {
	found := map[string]func(string) error{"sudo": nil}
	if machine.Has("sudo-rs") {
		found["sudo-rs alone"] = machine.OnlySudoRS
		found["sudo-rs alone without PAM's files"] = func(root string) error {
			return errors.Join(machine.OnlySudoRS(root), os.Remove(filepath.Join(root, "etc/pam.d/sudo")), os.Remove(filepath.Join(root, "etc/pam.d/sudo-i")))
		}
		found["sudo-rs beside sudo"] = func(root string) error { return machine.Install(root, "sudo-rs") }
	}
	return found
}

// Whichever sudo the machine has, those who may use it can, and nobody else:
// with a certificate in their SSH agent, with the key alone there, or unasked.
func TestEachSudo(t *testing.T) {
	asked := newSite(t, withAgent(t, "[vendordata]\npam_sudo = true\nsudo_roles = webadmin\n"))
	unasked := newSite(t, withAgent(t, "[vendordata]\nsudo_roles = webadmin\n"))
	for name, prepare := range sudos() {
		for s, asks := range map[*site]bool{asked: true, unasked: false} {
			title := name + ", unasked"
			if asks {
				title = name
			}
			t.Run(title, func(t *testing.T) {
				t.Parallel()
				steps := []func(string) error{bare}
				if prepare != nil {
					steps = append(steps, prepare)
				}
				i := s.newInstance(t, "web-1", steps...)
				i.install(t, programs)
				i.Boot(t)
				alice, bob := s.newPerson(t, "alice"+i.id, "member"), s.newPerson(t, "bob"+i.id, "webadmin")
				s.certify(t, alice)
				s.certify(t, bob)
				alice.startAgent(t)
				bob.startAgent(t)
				i.Must(t, program, "install")
				i.awaitSetUp(t)
				i.await(t, func() error { return i.has("webadmin", true) })
				bob.enter(t, i.Machine, "webadmin")
				if !asks {
					unaskedSudo(t, i, alice, bob)
					return
				}
				sudo(t, i, alice, bob)
				bob.loadKeyAlone(t)
				both := login{account: "webadmin", command: "sudo -n id -un && sudo -n -i id -un", forward: true}
				if output, err := bob.ssh(t.Context(), i.Machine, both); err != nil || output != "root\nroot\n" {
					t.Errorf("sudo with an agent that holds the key alone: %q %v\n%s", output, err, i.agentLog())
				}
			})
		}
	}
}

func unaskedSudo(t *testing.T, i *instance, alice, bob *person) {
	t.Helper()
	asRoot := login{account: "webadmin", command: "sudo -n id -un"}
	if output, err := bob.ssh(t.Context(), i.Machine, asRoot); err != nil || output != "root\n" {
		t.Errorf("sudo: %q %v\n%s", output, err, i.agentLog())
	}
	asRoot.account = "member"
	if output, err := alice.ssh(t.Context(), i.Machine, asRoot); err == nil {
		t.Errorf("sudo of somebody who may not: %q", output)
	}
}

// loadKeyAlone puts the key into the agent without its certificate, as agents
// have it that hold no certificates.
func (p *person) loadKeyAlone(t *testing.T) {
	t.Helper()
	alone := filepath.Join(t.TempDir(), "key") // beside no certificate
	if err := os.WriteFile(alone, []byte(p.read(t, "key")), 0o600); err != nil {
		t.Fatal(err)
	}
	p.load(t, alone)
}
