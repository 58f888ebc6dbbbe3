// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

//go:build galera

package store

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/muster-cloud/muster/test/services"
)

var (
	databases services.Databases
	// galera is the cluster that the suite runs on.
	galera      *services.Galera
	galeraNames atomic.Int64
)

// engines are one node of the cluster, and two of them, to which the connections of each replica go in turn.
var engines = []testEngine{
	{name: "one writer", make: func(t testing.TB) string { nodes, _ := galeraDatabase(t); return nodes[0] }},
	{name: "two writers", make: func(t testing.TB) string { _, both := galeraDatabase(t); return both }, apart: true},
}

func TestMain(m *testing.M) {
	var err error
	if galera, err = services.StartGalera(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := databases.Main(m)
	if err := galera.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop Galera:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func galeraDatabase(t testing.TB) (nodes []string, both string) {
	t.Helper()
	nodes, both, err := galera.Database(t.Context(), fmt.Sprintf("muster_%d", galeraNames.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	return nodes, both
}

// twoWriters is a database with one replica at each of two nodes.
func twoWriters(t *testing.T) *fixture {
	t.Helper()
	t.Parallel()
	nodes, _ := galeraDatabase(t)
	f := newFixture(t, nodes[0], 1)
	second := open(t, Config{URL: nodes[1], Now: f.clock.Now})
	run(t, second)
	f.stores = append(f.stores, second)
	return f
}

// beside runs a call at the second node while a transaction at the first one has done what it does, and not committed. The outcome of both.
func beside(t *testing.T, f *fixture, do func(*tx) error, call func(s *Store) error) (first, second error) {
	t.Helper()
	tried := false
	first = f.stores[0].transact(t.Context(), func(tx *tx) error {
		if err := do(tx); err != nil || tried {
			return err
		}
		tried = true
		second = call(f.stores[1])
		return nil
	})
	return first, second
}

// TestGaleraIssueBesideRevocation: of a certificate for a key and a revocation of that key, on two nodes at once, the one that commits
// last knows of the other. The nodes know nothing of each other's locks.
func TestGaleraIssueBesideRevocation(t *testing.T) {
	f := twoWriters(t)
	ctx := t.Context()
	f.authority(t, 1)
	c := f.userCert(t, 1, 50, 1)
	r := revoking{order: RevocationOrder{ProjectID: id(1), Fingerprint: c.Fingerprint, At: f.clock.Now()},
		entry: must(f.stores[0].auditRow(Audit{}))(t)}
	revoked, issued := beside(t, f, r.step, func(s *Store) error { return s.InsertUserCert(ctx, c, Audit{}) })
	isError(t, revoked, nil)
	isError(t, issued, nil)
	// The certificate committed first: the revocation, which had not seen it, has run again and marked it.
	equal(t, must(f.stores[0].UserCert(ctx, c.Serial))(t).RevokedAt, f.clock.Now())
}

// TestGaleraRevocationBesideIssue is the other way about.
func TestGaleraRevocationBesideIssue(t *testing.T) {
	f := twoWriters(t)
	ctx := t.Context()
	f.authority(t, 1)
	c := f.userCert(t, 1, 50, 1)
	row := must(c.row())(t)
	name := revokedName{c.ProjectID, RevokedKey, c.Fingerprint}
	issue := &write{project: c.ProjectID, need: func(b *batch) { b.needSigner(c.AuthorityKeyID, name) },
		decide: func(b *batch) error {
			if err := b.maySign(c.AuthorityKeyID, name); err != nil {
				return err
			}
			b.insert(userCertTable, row)
			return nil
		}}
	issued, revoked := beside(t, f, func(tx *tx) error {
		if err := f.stores[0].runBatch(tx, []*write{issue}); err != nil {
			return err
		}
		return issue.err
	}, func(s *Store) error {
		_, err := s.Revoke(ctx, RevocationOrder{ProjectID: id(1), Fingerprint: c.Fingerprint}, Audit{})
		return err
	})
	isError(t, revoked, nil)
	isError(t, issued, ErrConflict)
	_, err := f.stores[1].UserCert(ctx, c.Serial)
	isError(t, err, ErrNotFound)
}

// TestGaleraRotationBesideIssue: a certificate by a key that another node has replaced meanwhile is refused.
func TestGaleraRotationBesideIssue(t *testing.T) {
	f := twoWriters(t)
	ctx := t.Context()
	f.authority(t, 1)
	c := f.userCert(t, 1, 50, 1)
	row := must(c.row())(t)
	name := revokedName{c.ProjectID, RevokedKey, c.Fingerprint}
	issue := &write{project: c.ProjectID, need: func(b *batch) { b.needSigner(c.AuthorityKeyID, name) },
		decide: func(b *batch) error {
			if err := b.maySign(c.AuthorityKeyID, name); err != nil {
				return err
			}
			b.insert(userCertTable, row)
			return nil
		}}
	issued, rotated := beside(t, f, func(tx *tx) error {
		if err := f.stores[0].runBatch(tx, []*write{issue}); err != nil {
			return err
		}
		return issue.err
	}, func(s *Store) error {
		return s.AddGeneration(ctx, AuthorityKey{ID: id(99), ProjectID: id(1), Role: RoleUser, Generation: 2, Algorithm: "ed25519",
			PublicKey: "ssh-ed25519 C"}, Audit{})
	})
	isError(t, rotated, nil)
	isError(t, issued, ErrConflict)
}
