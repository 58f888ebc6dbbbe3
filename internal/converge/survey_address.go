// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge

import (
	"context"
	"encoding/hex"

	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/store"
)

// tuple is an address of an instance: a record's key, in little memory.
type tuple struct {
	instance, source compact
	ip               [16]byte
}

func newTuple(a store.Address) tuple {
	t := tuple{ip: a.IP.As16()}
	t.instance, _ = compactID(a.InstanceID)
	t.source, _ = compactID(a.SourceID)
	return t
}

// addresses: Neutron and the records agree on who has which address, and DNS
// has the records that follow.
func (s *survey) addresses(ctx context.Context) (*findings, error) {
	found := &findings{kind: Address}
	if s.controllers.cfg.Neutron == nil {
		return found, nil
	}
	actual, err := s.listAddresses(ctx)
	if err != nil {
		return nil, err
	}
	look := make(map[compact]bool)
	if err := s.compareAddresses(ctx, found, actual); err != nil {
		return nil, err
	}
	for t := range actual {
		look[t.instance] = true
	}
	if err := s.compareRecords(ctx, look); err != nil {
		return nil, err
	}
	for id := range look {
		found.look = append(found.look, Key{Instance, hex.EncodeToString(id[:])})
	}
	return found, nil
}

// listAddresses returns the addresses of the instances that are kept. Neutron
// does not say that it shows a part of a list only, so that is asked too.
func (s *survey) listAddresses(ctx context.Context) (map[tuple]bool, error) {
	neutron := s.controllers.cfg.Neutron
	actual := make(map[tuple]bool)
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
			actual[newTuple(a)] = true
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
			t := newTuple(floatingAddress(f, ""))
			t.instance = instance
			actual[t] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return actual, s.controllers.checkNeutron(ctx)
}

// compareAddresses takes out of actual what is recorded. Addresses of instances
// that are gone go with those, and are not counted again.
func (s *survey) compareAddresses(ctx context.Context, found *findings, actual map[tuple]bool) error {
	for after := (store.Address{}); ; {
		recorded, err := s.controllers.cfg.Records.AllAddresses(ctx, after, store.MaxPageLimit)
		if err != nil || len(recorded) == 0 {
			return err
		}
		for _, a := range recorded {
			t := newTuple(a)
			_, listed := s.servers[t.instance]
			found.total++
			switch {
			case actual[t]:
				delete(actual, t)
			case s.kept[t.instance] && !listed:
			case a.CreatedAt.Before(s.started):
				found.suspect(a.SourceID, "Neutron does not list "+a.IP.String()+" with instance "+a.InstanceID)
			}
		}
		after = recorded[len(recorded)-1]
	}
}

// compareRecords finds instances whose DNS records are not those that their
// recorded addresses should have.
func (s *survey) compareRecords(ctx context.Context, look map[compact]bool) error {
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
		for _, e := range enrolments {
			if id, ok := compactID(e.InstanceID); ok && s.wrongRecords(e, addresses[e.InstanceID], records[e.InstanceID]) {
				look[id] = true
			}
		}
		page.After = ids[len(ids)-1]
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
		if o.State == store.ObjectMade {
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
