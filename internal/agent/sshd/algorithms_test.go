// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
)

// TestAlgorithms: an image whose policy takes algorithms away that Muster's
// certificates need. All is set up, and it is said what to do.
func TestAlgorithms(t *testing.T) {
	for name, test := range map[string]struct {
		config string
		shut   string // what is wrong
		note   string // what is told
	}{
		"all": {"", "", ""},
		"authorities of other kinds": {
			"CASignatureAlgorithms ecdsa-sha2-nistp256,rsa-sha2-512\n",
			"CASignatureAlgorithms lack ssh-ed25519, with which the project's user CAs sign, so that it refuses all certificates: " +
				"add that, or let the operator set [ssh] ca_algorithm to ecdsa-p256 or rsa-3072 or rsa-4096 and rotate", "",
		},
		"for one account": {
			"Match User reader\nCASignatureAlgorithms ecdsa-sha2-nistp384\n", "for reader: its CASignatureAlgorithms lack ssh-ed25519", "",
		},
		"no user certificates": {
			"PubkeyAcceptedAlgorithms ssh-ed25519,rsa-sha2-512\n", "PubkeyAcceptedAlgorithms have no kind of certificate", "",
		},
		"no user certificates by Match": {
			"Match User *\nPubkeyAcceptedAlgorithms ssh-ed25519\n", "PubkeyAcceptedAlgorithms have no kind of certificate", "",
		},
		"some user certificates": {
			"PubkeyAcceptedAlgorithms -ssh-ed25519*,sk-*\n", "",
			"refuse certificates of some kinds of keys: Ed25519, Ed25519 on a security key, ECDSA on a security key; people need",
		},
		"no host certificates": {
			"HostKeyAlgorithms ssh-ed25519,rsa-sha2-512,ecdsa-sha2-nistp256\n",
			"HostKeyAlgorithms have none of the kinds of its certificates, so that clients do not know this host: add ", "",
		},
		"some host certificates": {
			"HostKeyAlgorithms rsa-sha2-256-cert-v01@openssh.com,ssh-ed25519\n", "",
			"HostKeyAlgorithms show no certificate for host keys of the kinds ecdsa-sha2-nistp256, ssh-ed25519:",
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, debian+test.config)
			want := h.want()
			if changed, err := h.Apply(t.Context(), want); !changed || errors.Is(err, ErrShut) != (test.shut != "") {
				t.Fatal(changed, err)
			}
			h.expect(h.effective(), always...) // it is not taken back
			changed, err := h.Apply(t.Context(), want)
			if changed || test.shut == "" && err != nil || test.shut != "" && (err == nil || !strings.Contains(err.Error(), test.shut)) {
				t.Errorf("%v, %v", changed, err)
			}
			if all := strings.Join(h.Warnings(), "\n"); !strings.Contains(all, test.note) || (all == "") != (test.note == "") {
				t.Errorf("it tells %q", all)
			}
		})
	}
}

// TestAlgorithmsOfGenerations: one generation of the authority signs with what
// sshd takes, the other does not.
func TestAlgorithmsOfGenerations(t *testing.T) {
	h := newHost(t, debian+"CASignatureAlgorithms ecdsa-sha2-nistp256\n")
	want := h.want()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	want.UserCAs = append(want.UserCAs, agenttest.Line(public))
	h.apply(want)
	if all := h.Warnings(); len(all) != 1 || !strings.Contains(all[0], "CASignatureAlgorithms lack ssh-ed25519, so that it refuses the certificates of") {
		t.Errorf("it tells %q", all)
	}
	want.UserCAs = nil // nobody's certificates are good, which is no fault of sshd's
	h.apply(want)
	if all := h.Warnings(); len(all) != 0 {
		t.Errorf("it tells %q", all)
	}
}

// TestAlgorithmsAtLogins: what is said to be shut is, for the real ssh.
func TestAlgorithmsAtLogins(t *testing.T) {
	for name, config := range map[string]string{
		"authorities of other kinds": "CASignatureAlgorithms ecdsa-sha2-nistp256,rsa-sha2-512\n",
		"no user certificates":       "PubkeyAcceptedAlgorithms ssh-ed25519,rsa-sha2-512\n",
		"no host certificates":       "HostKeyAlgorithms ssh-ed25519,rsa-sha2-512\n",
		"all":                        "",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, debian+config)
			h.withMember()
			key, _ := h.newKey("good", h.ca)
			want := h.want()
			want.PenaltyExempt = []string{"127.0.0.0/8"}
			_, shut := h.Apply(t.Context(), want)
			if err := (visitor{h, h.listen()}).enter(key); errors.Is(err, errNot) != errors.Is(shut, ErrShut) {
				t.Errorf("the agent says %v, ssh %v", shut, err)
			}
		})
	}
}
