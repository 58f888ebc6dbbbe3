// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package address

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/store"
)

// records are what a test says they are.
type records struct {
	enrolment store.Enrolment
	addresses []store.Address
	err       error
}

func (r records) Enrolment(context.Context, string) (store.Enrolment, error) {
	if r.enrolment.State == "" {
		return r.enrolment, store.ErrNotFound
	}
	return r.enrolment, nil
}

func (r records) Addresses(context.Context, string) ([]store.Address, error) {
	return r.addresses, r.err
}

func addresses(texts ...string) (all []store.Address) {
	for _, text := range texts {
		all = append(all, store.Address{IP: netip.MustParseAddr(text)})
	}
	return all
}

func TestNames(t *testing.T) {
	enrolled := func(state store.EnrolmentState) store.Enrolment {
		return store.Enrolment{FQDN: "web.example.test", State: state, OTPState: store.OTPSet}
	}
	foreign := store.Enrolment{FQDN: "web.example.test", State: store.EnrolmentFailed, OTPState: store.OTPNew}
	for name, tt := range map[string]struct {
		instance store.Instance
		records  records
		want     []string
	}{
		"host name": {store.Instance{Hostname: "Web"}, records{}, []string{"web"}},
		"all": {store.Instance{Hostname: "web"}, records{enrolment: enrolled(store.EnrolmentEnrolled), addresses: addresses("203.0.113.5", "10.0.0.5", "fd00::5")},
			[]string{"web", "web.example.test", "203.0.113.5", "10.0.0.5", "fd00::5"}},
		"twice":   {store.Instance{Hostname: "web"}, records{addresses: addresses("10.0.0.5", "10.0.0.5")}, []string{"web", "10.0.0.5"}},
		"no name": {store.Instance{}, records{addresses: addresses("10.0.0.5")}, []string{"10.0.0.5"}},
		"created": {store.Instance{Hostname: "web"}, records{enrolment: enrolled(store.EnrolmentCreated)}, []string{"web", "web.example.test"}},
		// The name may be somebody else's, or the instance's although it could not join.
		"foreign": {store.Instance{Hostname: "web"}, records{enrolment: foreign}, []string{"web"}},
		"failed":  {store.Instance{Hostname: "web"}, records{enrolment: enrolled(store.EnrolmentFailed)}, []string{"web", "web.example.test"}},
		"leaving": {store.Instance{Hostname: "web"}, records{enrolment: enrolled(store.EnrolmentLeaving)}, []string{"web"}},
		"deleted": {store.Instance{Hostname: "web", State: store.InstanceDeleted}, records{addresses: addresses("10.0.0.5")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := NewBook(tt.records, Domains{}).Names(t.Context(), tt.instance)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNamesInDomains: what the operator adds, and what of Neutron's names the operator trusts.
func TestNamesInDomains(t *testing.T) {
	const project = "0123456789abcdef0123456789abcdef"
	named := func(texts ...string) (all []store.Address) {
		for i, a := range addresses("203.0.113.5", "10.0.0.5")[:len(texts)] {
			a.Name = texts[i]
			all = append(all, a)
		}
		return all
	}
	added := []string{"Example.com", "<project_id>.cloud.example.com"}
	for name, tt := range map[string]struct {
		domains  Domains
		hostname string
		names    []string // of the addresses 203.0.113.5 and 10.0.0.5
		want     []string
	}{
		"added": {Domains{Added: added}, "Web", nil,
			[]string{"web", "web.example.com", "web." + project + ".cloud.example.com"}},
		"a full name stays": {Domains{Added: added}, "web.example.org", nil, []string{"web.example.org"}},
		"too long": {Domains{Added: []string{strings.Repeat("a.", 100) + "com", "example.com"}}, strings.Repeat("b", 63), nil,
			[]string{strings.Repeat("b", 63), strings.Repeat("b", 63) + ".example.com"}},
		"nobody is trusted": {Domains{}, "web", []string{"www.example.com"}, []string{"web", "203.0.113.5"}},
		"below a domain":    {Domains{Trusted: []string{"Example.com"}}, "web", []string{"www.example.com", "a.b.example.com"}, []string{"web", "www.example.com", "a.b.example.com", "203.0.113.5", "10.0.0.5"}},
		"the domain's name": {Domains{Trusted: []string{"example.com"}}, "web", []string{"example.com"}, []string{"web", "203.0.113.5"}},
		"beside the domain": {Domains{Trusted: []string{"example.com"}}, "web", []string{"www.badexample.com"}, []string{"web", "203.0.113.5"}},
		"any":               {Domains{Trusted: []string{"*"}}, "web", []string{"www.example.org", ""}, []string{"web", "www.example.org", "203.0.113.5", "10.0.0.5"}},
		"each name is there once": {Domains{Added: []string{"example.com"}, Trusted: []string{"*"}}, "web", []string{"web.example.com"},
			[]string{"web", "web.example.com", "203.0.113.5"}},
	} {
		t.Run(name, func(t *testing.T) {
			book := NewBook(records{addresses: named(tt.names...)}, tt.domains)
			got, err := book.Names(t.Context(), store.Instance{Hostname: tt.hostname, ProjectID: project})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNamesAreBounded(t *testing.T) {
	var many []store.Address
	for n := range 1000 {
		many = append(many, store.Address{IP: netip.AddrFrom4([4]byte{10, 0, byte(n / 256), byte(n % 256)})})
	}
	names, err := NewBook(records{addresses: many}, Domains{}).Names(t.Context(), store.Instance{Hostname: "web"})
	if err != nil || len(names) != MaxNames || names[0] != "web" {
		t.Error(len(names), err)
	}
}

func TestNamesNeedTheRecords(t *testing.T) {
	broken := errors.New("broken")
	if _, err := NewBook(records{err: broken}, Domains{}).Names(t.Context(), store.Instance{Hostname: "web"}); !errors.Is(err, broken) {
		t.Error(err)
	}
}
