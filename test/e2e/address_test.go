// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/muster-cloud/muster/internal/demo/openssh"
)

// networkDomain is Neutron's dns_domain.
const networkDomain = "cloud.test"

// reverseZone is where the PTR records of the floating IPs are.
const reverseZone = "113.0.203.in-addr.arpa"

// A floating IP is associated with an instance, moved to another one, and
// removed, in all ways: the DNS follows.
func TestFloatingIP(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w *world) {
		s := newSite(t, w)
		must(t, s.ipa.AddZone(reverseZone+"."))
		before := s.directory()
		s.start(t, "one")
		owner := s.member(t, s.newProject(t, unique("shop"))).session
		first, second := s.enrolled(t, owner), s.enrolled(t, owner)
		firstPort, err := owner.PortOf(t.Context(), first.id)
		must(t, err)
		secondPort, err := owner.PortOf(t.Context(), second.id)
		must(t, err)

		ip, err := owner.CreateFloatingIP(t.Context(), w.public, "")
		must(t, err)
		step := func(what string, err error, want map[*guest][]string) {
			t.Helper()
			must(t, err)
			t.Log("a floating IP is", what)
			for _, g := range []*guest{first, second} {
				s.awaitAddresses(t, g, want[g]...)
			}
		}
		step("associated", owner.MoveFloatingIP(t.Context(), ip.ID, firstPort), map[*guest][]string{first: {ip.Address}})
		step("moved", owner.MoveFloatingIP(t.Context(), ip.ID, secondPort), map[*guest][]string{second: {ip.Address}})
		step("taken away", owner.MoveFloatingIP(t.Context(), ip.ID, ""), nil)
		step("associated again", owner.MoveFloatingIP(t.Context(), ip.ID, firstPort), map[*guest][]string{first: {ip.Address}})
		other, err := owner.CreateFloatingIP(t.Context(), w.public, secondPort)
		step("made for an instance", err, map[*guest][]string{first: {ip.Address}, second: {other.Address}})
		step("deleted", owner.DeleteFloatingIP(t.Context(), ip.ID), map[*guest][]string{second: {other.Address}})
		second.goes(t)
		step("on an instance that goes", nil, nil)
		first.goes(t)
		s.awaitNothing(t, before, first, second)
	})
}

// Neutron names the ports of instances after them: where the operator trusts its domain, people reach an instance under that name.
func TestNameOfPort(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w *world) {
		s := newSite(t, w)
		s.start(t, "one")
		owner := s.member(t, s.newProject(t, unique("shop")))
		g := s.boot(t, owner.session, unique("web"), nil)
		g.setUp(t)
		owner.certify(t, g.programs)
		eventually(t, func(ctx context.Context) error { return g.loginTo(ctx, owner, g.name+"."+networkDomain, "") })
		if err := g.loginTo(t.Context(), owner, "other."+networkDomain, ""); !errors.Is(err, openssh.ErrHostRefused) {
			t.Errorf("under another's name: %v", err)
		}
	})
}

// awaitAddresses returns when the DNS has these addresses for an instance, and
// no others, each with its way back.
func (s *site) awaitAddresses(t testing.TB, g *guest, want ...string) {
	t.Helper()
	name := g.metadata.FQDN[:len(g.metadata.FQDN)-len(ipaDomain)-1]
	eventually(t, func(context.Context) error {
		if got := s.ipa.Records(ipaDomain)[name]["arecord"]; !slices.Equal(got, want) {
			return fmt.Errorf("%s has the addresses %v, want %v", name, got, want)
		}
		var back []string
		for last, records := range s.ipa.Records(reverseZone) {
			if slices.Contains(records["ptrrecord"], g.metadata.FQDN+".") {
				back = append(back, "203.0.113."+last)
			}
		}
		if !slices.Equal(back, want) {
			return fmt.Errorf("%v lead back to %s, want %v", back, name, want)
		}
		return nil
	})
}
