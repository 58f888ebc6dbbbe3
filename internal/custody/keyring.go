// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package custody holds the private keys of authorities and seals what must
// not lie in a database in clear.
//
// A [Keyring] is the set of master keys. It seals small secrets with
// AES-256-GCM and binds each to the row that it belongs to, so that a sealed
// value copied to another row does not open there. [Sealed] keeps authority
// keys that way and signs with them.
//
// The package never writes to the database, never logs, and never returns a
// private key: callers keep the sealed form and get signers.
package custody

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// masterKeySize is that of AES-256.
	masterKeySize = 32
	// maxMasterKeys bounds a key file; rotation needs two.
	maxMasterKeys = 64
	// maxSealed bounds what Open looks at: the largest secret is an RSA-4096 key of 2.4 kB.
	maxSealed = 64 << 10

	keyIDSize = 8
	// sealedV1 is the first byte of everything sealed: version, key ID,
	// nonce and ciphertext with tag follow each other.
	sealedV1 = 1
)

var (
	// ErrUnknownKey says that a value was sealed under a master key that this
	// keyring does not have: the key file is wrong, or lost a line.
	ErrUnknownKey = errors.New("sealed under a master key that is not in the key file; restore that key")
	// ErrDamaged says that a sealed value was changed, or belongs to another row.
	ErrDamaged = errors.New("sealed value is damaged or belongs to another record")
)

// Keyring seals under its first master key and opens what any of them sealed.
// It is safe for simultaneous use.
type Keyring struct {
	current *masterKey
	keys    map[[keyIDSize]byte]*masterKey
}

type masterKey struct {
	id     [keyIDSize]byte
	aead   cipher.AEAD
	derive []byte // further keys are derived from it
}

// NewMasterKey returns a fresh master key as a line for a key file.
func NewMasterKey() string {
	key := make([]byte, masterKeySize)
	rand.Read(key)
	return base64.StdEncoding.EncodeToString(key)
}

// ParseKeyring reads a key file: one master key to a line, 32 random bytes in
// base64. Blank lines and lines that begin with # are passed over. The first
// key seals; to rotate, put a new one above it and keep the old.
//
// Errors name the line and never repeat what stands there.
func ParseKeyring(r io.Reader) (*Keyring, error) {
	ring := &Keyring{keys: make(map[[keyIDSize]byte]*masterKey)}
	lines := bufio.NewScanner(r)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if len(ring.keys) == maxMasterKeys {
			return nil, fmt.Errorf("line %d: more than %d master keys", number, maxMasterKeys)
		}
		key, err := newMasterKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if ring.current == nil {
			ring.current = key
		}
		ring.keys[key.id] = key
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read master keys: %w", err)
	}
	if ring.current == nil {
		return nil, errors.New("no master key in the file; make one with: muster custody new-key")
	}
	return ring, nil
}

func newMasterKey(line string) (*masterKey, error) {
	secret, err := base64.StdEncoding.DecodeString(line)
	if err != nil || len(secret) != masterKeySize {
		return nil, fmt.Errorf("not a master key: want %d bytes in base64", masterKeySize)
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	// Random nonces of 96 bits are safe for 2^32 messages under one key
	// (NIST SP 800-38D, 8.3), far beyond the tokens of any cloud.
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	derive, err := hkdf.Extract(sha256.New, secret, []byte("muster derived keys"))
	if err != nil {
		return nil, err
	}
	key := &masterKey{aead: aead, derive: derive}
	// The ID is a digest with a label of its own, so that it tells nothing of the key.
	digest := sha256.Sum256(append([]byte("muster master key ID\x00"), secret...))
	copy(key.id[:], digest[:])
	return key, nil
}

// Seal encrypts a secret under the current master key. The binding names the
// record that it belongs to, and must be given again to open it.
func (k *Keyring) Seal(secret []byte, binding string) []byte {
	sealed := make([]byte, 0, 1+keyIDSize+len(secret)+k.current.aead.Overhead())
	sealed = append(sealed, sealedV1)
	sealed = append(sealed, k.current.id[:]...)
	return k.current.aead.Seal(sealed, nil, secret, additionalData(binding))
}

// Open decrypts what Seal made for the same binding. It fails with
// [ErrUnknownKey] or [ErrDamaged].
func (k *Keyring) Open(sealed []byte, binding string) ([]byte, error) {
	if len(sealed) < 1+keyIDSize || len(sealed) > maxSealed || sealed[0] != sealedV1 {
		return nil, ErrDamaged
	}
	key, ok := k.keys[[keyIDSize]byte(sealed[1:1+keyIDSize])]
	if !ok {
		return nil, ErrUnknownKey
	}
	secret, err := key.aead.Open(nil, nil, sealed[1+keyIDSize:], additionalData(binding))
	if err != nil {
		return nil, ErrDamaged
	}
	return secret, nil
}

func additionalData(binding string) []byte {
	return []byte("muster sealed v1\x00" + binding)
}
