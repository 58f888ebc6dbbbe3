// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"testing"
)

func TestMAC(t *testing.T) {
	first, second := NewMasterKey(), NewMasterKey()
	old, rotated, other := newKeyring(t, first), newKeyring(t, second, first), newKeyring(t, second)
	message := []byte("a message")
	code := old.MAC(message, "greeting")
	if len(code) != MACSize {
		t.Fatalf("%d bytes, want %d", len(code), MACSize)
	}
	for name, ring := range map[string]*Keyring{"the same": old, "another replica": newKeyring(t, first), "after a rotation": rotated} {
		if !ring.CheckMAC(message, code, "greeting") {
			t.Errorf("%s keyring refuses the code", name)
		}
	}
	if other.CheckMAC(message, code, "greeting") {
		t.Error("a keyring without the key accepts the code")
	}
	if old.CheckMAC(message, code, "farewell") || old.CheckMAC(message[1:], code, "greeting") {
		t.Error("accepted for another purpose or message")
	}
	if bytes.Equal(rotated.MAC(message, "greeting"), code) {
		t.Error("the current key was not used")
	}
	for i := range code {
		damaged := bytes.Clone(code)
		damaged[i] ^= 1
		if old.CheckMAC(message, damaged, "greeting") {
			t.Fatalf("accepted with byte %d changed", i)
		}
		if old.CheckMAC(message, code[:i], "greeting") {
			t.Fatalf("accepted when cut to %d bytes", i)
		}
	}
}
