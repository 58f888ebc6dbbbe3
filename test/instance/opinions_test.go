// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// opinions of an image about everybody but root: its own authority and principals
// let in, nothing is revoked, keys do without certificates.
const opinions = `Match User *,!root
    TrustedUserCAKeys /etc/ssh/other_ca
    AuthorizedPrincipalsFile /etc/ssh/principals/%u
    AuthorizedKeysFile /etc/ssh/keys/%u
    RevokedKeys none
`

// TestOpinions: in an image with Match rules of its own, who gets into Muster's
// accounts is Muster's affair, and doctor says what stays the image's.
func TestOpinions(t *testing.T) {
	t.Parallel()
	s := newSite(t, withAgent(t, ""))
	alice, mallory := s.newPerson(t, "alice", "member"), s.newPerson(t, "mallory", "reader")
	authority := filepath.Join(mallory.folder, "ca")
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", authority)
	run(t, "ssh-keygen", "-q", "-s", authority, "-I", "mallory", "-n", "member,mallory", mallory.key()+".pub")
	i := s.newInstance(t, "web-1", func(root string) error {
		var problems []error
		for name, text := range map[string]string{
			"sshd_config.d/20-x.conf": opinions, "other_ca": mallory.read(t, "ca.pub"),
			"principals/member": "mallory\n", "keys/member": mallory.read(t, "key.pub"),
		} {
			file := filepath.Join(root, "etc/ssh", name)
			problems = append(problems, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644))
		}
		return errors.Join(problems...)
	})
	i.Boot(t)
	i.awaitSetUp(t)
	s.certify(t, alice)
	alice.enter(t, i.Machine, "member")
	if _, err := mallory.ssh(t.Context(), i.Machine, login{account: "member", command: "true"}); !errors.Is(err, errRefused) {
		t.Errorf("by the image's authority, or by a bare key: %v", err)
	}
	said := i.Must(t, program, "doctor")
	if strings.Contains(said, "WRONG") || !strings.Contains(said, "RevokedKeys none") {
		t.Errorf("doctor:\n%s", said)
	}
	s.ungrant(t, alice, "member")
	i.await(t, func() error {
		if _, err := alice.ssh(t.Context(), i.Machine, login{account: "member", command: "true"}); !errors.Is(err, errRefused) {
			return errors.Join(errStillThere, err)
		}
		return nil
	})
}
