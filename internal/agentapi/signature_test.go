// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentapi_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agentapi"
)

// signers has one key of each type that hosts and authorities have.
func signers(t testing.TB) map[string]ssh.Signer {
	t.Helper()
	all := make(map[string]ssh.Signer)
	add := func(name string, private crypto.Signer, err error) {
		if err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.NewSignerFromSigner(private)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = signer
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	add("ed25519", ed, err)
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		private, err := ecdsa.GenerateKey(curve, rand.Reader)
		add(name, private, err)
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	add("rsa", private, err)
	return all
}

func TestRequestSignatures(t *testing.T) {
	all := signers(t)
	body := []byte(`{"challenge": "c", "host_id": "h"}`)
	for name, signer := range all {
		t.Run(name, func(t *testing.T) {
			header, err := agentapi.SignRequest(signer, agentapi.PathState, body)
			if err != nil {
				t.Fatal(err)
			}
			s, err := agentapi.ParseSignature(header)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := ssh.FingerprintSHA256(s.Key()), ssh.FingerprintSHA256(signer.PublicKey()); got != want {
				t.Errorf("the signature names %s, want %s", got, want)
			}
			if err := s.Verify(agentapi.PathState, body); err != nil {
				t.Error(err)
			}
			for what, err := range map[string]error{
				"another path":             s.Verify(agentapi.PathRenew, body),
				"another body":             s.Verify(agentapi.PathState, append(body, ' ')),
				"a line moved to the path": s.Verify(agentapi.PathState+"\n"+string(body[:1]), body[1:]),
				"a list's signature":       agentapi.VerifyList(header, body, []ssh.PublicKey{signer.PublicKey()}),
			} {
				if !errors.Is(err, agentapi.ErrSignature) {
					t.Errorf("%s: got %v, want a refusal", what, err)
				}
			}
		})
	}
}

func TestListSignatures(t *testing.T) {
	all := signers(t)
	list := []byte("SSHKRL\n\x00...")
	var authorities []ssh.PublicKey
	for _, signer := range all {
		authorities = append(authorities, signer.PublicKey())
	}
	for name, signer := range all {
		header, err := agentapi.SignList(signer, list)
		if err != nil {
			t.Fatal(name, err)
		}
		if err := agentapi.VerifyList(header, list, authorities); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := agentapi.VerifyList(header, list[1:], authorities); !errors.Is(err, agentapi.ErrSignature) {
			t.Errorf("%s: another list: got %v, want a refusal", name, err)
		}
		if err := agentapi.VerifyList(header, list, nil); !errors.Is(err, agentapi.ErrSignature) {
			t.Errorf("%s: no authority: got %v, want a refusal", name, err)
		}
	}
	stranger := signers(t)["ed25519"]
	header, err := agentapi.SignList(stranger, list)
	if err != nil {
		t.Fatal(err)
	}
	if err := agentapi.VerifyList(header, list, authorities); !errors.Is(err, agentapi.ErrSignature) {
		t.Errorf("a stranger's signature: got %v, want a refusal", err)
	}
}

// weakRSA signs as OpenSSH no longer does.
type weakRSA struct {
	ssh.Signer
	algorithm string
}

func (w weakRSA) SignWithAlgorithm(random io.Reader, data []byte, _ string) (*ssh.Signature, error) {
	return w.Signer.(ssh.AlgorithmSigner).SignWithAlgorithm(random, data, w.algorithm)
}

func TestRefusedSignatures(t *testing.T) {
	all := signers(t)
	ed := all["ed25519"]
	encode := func(s *sshsig.Signature, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(s.Marshal())
	}
	good := encode(sshsig.Sign(strings.NewReader("x"), ed, sshsig.HashSHA512, agentapi.NamespaceHost))
	certificate := &ssh.Certificate{Key: ed.PublicKey(), CertType: ssh.HostCert, ValidBefore: ssh.CertTimeInfinity}
	if err := certificate.SignCert(rand.Reader, ed); err != nil {
		t.Fatal(err)
	}
	certified, err := ssh.NewCertSigner(certificate, ed)
	if err != nil {
		t.Fatal(err)
	}
	byCertificate, err := sshsig.Sign(strings.NewReader("x"), ed, sshsig.HashSHA512, agentapi.NamespaceHost)
	if err != nil {
		t.Fatal(err)
	}
	byCertificate.PublicKey = certificate
	blob, err := base64.StdEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"nothing":          "",
		"not base64":       "&&&&",
		"armored":          "-----BEGIN SSH SIGNATURE-----\n" + good + "\n-----END SSH SIGNATURE-----",
		"url base64":       base64.URLEncoding.EncodeToString([]byte("\xff\xff\xff")),
		"cut off":          base64.StdEncoding.EncodeToString(blob[:len(blob)-1]),
		"trailing data":    base64.StdEncoding.EncodeToString(append(blob, 0)),
		"too long":         base64.StdEncoding.EncodeToString(make([]byte, 8<<10)),
		"sha256":           encode(sshsig.Sign(strings.NewReader("x"), ed, sshsig.HashSHA256, agentapi.NamespaceHost)),
		"rsa-sha2-256":     encode(sshsig.Sign(strings.NewReader("x"), weakRSA{all["rsa"], ssh.KeyAlgoRSASHA256}, sshsig.HashSHA512, agentapi.NamespaceHost)),
		"rsa with sha1":    encode(sshsig.Sign(strings.NewReader("x"), weakRSA{all["rsa"], ssh.KeyAlgoRSA}, sshsig.HashSHA512, agentapi.NamespaceHost)),
		"by a certificate": base64.StdEncoding.EncodeToString(byCertificate.Marshal()),
	}
	for name, header := range cases {
		if _, err := agentapi.ParseSignature(header); !errors.Is(err, agentapi.ErrSignature) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if _, err := agentapi.SignRequest(certified, agentapi.PathState, nil); err == nil {
		t.Error("a certificate was taken as the key to sign with")
	}
	other, err := agentapi.ParseSignature(encode(sshsig.Sign(strings.NewReader("p\nx"), ed, sshsig.HashSHA512, "file")))
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Verify("p", []byte("x")); !errors.Is(err, agentapi.ErrSignature) {
		t.Errorf("another namespace: got %v, want a refusal", err)
	}
}

func FuzzParseSignature(f *testing.F) {
	for _, name := range []string{"ed25519", "p256", "rsa"} {
		header, err := agentapi.SignRequest(signers(f)[name], agentapi.PathState, []byte("{}"))
		if err != nil {
			f.Fatal(err)
		}
		blob, err := base64.StdEncoding.DecodeString(header)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(blob)
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		s, err := agentapi.ParseSignature(base64.StdEncoding.EncodeToString(blob))
		if err != nil {
			if !errors.Is(err, agentapi.ErrSignature) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		if s.Verify(agentapi.PathRenew, []byte("never signed")) == nil {
			t.Fatal("a signature of something else was accepted")
		}
	})
}
