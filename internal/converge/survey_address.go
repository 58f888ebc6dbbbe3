// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/store"
)

// tuple is an address of an instance: a record's key, in little memory.
type tuple struct {
	instance, source compact
	ip               [16]byte
}

// detail is the rest of it.
type detail struct {
	network  compact
	floating bool
	name     string
}

// listing is who has which address.
type listing map[tuple]detail

func newTuple(a store.Address) tuple {
	t := tuple{ip: a.IP.As16()}
	t.instance, _ = compactID(a.InstanceID)
	t.source, _ = compactID(a.SourceID)
	return t
}

func (l listing) add(instance compact, a store.Address) {
	t := newTuple(a)
	t.instance = instance
	network, _ := compactID(a.NetworkID)
	l[t] = detail{network, a.Kind == store.AddressFloating, a.Name}
}

// address is what is to be recorded of a listed address.
func (t tuple) address(d detail) store.Address {
	a := store.Address{InstanceID: t.instance.String(), SourceID: t.source.String(), NetworkID: d.network.String(),
		IP: netip.AddrFrom16(t.ip).Unmap(), Kind: store.AddressFixed, Name: d.name}
	if d.floating {
		a.Kind = store.AddressFloating
	}
	return a
}

// addresses: Neutron and the records agree on who has which address, and DNS
// has the records that follow.
//
// What is only not recorded yet, as of all instances when addresses are first
// followed, is recorded for all at once. Then, as for a single instance, Neutron
// is asked again: for what moved meanwhile.
func (s *survey) addresses(ctx context.Context) (*findings, error) {
	found := &findings{kind: Address}
	if s.controllers.cfg.Neutron == nil {
		return found, nil
	}
	unrecorded, err := s.listAddresses(ctx)
	if err != nil {
		found.failure = fmt.Errorf("compare addresses with the cloud: %w", err)
		return found, ctx.Err()
	}
	look := make(map[compact]bool)
	if err := s.compareAddresses(ctx, found, unrecorded, look, nil); err != nil {
		return nil, err
	}
	for t := range unrecorded {
		look[t.instance] = true
	}
	lost := make(map[string]bool) // names of DNS records
	missing := func(ctx context.Context, o []store.Object) ([]store.Object, error) {
		if found.failure != nil {
			return nil, nil
		}
		gone, err := s.missingRecords(ctx, o)
		if err != nil {
			found.failure = fmt.Errorf("compare DNS records: %w", err)
			return nil, ctx.Err()
		}
		for _, o := range gone {
			lost[o.Name] = true
		}
		return gone, nil
	}
	if err := s.compareRecords(ctx, look, missing); err != nil {
		return nil, err
	}
	found.look = keysOf(look)
	if len(unrecorded) > 0 || len(lost) > 0 {
		found.prepare = func(ctx context.Context) ([]Key, error) {
			if err := s.controllers.cfg.Records.DoubtRecords(ctx, slices.Sorted(maps.Keys(lost))); err != nil || len(unrecorded) == 0 {
				return found.look, err
			}
			return s.recordAddresses(ctx, unrecorded)
		}
	}
	return found, nil
}

// missingRecords are those of the records that DNS does not have, though
// nobody has a change under way.
func (s *survey) missingRecords(ctx context.Context, records []store.Object) ([]store.Object, error) {
	if len(records) == 0 {
		return nil, nil
	}
	if err := s.controllers.pace.Wait(ctx); err != nil {
		return nil, err
	}
	return s.controllers.cfg.DNS.Missing(ctx, records)
}

// recordAddresses records listed addresses, lists anew, and returns what then
// still differs.
func (s *survey) recordAddresses(ctx context.Context, unrecorded listing) ([]Key, error) {
	some := make([]store.Address, 0, store.MaxPageLimit)
	flush := func() error {
		err := s.controllers.cfg.Records.AddAddresses(ctx, some)
		some = some[:0]
		return err
	}
	count := make(map[compact]int)
	for t, d := range unrecorded {
		// Of those with very many, the instance's own turn chooses.
		if count[t.instance]++; count[t.instance] > maxListed {
			continue
		}
		if some = append(some, t.address(d)); len(some) == cap(some) {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	if err := flush(); err != nil {
		return nil, err
	}
	actual, err := s.listAddresses(ctx)
	if err != nil {
		return nil, err
	}
	look := make(map[compact]bool)
	if err := s.compareAddresses(ctx, &findings{}, actual, look, look); err != nil {
		return nil, err
	}
	for t := range actual {
		look[t.instance] = true
	}
	if err := s.compareRecords(ctx, look, nil); err != nil {
		return nil, err
	}
	return keysOf(look), nil
}

// maxListed bounds the addresses of an instance that are recorded from a list.
const maxListed = 50

func keysOf(instances map[compact]bool) (keys []Key) {
	for id := range instances {
		keys = append(keys, Key{Instance, id.String()})
	}
	return keys
}

// listAddresses returns the addresses of the instances that are kept. Neutron
// does not say that it shows a part of a list only, so that is asked too.
func (s *survey) listAddresses(ctx context.Context) (listing, error) {
	neutron := s.controllers.cfg.Neutron
	actual := make(listing)
	owners := make(map[compact]compact) // instances, by port
	if err := s.controllers.pace.Wait(ctx); err != nil {
		return nil, err
	}
	err := neutron.EachPort(ctx, func(p openstack.Port) error {
		instance, _ := compactID(p.InstanceID)
		project, _ := compactID(p.ProjectID)
		port, _ := compactID(p.ID)
		if listed, there := s.servers[instance]; !s.kept[instance] || !there || listed.project != project {
			return nil
		}
		owners[port] = instance
		for _, a := range fixedAddresses(p) {
			actual.add(instance, a)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.controllers.pace.Wait(ctx); err != nil {
		return nil, err
	}
	err = neutron.EachFloatingIP(ctx, func(f openstack.FloatingIP) error {
		port, _ := compactID(f.PortID)
		if instance, ok := owners[port]; ok {
			actual.add(instance, floatingAddress(f, ""))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return actual, s.controllers.checkNeutron(ctx)
}

// compareAddresses takes out of actual what is recorded. Addresses of instances
// that are gone go with those, and are not counted again. Instances of whose
// addresses one has another name now are added to renamed; those whose addresses
// were recorded since the comparison began, and are not listed, to recent.
func (s *survey) compareAddresses(ctx context.Context, found *findings, actual listing, renamed, recent map[compact]bool) error {
	for after := (store.Address{}); ; {
		recorded, err := s.controllers.cfg.Records.AllAddresses(ctx, after, store.MaxPageLimit)
		if err != nil || len(recorded) == 0 {
			return err
		}
		for _, a := range recorded {
			t := newTuple(a)
			_, listed := s.servers[t.instance]
			now, same := actual[t]
			found.total++
			switch {
			case same:
				if now.name != a.Name {
					renamed[t.instance] = true
				}
				delete(actual, t)
			case s.kept[t.instance] && !listed:
			case s.older(a.CreatedAt):
				found.suspect(a.SourceID, "Neutron does not list "+a.IP.String()+" with instance "+a.InstanceID)
			case recent != nil:
				recent[t.instance] = true
			}
		}
		after = recorded[len(recorded)-1]
	}
}

// compareRecords finds instances whose DNS records are not those that their
// recorded addresses should have, or (unless missing is nil) are not there.
func (s *survey) compareRecords(ctx context.Context, look map[compact]bool,
	missing func(context.Context, []store.Object) ([]store.Object, error)) error {
	cfg := s.controllers.cfg
	if cfg.DNS == nil {
		return nil
	}
	for page := (store.Page{Limit: store.MaxPageLimit}); ; {
		enrolments, err := cfg.Records.Enrolments(ctx, store.EnrolmentFilter{}, page)
		if err != nil || len(enrolments) == 0 {
			return err
		}
		ids := make([]string, 0, len(enrolments))
		for _, e := range enrolments {
			ids = append(ids, e.InstanceID)
		}
		addresses, err := cfg.Records.AddressesOf(ctx, ids)
		if err != nil {
			return err
		}
		records, err := cfg.Records.ObjectsOf(ctx, store.ObjectRecord, ids)
		if err != nil {
			return err
		}
		var believed []store.Object
		for _, e := range enrolments {
			id, ok := compactID(e.InstanceID)
			switch {
			case !ok:
			case s.wrongRecords(e, addresses[e.InstanceID], records[e.InstanceID]):
				look[id] = true
			case stays(e):
				believed = append(believed, records[e.InstanceID]...)
			}
		}
		page.After = ids[len(ids)-1]
		if missing == nil {
			continue
		}
		gone, err := missing(ctx, believed)
		if err != nil {
			return err
		}
		for _, o := range gone {
			id, _ := compactID(o.InstanceID)
			look[id] = true
		}
	}
}

// wrongRecords tells whether DNS has other records for an instance than it
// should: fewer do not matter for one whose name is not certain yet.
func (s *survey) wrongRecords(e store.Enrolment, addresses []store.Address, records []store.Object) bool {
	cfg := s.controllers.cfg
	if !stays(e) {
		return e.State == store.EnrolmentGone && len(records) > 0
	}
	wanted, err := cfg.DNS.Records(e.FQDN, cfg.Published.of(addresses))
	if err != nil {
		return true
	}
	missing := make(map[string]bool, len(wanted))
	for _, r := range wanted {
		missing[r.String()] = true
	}
	for _, o := range records {
		if !missing[o.Name] {
			return true
		}
		if o.Settled() {
			missing[o.Name] = false
		}
	}
	for _, is := range missing {
		if is && e.HasEntry() {
			return true
		}
	}
	return false
}
