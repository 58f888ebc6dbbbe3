// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/keystone"
)

// noDomain does not answer what is asked of a domain.
type noDomain struct{ converge.Keystone }

func (noDomain) Domain(context.Context, string) (keystone.Domain, error) {
	return keystone.Domain{}, keystone.ErrUnavailable
}

// TestDomainFansOut: of a domain that is there only its own are looked at, and
// everybody where it cannot be told who that is.
func TestDomainFansOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	own, domain := w.newPerson()
	other, _ := w.newPerson()
	for _, p := range []person{own, other} {
		w.ask("PUT", "/projects/"+p.project+"/users/"+p.user+"/roles/"+w.role("member"), nil)
		w.issue(p)
	}
	// Nobody has a certificate for it, nor has it an authority.
	w.create("project", map[string]any{"name": "idle", "domain_id": domain})
	members := []converge.Key{{Kind: converge.Project, ID: own.project}, {Kind: converge.User, ID: own.user}}
	everybody := []converge.Key{{Kind: converge.Project, ID: own.project}, {Kind: converge.Project, ID: other.project},
		converge.GrantKey(own.user, own.project), converge.GrantKey(other.user, other.project)}
	fanOut := func(asked converge.Keystone) ([]converge.Key, error) {
		t.Helper()
		w.keystone.ForgetAll()
		cfg := w.cfg
		cfg.Keystone = asked
		c, err := converge.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return c.Converge(t.Context(), converge.Hint{Key: converge.Key{Kind: converge.Domain, ID: domain}})
	}
	want := func(when string, asked converge.Keystone, want []converge.Key) {
		t.Helper()
		got, err := fanOut(asked)
		if err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
			t.Errorf("%s: looked at %s", when, diff)
		}
	}
	want("enabled", w.keystone, members)
	w.disable("domain", domain)
	want("disabled", w.keystone, members)
	for _, call := range []string{"EachProject", "EachUser"} {
		want(call+" breaks off", brokenKeystone{w.keystone, call, errBroken}, everybody)
	}
	if keys, err := fanOut(noDomain{w.keystone}); !errors.Is(err, keystone.ErrUnavailable) {
		t.Errorf("Keystone does not answer: %v, %v", keys, err)
	}
	w.ask("DELETE", "/domains/"+domain, nil)
	want("deleted", w.keystone, everybody)
}

func sorted(keys []converge.Key) []converge.Key {
	return slices.SortedFunc(slices.Values(keys), func(a, b converge.Key) int { return strings.Compare(a.String(), b.String()) })
}
