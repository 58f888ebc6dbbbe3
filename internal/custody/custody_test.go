// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func newKeyring(t *testing.T, lines ...string) *Keyring {
	t.Helper()
	ring, err := ParseKeyring(strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestParseKeyring(t *testing.T) {
	key := NewMasterKey()
	tests := []struct {
		name, file, wantErr string
	}{
		{"one key", key, ""},
		{"comments and blanks", "# made in March\n\n  " + key + "  \n", ""},
		{"empty", "", "muster custody new-key"},
		{"too short", key[:20], "line 1"},
		{"second line bad", key + "\nhunter2", "line 2"},
		{"too many", strings.Repeat(NewMasterKey()+"\n", 1) + manyKeys(maxMasterKeys), "more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseKeyring(strings.NewReader(tt.file))
			switch {
			case tt.wantErr == "" && err != nil:
				t.Fatal(err)
			case tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)):
				t.Fatalf("err = %v, want %q in it", err, tt.wantErr)
			case err != nil && strings.Contains(err.Error(), "hunter2"):
				t.Fatalf("the error repeats the file: %v", err)
			}
		})
	}
}

func manyKeys(n int) string {
	var file strings.Builder
	for range n {
		file.WriteString(NewMasterKey() + "\n")
	}
	return file.String()
}

func TestSeal(t *testing.T) {
	first, second := NewMasterKey(), NewMasterKey()
	old := newKeyring(t, first)
	rotated := newKeyring(t, second, first)
	other := newKeyring(t, second)
	secret := []byte("a secret of the cloud")
	sealed := old.Seal(secret, "row 1")

	if bytes.Contains(sealed, secret) {
		t.Fatal("the sealed value holds the secret in clear")
	}
	if bytes.Equal(sealed, old.Seal(secret, "row 1")) {
		t.Fatal("two seals of one secret are equal")
	}
	for _, ring := range []*Keyring{old, rotated} {
		if got, err := ring.Open(sealed, "row 1"); err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("Open = %q, %v", got, err)
		}
	}
	if _, err := other.Open(rotated.Seal(secret, "row 1"), "row 1"); err != nil {
		t.Errorf("the first key of the file did not seal: %v", err)
	}
	if _, err := other.Open(sealed, "row 1"); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("without its key: %v, want ErrUnknownKey", err)
	}
	if _, err := old.Open(sealed, "row 2"); !errors.Is(err, ErrDamaged) {
		t.Errorf("in another row: %v, want ErrDamaged", err)
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		if _, err := old.Open(damaged, "row 1"); err == nil {
			t.Fatalf("opened with byte %d changed", i)
		}
	}
	for n := range len(sealed) {
		if _, err := old.Open(sealed[:n], "row 1"); err == nil {
			t.Fatalf("opened when cut to %d bytes", n)
		}
	}
}

func TestSealedSigns(t *testing.T) {
	tests := []struct {
		algorithm       Algorithm
		keyType, format string
	}{
		{Ed25519, ssh.KeyAlgoED25519, ssh.KeyAlgoED25519},
		{ECDSAP256, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA256},
		{ECDSAP384, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA384},
		{RSA3072, ssh.KeyAlgoRSA, ssh.KeyAlgoRSASHA512},
		{RSA4096, ssh.KeyAlgoRSA, ssh.KeyAlgoRSASHA512},
	}
	custodian := NewSealed(newKeyring(t, NewMasterKey()))
	for _, tt := range tests {
		t.Run(string(tt.algorithm), func(t *testing.T) {
			handle, public, err := custodian.Generate(t.Context(), "authority 1", tt.algorithm)
			if err != nil {
				t.Fatal(err)
			}
			if public.Type() != tt.keyType {
				t.Errorf("key type %s, want %s", public.Type(), tt.keyType)
			}
			signer, err := custodian.Signer(t.Context(), "authority 1", handle)
			if err != nil {
				t.Fatal(err)
			}
			cert := &ssh.Certificate{Key: public, CertType: ssh.UserCert, ValidPrincipals: []string{"member"}, ValidBefore: ssh.CertTimeInfinity}
			if err := cert.SignCert(rand.Reader, signer); err != nil {
				t.Fatal(err)
			}
			if cert.Signature.Format != tt.format {
				t.Errorf("signature format %s, want %s", cert.Signature.Format, tt.format)
			}
			if !bytes.Equal(cert.SignatureKey.Marshal(), public.Marshal()) {
				t.Error("signed by another key than the one generated")
			}
			if _, err := custodian.Signer(t.Context(), "authority 2", handle); !errors.Is(err, ErrDamaged) {
				t.Errorf("handle opened for another authority: %v", err)
			}
		})
	}
	if _, _, err := custodian.Generate(t.Context(), "authority 1", "dsa"); err == nil {
		t.Error("made a key of an unknown algorithm")
	}
	if err := custodian.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func FuzzParseKeyring(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("# comment\n" + NewMasterKey()))
	f.Add([]byte("AAAA\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		ring, err := ParseKeyring(bytes.NewReader(file))
		if err != nil {
			return
		}
		if got, err := ring.Open(ring.Seal([]byte("x"), "b"), "b"); err != nil || string(got) != "x" {
			t.Fatalf("an accepted keyring does not open what it sealed: %q, %v", got, err)
		}
	})
}
