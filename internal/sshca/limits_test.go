// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

var (
	robot   = store.Credential{Kind: "application_credential", ID: "00000000000000000000000000000b07", Owner: alice}
	another = store.Credential{Kind: "application_credential", ID: "00000000000000000000000000000b08", Owner: alice}
)

// within asks in alice's name with limits.
func (w *world) within(t *testing.T, key string, l Limits) (store.UserCert, error) {
	t.Helper()
	return w.IssueUser(t.Context(), Actor{UserID: alice}, UserRequest{ProjectID: blue, UserID: alice, UserName: "alice", PublicKey: key, Limits: l})
}

func wantRefusal(t *testing.T, err error, text string) {
	t.Helper()
	wantKind(t, err, problem.Forbidden)
	if err != nil && !strings.Contains(err.Error(), text) {
		t.Errorf("got error %v, want one with %q", err, text)
	}
}

func TestOnlyRolesOfTheToken(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member", "reader")
	for _, test := range []struct {
		token, want []string // nil: refused
	}{
		{[]string{"reader"}, []string{"reader"}},
		{[]string{"reader", "member"}, []string{"member", "reader"}},
		{[]string{"reader", "admin"}, []string{"reader"}}, // which the user does not hold
		{nil, []string{"member", "reader"}},
		{[]string{}, nil},
		{[]string{"admin"}, nil},
	} {
		cert, err := w.within(t, newKey(t), Limits{Roles: test.token})
		if test.want == nil {
			wantRefusal(t, err, "the token none of them")
			continue
		}
		if err != nil || !slices.Equal(cert.Principals, test.want) {
			t.Errorf("token with %v: principals %v, %v, want %v", test.token, cert.Principals, err, test.want)
		}
	}
}

// A role that restricts whoever holds it does so where the token leaves it out.
func TestNarrowTokenKeepsRestrictions(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.User.Roles = map[string]RoleRule{"contractor": {Lifetime: time.Hour, ForceCommand: "/bin/menu", Extensions: []string{"permit-pty"}}}
	})
	w.directory.grant(alice, blue, "member", "contractor")
	cert, err := w.within(t, newKey(t), Limits{Roles: []string{"member"}})
	if err != nil {
		t.Fatal(err)
	}
	parsed := parseCert(t, cert.Cert)
	if !slices.Equal(parsed.ValidPrincipals, []string{"member"}) || parsed.CriticalOptions["force-command"] != "/bin/menu" ||
		len(parsed.Extensions) != 1 || cert.ExpiresAt.Sub(w.clock.Now()) > time.Hour {
		t.Errorf("principals %v, options %v, extensions %v, until %v", parsed.ValidPrincipals, parsed.CriticalOptions, parsed.Extensions, cert.ExpiresAt)
	}
}

func TestEndsWithWhatItRestsOn(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	now := w.clock.Now()
	until := now.Add(30*time.Minute + 700*time.Millisecond)
	for _, asked := range []time.Duration{0, 10 * time.Minute, time.Hour} {
		cert, err := w.IssueUser(t.Context(), Actor{UserID: alice}, UserRequest{ProjectID: blue, UserID: alice, UserName: "alice",
			PublicKey: newKey(t), Lifetime: asked, Limits: Limits{Until: until}})
		want := now.Add(30 * time.Minute)
		if asked == 10*time.Minute {
			want = now.Add(asked)
		}
		if err != nil || !cert.ExpiresAt.Equal(want) {
			t.Errorf("asked for %v: until %v, %v, want %v", asked, cert.ExpiresAt, err, want)
		}
	}
	for _, left := range []time.Duration{-time.Hour, 0, 59 * time.Second} {
		_, err := w.within(t, newKey(t), Limits{Until: now.Add(left)})
		wantRefusal(t, err, "ends within a minute")
	}
	// The rules' own limit is what counts where it is the shorter one.
	cert, err := w.within(t, newKey(t), Limits{Until: now.Add(1000 * time.Hour)})
	if plain, plainErr := w.within(t, newKey(t), Limits{}); err != nil || plainErr != nil || !cert.ExpiresAt.Equal(plain.ExpiresAt) {
		t.Errorf("until %v, %v; without limits %v, %v", cert.ExpiresAt, err, plain.ExpiresAt, plainErr)
	}
}

// One key, asked for with all kinds of tokens in turn: each gets what is its
// own, and gets that again.
func TestNoCertificateOfAnotherToken(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member", "reader")
	w.directory.grant("staff", blue, "tester")
	key, until := newKey(t), w.clock.Now().Add(2*time.Hour)
	limits := []Limits{
		{},
		{Roles: []string{"reader"}},
		{Roles: []string{"member", "reader"}, Credential: robot},
		{Roles: []string{"reader"}, Credential: another},
		{Roles: []string{"member", "reader", "tester"}, GroupIDs: []string{"staff", "unknown"}, Until: until},
	}
	seen := map[uint64]int{}
	for i, l := range limits {
		cert, err := w.within(t, key, l)
		if err != nil {
			t.Fatal(i, err)
		}
		if other, ok := seen[cert.Serial]; ok {
			t.Errorf("%d gets the certificate of %d", i, other)
		}
		seen[cert.Serial] = i
		if cert.Credential != l.Credential || strings.Join(cert.GroupIDs, ",") != map[bool]string{true: "staff"}[len(l.GroupIDs) > 0] {
			t.Errorf("%d: recorded %+v %v", i, cert.Credential, cert.GroupIDs)
		}
		again, err := w.within(t, key, l)
		if err != nil || again.Serial != cert.Serial {
			t.Errorf("%d: %d and then %d, %v", i, cert.Serial, again.Serial, err)
		}
	}
	// A credential's certificate is found behind those of others; one that was
	// revoked is not given again, whoever asks.
	cert, err := w.within(t, key, limits[2])
	if err != nil || seen[cert.Serial] != 2 {
		t.Errorf("certificate %d, %v", cert.Serial, err)
	}
	if _, err := w.Revoke(t.Context(), nova, store.RevocationOrder{ProjectID: blue, Serial: cert.Serial}); err != nil {
		t.Fatal(err)
	}
	if again, err := w.within(t, key, limits[2]); err != nil || again.Serial == cert.Serial {
		t.Errorf("after its revocation: %d, %v", again.Serial, err)
	}
}

// A revoked certificate stays so when the role comes back.
func TestRoleComesBack(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	key := newKey(t)
	before, err := w.within(t, key, Limits{Roles: []string{"member"}, Credential: robot})
	if err != nil {
		t.Fatal(err)
	}
	w.directory.grant(alice, blue)
	if _, err := w.Revoke(t.Context(), nova, store.RevocationOrder{ProjectID: blue, Serials: []uint64{before.Serial}}); err != nil {
		t.Fatal(err)
	}
	_, err = w.within(t, key, Limits{Roles: []string{"member"}, Credential: robot})
	wantRefusal(t, err, "no role")
	w.directory.grant(alice, blue, "member")
	after, err := w.within(t, key, Limits{Roles: []string{"member"}, Credential: robot})
	if err != nil || after.Serial == before.Serial {
		t.Errorf("after: %d, %v", after.Serial, err)
	}
	if record, err := w.store.UserCert(t.Context(), before.Serial); err != nil || record.RevokedAt.IsZero() {
		t.Errorf("the one of before: %+v, %v", record, err)
	}
}

// Those who ask at once with one token get one certificate, though what is left
// of the token is not the same for any two of them.
func TestTogetherWithinLimits(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	key, until := newKey(t), w.clock.Now().Add(time.Hour)
	serials := make([]uint64, 8)
	var all sync.WaitGroup
	for i := range serials {
		all.Go(func() {
			w.clock.advance(time.Millisecond)
			cert, err := w.within(t, key, Limits{Until: until})
			if err != nil {
				t.Error(err)
			}
			serials[i] = cert.Serial
		})
	}
	all.Wait()
	if slices.Sort(serials); serials[0] != serials[7] {
		t.Errorf("certificates %v", serials)
	}
}

// A certificate that ends after what is shown now is not given again, however
// long it took since the life that is wanted was decided.
func TestServesWithinLimit(t *testing.T) {
	decided := time.Date(2026, 12, 1, 4, 0, 0, 0, time.UTC)
	until, now := decided.Add(time.Hour), decided.Add(10*time.Second)
	wanted := profile{digest: "same", lifetime: until.Sub(decided)}
	for _, test := range []struct {
		ends  time.Time
		until time.Time
		want  bool
	}{
		{until, until, true},
		{until.Add(time.Second), until, false},
		{until.Add(time.Second), time.Time{}, true},
	} {
		cert := store.UserCert{Profile: "same", AuthorityKeyID: "ca", ExpiresAt: test.ends}
		if got := serves(cert, wanted, "ca", test.until, now); got != test.want {
			t.Errorf("one until %v, wanted until %v: served %v", test.ends, test.until, got)
		}
	}
}
