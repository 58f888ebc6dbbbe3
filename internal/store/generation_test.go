// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// next is a further generation of project n's host key.
func next(n, generation int) AuthorityKey {
	return AuthorityKey{ID: id(1000*n + generation), ProjectID: id(n), Role: RoleHost, Generation: generation, Algorithm: "ed25519",
		PublicKey: "ssh-ed25519 " + fmt.Sprint(generation)}
}

func TestAddGeneration(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		first := f.authority(t, 1)
		f.authority(t, 2)
		old := f.hostCert(t, 1, 100, 1)
		i := f.instance(t, 1, 100)
		if err := f.store().AddGeneration(ctx, next(1, 2), f.entry("authority.rotate", id(1))); err != nil {
			t.Fatal(err)
		}
		states := func(n int) map[string]KeyState {
			all := make(map[string]KeyState)
			for _, k := range must(f.store().Authority(ctx, id(n)))(t).Keys {
				all[fmt.Sprint(k.Role, " ", k.Generation)] = k.State
			}
			return all
		}
		equal(t, states(1), map[string]KeyState{"host 2": KeyActive, "host 1": KeyTrusted, "user 1": KeyActive})
		equal(t, states(2), map[string]KeyState{"host 1": KeyActive, "user 1": KeyActive})
		_, _, err := f.store().SpendToken(ctx, i.Token.Hash, []HostCert{old}, Audit{})
		isError(t, err, ErrConflict)
		isError(t, f.store().AddGeneration(ctx, next(1, 2), Audit{}), ErrConflict)
		isError(t, f.store().AddGeneration(ctx, next(1, 4), Audit{}), ErrConflict)
		isError(t, f.store().AddGeneration(ctx, next(3, 2), Audit{}), ErrNotFound)
		equal(t, f.audited(t, "authority.rotate", id(1)), 1)
		for n := 3; n <= maxLiveGenerations; n++ {
			if err := f.store().AddGeneration(ctx, next(1, n), Audit{}); err != nil {
				t.Fatal(n, err)
			}
		}
		isError(t, f.store().AddGeneration(ctx, next(1, maxLiveGenerations+1), Audit{}), ErrConflict)
		if _, err := f.store().Revoke(ctx, RevocationOrder{ProjectID: id(1), AuthorityKeyID: first.Keys[0].ID}, Audit{}); err != nil {
			t.Fatal(err)
		}
		if err := f.store().AddGeneration(ctx, next(1, maxLiveGenerations+1), Audit{}); err != nil {
			t.Fatal(err)
		}
	})
}

// Of several replicas that rotate at once, one does.
func TestRotatedOnce(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		f.authority(t, 1)
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for n := range errs {
			s, key := f.store(), next(1, 2)
			key.ID = id(5000 + n)
			wg.Go(func() { errs[n] = s.AddGeneration(t.Context(), key, f.entry("authority.rotate", id(1))) })
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrExists) {
				t.Error(err)
			}
		}
		equal(t, won, 1)
		equal(t, f.audited(t, "authority.rotate", id(1)), 1)
	})
}

// A certificate by the old key is not recorded beside a rotation that is about to commit.
func TestIssueWaitsForRotation(t *testing.T) {
	onEachWithLocks(t, func(t *testing.T, f *fixture) {
		f.authority(t, 1)
		f.instance(t, 1, 100)
		c := f.hostCert(t, 1, 100, 1)
		err := during(t, f, func(tx *tx) error {
			if err := lockAuthority(tx, id(1)); err != nil {
				return err
			}
			_, err := tx.exec("UPDATE authority_key SET state = 'trusted' WHERE id = ?", c.AuthorityKeyID)
			return err
		}, func(s *Store) error { return s.InsertHostCerts(t.Context(), []HostCert{c}, Audit{}) })
		isError(t, err, ErrConflict)
	})
}

func TestSpendTokenOnSet(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		i := f.instance(t, 1, 100)
		set := func(keys ...int) []HostCert {
			var certs []HostCert
			for _, key := range keys {
				certs = append(certs, f.hostCert(t, 1, 100, key))
			}
			return certs
		}
		certs := set(1, 2, 3)
		stored, spent, err := f.store().SpendToken(ctx, i.Token.Hash, certs, f.entry("hostcert:create", id(1)))
		if err != nil || !spent {
			t.Fatal(spent, err)
		}
		equal(t, stored, certs)
		stored, spent, err = f.store().SpendToken(ctx, i.Token.Hash, set(3, 1, 2), f.entry("hostcert:create", id(1)))
		if err != nil || spent {
			t.Fatal(spent, err)
		}
		equal(t, stored, []HostCert{certs[2], certs[0], certs[1]})
		for _, other := range [][]int{{1, 2}, {1}, {1, 2, 3, 4}, {1, 2, 4}} {
			_, _, err = f.store().SpendToken(ctx, i.Token.Hash, set(other...), Audit{})
			isError(t, err, ErrConflict)
		}
		for _, bad := range [][]HostCert{nil, set(1, 1), append(set(1), f.hostCert(t, 1, 101, 2))} {
			_, _, err = f.store().SpendToken(ctx, i.Token.Hash, bad, Audit{})
			isError(t, err, ErrInvalid)
		}
		equal(t, f.audited(t, "hostcert:create", id(1)), 1)
		equal(t, len(must(f.store().HostCerts(ctx, Filter{}, Page{}))(t)), 3)
	})
}

// A token that comes with two sets of keys at once is spent on one of them, whole.
func TestTokenIsSpentOnOneSet(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		f.authority(t, 1)
		i := f.instance(t, 1, 100)
		const callers = 8
		var wg sync.WaitGroup
		errs := make([]error, callers)
		for n := range callers {
			s := f.store()
			certs := []HostCert{f.hostCert(t, 1, 100, 10*n), f.hostCert(t, 1, 100, 10*n+1)}
			wg.Go(func() { _, _, errs[n] = s.SpendToken(t.Context(), i.Token.Hash, certs, Audit{}) })
		}
		wg.Wait()
		won := -1
		for n, err := range errs {
			if err == nil {
				if won >= 0 {
					t.Error("two sets won")
				}
				won = n
				continue
			}
			isError(t, err, ErrConflict)
		}
		kept := must(f.store().HostCerts(t.Context(), Filter{}, Page{}))(t)
		if len(kept) != 2 || won < 0 {
			t.Fatalf("%d certificates, set %d won", len(kept), won)
		}
		got := map[string]bool{kept[0].Fingerprint: true, kept[1].Fingerprint: true}
		equal(t, got, map[string]bool{fingerprint(10 * won): true, fingerprint(10*won + 1): true})
	})
}

func TestHostKey(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		i := f.instance(t, 1, 100)
		_, err := f.store().HostKey(ctx, i.ID, fingerprint(1))
		isError(t, err, ErrNotFound)
		insert := func(c HostCert) HostCert {
			if err := f.store().InsertHostCerts(ctx, []HostCert{c}, f.entry("hostcert:renew", id(1))); err != nil {
				t.Fatal(err)
			}
			return c
		}
		long := insert(f.hostCert(t, 1, 100, 1))
		short := f.hostCert(t, 1, 100, 1)
		short.ExpiresAt = short.ExpiresAt.Add(-time.Minute)
		insert(short)
		equal(t, must(f.store().HostKey(ctx, i.ID, fingerprint(1)))(t), HostKey{Instance: i, ExpiresAt: long.ExpiresAt})
		_, err = f.store().HostKey(ctx, id(101), fingerprint(1))
		isError(t, err, ErrNotFound)
		f.instance(t, 1, 102)
		twin := insert(f.hostCert(t, 1, 102, 1))
		equal(t, must(f.store().HostKey(ctx, i.ID, fingerprint(1)))(t).Shared, true)
		if _, err := f.store().Revoke(ctx, RevocationOrder{ProjectID: id(1), Serial: twin.Serial}, Audit{}); err != nil {
			t.Fatal(err)
		}
		equal(t, must(f.store().HostKey(ctx, i.ID, fingerprint(1)))(t).Shared, false)
		if _, err := f.store().Revoke(ctx, RevocationOrder{ProjectID: id(1), Serial: long.Serial}, Audit{}); err != nil {
			t.Fatal(err)
		}
		equal(t, must(f.store().HostKey(ctx, i.ID, fingerprint(1)))(t), HostKey{Instance: i, ExpiresAt: short.ExpiresAt})
		if err := f.store().DeleteInstance(ctx, i.ID, f.clock.Now(), RevocationOrder{}, Audit{}); err != nil {
			t.Fatal(err)
		}
		gone := must(f.store().HostKey(ctx, i.ID, fingerprint(1)))(t)
		if gone.Instance.State != InstanceDeleted || gone.RevokedAt.IsZero() {
			t.Errorf("after the instance's end: %+v", gone)
		}
		isError(t, f.store().InsertHostCerts(ctx, []HostCert{f.hostCert(t, 1, 100, 2)}, Audit{}), ErrNotFound)
		equal(t, f.audited(t, "hostcert:renew", id(1)), 3)
	})
}

// A host key whose certificates ended with their generation alone still speaks for its instance; what was said against it or one of them stands,
// whenever that was.
func TestHostKeyOfRetiredGeneration(t *testing.T) {
	type certs struct{ long, short HostCert }
	serial := func(c certs) RevocationOrder { return RevocationOrder{Serial: c.long.Serial} }
	shorter := func(c certs) RevocationOrder { return RevocationOrder{Serial: c.short.Serial} }
	keyID := func(c certs) RevocationOrder { return RevocationOrder{KeyID: c.long.KeyID} }
	key := func(c certs) RevocationOrder { return RevocationOrder{Fingerprint: c.long.Fingerprint} }
	other := func(certs) RevocationOrder { return RevocationOrder{Fingerprint: fingerprint(9)} }
	onEach(t, func(t *testing.T, f *fixture) {
		for n, test := range []struct {
			name          string
			before, after func(certs) RevocationOrder // beside the retirement
			revoked       bool
		}{
			{"nothing else", nil, nil, false},
			{"another key", other, other, false},
			{"its serial before", serial, nil, true},
			{"its serial after", nil, serial, true},
			{"its other certificate's serial before", shorter, nil, true},
			{"its other certificate's serial after", nil, shorter, true},
			{"its key ID", nil, keyID, true},
			{"its key before", key, nil, true},
			{"its key after", nil, key, true},
		} {
			project := n + 1
			generation := f.authority(t, project).Keys[0].ID
			i := f.instance(t, project, 100*project)
			c := certs{f.hostCert(t, project, 100*project, project), f.hostCert(t, project, 100*project, project)}
			c.short.ExpiresAt = c.short.ExpiresAt.Add(-time.Hour)
			f.insertHost(t, c.long)
			f.insertHost(t, c.short)
			revoke := func(order RevocationOrder) {
				t.Helper()
				order.ProjectID = id(project)
				if must(f.store().Revoke(t.Context(), order, Audit{}))(t).Already && test.before == nil {
					t.Errorf("%s: nothing was recorded", test.name)
				}
			}
			if test.before != nil {
				revoke(test.before(c))
			}
			if err := f.store().AddGeneration(t.Context(), next(project, 2), Audit{}); err != nil {
				t.Fatal(err)
			}
			revoke(RevocationOrder{AuthorityKeyID: generation})
			if test.after != nil {
				revoke(test.after(c))
			}
			known := must(f.store().HostKey(t.Context(), i.ID, c.long.Fingerprint))(t)
			if revoked := !known.RevokedAt.IsZero(); revoked != test.revoked {
				t.Errorf("%s: revoked %v, want %v", test.name, revoked, test.revoked)
			}
		}
	})
}

// Nobody else can have the key certified unnoticed while its instance has yet to renew.
func TestHolderOfRetiredGeneration(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		generation := f.authority(t, 1).Keys[0].ID
		i := f.instance(t, 1, 100)
		c := f.hostCert(t, 1, 100, 1)
		f.insertHost(t, c)
		if err := f.store().AddGeneration(t.Context(), next(1, 2), Audit{}); err != nil {
			t.Fatal(err)
		}
		must(f.store().Revoke(t.Context(), RevocationOrder{ProjectID: id(1), AuthorityKeyID: generation}, Audit{}))(t)
		holders := must(f.store().HostKeyHolders(t.Context(), c.Fingerprint, "", "", 0))(t)
		if len(holders) != 1 || holders[0].Serial != c.Serial {
			t.Errorf("holders %+v", holders)
		}
		equal(t, must(f.store().HostKey(t.Context(), i.ID, c.Fingerprint))(t), HostKey{Instance: i, ExpiresAt: c.ExpiresAt})
		f.instance(t, 1, 101)
		twin := f.hostCert(t, 1, 101, 1)
		twin.AuthorityKeyID = next(1, 2).ID
		f.insertHost(t, twin)
		for _, instance := range []int{100, 101} {
			equal(t, must(f.store().HostKey(t.Context(), id(instance), c.Fingerprint))(t).Shared, true)
		}
		must(f.store().Revoke(t.Context(), RevocationOrder{ProjectID: id(1), Serial: c.Serial}, Audit{}))(t)
		equal(t, must(f.store().HostKey(t.Context(), id(101), c.Fingerprint))(t).Shared, false)
	})
}

func (f *fixture) insertHost(t *testing.T, c HostCert) {
	t.Helper()
	if err := f.store().InsertHostCerts(t.Context(), []HostCert{c}, Audit{}); err != nil {
		t.Fatal(err)
	}
}
