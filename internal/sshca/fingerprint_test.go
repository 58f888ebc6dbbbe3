// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// TestMalformedFingerprints: what is no fingerprint is refused, since it could
// never be written into a list.
func TestMalformedFingerprints(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	cert := w.issueFor(t, newKey(t))
	for _, fingerprint := range []string{
		"x", "SHA256:", "SHA256:x", "SHA256:" + strings.Repeat("!", 43), "SHA256:" + strings.Repeat("A", 42), "SHA256:" + strings.Repeat("A", 44),
		"SHA256:" + strings.Repeat("A", 43) + "=", "SHA256:" + strings.Repeat("B", 43), "SHA256:" + strings.Repeat("A", 42) + "\n", "sha256:" + cert.Fingerprint[7:],
		cert.MD5, cert.Fingerprint + " ",
	} {
		_, err := w.Revoke(t.Context(), Actor{}, store.RevocationOrder{ProjectID: blue, Fingerprint: fingerprint})
		wantKind(t, err, problem.Invalid)
		if !strings.HasPrefix(err.Error(), "fingerprint: ") {
			t.Errorf("%q: %v", fingerprint, err)
		}
	}
	if _, err := w.Revoke(t.Context(), Actor{}, store.RevocationOrder{ProjectID: blue, Fingerprint: cert.Fingerprint}); err != nil {
		t.Fatal(err)
	}
	if !w.revokedNow(t, cert) {
		t.Error("a key that was revoked by its fingerprint is not in the list")
	}
}

// TestRevocationsNameTheirFault: a text that cannot be recorded is named.
func TestRevocationsNameTheirFault(t *testing.T) {
	w := newWorld(t)
	for field, order := range map[string]store.RevocationOrder{
		"reason: has": {Serial: 1, Reason: "a\x00"}, "reason: is longer": {Serial: 1, Reason: strings.Repeat("x", 501)},
		"key_id: has": {KeyID: "\x00"}, "key_id: is longer": {KeyID: strings.Repeat("x", 256)},
	} {
		order.ProjectID = blue
		_, err := w.Revoke(t.Context(), Actor{}, order)
		wantKind(t, err, problem.Invalid)
		if !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestListGoesOnWithoutWhatItCannotRead: one record that is no fingerprint must
// not keep all others out of the list.
func TestListGoesOnWithoutWhatItCannotRead(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	cert := w.issueFor(t, newKey(t))
	for _, order := range []store.RevocationOrder{{Fingerprint: "SHA256:x"}, {Serial: cert.Serial}} {
		order.ProjectID = blue
		if _, err := w.store.Revoke(t.Context(), order, store.Audit{}); err != nil {
			t.Fatal(err)
		}
	}
	if !w.revokedNow(t, cert) {
		t.Error("the certificate is not in the list")
	}
}
