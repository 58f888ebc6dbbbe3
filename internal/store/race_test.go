// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"testing"
	"time"
)

// during runs a call of another replica while a transaction of this one is open. What must wait for the transaction gets time to not do so.
func during(t *testing.T, f *fixture, do func(*tx) error, call func(s *Store) error) error {
	t.Helper()
	other := newReplica(t, f)
	run(t, other)
	outcome := make(chan error, 1)
	var early error
	returned := false
	err := f.store().transact(t.Context(), func(tx *tx) error {
		if err := do(tx); err != nil {
			return err
		}
		go func() { outcome <- call(other) }()
		select {
		case early = <-outcome:
			returned = true
		case <-time.After(300 * time.Millisecond):
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if returned {
		return early
	}
	return <-outcome
}

// TestIssueWaitsForRevocation: a certificate for a key is not recorded beside a revocation of the key that is about to commit.
func TestIssueWaitsForRevocation(t *testing.T) {
	onEachWithLocks(t, func(t *testing.T, f *fixture) {
		f.authority(t, 1)
		c := f.userCert(t, 1, 50, 1)
		err := during(t, f, func(tx *tx) error {
			log, err := openLog(tx, RevocationOrder{ProjectID: id(1), At: f.clock.Now()})
			if err != nil {
				return err
			}
			if err := log.addName(tx, RevokedKey, c.Fingerprint); err != nil {
				return err
			}
			return log.close(tx)
		}, func(s *Store) error { return s.InsertUserCert(t.Context(), c, Audit{}) })
		isError(t, err, ErrConflict)
	})
}

// TestSpendingWaitsForSpending: a token that is about to be spent is not spent by another replica too.
func TestSpendingWaitsForSpending(t *testing.T) {
	onEachWithLocks(t, func(t *testing.T, f *fixture) {
		f.authority(t, 1)
		i := f.instance(t, 1, 100)
		c := f.hostCert(t, 1, 100, 2)
		err := during(t, f, func(tx *tx) error {
			_, err := tx.exec("UPDATE instance SET token_used_at = 1, token_fingerprint = ? WHERE id = ?", fingerprint(1), i.ID)
			return err
		}, func(s *Store) error {
			_, _, err := s.SpendToken(t.Context(), i.Token.Hash, []HostCert{c}, Audit{})
			return err
		})
		isError(t, err, ErrConflict)
	})
}

// TestDeletionSeesWhatItWaitedFor: a host certificate that another replica records while the deletion of its instance waits is revoked with
// the others.
func TestDeletionSeesWhatItWaitedFor(t *testing.T) {
	onEachWithLocks(t, func(t *testing.T, f *fixture) {
		f.authority(t, 1)
		i := f.instance(t, 1, 100)
		c := f.hostCert(t, 1, 100, 1)
		row := must(c.row())(t)
		err := during(t, f, func(tx *tx) error {
			lock := "SELECT project_id FROM authority WHERE project_id = ?" + f.store().location.engine.shareLock()
			if _, err := listTx(tx, scanString, lock, id(1)); err != nil {
				return err
			}
			return tx.insert(hostCertTable, [][]any{row})
		}, func(s *Store) error {
			return s.DeleteInstance(t.Context(), i.ID, f.clock.Now(), RevocationOrder{}, Audit{})
		})
		if err != nil {
			t.Fatal(err)
		}
		stored := must(f.store().HostCert(t.Context(), i.ID, c.Fingerprint))(t)
		equal(t, stored.RevokedAt, f.clock.Now())
		entries := must(f.store().Revocations(t.Context(), id(1), 0, 0))(t)
		if len(entries) != 1 || entries[0].Serial != c.Serial {
			t.Fatal(entries)
		}
	})
}

// TestReleaseSeesWhatItWaitedFor: whoever leaves knows that Muster made an object, if another instance is about to record it.
func TestReleaseSeesWhatItWaitedFor(t *testing.T) {
	onEachWithLocks(t, func(t *testing.T, f *fixture) {
		o := Object{Kind: ObjectService, Name: "HTTP/web.test", InstanceID: id(1)}
		if _, err := f.store().BeginChange(t.Context(), o, false, late); err != nil {
			t.Fatal(err)
		}
		var released []Object
		err := during(t, f, func(tx *tx) error {
			_, err := tx.exec("UPDATE external_object SET state = 'made' WHERE kind = ? AND name = ?", string(o.Kind), o.Name)
			return err
		}, func(s *Store) (err error) {
			released, err = s.ReleaseObjects(t.Context(), o.InstanceID)
			return err
		})
		if err != nil || len(released) != 1 {
			t.Fatal(released, err)
		}
		equal(t, released[0].State, ObjectMade)
		equal(t, released[0].Leaving, true)
	})
}

// TestPruneWaitsForNobody: what is old is removed beside a transaction that writes what is new. MariaDB locks each row that it looks at.
func TestPruneWaitsForNobody(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		if f.store().location.engine == engineSQLite {
			return // it has one writer
		}
		ctx := t.Context()
		f.authority(t, 1)
		f.instance(t, 1, 100)
		live := f.instance(t, 1, 101)
		isError(t, f.store().DeleteInstance(ctx, id(100), f.clock.Now(), RevocationOrder{}, Audit{}), nil)
		f.clock.step(23 * time.Hour)
		isError(t, f.store().AppendAudit(ctx, f.entry("kept", id(1))), nil)
		f.clock.step(time.Hour)
		entry := must(f.store().auditRow(f.entry("new", id(1))))(t)
		other := newReplica(t, f)
		err := f.store().transact(ctx, func(tx *tx) error {
			if _, err := tx.exec("UPDATE instance SET hostname = 'db' WHERE id = ?", live.ID); err != nil {
				return err
			}
			if err := tx.insert(auditTable, [][]any{entry}); err != nil {
				return err
			}
			bounded, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			if _, err := other.PruneAudit(bounded, f.clock.Now().Add(-2*time.Hour), 100); err != nil {
				t.Error(err)
			}
			bounded, cancel = context.WithTimeout(ctx, time.Minute)
			defer cancel()
			if _, err := other.PruneExpired(bounded, f.clock.Now(), 100); err != nil {
				t.Error(err)
			}
			return nil
		})
		isError(t, err, nil)
		equal(t, len(must(f.store().Audits(ctx, AuditFilter{}, Page{}))(t)), 2)
		equal(t, must(f.store().Instances(ctx, Filter{}, Page{}))(t)[0].Hostname, "db")
	})
}
