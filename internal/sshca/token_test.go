// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// TestRenewToken: an instance that was off until its certificates had ended is
// helped by another token alone.
func TestRenewToken(t *testing.T) {
	w := newWorld(t)
	other := w.replica(t)
	ctx, operator := t.Context(), Actor{UserID: alice, UserName: "alice", RequestID: "req-2"}
	ask := InstanceRequest{InstanceID: web1, ProjectID: blue, Hostname: "web1"}
	_, _, err := w.RenewToken(ctx, operator, web1)
	wantKind(t, err, problem.NotFound)
	boot, err := w.HostToken(ctx, nova, ask)
	if err != nil {
		t.Fatal(err)
	}
	if same, made, err := w.RenewToken(ctx, operator, web1); err != nil || made || same.Token.Hash != boot.Instance.Token.Hash {
		t.Errorf("a token that is good was replaced: %v, %v", made, err)
	}
	key := newKey(t)
	order := HostSetRequest{Token: boot.Token, InstanceID: web1, PublicKeys: []string{key}}
	if _, err := w.IssueHosts(ctx, Actor{}, order); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(366 * 24 * time.Hour)
	_, err = w.Vouch(ctx, Actor{}, web1, hostKey(t, key))
	wantKind(t, err, problem.Forbidden)
	if _, err = w.IssueHosts(ctx, Actor{}, order); !strings.Contains(err.Error(), "the token is spent") {
		t.Errorf("its keys again: %v", err)
	}
	wantKind(t, err, problem.NotFound)

	// Both replicas at once make one token.
	var group sync.WaitGroup
	var made [2]bool
	for i, s := range []*Service{w.Service, other} {
		group.Go(func() {
			var err error
			if _, made[i], err = s.RenewToken(ctx, operator, web1); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if !made[0] && !made[1] {
		t.Fatal("no token was made")
	}
	renewed, err := other.HostToken(ctx, nova, ask)
	if err != nil || renewed.Token == boot.Token || !renewed.Instance.Token.UsedAt.IsZero() {
		t.Fatalf("vendordata have the old token: %v", err)
	}
	_, err = w.IssueHosts(ctx, Actor{}, order)
	wantKind(t, err, problem.NotFound)
	entries, err := w.store.Audits(ctx, store.AuditFilter{Action: "hosttoken.renew"}, store.Page{})
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d records of the renewal, %v", len(entries), err)
	}
	if e := entries[0]; e.Actor != alice || e.ObjectID != web1 || e.Details["spent_on"] != ssh.FingerprintSHA256(hostKey(t, key)) || e.Details["spent_at"] == "" {
		t.Errorf("recorded: %+v", e)
	}

	order.Token = renewed.Token
	if _, err := w.IssueHosts(ctx, Actor{}, order); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Vouch(ctx, Actor{}, web1, hostKey(t, key)); err != nil {
		t.Error(err)
	}
	if err := w.DeleteInstance(ctx, nova, web1, "gone"); err != nil {
		t.Fatal(err)
	}
	_, _, err = w.RenewToken(ctx, operator, web1)
	wantKind(t, err, problem.NotFound)
}

// TestTokenSpentOnRevokedKeys: certificates that nobody accepts are not given
// again, but those of a CA that was retired are: their keys speak for the instance.
func TestTokenSpentOnRevokedKeys(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	boot, err := w.HostToken(ctx, nova, InstanceRequest{InstanceID: web1, ProjectID: blue, Hostname: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	order := HostSetRequest{Token: boot.Token, InstanceID: web1, PublicKeys: []string{newKey(t), newKey(t)}}
	certs, err := w.IssueHosts(ctx, Actor{}, order)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Rotate(ctx, nova, Rotation{ProjectID: blue, Role: store.RoleHost}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Retire(ctx, nova, blue, store.RoleHost, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := w.IssueHosts(ctx, Actor{}, order); err != nil {
		t.Errorf("after its CA was retired: %v", err)
	}
	for i, cert := range certs {
		if _, err := w.IssueHosts(ctx, Actor{}, order); err != nil {
			t.Errorf("with %d of 2 keys revoked: %v", i, err)
		}
		if _, err := w.Revoke(ctx, nova, store.RevocationOrder{ProjectID: blue, Fingerprint: cert.Fingerprint}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.IssueHosts(ctx, Actor{}, order)
	wantKind(t, err, problem.NotFound)
}

func hostKey(t *testing.T, line string) ssh.PublicKey {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestRefusalsAreCounted: of both kinds of certificates, each by itself.
func TestRefusalsAreCounted(t *testing.T) {
	w := newWorld(t)
	refused := func(kind string) float64 { return testutil.ToFloat64(w.metrics.refused.WithLabelValues(kind)) }
	_, err := w.IssueUser(t.Context(), Actor{}, UserRequest{ProjectID: blue, UserID: alice, PublicKey: newKey(t)})
	wantKind(t, err, problem.Forbidden) // no role
	if user, host := refused("user"), refused("host"); user != 1 || host != 0 {
		t.Errorf("counted %v users' and %v hosts', want 1 and 0", user, host)
	}
	_, err = w.IssueHost(t.Context(), Actor{}, HostRequest{Token: web1, InstanceID: web1, PublicKey: newKey(t)})
	wantKind(t, err, problem.NotFound) // no such token
	_, err = w.IssueHosts(t.Context(), Actor{}, HostSetRequest{Token: web1, InstanceID: web1})
	wantKind(t, err, problem.Invalid) // no key
	if user, host := refused("user"), refused("host"); user != 1 || host != 2 {
		t.Errorf("counted %v users' and %v hosts', want 1 and 2", user, host)
	}
}
