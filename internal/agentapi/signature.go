// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentapi

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// SignatureHeader carries a signature, of a request by the instance, of a
// revocation list by Muster: the blob of PROTOCOL.sshsig in base64, without
// the armor's lines.
const SignatureHeader = "Muster-Signature"

// Namespaces keep the signatures of one purpose from serving another
// (PROTOCOL.sshsig, "namespace").
const (
	NamespaceHost = "muster-host@muster-cloud.org"
	NamespaceList = "muster-krl@muster-cloud.org"
)

// maxSignature bounds a header: OpenSSH's largest RSA key has 16384 bits, and
// so a signature of 2 kB beside a key of 2 kB.
const maxSignature = 8 << 10

// ErrSignature is every refusal of a signature. Its text is for people and
// repeats nothing of the input.
var ErrSignature = errors.New("the signature is refused")

// Signature is one that was read, not yet verified.
type Signature struct {
	parsed *sshsig.Signature
}

// SignRequest returns the SignatureHeader of a request. The path is one of
// this package's; the body is what is sent, byte by byte.
func SignRequest(signer ssh.Signer, path string, body []byte) (header string, err error) {
	return sign(signer, NamespaceHost, signedRequest(path, body))
}

// Verify tells whether the signature is of this request, by the key that
// [Signature.Key] names. Whose key that is must be found out beside.
func (s Signature) Verify(path string, body []byte) error {
	return s.verify(NamespaceHost, signedRequest(path, body))
}

// signedRequest is what an instance signs.
func signedRequest(path string, body []byte) io.Reader {
	return io.MultiReader(strings.NewReader(path), strings.NewReader("\n"), bytes.NewReader(body))
}

// SignList returns the SignatureHeader of a revocation list.
func SignList(authority ssh.Signer, list []byte) (header string, err error) {
	return sign(authority, NamespaceList, bytes.NewReader(list))
}

// VerifyList tells whether the header is the signature of a revocation list by
// one of the authorities.
func VerifyList(header string, list []byte, authorities []ssh.PublicKey) error {
	s, err := ParseSignature(header)
	if err != nil {
		return err
	}
	key := s.Key().Marshal()
	known := slices.ContainsFunc(authorities, func(a ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), key) })
	if !known {
		return fmt.Errorf("%w: it is by none of the authorities", ErrSignature)
	}
	return s.verify(NamespaceList, bytes.NewReader(list))
}

// ParseSignature reads a SignatureHeader. It refuses keys and ways to sign
// that OpenSSH's hosts and Muster's authorities don't have.
func ParseSignature(header string) (Signature, error) {
	switch {
	case header == "":
		return Signature{}, fmt.Errorf("%w: there is none; send it in the header %s", ErrSignature, SignatureHeader)
	case len(header) > maxSignature:
		return Signature{}, fmt.Errorf("%w: it has more than %d characters", ErrSignature, maxSignature)
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(header)
	if err != nil {
		return Signature{}, fmt.Errorf("%w: it is not valid base64", ErrSignature)
	}
	parsed, err := sshsig.ParseSignature(blob)
	if err != nil {
		return Signature{}, fmt.Errorf("%w: it is not in the form of PROTOCOL.sshsig", ErrSignature)
	}
	s := Signature{parsed}
	if !slices.Contains(keyTypes, s.Key().Type()) {
		return Signature{}, fmt.Errorf("%w: its key is not of a type that can sign here", ErrSignature)
	}
	if parsed.HashAlgorithm != sshsig.HashSHA512 || parsed.Signature.Format != algorithm(s.Key()) {
		return Signature{}, fmt.Errorf("%w: it must be made with sha512, and with rsa-sha2-512 by an RSA key", ErrSignature)
	}
	return s, nil
}

// keyTypes are those of host keys and authorities. Certificates and security
// keys are not among them.
var keyTypes = []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA}

// leastRSA is the least size of an RSA modulus that Muster may be set to take.
const leastRSA = 2048

// Certifies tells whether a host key is of a kind that Muster may certify. DSA
// keys, say, which old images have, it never does; one of them in a request
// makes it refuse all.
func Certifies(key ssh.PublicKey) bool {
	if wrapped, ok := key.(ssh.CryptoPublicKey); ok {
		if modulus, ok := wrapped.CryptoPublicKey().(*rsa.PublicKey); ok && modulus.N.BitLen() < leastRSA {
			return false
		}
	}
	return slices.Contains(keyTypes, key.Type())
}

// algorithm is how a key signs.
func algorithm(key ssh.PublicKey) string {
	if key.Type() == ssh.KeyAlgoRSA {
		return ssh.KeyAlgoRSASHA512
	}
	return key.Type()
}

// Key is the key that the signature claims to be by.
func (s Signature) Key() ssh.PublicKey { return s.parsed.PublicKey }

func (s Signature) verify(namespace string, message io.Reader) error {
	err := sshsig.Verify(message, s.parsed, s.Key(), sshsig.HashSHA512, namespace)
	switch {
	case errors.Is(err, sshsig.ErrNamespaceMismatch):
		return fmt.Errorf("%w: it was made for another purpose than %s", ErrSignature, namespace)
	case err != nil:
		return fmt.Errorf("%w: it is not of this message by this key", ErrSignature)
	}
	return nil
}

func sign(signer ssh.Signer, namespace string, message io.Reader) (string, error) {
	if !slices.Contains(keyTypes, signer.PublicKey().Type()) {
		return "", fmt.Errorf("keys of type %s do not sign here", signer.PublicKey().Type())
	}
	signature, err := sshsig.Sign(message, signer, sshsig.HashSHA512, namespace)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(signature.Marshal()), nil
}
