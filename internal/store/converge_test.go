// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPendingKeys(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		now := f.clock.Now()
		late := PendingKey{Kind: "instance", ID: id(1), Rebuilt: true, Attempts: 1, NextAt: now.Add(time.Second), LastError: "Ü"}
		soon := PendingKey{Kind: "grant", ID: strings.Repeat("a", 64) + "/" + strings.Repeat("b", 64), NextAt: now}
		for _, k := range []PendingKey{late, soon} {
			if err := f.store().DeferKey(ctx, k); err != nil {
				t.Fatal(err)
			}
		}
		late.Since, soon.Since = now, now
		equal(t, must(f.store().PendingKeys(ctx, Page{}))(t), []PendingKey{soon, late})
		equal(t, must(f.store().PendingKeys(ctx, Page{After: "grant " + soon.ID}))(t), []PendingKey{late})
		equal(t, must(f.store().PendingKeys(ctx, Page{Limit: 1}))(t), []PendingKey{soon})
		_, err := f.store().PendingKeys(ctx, Page{After: "grant"})
		isError(t, err, ErrInvalid)
		equal(t, must(f.store().DueKeys(ctx, time.Hour, 10))(t), []PendingKey{soon})

		f.clock.step(time.Second)
		equal(t, must(f.store().DueKeys(ctx, time.Hour, 10))(t), []PendingKey{soon, late})
		equal(t, must(f.store().DueKeys(ctx, time.Hour, 1))(t), []PendingKey{soon})

		// A second failure keeps since when it waits, and that it was rebuilt.
		again := PendingKey{Kind: late.Kind, ID: late.ID, Attempts: 2, NextAt: now.Add(time.Hour), LastError: strings.Repeat("x", maxText+1)}
		if err := f.store().DeferKey(ctx, again); err != nil {
			t.Fatal(err)
		}
		equal(t, must(f.store().FailingKeys(ctx))(t), map[string]FailingKeys{late.Kind: {1, now}})
		equal(t, must(f.store().FailingKey(ctx, late.Kind, late.ID))(t).Attempts, 2)
		_, err = f.store().FailingKey(ctx, soon.Kind, soon.ID) // it never failed
		isError(t, err, ErrNotFound)
		again.Rebuilt, again.Since, again.LastError = true, now, again.LastError[:maxText]
		equal(t, must(f.store().PendingKeys(ctx, Page{}))(t), []PendingKey{soon, again})

		// By a clock that is too far ahead, it would have to wait for longer than anybody waits.
		again.NextAt = f.clock.Now().Add(2*time.Hour + time.Second)
		if err := f.store().DeferKey(ctx, again); err != nil {
			t.Fatal(err)
		}
		equal(t, must(f.store().DueKeys(ctx, time.Hour+time.Second, 10))(t), []PendingKey{soon})
		equal(t, must(f.store().DueKeys(ctx, time.Hour, 10))(t), []PendingKey{soon, again})

		// One that was hinted in any other way too is not only booted.
		for _, step := range []struct{ booted, want bool }{{true, true}, {true, true}, {false, false}, {true, false}} {
			booted := PendingKey{Kind: "instance", ID: id(2), Booted: step.booted, NextAt: now}
			if err := f.store().DeferKey(ctx, booted); err != nil {
				t.Fatal(err)
			}
			equal(t, must(f.store().PendingKeys(ctx, Page{After: "instance " + id(1)}))(t)[0].Booted, step.want)
		}

		for name, bad := range map[string]PendingKey{"kind": {ID: "x", NextAt: now}, "ID": {Kind: "user", NextAt: now}, "time": {Kind: "user", ID: "x"},
			"long": {Kind: "user", ID: strings.Repeat("x", maxKeyID+1), NextAt: now}} {
			if err := f.store().DeferKey(ctx, bad); err == nil {
				t.Errorf("a key without %s was recorded", name)
			}
		}
	})
}

// TestClaimedKeys: of many that see a due key, one works on it, and what is put off meanwhile is not lost when it's done.
func TestClaimedKeys(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		key := PendingKey{Kind: "user", ID: id(1), NextAt: f.clock.Now()}
		if err := f.store().DeferKey(ctx, key); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		winners := 0
		for n := range 8 {
			s := f.store()
			wg.Go(func() {
				claimed, err := s.ClaimKey(ctx, key, f.clock.Now().Add(time.Minute+time.Duration(n)*time.Second))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if claimed {
					winners++
				}
			})
		}
		wg.Wait()
		equal(t, winners, 1)
		equal(t, len(must(f.store().DueKeys(ctx, time.Hour, 10))(t)), 0)

		f.clock.step(2 * time.Minute)
		due := must(f.store().DueKeys(ctx, time.Hour, 10))(t)
		equal(t, len(due), 1)
		until := f.clock.Now().Add(time.Minute)
		equal(t, must(f.store().ClaimKey(ctx, due[0], until))(t), true)
		putOff := key
		putOff.NextAt = until.Add(time.Second)
		if err := f.store().DeferKey(ctx, putOff); err != nil {
			t.Fatal(err)
		}
		if err := f.store().SettleKey(ctx, due[0], until); err != nil {
			t.Fatal(err)
		}
		equal(t, len(must(f.store().PendingKeys(ctx, Page{}))(t)), 1)
		if err := f.store().SettleKey(ctx, due[0], putOff.NextAt); err != nil {
			t.Fatal(err)
		}
		equal(t, len(must(f.store().PendingKeys(ctx, Page{}))(t)), 0)
	})
}

func TestLiveUserCerts(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		f.authority(t, 2)
		now := f.clock.Now()
		var want []LiveCert
		for n, c := range []struct {
			project, user int
			ends          time.Duration
		}{{1, 10, time.Hour}, {1, 10, 3 * time.Hour}, {1, 11, time.Hour}, {2, 10, 2 * time.Hour}, {2, 12, time.Second}} {
			cert := f.userCert(t, c.project, c.user, n)
			cert.Serial, cert.ExpiresAt = uint64(n+1), now.Add(c.ends)
			if err := f.store().InsertUserCert(ctx, cert, Audit{}); err != nil {
				t.Fatal(err)
			}
			want = append(want, LiveCert{Serial: cert.Serial, ProjectID: cert.ProjectID, UserID: cert.UserID, Principals: cert.Principals, ExpiresAt: cert.ExpiresAt})
		}
		f.clock.step(time.Second) // the last one expires
		live := func(filter Filter, page Page) []LiveCert {
			t.Helper()
			return must(f.store().LiveUserCerts(ctx, filter, page))(t)
		}
		equal(t, live(Filter{ProjectID: id(1)}, Page{}), want[:3])
		equal(t, live(Filter{ProjectID: id(1)}, Page{After: "1", Limit: 1}), want[1:2])
		equal(t, live(Filter{UserID: want[0].UserID}, Page{}), []LiveCert{want[0], want[1], want[3]})
		equal(t, live(Filter{UserID: want[0].UserID, ProjectID: id(2)}, Page{}), want[3:4])
		equal(t, len(live(Filter{ProjectID: id(2), UserID: want[4].UserID}, Page{})), 0)
		_, err := f.store().LiveUserCerts(ctx, Filter{}, Page{})
		isError(t, err, ErrInvalid)

		for _, limit := range []int{1, 2, 100} {
			var all []LiveCert
			for after := (LiveCert{}); ; {
				page := must(f.store().AllLiveUserCerts(ctx, after, limit))(t)
				if len(page) == 0 {
					break
				}
				all = append(all, page...)
				after = page[len(page)-1]
			}
			equal(t, all, []LiveCert{want[0], want[2], want[3], want[1]})
		}

		revoke := func(order RevocationOrder) RevocationResult {
			t.Helper()
			order.ProjectID = id(1)
			return must(f.store().Revoke(ctx, order, f.entry("revoke", id(1))))(t)
		}
		// A serial of another project, an expired and an unknown one are passed over.
		equal(t, revoke(RevocationOrder{Serials: []uint64{2, 4, 5, 99}}), RevocationResult{Version: 1, Certificates: 1})
		equal(t, revoke(RevocationOrder{Serials: []uint64{2}}), RevocationResult{Version: 1, Already: true})
		equal(t, live(Filter{ProjectID: id(1)}, Page{}), []LiveCert{want[0], want[2]})
		equal(t, revoke(RevocationOrder{AllUsers: true}), RevocationResult{Version: 2, Certificates: 2})
		equal(t, revoke(RevocationOrder{AllUsers: true}), RevocationResult{Version: 2, Already: true})
		equal(t, len(live(Filter{ProjectID: id(1)}, Page{})), 0)
		equal(t, len(live(Filter{ProjectID: id(2)}, Page{})), 1)
		var serials []uint64
		for _, entry := range must(f.store().Revocations(ctx, id(1), 0, 0))(t) {
			serials = append(serials, entry.Serial)
		}
		equal(t, serials, []uint64{2, 1, 3})
		_, err = f.store().Revoke(ctx, RevocationOrder{ProjectID: id(1), Serials: make([]uint64, MaxSerials+1)}, Audit{})
		isError(t, err, ErrInvalid)
	})
}

func TestAuthorityLife(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		f.authority(t, 2)
		live := AuthorityLife{ProjectID: id(1)}
		equal(t, must(f.store().AuthorityLife(ctx, id(1)))(t), live)
		_, err := f.store().AuthorityLife(ctx, id(3))
		isError(t, err, ErrNotFound)
		gone := AuthorityLife{ProjectID: id(1), GoneAt: f.clock.Now()}
		if err := f.store().SetAuthorityLife(ctx, live, gone, f.entry("authority.gone", id(1))); err != nil {
			t.Fatal(err)
		}
		isError(t, f.store().SetAuthorityLife(ctx, live, gone, Audit{}), ErrConflict)
		equal(t, must(f.store().AuthorityLives(ctx, Page{}))(t), []AuthorityLife{gone, {ProjectID: id(2)}})
		equal(t, must(f.store().AuthorityLives(ctx, Page{After: id(1)}))(t), []AuthorityLife{{ProjectID: id(2)}})
		if err := f.store().InsertUserCert(ctx, f.userCert(t, 1, 10, 1), Audit{}); err != nil {
			t.Errorf("gone, not retired: %v", err)
		}
		retired := gone
		retired.RetiredAt = f.clock.Now()
		if err := f.store().SetAuthorityLife(ctx, gone, retired, f.entry("authority.retire", id(1))); err != nil {
			t.Fatal(err)
		}
		isError(t, f.store().InsertUserCert(ctx, f.userCert(t, 1, 10, 2), Audit{}), ErrConflict)
		equal(t, must(f.store().Authority(ctx, id(1)))(t).RetiredAt, retired.RetiredAt)
		if err := f.store().SetAuthorityLife(ctx, retired, live, f.entry("authority.back", id(1))); err != nil {
			t.Fatal(err)
		}
		if err := f.store().InsertUserCert(ctx, f.userCert(t, 1, 10, 2), Audit{}); err != nil {
			t.Errorf("back: %v", err)
		}
		equal(t, f.audited(t, "authority.back", id(1)), 1)
	})
}

func TestRebuildSeen(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		equal(t, must(f.store().RebuildSeen(ctx, id(1)))(t), time.Time{})
		first := f.clock.Now()
		for _, at := range []time.Time{first, first.Add(time.Second), first} {
			if err := f.store().SeeRebuild(ctx, id(1), at); err != nil {
				t.Fatal(err)
			}
		}
		equal(t, must(f.store().RebuildSeen(ctx, id(1)))(t), first.Add(time.Second))
		if err := f.store().ForgetRebuild(ctx, id(1)); err != nil {
			t.Fatal(err)
		}
		equal(t, must(f.store().RebuildSeen(ctx, id(1)))(t), time.Time{})
	})
}
