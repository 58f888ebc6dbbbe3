// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package krl

import (
	"crypto/sha1"
	"crypto/sha256"
	"slices"

	"golang.org/x/crypto/ssh"
)

// Revoked tells whether the list revokes a key or a certificate, by the rules
// of sshd and "ssh-keygen -Q": a key by itself or its hash; a certificate also by
// serial or key ID under its authority or any, and by the authority's key.
// Serial 0 counts as none. No key at all is revoked.
func (k *KRL) Revoked(key ssh.PublicKey) bool {
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return key == nil || k.keyRevoked(key)
	}
	if cert == nil || cert.Key == nil || cert.SignatureKey == nil {
		return true
	}
	return k.keyRevoked(cert.Key) || k.keyRevoked(plain(cert.SignatureKey)) ||
		k.authorities[string(cert.SignatureKey.Marshal())].has(cert) ||
		k.authorities[""].has(cert)
}

func (k *KRL) keyRevoked(key ssh.PublicKey) bool {
	blob := key.Marshal()
	if _, found := k.sha256[sha256.Sum256(blob)]; found {
		return true
	}
	if _, found := k.blobs[string(blob)]; found {
		return true
	}
	if len(k.sha1) == 0 {
		return false
	}
	_, found := k.sha1[sha1.Sum(blob)]
	return found
}

func (a *revoked) has(cert *ssh.Certificate) bool {
	if a == nil {
		return false
	}
	if _, found := a.keyIDs[cert.KeyId]; found {
		return true
	}
	return cert.Serial != 0 && a.hasSerial(cert.Serial)
}

func (a *revoked) hasSerial(serial uint64) bool {
	if _, found := slices.BinarySearch(a.serials, serial); found {
		return true
	}
	_, found := slices.BinarySearchFunc(a.ranges, serial, func(r interval, serial uint64) int {
		switch {
		case r.high < serial:
			return -1
		case r.low > serial:
			return 1
		default:
			return 0
		}
	})
	return found || a.inBitmap(serial)
}

// inBitmap looks through the bitmaps that begin at or below serial and can
// reach it. Lists made by us or ssh-keygen have one such at most.
func (a *revoked) inBitmap(serial uint64) bool {
	after, _ := slices.BinarySearchFunc(a.bitmaps, serial, func(m bitmap, serial uint64) int {
		if m.offset <= serial {
			return -1
		}
		return 1
	})
	for i := after - 1; i >= 0 && serial-a.bitmaps[i].offset < maxBitmapBits; i-- {
		if a.bitmaps[i].has(serial) {
			return true
		}
	}
	return false
}
