// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// AddressKind says how an instance has an address.
type AddressKind string

// The kinds of addresses.
const (
	AddressFixed    AddressKind = "fixed"    // of a port of the instance
	AddressFloating AddressKind = "floating" // of a floating IP that leads to such a port
)

// Address is an address of an instance. Several instances may have the same one, in networks of their own.
type Address struct {
	InstanceID string
	SourceID   string // the port's ID, or the floating IP's
	IP         netip.Addr
	Kind       AddressKind
	NetworkID  string    // the port's network; of a floating IP, the one that it is reached from
	CreatedAt  time.Time // when it was recorded
	// Name is the full name that Neutron gives the address (dns_assignment of a port, dns_name and dns_domain of a floating IP):
	// lower-case, without the trailing dot. Empty: none. Members of the project choose it.
	Name string
}

// MaxAddresses bounds the addresses of an instance that are recorded.
const MaxAddresses = 250

// CompareAddresses orders an instance's addresses: floating ones first, then by address and source.
func CompareAddresses(a, b Address) int {
	if a.Kind != b.Kind {
		return -strings.Compare(string(a.Kind), string(b.Kind))
	}
	if order := a.IP.Compare(b.IP); order != 0 {
		return order
	}
	return strings.Compare(a.SourceID, b.SourceID)
}

func (a Address) check() error {
	var c check
	c.id("instance ID", a.InstanceID)
	c.id("ID of the port or floating IP", a.SourceID)
	c.id("kind of address", string(a.Kind))
	c.ascii("network ID", a.NetworkID)
	c.text("name", a.Name, maxName)
	c.that(a.Name == asciiOnly(a.Name), "the name of an address is not ASCII")
	c.that(a.IP.IsValid() && a.IP.Zone() == "", "the address is none, or has a zone")
	return c.err
}

func (a Address) row() []any {
	return []any{a.InstanceID, a.SourceID, a.IP.String(), string(a.Kind), a.NetworkID, micros(a.CreatedAt), a.Name}
}

// same tells whether two records differ in nothing but when they were made.
func (a Address) same(b Address) bool {
	a.CreatedAt = b.CreatedAt
	return a == b
}

func scanAddress(r scanner) (Address, error) {
	var a Address
	var ip string
	var created int64
	if err := r.Scan(&a.InstanceID, &a.SourceID, &ip, &a.Kind, &a.NetworkID, &created, &a.Name); err != nil {
		return a, err
	}
	a.CreatedAt = fromMicros(created)
	var err error
	if a.IP, err = netip.ParseAddr(ip); err != nil {
		return a, fmt.Errorf("%w: an address in the database is damaged", ErrUnavailable)
	}
	return a, nil
}

var selectAddress = "SELECT " + addressTable.list("") + " FROM instance_address"

// Addresses returns the addresses of an instance, in the order of CompareAddresses. None is no error.
func (s *Store) Addresses(ctx context.Context, instanceID string) ([]Address, error) {
	all, err := s.AddressesOf(ctx, []string{instanceID})
	return all[instanceID], err
}

// AddressesOf returns the addresses of several instances, by instance ID, each in the order of CompareAddresses.
func (s *Store) AddressesOf(ctx context.Context, instanceIDs []string) (map[string][]Address, error) {
	values := make([]any, 0, len(instanceIDs))
	for _, id := range instanceIDs {
		values = append(values, id)
	}
	all := make(map[string][]Address)
	err := inChunks(values, func(chunk string, values []any) error {
		some, err := list(ctx, s, scanAddress, selectAddress+" WHERE instance_id IN "+chunk, values...)
		for _, a := range some {
			all[a.InstanceID] = append(all[a.InstanceID], a)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("addresses of instances: %w", err)
	}
	for _, addresses := range all {
		slices.SortFunc(addresses, CompareAddresses)
	}
	return all, nil
}

// AllAddresses lists the addresses of all instances, by instance, source and address, after the given one (the zero value: from the first),
// at most limit.
func (s *Store) AllAddresses(ctx context.Context, after Address, limit int) ([]Address, error) {
	limit, err := Page{Limit: limit}.limit()
	if err != nil {
		return nil, err
	}
	ip := ""
	if after.IP.IsValid() {
		ip = after.IP.String()
	}
	all, err := list(ctx, s, scanAddress, selectAddress+
		" WHERE instance_id >= ? AND (instance_id > ? OR source_id > ? OR source_id = ? AND address > ?) "+
		"ORDER BY instance_id, source_id, address LIMIT ?", after.InstanceID, after.InstanceID, after.SourceID, after.SourceID, ip, limit)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return all, nil
}

// AddressHolders returns the IDs of the instances that are recorded with the addresses of a port or floating IP.
func (s *Store) AddressHolders(ctx context.Context, sourceID string) ([]string, error) {
	all, err := list(ctx, s, scanString,
		"SELECT DISTINCT instance_id FROM instance_address WHERE source_id = ? ORDER BY instance_id", sourceID)
	if err != nil {
		return nil, fmt.Errorf("instances with address %s: %w", shorten(sourceID), err)
	}
	return all, nil
}

// SetAddresses records that these, at most MaxAddresses, are an instance's addresses, and no others. Of two calls at once for one
// instance, both sets may be there afterwards: who calls looks again.
func (s *Store) SetAddresses(ctx context.Context, instanceID string, addresses []Address) error {
	if len(addresses) > MaxAddresses {
		return fmt.Errorf("addresses of instance %s: %w: more than %d", shorten(instanceID), ErrInvalid, MaxAddresses)
	}
	wanted := slices.Clone(addresses)
	for i := range wanted {
		wanted[i].InstanceID = instanceID
		if wanted[i].CreatedAt.IsZero() {
			wanted[i].CreatedAt = s.now()
		}
		if err := wanted[i].check(); err != nil {
			return fmt.Errorf("address: %w", err)
		}
	}
	set := func(t *tx) error { return t.setAddresses(instanceID, wanted) }
	err := s.transact(ctx, set)
	if errors.Is(err, ErrExists) {
		// Another call recorded one of them between the look and the write.
		err = s.transact(ctx, set)
	}
	if err != nil {
		return fmt.Errorf("addresses of instance %s: %w", shorten(instanceID), err)
	}
	return nil
}

// maxAdded is how many addresses are recorded by one transaction.
const maxAdded = 500

// AddAddresses records addresses beside those that instances have, of any number of instances. What is there already stays as it is.
func (s *Store) AddAddresses(ctx context.Context, addresses []Address) error {
	for some := range slices.Chunk(addresses, maxAdded) {
		for _, a := range some {
			if err := a.check(); err != nil {
				return fmt.Errorf("address: %w", err)
			}
		}
		add := func(t *tx) error { return t.addAddresses(some, s.now()) }
		err := s.transact(ctx, add)
		if errors.Is(err, ErrExists) {
			// Another call recorded one of them between the look and the write.
			err = s.transact(ctx, add)
		}
		if err != nil {
			return fmt.Errorf("record addresses: %w", err)
		}
	}
	return nil
}

func (t *tx) addAddresses(addresses []Address, now time.Time) error {
	ids := make([]any, 0, len(addresses))
	for _, a := range addresses {
		ids = append(ids, a.InstanceID)
	}
	type key struct {
		instance, source string
		ip               netip.Addr
	}
	there := make(map[key]bool)
	err := inChunks(ids, func(chunk string, values []any) error {
		some, err := listTx(t, scanAddress, selectAddress+" WHERE instance_id IN "+chunk, values...)
		for _, a := range some {
			there[key{a.InstanceID, a.SourceID, a.IP}] = true
		}
		return err
	})
	if err != nil {
		return err
	}
	var rows [][]any
	for _, a := range addresses {
		k := key{a.InstanceID, a.SourceID, a.IP}
		if !there[k] {
			there[k], a.CreatedAt = true, now
			rows = append(rows, a.row())
		}
	}
	return t.insert(addressTable, rows)
}

func (t *tx) setAddresses(instanceID string, wanted []Address) error {
	there, err := listTx(t, scanAddress, selectAddress+" WHERE instance_id = ?", instanceID)
	if err != nil {
		return err
	}
	kept := make([]bool, len(wanted))
	for _, a := range there {
		if i := slices.IndexFunc(wanted, a.same); i >= 0 {
			kept[i] = true
			continue
		}
		if _, err := t.exec("DELETE FROM instance_address WHERE instance_id = ? AND source_id = ? AND address = ?",
			a.InstanceID, a.SourceID, a.IP.String()); err != nil {
			return err
		}
	}
	var rows [][]any
	for i, a := range wanted {
		if !kept[i] {
			rows = append(rows, a.row())
		}
	}
	return t.insert(addressTable, rows)
}
