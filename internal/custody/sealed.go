// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// Algorithm names the kind of an authority's key, as configuration writes it.
type Algorithm string

// The algorithms that an authority may sign with.
const (
	Ed25519   Algorithm = "ed25519"
	ECDSAP256 Algorithm = "ecdsa-p256"
	ECDSAP384 Algorithm = "ecdsa-p384"
	RSA3072   Algorithm = "rsa-3072"
	RSA4096   Algorithm = "rsa-4096"
)

// Sealed keeps private keys in whatever store the caller has, sealed under a
// keyring: the handle that it gives out is the sealed key itself.
type Sealed struct {
	keyring *Keyring
}

// NewSealed returns a custodian whose keys are sealed under the keyring.
func NewSealed(keyring *Keyring) *Sealed {
	return &Sealed{keyring: keyring}
}

// Generate makes a key pair. The handle is to be kept beside the record that
// the binding names; it is useless without the master key.
func (s *Sealed) Generate(_ context.Context, binding string, algorithm Algorithm) (handle []byte, public ssh.PublicKey, err error) {
	private, err := generate(algorithm)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("encode %s key: %w", algorithm, err)
	}
	public, err = ssh.NewPublicKey(private.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("encode %s public key: %w", algorithm, err)
	}
	return s.keyring.Seal(der, binding), public, nil
}

// Signer opens a handle. RSA keys sign with rsa-sha2-512 only, since SHA-1
// signatures are refused by OpenSSH 8.8 and later.
func (s *Sealed) Signer(_ context.Context, binding string, handle []byte) (ssh.Signer, error) {
	der, err := s.keyring.Open(handle, binding)
	if err != nil {
		return nil, err
	}
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		// The parser's own words may describe the key.
		return nil, ErrDamaged
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, ErrDamaged
	}
	if signer.PublicKey().Type() != ssh.KeyAlgoRSA {
		return signer, nil
	}
	algorithms, ok := signer.(ssh.AlgorithmSigner)
	if !ok {
		return nil, errors.New("RSA signer cannot choose its hash")
	}
	return ssh.NewSignerWithAlgorithms(algorithms, []string{ssh.KeyAlgoRSASHA512})
}

// Check tells whether keys can be used now. Keys sealed in the database need
// nothing but the keyring, which was read at start.
func (s *Sealed) Check(context.Context) error {
	probe := s.keyring.Seal([]byte("probe"), "probe")
	_, err := s.keyring.Open(probe, "probe")
	return err
}

func generate(algorithm Algorithm) (crypto.Signer, error) {
	switch algorithm {
	case Ed25519:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	case ECDSAP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECDSAP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	default:
		return nil, fmt.Errorf("unknown key algorithm %q", algorithm)
	}
}
