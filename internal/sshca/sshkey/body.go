// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshkey

import (
	"encoding/binary"
	"math/big"
	"strings"

	"filippo.io/edwards25519"
	"golang.org/x/crypto/ssh"
)

// checkBody judges what follows the type in a key's blob (RFC 4253, section
// 6.6; RFC 5656; RFC 8709; OpenSSH's PROTOCOL.u2f). Points on NIST's curves
// are left to ssh.ParsePublicKey, which checks them.
func (p Policy) checkBody(kind string, body []byte) error {
	first, rest, ok := cutString(body)
	if !ok {
		return reject("the key is cut off")
	}
	switch kind {
	case ssh.KeyAlgoED25519:
		return checkEd25519(first)
	case ssh.KeyAlgoSKED25519:
		if err := checkEd25519(first); err != nil {
			return err
		}
		return checkApplication(rest)
	case ssh.KeyAlgoSKECDSA256:
		_, rest, ok = cutString(rest) // the point, after the curve's name
		if !ok {
			return reject("the key is cut off")
		}
		return checkApplication(rest)
	case ssh.KeyAlgoRSA:
		second, _, ok := cutString(rest)
		if !ok {
			return reject("the key is cut off")
		}
		return p.checkRSA(first, second)
	}
	return nil
}

// checkEd25519 refuses encodings that are no point or not the canonical one of
// a point (RFC 8032, section 5.1.3), and points of small order, for which
// anybody can make signatures.
func checkEd25519(encoded []byte) error {
	point, err := new(edwards25519.Point).SetBytes(encoded)
	if err != nil {
		return reject("the key is damaged: it is no point on the Ed25519 curve")
	}
	if !belowFieldOrder(encoded) {
		return reject("the key is not a canonical Ed25519 point; make a new key")
	}
	if new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return reject("the key is an Ed25519 point of small order, which protects nothing; make a new key")
	}
	return nil
}

// belowFieldOrder tells whether y, the low 255 bits in little-endian order, is
// below 2^255-19. The sign of x, the top bit, needs no look: where it is
// redundant, x is 0 and the order is small.
func belowFieldOrder(encoded []byte) bool {
	if encoded[31]&0x7f != 0x7f || encoded[0] < 0xed {
		return true
	}
	for _, b := range encoded[1:31] {
		if b != 0xff {
			return true
		}
	}
	return false
}

// checkApplication judges the last part of a security key, such as "ssh:".
func checkApplication(rest []byte) error {
	application, _, ok := cutString(rest)
	if !ok {
		return reject("the key is cut off")
	}
	printable := !strings.ContainsFunc(string(application), func(r rune) bool { return r <= ' ' || r > '~' })
	if len(application) == 0 || len(application) > 255 || !printable {
		return reject("the security key's application must be 1 to 255 printable ASCII characters, such as ssh:")
	}
	return nil
}

// checkRSA judges the mpints of an RSA key.
func (p Policy) checkRSA(exponent, modulus []byte) error {
	least, most := p.MinRSABits, min(p.MaxRSABits, 16384)
	if least <= 0 {
		least = defaultMinRSABits
	}
	if most <= 0 {
		most = defaultMaxRSABits
	}
	if len(modulus) > most/8+1 {
		return reject("the RSA key has more than %d bits", most)
	}
	if len(modulus) == 0 || modulus[0]&0x80 != 0 || len(exponent) == 0 || exponent[0]&0x80 != 0 {
		return reject("the key is damaged: an RSA number is not positive")
	}
	n := new(big.Int).SetBytes(modulus)
	switch bits := n.BitLen(); {
	case bits > most:
		return reject("the RSA key has %d bits, more than %d", bits, most)
	case bits < least:
		return reject("the RSA key has %d bits, less than %d; make a new key with: ssh-keygen -t ed25519", bits, least)
	}
	if len(exponent) > 4 {
		return reject("the RSA key's exponent is too large; 65537 is the usual one")
	}
	var e uint32
	for _, b := range exponent {
		e = e<<8 | uint32(b)
	}
	switch {
	case e < 65537:
		return reject("the RSA key's exponent is below 65537; make a new key with: ssh-keygen -t ed25519")
	case e%2 == 0:
		return reject("the RSA key's exponent is even, so it is no RSA key")
	case e >= 1<<24:
		return reject("the RSA key's exponent is too large; 65537 is the usual one")
	}
	return checkModulus(n)
}

// cutString takes an SSH string (RFC 4251, section 5) from the front of b.
func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(binary.BigEndian.Uint32(b))
	if b = b[4:]; n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}
