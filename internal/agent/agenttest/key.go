// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agenttest

import (
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// NewKey returns a fresh key.
func NewKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// NewSigner returns one with a fresh key: an authority, or a host key.
func NewSigner(t testing.TB) ssh.Signer {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(NewKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// Line is a public key or a certificate as in authorized_keys, without line end.
func Line(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}
