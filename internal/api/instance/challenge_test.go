// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/problem"
)

func newKeyring(t testing.TB, keys ...string) *custody.Keyring {
	t.Helper()
	ring, err := custody.ParseKeyring(strings.NewReader(strings.Join(keys, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// clock is moved by hand.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func TestChallenge(t *testing.T) {
	master, next := custody.NewMasterKey(), custody.NewMasterKey()
	time0 := &clock{time.Date(2026, 3, 14, 18, 27, 58, 0, time.UTC)}
	face := func(keys ...string) *Face { return New(Config{Authenticator: newKeyring(t, keys...), Now: time0.Now}) }
	first, second, rotated, stranger := face(master), face(master), face(next, master), face(next)
	challenge := first.newChallenge()
	if challenge == first.newChallenge() {
		t.Error("two challenges are equal")
	}
	for name, f := range map[string]*Face{"the replica": first, "another": second, "one with a new master key": rotated} {
		if err := f.checkChallenge(challenge); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	refuses := func(f *Face, challenge, reason string) {
		t.Helper()
		err := f.checkChallenge(challenge)
		var refusal *problem.Problem
		if !errors.As(err, &refusal) || !strings.Contains(refusal.Error(), reason) {
			t.Errorf("%v, want a refusal: %s", err, reason)
		}
	}
	refuses(stranger, challenge, "not Muster's")
	refuses(first, "", "is missing")
	refuses(first, strings.Repeat("A", 1<<20), "not Muster's")
	refuses(first, challenge[:len(challenge)-1], "not Muster's")
	raw, err := base64.RawURLEncoding.DecodeString(challenge)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		raw[i] ^= 1
		refuses(first, base64.RawURLEncoding.EncodeToString(raw), "not Muster's")
		raw[i] ^= 1
	}
	// A code for another purpose is worth nothing, though the key is the same.
	message := raw[:challengeMessage]
	other := append(message[:len(message):len(message)], newKeyring(t, master).MAC(message, "something else")...)
	refuses(first, base64.RawURLEncoding.EncodeToString(other), "not Muster's")

	time0.now = time0.now.Add(agentapi.ChallengeLifetime)
	if err := second.checkChallenge(challenge); err != nil {
		t.Error(err)
	}
	time0.now = time0.now.Add(time.Second)
	refuses(second, challenge, "has expired")
	time0.now = time0.now.Add(-agentapi.ChallengeLifetime - 5*time.Second)
	if err := second.checkChallenge(challenge); err != nil {
		t.Errorf("a replica whose clock is a little behind: %v", err)
	}
	time0.now = time0.now.Add(-time.Minute)
	refuses(second, challenge, "has expired")
}

func FuzzCheckChallenge(f *testing.F) {
	face := New(Config{Authenticator: newKeyring(f, custody.NewMasterKey())})
	f.Add(face.newChallenge())
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		err := face.checkChallenge(text)
		var refusal *problem.Problem
		if err != nil && !errors.As(err, &refusal) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func BenchmarkChallenge(b *testing.B) {
	face := New(Config{Authenticator: newKeyring(b, custody.NewMasterKey())})
	for b.Loop() {
		if err := face.checkChallenge(face.newChallenge()); err != nil {
			b.Fatal(err)
		}
	}
}
