// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
)

// MACSize is the length of what [Keyring.MAC] returns.
const MACSize = keyIDSize + sha256.Size

// MAC authenticates a message that Muster will get back from somebody else.
// The key is derived from the current master key for the purpose alone (RFC
// 5869), so that a code for one purpose is worth nothing for another, and tells
// nothing of what is sealed. Every process with that master key can check it.
func (k *Keyring) MAC(message []byte, purpose string) []byte {
	return append(k.current.id[:], k.current.mac(message, purpose)...)
}

// CheckMAC tells, in constant time, whether MAC made the code for the message
// and the purpose, under any of the master keys.
func (k *Keyring) CheckMAC(message, code []byte, purpose string) bool {
	if len(code) != MACSize {
		return false
	}
	key, ok := k.keys[[keyIDSize]byte(code[:keyIDSize])]
	return ok && hmac.Equal(code[keyIDSize:], key.mac(message, purpose))
}

func (m *masterKey) mac(message []byte, purpose string) []byte {
	key, err := hkdf.Expand(sha256.New, m.derive, "muster mac v1\x00"+purpose, sha256.Size)
	if err != nil {
		panic(err) // the length is a constant far below HKDF's limit
	}
	code := hmac.New(sha256.New, key)
	code.Write(message)
	return code.Sum(nil)
}
