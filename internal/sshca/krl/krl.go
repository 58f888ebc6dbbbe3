// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package krl writes and reads OpenSSH key revocation lists (KRLs), the files
// that sshd's RevokedKeys and ssh's RevokedHostKeys options name. The format
// is OpenSSH's PROTOCOL.krl, version 1.
//
// Certificates are revoked by serial number or key ID under their authority,
// keys (and so whole authorities) by the SHA-256 of their blob. A List is
// never larger than what ssh-keygen -k writes for the same revocations, and,
// unlike ssh-keygen's, always small enough in each part for OpenSSH to load.
//
// The package never decides what is revoked, never signs a list (OpenSSH
// dropped that part of the format) and keeps no state but a caller's Set.
package krl

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// MaxSize is the most bytes that a list may have, written or read. OpenSSH
// loads no file above 128 MiB (SSHBUF_SIZE_MAX).
const MaxSize = 128 << 20

// Section types, limits and the magic number of PROTOCOL.krl.
const (
	magic         = "SSHKRL\n\x00"
	formatVersion = 1

	sectionCertificates = 1
	sectionExplicitKey  = 2
	sectionSHA1         = 3
	sectionSHA256       = 5
	sectionExtension    = 255

	certSerialList   = 0x20
	certSerialRange  = 0x21
	certSerialBitmap = 0x22
	certKeyID        = 0x23
	certExtension    = 0x39
)

// Errors of Append and Marshal.
var (
	ErrTooLarge   = errors.New("krl: the list would exceed 128 MiB, which OpenSSH does not load")
	ErrZeroSerial = errors.New("krl: serial 0 cannot be revoked; OpenSSH takes it for a certificate without serial")
	ErrText       = errors.New("krl: a comment or key ID contains a NUL byte")
	ErrAuthority  = errors.New("krl: an authority's key is a certificate; give the plain key")
)

// Fingerprint is the SHA-256 of a public key's blob, the bytes that
// "ssh-keygen -l" shows in base64.
type Fingerprint [sha256.Size]byte

// FingerprintOf returns the fingerprint of key; of a certificate, that of
// the key which it certifies.
func FingerprintOf(key ssh.PublicKey) Fingerprint {
	return sha256.Sum256(plain(key).Marshal())
}

// List is what a KRL shall say.
type List struct {
	Version     uint64    // grows with each change; OpenSSH shows it, and does not check it
	GeneratedAt time.Time // kept in whole seconds; the zero time is written as 0
	Comment     string
	Authorities []Authority
	// Keys revoke a key, every certificate for it and, if it is an
	// authority's, every certificate that it signed.
	Keys []Fingerprint
}

// Authority is what is revoked among the certificates of one authority.
type Authority struct {
	Key ssh.PublicKey // nil means the certificates of any authority
	// Serials are without zero. They should be sorted and unique; if not,
	// a sorted copy is made, which costs far more than all the rest.
	Serials []uint64
	KeyIDs  []string
}

// Marshal returns the list in OpenSSH's format.
func (l *List) Marshal() ([]byte, error) {
	return l.Append(nil)
}

// Append appends the list in OpenSSH's format to dst. It grows dst once for
// each authority, to the size that is needed.
func (l *List) Append(dst []byte) ([]byte, error) {
	if strings.Contains(l.Comment, "\x00") {
		return nil, ErrText
	}
	start := len(dst)
	dst = l.appendHeader(dst)
	var err error
	for i := range l.Authorities {
		if dst, err = l.Authorities[i].appendSection(dst, start); err != nil {
			return nil, err
		}
	}
	if size := len(dst) - start + 5 + (4+len(Fingerprint{}))*len(l.Keys); size > MaxSize {
		return nil, ErrTooLarge
	}
	return appendFingerprints(dst, l.Keys), nil
}

func (l *List) appendHeader(dst []byte) []byte {
	var generated uint64
	if seconds := l.GeneratedAt.Unix(); seconds > 0 {
		generated = uint64(seconds)
	}
	dst = append(dst, magic...)
	dst = binary.BigEndian.AppendUint32(dst, formatVersion)
	dst = binary.BigEndian.AppendUint64(dst, l.Version)
	dst = binary.BigEndian.AppendUint64(dst, generated)
	dst = binary.BigEndian.AppendUint64(dst, 0) // flags
	dst = appendString(dst, "")                 // reserved
	return appendString(dst, l.Comment)
}

// appendSection writes one certificates section, or nothing for an authority
// without revocations. The list began at dst[start].
func (a *Authority) appendSection(dst []byte, start int) ([]byte, error) {
	if len(a.Serials) == 0 && len(a.KeyIDs) == 0 {
		return dst, nil
	}
	var blob []byte
	if a.Key != nil {
		if _, isCert := a.Key.(*ssh.Certificate); isCert {
			return nil, ErrAuthority
		}
		blob = a.Key.Marshal()
	}
	serials := a.Serials
	if !ascending(serials) {
		serials = slices.Clone(serials)
		slices.Sort(serials)
		serials = slices.Compact(serials)
	}
	if len(serials) > 0 && serials[0] == 0 {
		return nil, ErrZeroSerial
	}
	var enc serialEncoder
	enc.measure(serials)

	size := 4 + len(blob) + 4 + enc.size()
	if len(a.KeyIDs) > 0 {
		size += 5
	}
	for _, id := range a.KeyIDs {
		if strings.Contains(id, "\x00") {
			return nil, ErrText
		}
		size += 4 + len(id)
	}
	if len(dst)-start+5+size > MaxSize {
		return nil, ErrTooLarge
	}

	dst = slices.Grow(dst, 5+size)
	dst = append(dst, sectionCertificates)
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))
	dst = appendString(dst, blob)
	dst = appendString(dst, "") // reserved
	dst = enc.append(dst, serials)
	return appendKeyIDs(dst, a.KeyIDs), nil
}

func appendKeyIDs(dst []byte, ids []string) []byte {
	if len(ids) == 0 {
		return dst
	}
	size := 0
	for _, id := range ids {
		size += 4 + len(id)
	}
	dst = append(dst, certKeyID)
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))
	for _, id := range ids {
		dst = appendString(dst, id)
	}
	return dst
}

func appendFingerprints(dst []byte, keys []Fingerprint) []byte {
	if len(keys) == 0 {
		return dst
	}
	size := (4 + len(Fingerprint{})) * len(keys)
	dst = slices.Grow(dst, 5+size)
	dst = append(dst, sectionSHA256)
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))
	for i := range keys {
		dst = appendString(dst, keys[i][:])
	}
	return dst
}

// appendString writes an SSH "string": its length and its bytes (RFC 4251,
// section 5).
func appendString[T ~string | ~[]byte](dst []byte, s T) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s)))
	return append(dst, s...)
}

// ascending tells whether serials are sorted without duplicates.
func ascending(serials []uint64) bool {
	for i := 1; i < len(serials); i++ {
		if serials[i-1] >= serials[i] {
			return false
		}
	}
	return true
}

// plain returns the key itself, or the key that a certificate certifies.
func plain(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}

// malformed is the error of Parse: where a list breaks the format.
func malformed(format string, args ...any) error {
	return fmt.Errorf("krl: malformed list: "+format, args...)
}
