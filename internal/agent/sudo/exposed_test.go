// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sudo

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/sshd"
	"github.com/muster-cloud/muster/internal/sshca/krl"
)

// plain puts a key without certificate into the agent, and returns a certificate
// for it by which somebody may have logged in.
func (b *bench) plain(change func(*ssh.Certificate), authority ssh.Signer) *ssh.Certificate {
	b.Helper()
	key := agenttest.NewKey(b)
	if err := b.keys.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		b.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		b.Fatal(err)
	}
	cert := b.certificate(signer.PublicKey())
	if change != nil {
		change(cert)
	}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		b.Fatal(err)
	}
	return cert
}

// TestCertificateOfTheLogin: an agent that holds a key alone proves it for the
// certificate of the log-in.
func TestCertificateOfTheLogin(t *testing.T) {
	b := newBench(t)
	if _, err := b.ask(); !errors.Is(err, ErrNoProof) || strings.Contains(err.Error(), "CertificateFile") {
		t.Error("an empty agent: ", err)
	}
	cert := b.plain(nil, b.ca)
	if _, err := b.ask(); !errors.Is(err, ErrNoProof) || !strings.Contains(err.Error(), "CertificateFile") {
		t.Error("nothing exposed: ", err)
	}
	b.ofLogin = []*ssh.Certificate{cert}
	if proof, err := b.ask(); err != nil || proof.KeyID != "alice" || proof.Serial != 5 {
		t.Error(proof, err)
	}
	b.keys = liar{ExtendedAgent: b.keys, signer: agenttest.NewSigner(t)}
	if _, err := b.ask(); !errors.Is(err, ErrNoProof) || !strings.Contains(err.Error(), "signature is wrong") {
		t.Error("another key signs: ", err)
	}
}

// TestExposedProvesNothing: whoever calls sudo writes into the file what he likes.
func TestExposedProvesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(*ssh.Certificate)
		another bool // authority
		theirs  bool // the certificate is somebody else's, whose key is not in this agent
		want    string
	}{
		"another authority":    {another: true, want: "not of this project's authority"},
		"another account":      {change: func(c *ssh.Certificate) { c.ValidPrincipals = []string{"reader"} }, want: "does not name"},
		"expired":              {change: func(c *ssh.Certificate) { c.ValidBefore = uint64(noon.Unix()) }, want: "expired"},
		"revoked":              {change: func(c *ssh.Certificate) { c.Serial = 6 }, want: "revoked"},
		"somebody else's":      {theirs: true, want: "holds none at all"},
		"for a command":        {change: func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "id"} }, want: "restricted"},
		"changed after it was": {change: nil, want: "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			list, err := (&krl.List{Authorities: []krl.Authority{{Key: b.ca.PublicKey(), Serials: []uint64{6}}}}).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			agenttest.Write(t, b.root, sshd.RevokedFile, string(list))
			authority := b.ca
			if test.another {
				authority = agenttest.NewSigner(t)
			}
			cert := b.plain(test.change, authority)
			if test.want == "damaged" {
				cert.ValidBefore++
			}
			if test.theirs {
				if err := b.keys.RemoveAll(); err != nil {
					t.Fatal(err)
				}
				b.plain(nil, b.ca)
			}
			b.ofLogin = []*ssh.Certificate{cert}
			if _, err := b.ask(); !errors.Is(err, ErrNoProof) || !strings.Contains(err.Error(), test.want) {
				t.Fatal(err)
			}
		})
	}
}

// TestReadAs: what is read is what the person could read, at once.
func TestReadAs(t *testing.T) {
	folder := t.TempDir()
	me := person{uid: os.Getuid(), gid: os.Getgid()}
	file, pipe, link := filepath.Join(folder, "file"), filepath.Join(folder, "pipe"), filepath.Join(folder, "link")
	err := errors.Join(os.WriteFile(file, make([]byte, maxExposed+1), 0o600), syscall.Mkfifo(pipe, 0o600), os.Symlink(file, link))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := readAs(me, file); err != nil || len(text) != maxExposed {
		t.Error(len(text), err)
	}
	for _, path := range []string{pipe, link, folder, "relative", filepath.Join(folder, "nothing")} {
		if _, err := readAs(me, path); err == nil {
			t.Errorf("%s was read", path)
		}
	}
	if os.Geteuid() == 0 {
		if _, err := readAs(person{uid: 12345, gid: 12345}, file); err == nil {
			t.Error("root's file was read for somebody else")
		}
	}
}

func FuzzExposed(f *testing.F) {
	// The form of sshd's file (auth2.c, auth2_record_info), cut short.
	f.Add([]byte("publickey ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29t\nkeyboard-interactive\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		certs := parseExposed(text)
		if len(certs) > maxExposedCerts {
			t.Errorf("%d certificates", len(certs))
		}
		for _, cert := range certs {
			if cert.Key == nil {
				t.Error("a certificate without key")
			}
		}
	})
}
