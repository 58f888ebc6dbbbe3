// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"errors"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/sshca/krl"
	"github.com/muster-cloud/muster/internal/store"
)

// revokedNow tells whether the current list has the certificate.
func (w *world) revokedNow(t *testing.T, cert store.UserCert) bool {
	t.Helper()
	snapshot, err := w.Feed().Current(t.Context(), blue)
	if err != nil {
		t.Fatal(err)
	}
	list, err := krl.Parse(snapshot.Raw)
	if err != nil {
		t.Fatal(err)
	}
	return list.Revoked(parseCert(t, cert.Cert))
}

func (w *world) issueFor(t *testing.T, key string) store.UserCert {
	t.Helper()
	cert, err := w.IssueUser(t.Context(), Actor{UserID: alice}, UserRequest{ProjectID: blue, UserID: alice, UserName: "alice", PublicKey: key})
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestClockComesBack: a clock that ran ahead lets entries leave the list. When
// it is right again they must be back, for their certificates are.
func TestClockComesBack(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	cert := w.issueFor(t, newKey(t))
	if _, err := w.Revoke(t.Context(), Actor{}, store.RevocationOrder{ProjectID: blue, Serial: cert.Serial}); err != nil {
		t.Fatal(err)
	}
	if !w.revokedNow(t, cert) {
		t.Fatal("not in the list from the beginning")
	}
	const ahead = 30 * 24 * time.Hour
	w.clock.advance(ahead)
	if w.revokedNow(t, cert) {
		t.Fatal("an expired certificate is in the list")
	}
	w.clock.advance(-ahead)
	if !w.revokedNow(t, cert) {
		t.Error("the clock is right again, and the revoked certificate is not in the list")
	}
}

// TestClockAheadAtRevocation: what is revoked while the clock runs so far ahead
// that all certificates look expired is revoked when it is right again.
func TestClockAheadAtRevocation(t *testing.T) {
	const ahead = 60 * 24 * time.Hour
	for name, revoke := range map[string]func(*world, store.UserCert) error{
		"of a user in a project": func(w *world, _ store.UserCert) error {
			_, err := w.Revoke(t.Context(), Actor{}, store.RevocationOrder{ProjectID: blue, UserID: alice})
			return err
		},
		"of a user everywhere": func(w *world, _ store.UserCert) error {
			_, err := w.RevokeUser(t.Context(), Actor{}, alice, "left")
			return err
		},
		"of all users": func(w *world, _ store.UserCert) error {
			_, err := w.Revoke(t.Context(), Actor{}, store.RevocationOrder{ProjectID: blue, AllUsers: true})
			return err
		},
		"of a key": func(w *world, cert store.UserCert) error {
			_, err := w.Revoke(t.Context(), Actor{}, store.RevocationOrder{ProjectID: blue, Fingerprint: cert.Fingerprint})
			return err
		},
		"of a key ID": func(w *world, cert store.UserCert) error {
			_, err := w.Revoke(t.Context(), Actor{}, store.RevocationOrder{ProjectID: blue, KeyID: cert.KeyID})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.directory.grant(alice, blue, "member")
			cert := w.issueFor(t, newKey(t))
			w.clock.advance(ahead)
			if err := revoke(w, cert); err != nil {
				t.Fatal(err)
			}
			w.clock.advance(-ahead)
			if !w.revokedNow(t, cert) {
				t.Error("the clock is right again, and the certificate is not in the list")
			}
			recorded, err := w.store.UserCert(t.Context(), cert.Serial)
			if err != nil || recorded.RevokedAt.IsZero() {
				t.Errorf("the certificate is not recorded as revoked: %v", err)
			}
		})
	}
}

// TestClockGoesBack: what was issued under a clock that ran ahead is not given
// out again, and no serial comes twice.
func TestClockGoesBack(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	key := newKey(t)
	first := w.issueFor(t, key)
	w.clock.advance(-48 * time.Hour)
	second := w.issueFor(t, key)
	if second.Serial == first.Serial {
		t.Error("a certificate that is not valid yet was given out again")
	}
	now := w.clock.Now()
	if parsed := parseCert(t, second.Cert); int64(parsed.ValidAfter) > now.Unix() || int64(parsed.ValidBefore) <= now.Unix() {
		t.Error("the new certificate is not valid now")
	}
	if again := w.issueFor(t, key); again.Serial != second.Serial {
		t.Error("the certificate of now was not given again")
	}
	w.clock.advance(48 * time.Hour)
	if third := w.issueFor(t, key); third.Serial == second.Serial {
		t.Error("an expired certificate was given out")
	}
}

// TestListsWithoutDatabase: while the database is away, the lists that were asked
// for before go on, also when entries have to leave them; but not without those
// that left because the clock was wrong, and were to be read again.
func TestListsWithoutDatabase(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	cert := w.issueFor(t, newKey(t))
	if _, err := w.Revoke(t.Context(), Actor{}, store.RevocationOrder{ProjectID: blue, Serial: cert.Serial}); err != nil {
		t.Fatal(err)
	}
	if !w.revokedNow(t, cert) {
		t.Fatal("not in the list from the beginning")
	}
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	const ahead = 30 * 24 * time.Hour
	w.clock.advance(ahead)
	if w.revokedNow(t, cert) {
		t.Error("an expired certificate is in the list")
	}
	refused := func(why string) {
		t.Helper()
		if _, err := w.Feed().Current(t.Context(), blue); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", why, err)
		}
	}
	w.clock.advance(-ahead)
	refused("the clock is right again")
	w.clock.advance(ahead + listStep)
	refused("entries are to be read again")
}
