// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// equal fails the test if what is there isn't what was put there.
func equal(t testing.TB, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Fatalf("wanted -, got +:\n%s", diff)
	}
}

func isError(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, wanted %v", got, want)
	}
}

func TestAuthorities(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		second, first := f.authority(t, 2), f.authority(t, 1)
		equal(t, must(f.store().Authority(ctx, id(1)))(t), first)
		isError(t, f.store().CreateAuthority(ctx, first, Audit{}), ErrExists)
		_, err := f.store().Authority(ctx, id(3))
		isError(t, err, ErrNotFound)
		equal(t, must(f.store().Authorities(ctx, Page{}))(t), []Authority{first, second})
		equal(t, must(f.store().Authorities(ctx, Page{Limit: 1, After: id(1)}))(t), []Authority{second})
		equal(t, f.audited(t, "authority:create", id(1)), 1)
	})
}

func TestInstances(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		i := f.instance(t, 1, 100)
		again := i
		again.Token = f.token(7)
		stored, created, err := f.store().CreateInstance(ctx, again, f.entry("instance:create", id(1)))
		if err != nil || created {
			t.Fatal(created, err)
		}
		equal(t, stored, i)
		equal(t, f.audited(t, "instance:create", id(1)), 1)
		again.ProjectID = id(2)
		_, _, err = f.store().CreateInstance(ctx, again, Audit{})
		isError(t, err, ErrConflict)
		equal(t, must(f.store().Instance(ctx, i.ID))(t), i)
		equal(t, must(f.store().InstanceByToken(ctx, i.Token.Hash))(t), i)
		other := f.instance(t, 2, 101)
		equal(t, must(f.store().Instances(ctx, Filter{}, Page{}))(t), []Instance{i, other})
		equal(t, must(f.store().Instances(ctx, Filter{ProjectID: id(2)}, Page{}))(t), []Instance{other})
		equal(t, must(f.store().Instances(ctx, Filter{}, Page{After: i.ID}))(t), []Instance{other})
		_, err = f.store().Instances(ctx, Filter{UserID: id(1)}, Page{})
		isError(t, err, ErrInvalid)
	})
}

func TestFirstInstanceWins(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		const callers = 24
		results := make([]Instance, callers)
		made := make([]bool, callers)
		var wg sync.WaitGroup
		for n := range callers {
			s := f.store()
			wg.Go(func() {
				i := Instance{ID: id(5), ProjectID: id(1), Token: f.token(n)}
				var err error
				if results[n], made[n], err = s.CreateInstance(t.Context(), i, f.entry("instance:create", id(1))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		winners := 0
		for n := range callers {
			equal(t, results[n], results[0])
			if made[n] {
				winners++
			}
		}
		equal(t, winners, 1)
		equal(t, f.audited(t, "instance:create", id(1)), 1)
	})
}

func TestRenewToken(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		i := f.instance(t, 1, 100)
		renewed := i
		renewed.Token = f.token(200)
		equal(t, must(f.store().RenewToken(ctx, i.ID, i.Token.Hash, renewed.Token, f.entry("token:renew", id(1))))(t), renewed)
		equal(t, must(f.store().RenewToken(ctx, i.ID, i.Token.Hash, f.token(300), f.entry("token:renew", id(1))))(t), renewed)
		equal(t, f.audited(t, "token:renew", id(1)), 1)
		_, err := f.store().InstanceByToken(ctx, i.Token.Hash)
		isError(t, err, ErrNotFound)
		_, err = f.store().RenewToken(ctx, id(9), "x", f.token(1), Audit{})
		isError(t, err, ErrNotFound)
	})
}

// What a certificate was asked for with is kept, and found by.
func TestCredentials(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		robot := Credential{Kind: "application_credential", ID: id(70), Owner: id(50)}
		plain := f.insert(t, f.userCert(t, 1, 50, 1))
		lent := f.userCert(t, 1, 50, 1)
		lent.Credential = robot
		lent = f.insert(t, lent)
		other := f.userCert(t, 1, 51, 2)
		other.Credential, other.GroupIDs = robot, []string{id(80), id(81)}
		other = f.insert(t, other)
		for credential, want := range map[string]UserCert{"": plain, id(70): lent} {
			got, found, _, err := f.store().LatestUserCert(ctx, id(1), id(50), fingerprint(1), credential)
			if err != nil || !found {
				t.Fatal(found, err)
			}
			equal(t, got, want)
		}
		_, found, _, err := f.store().LatestUserCert(ctx, id(1), id(50), fingerprint(1), id(71))
		if err != nil || found {
			t.Error(found, err)
		}
		equal(t, must(f.store().UserCert(ctx, other.Serial))(t), other)
		certs := must(f.store().CredentialCerts(ctx, id(70), Page{}))(t)
		equal(t, len(certs), 2)
		equal(t, certs[1], LiveCert{Serial: other.Serial, ProjectID: id(1), UserID: id(51), Principals: other.Principals,
			ExpiresAt: other.ExpiresAt, Credential: robot, GroupIDs: other.GroupIDs})
		_, err = f.store().Revoke(ctx, RevocationOrder{ProjectID: id(1), Serials: []uint64{lent.Serial}}, Audit{})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, len(must(f.store().CredentialCerts(ctx, id(70), Page{}))(t)), 1)
		equal(t, len(must(f.store().CredentialCerts(ctx, id(71), Page{}))(t)), 0)
		_, err = f.store().CredentialCerts(ctx, "", Page{})
		isError(t, err, ErrInvalid)
		half := f.userCert(t, 1, 50, 3)
		half.Credential = Credential{Kind: "trust", ID: id(72)}
		isError(t, f.store().InsertUserCert(ctx, half, Audit{}), ErrInvalid)
	})
}

func TestUserCertificates(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		f.authority(t, 2)
		_, found, revoked, err := f.store().LatestUserCert(ctx, id(1), id(50), fingerprint(1), "")
		if err != nil || found || revoked {
			t.Fatal(found, revoked, err)
		}
		first := f.insert(t, f.userCert(t, 1, 50, 1))
		second := f.insert(t, f.userCert(t, 1, 50, 1))
		third := f.insert(t, f.userCert(t, 2, 50, 2))
		latest, found, revoked, err := f.store().LatestUserCert(ctx, id(1), id(50), fingerprint(1), "")
		if err != nil || !found || revoked {
			t.Fatal(found, revoked, err)
		}
		newest := first
		if second.Serial > first.Serial {
			newest = second
		}
		equal(t, latest, newest)
		equal(t, must(f.store().UserCert(ctx, third.Serial))(t), third)
		equal(t, must(f.store().UserCertByKey(ctx, id(50), third.Fingerprint))(t), third)
		equal(t, must(f.store().UserCertByKey(ctx, id(50), third.MD5))(t), third)
		all := []UserCert{first, second, third}
		slices.SortFunc(all, func(a, b UserCert) int { return int(a.Serial) - int(b.Serial) })
		equal(t, must(f.store().UserCerts(ctx, Filter{}, Page{}))(t), all)
		equal(t, must(f.store().UserCerts(ctx, Filter{UserID: id(50)}, Page{After: strconv.FormatUint(all[0].Serial, 10)}))(t), all[1:])
		equal(t, must(f.store().UserCerts(ctx, Filter{ProjectID: id(2)}, Page{}))(t), []UserCert{third})
		_, err = f.store().UserCert(ctx, 1)
		isError(t, err, ErrNotFound)
		isError(t, f.store().InsertUserCert(ctx, first, Audit{}), ErrExists)
		equal(t, f.audited(t, "usercert:create", id(1)), 2)
	})
}

func TestRefusedWriteHarmsNoOther(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		f.authority(t, 1)
		taken := f.insert(t, f.userCert(t, 1, 50, 1))
		var wg sync.WaitGroup
		for n := range 64 {
			c, want, s := f.userCert(t, 1, 50, n), error(nil), f.store()
			switch n % 4 {
			case 1:
				c.Serial, want = taken.Serial, ErrExists
			case 2:
				c.AuthorityKeyID, want = id(999), ErrConflict
			}
			wg.Go(func() {
				if err := s.InsertUserCert(t.Context(), c, f.entry("many", id(1))); !errors.Is(err, want) || (want == nil && err != nil) {
					t.Errorf("write %d: %v, wanted %v", n, err, want)
				}
			})
		}
		wg.Wait()
		equal(t, f.audited(t, "many", id(1)), 32)
		equal(t, len(must(f.store().UserCerts(t.Context(), Filter{}, Page{}))(t)), 33)
	})
}

func TestSpendToken(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		i := f.instance(t, 1, 100)
		audit := f.entry("hostcert:create", id(1))
		c := f.hostCert(t, 1, 100, 1)
		stored, spent, err := f.store().SpendToken(ctx, i.Token.Hash, []HostCert{c}, audit)
		if err != nil || !spent {
			t.Fatal(spent, err)
		}
		equal(t, stored, []HostCert{c})
		stored, spent, err = f.store().SpendToken(ctx, i.Token.Hash, []HostCert{f.hostCert(t, 1, 100, 1)}, audit)
		if err != nil || spent {
			t.Fatal(spent, err)
		}
		equal(t, stored, []HostCert{c})
		_, _, err = f.store().SpendToken(ctx, i.Token.Hash, []HostCert{f.hostCert(t, 1, 100, 2)}, audit)
		isError(t, err, ErrConflict)
		_, _, err = f.store().SpendToken(ctx, hash("none"), []HostCert{f.hostCert(t, 1, 100, 1)}, audit)
		isError(t, err, ErrNotFound)
		other := f.instance(t, 1, 101)
		_, _, err = f.store().SpendToken(ctx, other.Token.Hash, []HostCert{f.hostCert(t, 1, 100, 1)}, audit)
		isError(t, err, ErrConflict)
		f.clock.step(time.Hour)
		_, _, err = f.store().SpendToken(ctx, other.Token.Hash, []HostCert{f.hostCert(t, 1, 101, 1)}, audit)
		isError(t, err, ErrNotFound)
		equal(t, f.audited(t, "hostcert:create", id(1)), 1)
		equal(t, must(f.store().HostCert(ctx, id(100), c.Fingerprint))(t), c)
		equal(t, must(f.store().HostCert(ctx, id(100), c.MD5))(t), c)
		equal(t, must(f.store().HostCerts(ctx, Filter{InstanceID: id(100), ProjectID: id(1)}, Page{}))(t), []HostCert{c})
		equal(t, must(f.store().HostKeyHolders(ctx, c.Fingerprint, "", "", 0))(t), []HostCert{c})
		used := must(f.store().Instance(ctx, i.ID))(t)
		equal(t, used.Token.UsedFingerprint, c.Fingerprint)
	})
}

func TestTokenIsSpentOnce(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		f.authority(t, 1)
		i := f.instance(t, 1, 100)
		const callers = 16
		outcomes := make(chan error, callers)
		var wg sync.WaitGroup
		for n := range callers {
			c, s := f.hostCert(t, 1, 100, n), f.store()
			wg.Go(func() {
				_, spent, err := s.SpendToken(t.Context(), i.Token.Hash, []HostCert{c}, Audit{})
				if err == nil && !spent {
					err = errors.New("no error for another key")
				}
				outcomes <- err
			})
		}
		wg.Wait()
		close(outcomes)
		won := 0
		for err := range outcomes {
			if err == nil {
				won++
				continue
			}
			isError(t, err, ErrConflict)
		}
		equal(t, won, 1)
		equal(t, len(must(f.store().HostCerts(t.Context(), Filter{}, Page{}))(t)), 1)
	})
}

func TestDeleteInstance(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		i := f.instance(t, 1, 100)
		c := f.hostCert(t, 1, 100, 1)
		if _, _, err := f.store().SpendToken(ctx, i.Token.Hash, []HostCert{c}, Audit{}); err != nil {
			t.Fatal(err)
		}
		order := RevocationOrder{Reason: "deleted", By: "nova"}
		for range 2 {
			if err := f.store().DeleteInstance(ctx, i.ID, f.clock.Now(), order, f.entry("instance:delete", id(1))); err != nil {
				t.Fatal(err)
			}
		}
		equal(t, f.audited(t, "instance:delete", id(1)), 1)
		_, err := f.store().Instance(ctx, i.ID)
		isError(t, err, ErrNotFound)
		_, err = f.store().InstanceByToken(ctx, i.Token.Hash)
		isError(t, err, ErrNotFound)
		_, _, err = f.store().CreateInstance(ctx, i, Audit{})
		isError(t, err, ErrConflict)
		_, _, err = f.store().SpendToken(ctx, i.Token.Hash, []HostCert{c}, Audit{})
		isError(t, err, ErrNotFound)
		equal(t, len(must(f.store().HostKeyHolders(ctx, c.Fingerprint, "", "", 10))(t)), 0)
		equal(t, must(f.store().HostCert(ctx, i.ID, c.Fingerprint))(t).RevokedAt, f.clock.Now())
		equal(t, must(f.store().KRLVersions(ctx))(t), map[string]uint64{id(1): 1})
		equal(t, must(f.store().Revocations(ctx, id(1), 0, 0))(t), []Revocation{{ProjectID: id(1), Version: 1, Kind: RevokedSerial,
			AuthorityKeyID: c.AuthorityKeyID, Serial: c.Serial, ExpiresAt: c.ExpiresAt, CreatedAt: f.clock.Now(), Reason: "deleted", By: "nova"}})
		isError(t, f.store().DeleteInstance(ctx, id(9), f.clock.Now(), order, Audit{}), ErrNotFound)
		// An instance that never had a certificate raises no version; nor does one of a project without authority.
		for n, project := range map[int]int{101: 1, 102: 2} {
			f.instance(t, project, n)
			if err := f.store().DeleteInstance(ctx, id(n), f.clock.Now(), order, Audit{}); err != nil {
				t.Fatal(err)
			}
		}
		equal(t, must(f.store().KRLVersions(ctx))(t), map[string]uint64{id(1): 1})
	})
}

func TestRevoke(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		f.authority(t, 2)
		a := f.insert(t, f.userCert(t, 1, 50, 1))
		b := f.insert(t, f.userCert(t, 1, 50, 2))
		c := f.insert(t, f.userCert(t, 1, 51, 3))
		elsewhere := f.insert(t, f.userCert(t, 2, 50, 1))
		revoke := func(o RevocationOrder, want RevocationResult) {
			t.Helper()
			o.ProjectID = id(1)
			equal(t, must(f.store().Revoke(ctx, o, f.entry("revoke", id(1))))(t), want)
		}
		revoke(RevocationOrder{Serial: a.Serial, Reason: "r", By: "me"}, RevocationResult{Version: 1, Certificates: 1})
		revoke(RevocationOrder{Serial: a.Serial}, RevocationResult{Version: 1, Already: true})
		_, err := f.store().Revoke(ctx, RevocationOrder{ProjectID: id(1), Serial: elsewhere.Serial}, Audit{})
		isError(t, err, ErrNotFound)
		_, err = f.store().Revoke(ctx, RevocationOrder{ProjectID: id(1), Serial: 1, UserID: "x"}, Audit{})
		isError(t, err, ErrInvalid)
		equal(t, must(f.store().UserProjects(ctx, id(50)))(t), []string{id(1), id(2)})
		revoke(RevocationOrder{UserID: id(50)}, RevocationResult{Version: 2, Certificates: 1})
		revoke(RevocationOrder{UserID: id(50)}, RevocationResult{Version: 2, Already: true})
		equal(t, must(f.store().UserProjects(ctx, id(50)))(t), []string{id(2)})
		revoke(RevocationOrder{Fingerprint: c.Fingerprint}, RevocationResult{Version: 3, Certificates: 1})
		revoke(RevocationOrder{Fingerprint: c.Fingerprint}, RevocationResult{Version: 3, Already: true})
		revoke(RevocationOrder{KeyID: "nobody_1"}, RevocationResult{Version: 4})
		d := f.insert(t, f.userCert(t, 1, 52, 4))
		revoke(RevocationOrder{AuthorityKeyID: id(10)}, RevocationResult{Version: 5, Certificates: 1})
		revoke(RevocationOrder{AuthorityKeyID: id(10)}, RevocationResult{Version: 5, Already: true})
		equal(t, f.audited(t, "revoke", id(1)), 5)

		_, found, revoked, err := f.store().LatestUserCert(ctx, id(1), id(51), c.Fingerprint, "")
		if err != nil || !found || !revoked {
			t.Fatal(found, revoked, err)
		}
		isError(t, f.store().InsertUserCert(ctx, f.userCert(t, 1, 53, 6), Audit{}), ErrConflict)
		log := must(f.store().Revocations(ctx, id(1), 0, 0))(t)
		want := []Revocation{
			{Version: 1, Kind: RevokedSerial, AuthorityKeyID: id(10), Serial: a.Serial, ExpiresAt: a.ExpiresAt, Reason: "r", By: "me"},
			{Version: 2, Kind: RevokedSerial, AuthorityKeyID: id(10), Serial: b.Serial, ExpiresAt: b.ExpiresAt},
			{Version: 3, Kind: RevokedKey, Value: c.Fingerprint},
			{Version: 4, Kind: RevokedKeyID, Value: "nobody_1"},
			{Version: 5, Kind: RevokedAuthorityKey, AuthorityKeyID: id(10)},
		}
		for i := range want {
			want[i].ProjectID, want[i].CreatedAt = id(1), f.clock.Now()
		}
		equal(t, log, want)
		equal(t, must(f.store().Revocations(ctx, id(1), 3, 1))(t), want[3:4])
		equal(t, must(f.store().UserCert(ctx, d.Serial))(t).RevokedAt, f.clock.Now())
		equal(t, must(f.store().UserCert(ctx, elsewhere.Serial))(t).RevokedAt, time.Time{})
	})
}

func TestRevokedKeyGetsNoCertificate(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		f.authority(t, 2)
		if _, err := f.store().Revoke(ctx, RevocationOrder{ProjectID: id(1), Fingerprint: fingerprint(1)}, Audit{}); err != nil {
			t.Fatal(err)
		}
		isError(t, f.store().InsertUserCert(ctx, f.userCert(t, 1, 50, 1), Audit{}), ErrConflict)
		f.insert(t, f.userCert(t, 2, 50, 1))
		i := f.instance(t, 1, 100)
		_, _, err := f.store().SpendToken(ctx, i.Token.Hash, []HostCert{f.hostCert(t, 1, 100, 1)}, Audit{})
		isError(t, err, ErrConflict)
	})
}

// TestManyRevoked goes over several transactions, and over whole versions.
func TestManyRevoked(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		const certificates = 2*maxMarked + 30
		var wg sync.WaitGroup
		for n := range certificates {
			c, s := f.userCert(t, 1, 50, n), f.store()
			wg.Go(func() {
				if err := s.InsertUserCert(ctx, c, Audit{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		result := must(f.store().Revoke(ctx, RevocationOrder{ProjectID: id(1), UserID: id(50)}, f.entry("revoke", id(1))))(t)
		equal(t, result, RevocationResult{Version: 3, Certificates: certificates})
		equal(t, f.audited(t, "revoke", id(1)), 1)
		var sizes []int
		after := uint64(0)
		for {
			part := must(f.store().Revocations(ctx, id(1), after, maxMarked+100))(t)
			if len(part) == 0 {
				break
			}
			sizes, after = append(sizes, len(part)), part[len(part)-1].Version
		}
		equal(t, sizes, []int{500, 530})
		equal(t, len(must(f.store().Revocations(ctx, id(1), 0, 3))(t)), 500)
	})
}

// TestNothingRevokedIsLost issues and revokes a user's certificates at the same time: at the end, each is marked and in the log, or live.
func TestNothingRevokedIsLost(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				for range 10 {
					f.insert(t, f.userCert(t, 1, 50, n))
				}
			})
		}
		for range 2 {
			wg.Go(func() {
				for range 10 {
					if _, err := f.store().Revoke(ctx, RevocationOrder{ProjectID: id(1), UserID: id(50)}, Audit{}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		logged := make(map[uint64]bool)
		last := uint64(0)
		for _, r := range must(f.store().Revocations(ctx, id(1), 0, 1000))(t) {
			if logged[r.Serial] {
				t.Errorf("serial %d is in the log twice", r.Serial)
			}
			logged[r.Serial] = true
			if r.Version > last+1 {
				t.Errorf("version %d after %d", r.Version, last)
			}
			last = r.Version
		}
		for _, c := range must(f.store().UserCerts(ctx, Filter{}, Page{Limit: MaxPageLimit}))(t) {
			if logged[c.Serial] == c.RevokedAt.IsZero() {
				t.Errorf("serial %d: in the log %v, revoked at %v", c.Serial, logged[c.Serial], c.RevokedAt)
			}
		}
	})
}

func TestSerials(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		var mu sync.Mutex
		seen := make(map[uint64]bool)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 700 {
					n, err := f.store().NextSerial(t.Context())
					mu.Lock()
					if err != nil || n == 0 || n > maxSerial || seen[n] {
						t.Errorf("serial %d, seen %v, %v", n, seen[n], err)
					}
					seen[n] = true
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	})
}

// TestSerialsAfterRestore sets the counter back, as a restored backup does.
func TestSerialsAfterRestore(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		before := must(f.store().NextSerial(ctx))(t)
		err := f.store().transact(ctx, func(tx *tx) error {
			_, err := tx.exec("UPDATE serial_block SET next = 1 WHERE id = 1")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		f.clock.step(time.Second)
		restored := newReplica(t, f)
		if after := must(restored.NextSerial(ctx))(t); after < before+serialBlock {
			t.Errorf("serial %d after %d", after, before)
		}
	})
}

// newReplica is one more on the fixture's database.
func newReplica(t *testing.T, f *fixture) *Store {
	return open(t, Config{URL: f.url, Now: f.clock.Now})
}

func TestLease(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		take := func(holder string, want bool) {
			t.Helper()
			equal(t, must(f.store().Lease(t.Context(), "compare", holder, time.Minute))(t), want)
		}
		take("a", true)
		take("b", false)
		f.clock.step(40 * time.Second)
		take("a", true)
		f.clock.step(40 * time.Second)
		take("b", false)
		f.clock.step(20 * time.Second)
		take("b", true)
		take("a", false)
	})
}

// TestLeaseOfAWrongClock: a holder whose clock ran ahead keeps the others out
// for no longer than a lease is, once the clocks are right.
func TestLeaseOfAWrongClock(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		take := func(holder string, want bool) {
			t.Helper()
			equal(t, must(f.store().Lease(t.Context(), "compare", holder, time.Minute))(t), want)
		}
		f.clock.step(365 * 24 * time.Hour)
		take("ahead", true)
		f.clock.step(-365 * 24 * time.Hour)
		take("b", true)
		take("ahead", false)
		// A small difference is no reason.
		f.clock.step(-50 * time.Minute)
		take("c", false)
	})
}

func TestLeaseHasOneHolder(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		var mu sync.Mutex
		var holders int
		var wg sync.WaitGroup
		for n := range 12 {
			s := f.store()
			wg.Go(func() {
				held, err := s.Lease(t.Context(), "one", strconv.Itoa(n+1), time.Minute)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				if held {
					holders++
				}
			})
		}
		wg.Wait()
		equal(t, holders, 1)
	})
}

func TestAudits(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		var all []Audit
		for n := range 5 {
			a := Audit{At: f.clock.Now(), Actor: id(50 + n%2), ActorName: "jörg", ActorProject: id(1), Action: "usercert:create", Outcome: "ok",
				ObjectKind: "usercert", ObjectID: strconv.Itoa(n), ProjectID: id(1), Reason: "because", RequestID: "req-1", Remote: "192.0.2.1",
				Details: map[string]string{"key": "välue"}, Times: 1}
			if err := f.store().AppendAudit(ctx, a); err != nil {
				t.Fatal(err)
			}
			all = append([]Audit{a}, all...)
			f.clock.step(time.Millisecond)
		}
		listed := func(af AuditFilter, p Page) []Audit {
			t.Helper()
			got := must(f.store().Audits(ctx, af, p))(t)
			for i := range got {
				if len(got[i].ID) != 32 {
					t.Errorf("ID %q", got[i].ID)
				}
				got[i].ID = ""
			}
			return got
		}
		equal(t, listed(AuditFilter{}, Page{}), all)
		equal(t, listed(AuditFilter{Actor: id(51)}, Page{}), []Audit{all[1], all[3]})
		equal(t, listed(AuditFilter{ObjectID: "2", Action: "usercert:create", ProjectID: id(1)}, Page{}), all[2:3])
		equal(t, listed(AuditFilter{Since: all[3].At, Until: all[1].At}, Page{}), all[2:4])
		first := must(f.store().Audits(ctx, AuditFilter{}, Page{Limit: 2}))(t)
		equal(t, listed(AuditFilter{}, Page{After: first[1].ID}), all[2:])
		equal(t, must(f.store().PruneAudit(ctx, all[1].At, 100))(t), 3)
		equal(t, listed(AuditFilter{}, Page{}), all[:2])
	})
}

// TestRefusalsAreCounted: whoever is refused again and again, on whatever replica, adds no entry but the first of each minute.
func TestRefusalsAreCounted(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		refused := func(actor, remote, action, object string) Audit {
			return Audit{At: f.clock.Now(), Actor: actor, Action: action, Outcome: "refused", ObjectID: object, ProjectID: id(1), Remote: remote}
		}
		refuse := func(a Audit, of string) {
			t.Helper()
			if err := f.store().AppendRefusal(ctx, a, of); err != nil {
				t.Fatal(err)
			}
		}
		count := func(af AuditFilter) (entries, times int) {
			t.Helper()
			for _, a := range must(f.store().Audits(ctx, af, Page{}))(t) {
				entries, times = entries+1, times+int(a.Times)
			}
			return entries, times
		}
		want := func(af AuditFilter, entries, times int) {
			t.Helper()
			if e, n := count(af); e != entries || n != times {
				t.Errorf("%+v: %d entries of %d refusals, want %d of %d", af, e, n, entries, times)
			}
		}
		begin := f.clock.Now() // a fraction of a second into a minute
		refuse(refused(id(50), "192.0.2.1", "audit:list", "first"), "")
		f.clock.step(59 * time.Second)
		const callers, calls = 8, 25
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for n := range calls {
					if err := f.store().AppendRefusal(ctx, refused(id(50), "192.0.2.2", "audit:list", strconv.Itoa(n)), ""); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		want(AuditFilter{}, 1, 1+callers*calls)
		first := must(f.store().Audits(ctx, AuditFilter{}, Page{}))(t)[0]
		if first.ObjectID != "first" || first.Remote != "192.0.2.1" || !first.At.Equal(begin) {
			t.Errorf("the entry does not tell of the first refusal: %+v", first)
		}

		// Another caller, action, object and minute each have their own entry.
		refuse(refused(id(51), "192.0.2.2", "audit:list", ""), "")
		refuse(refused(id(50), "192.0.2.2", "host:list", ""), "")
		for _, object := range []string{"a", "b", "a"} {
			refuse(refused(id(50), "192.0.2.2", "hosttoken.create", object), object)
		}
		for _, remote := range []string{"192.0.2.3", "192.0.2.4", "192.0.2.3"} {
			refuse(refused("", remote, "hostcert.issue", "i"), "i")
		}
		want(AuditFilter{Action: "audit:list"}, 2, 2+callers*calls)
		want(AuditFilter{Action: "hosttoken.create"}, 2, 3)
		want(AuditFilter{Action: "hostcert.issue"}, 2, 3)
		f.clock.step(time.Second)
		next := f.clock.Now()
		refuse(refused(id(50), "192.0.2.1", "audit:list", ""), "")
		want(AuditFilter{Actor: id(50), Action: "audit:list"}, 2, 2+callers*calls)
		want(AuditFilter{Action: "audit:list", Since: next}, 1, 1)
		want(AuditFilter{Actor: id(50), Action: "audit:list", Since: begin, Until: next}, 1, 1+callers*calls)
		want(AuditFilter{Actor: id(50), Action: "audit:list", Since: begin.Add(time.Microsecond), Until: next}, 0, 0)
		want(AuditFilter{Actor: id(50), Action: "audit:list", Until: begin}, 0, 0)
	})
}

func TestAuditTakesAnyText(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		odd := "\x00\xff" + string(make([]byte, 5000)) + "ü"
		err := f.store().AppendAudit(t.Context(), Audit{Actor: odd, ActorName: odd, ActorProject: odd, Action: odd, Outcome: odd, ObjectKind: odd,
			ObjectID: odd, ProjectID: "ü" + odd, Reason: odd, RequestID: odd, Remote: odd, Details: map[string]string{odd: odd}})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestPruneExpired(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		old := f.insert(t, f.userCert(t, 1, 50, 1))
		if _, err := f.store().Revoke(ctx, RevocationOrder{ProjectID: id(1), Serial: old.Serial}, Audit{}); err != nil {
			t.Fatal(err)
		}
		if _, err := f.store().Revoke(ctx, RevocationOrder{ProjectID: id(1), Fingerprint: fingerprint(9)}, Audit{}); err != nil {
			t.Fatal(err)
		}
		f.instance(t, 1, 100)
		if err := f.store().DeleteInstance(ctx, id(100), f.clock.Now(), RevocationOrder{}, Audit{}); err != nil {
			t.Fatal(err)
		}
		f.clock.step(24 * time.Hour)
		live := f.insert(t, f.userCert(t, 1, 50, 1))
		equal(t, must(f.store().PruneExpired(ctx, f.clock.Now(), 10))(t), 3)
		equal(t, must(f.store().PruneExpired(ctx, f.clock.Now(), 10))(t), 0)
		equal(t, must(f.store().UserCerts(ctx, Filter{}, Page{}))(t), []UserCert{live})
		equal(t, len(must(f.store().Revocations(ctx, id(1), 0, 0))(t)), 1)
		equal(t, must(f.store().KRLVersions(ctx))(t), map[string]uint64{id(1): 2})
	})
}

// TestClocks: the database server's, and what the records say.
func TestClocks(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		before := time.Now().Add(-time.Minute) // a server's clock may run differently
		if now := must(f.store().Clock(ctx))(t); now.Before(before) || now.After(time.Now().Add(time.Minute)) {
			t.Errorf("it is %v", now)
		}
		equal(t, must(f.store().NewestAudit(ctx))(t), time.Time{})
		var last time.Time
		for range 3 {
			f.clock.step(time.Hour)
			last = f.clock.Now()
			isError(t, f.store().AppendAudit(ctx, Audit{Actor: "x", Action: "x", Outcome: "ok"}), nil)
		}
		equal(t, must(f.store().NewestAudit(ctx))(t), last)
	})
}

func TestBadValuesAreRefused(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		f.authority(t, 1)
		for name, spoil := range map[string]func(*UserCert){
			"serial 0":       func(c *UserCert) { c.Serial = 0 },
			"serial 2^53":    func(c *UserCert) { c.Serial = 1 << 53 },
			"no project":     func(c *UserCert) { c.ProjectID = "" },
			"odd project":    func(c *UserCert) { c.ProjectID = "ü" },
			"zero in a name": func(c *UserCert) { c.UserName = "a\x00b" },
			"bytes":          func(c *UserCert) { c.UserName = "\xff" },
			"long name":      func(c *UserCert) { c.UserName = string(make([]byte, 300)) },
			"no expiry":      func(c *UserCert) { c.ExpiresAt = time.Time{} },
			"fingerprint":    func(c *UserCert) { c.Fingerprint = "MD5:00" },
		} {
			c := f.userCert(t, 1, 50, 1)
			spoil(&c)
			if err := f.store().InsertUserCert(ctx, c, Audit{}); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		_, err := f.store().UserCerts(ctx, Filter{}, Page{Limit: MaxPageLimit + 1})
		isError(t, err, ErrInvalid)
		_, err = f.store().UserCerts(ctx, Filter{}, Page{After: "x"})
		isError(t, err, ErrInvalid)
		_, err = f.store().UserCertByKey(ctx, "ü", "SHA256:ü")
		isError(t, err, ErrNotFound)
	})
}

func TestCallersContext(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		idle := newReplica(t, f)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		isError(t, idle.AppendAudit(ctx, Audit{}), context.DeadlineExceeded)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := f.store().Instance(ended, id(1))
		isError(t, err, context.Canceled)
	})
}
