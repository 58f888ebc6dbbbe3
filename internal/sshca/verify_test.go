// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// TestVerify: a certificate that says anything else than was meant does not
// leave, whatever its signature says.
func TestVerify(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := func() *ssh.Certificate {
		return &ssh.Certificate{Key: signer.PublicKey(), Serial: 7, CertType: ssh.UserCert, KeyId: "alice_7", ValidPrincipals: []string{"a", "b"},
			ValidAfter: uint64(now.Unix() - 60), ValidBefore: uint64(now.Unix() + 60),
			Permissions: ssh.Permissions{CriticalOptions: map[string]string{"force-command": "true"}, Extensions: map[string]string{"permit-pty": ""}}}
	}
	for name, change := range map[string]func(*ssh.Certificate){
		"serial":            func(c *ssh.Certificate) { c.Serial++ },
		"type":              func(c *ssh.Certificate) { c.CertType = ssh.HostCert },
		"key ID":            func(c *ssh.Certificate) { c.KeyId += "x" },
		"principals":        func(c *ssh.Certificate) { c.ValidPrincipals = []string{"a,b"} },
		"all principals":    func(c *ssh.Certificate) { c.ValidPrincipals = nil },
		"begin":             func(c *ssh.Certificate) { c.ValidAfter-- },
		"end":               func(c *ssh.Certificate) { c.ValidBefore++ },
		"no option":         func(c *ssh.Certificate) { c.CriticalOptions = nil },
		"another option":    func(c *ssh.Certificate) { c.CriticalOptions["force-command"] = "false" },
		"another extension": func(c *ssh.Certificate) { c.Extensions["permit-port-forwarding"] = "" },
	} {
		cert := template()
		change(cert)
		if err := cert.SignCert(rand.Reader, signer); err != nil {
			t.Fatal(err)
		}
		if err := verify(cert, template(), signer.PublicKey(), now); err == nil {
			t.Errorf("%s: passes", name)
		}
	}
	cert := template()
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	if err := verify(cert, template(), signer.PublicKey(), now); err != nil {
		t.Errorf("as meant: %v", err)
	}
	cert.Signature.Blob[3] ^= 1
	if err := verify(cert, template(), signer.PublicKey(), now); err == nil {
		t.Error("a broken signature passes")
	}
}
