// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package dns keeps the address records of instances: A or AAAA for the host name, and PTR back to it.
//
// Each record that is to be made is recorded for its instance before, and only such records are ever removed. A record
// that was there before is left alone, now and later. Which addresses an instance has, others tell: the package asks nobody.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/muster-cloud/muster/internal/store"
)

// Type is a type of DNS record.
type Type string

// The types of records that Muster makes.
const (
	A    Type = "A"
	AAAA Type = "AAAA"
	PTR  Type = "PTR"
)

// Record is one DNS record. Names are lower-case, without a dot at the end.
type Record struct {
	Name  string
	Type  Type
	Value string // an address, or for PTR a host name
}

// String shows the record as a zone file would.
func (r Record) String() string { return r.Name + " " + string(r.Type) + " " + r.Value }

// Provider is a DNS server's records. It finds the zone of a record by itself: the one with the longest name that fits.
type Provider interface {
	// Has tells whether the record is there. *NoZoneError.
	Has(ctx context.Context, r Record) (bool, error)
	// Add adds the record beside others of its name. That it is there already is no error. *NoZoneError.
	Add(ctx context.Context, r Record) error
	// Remove removes the record and leaves others of its name. That it is not there is no error. *NoZoneError.
	Remove(ctx context.Context, r Record) error
}

// NoZoneError tells that the DNS server has no zone for a name, or that Muster may not see it.
type NoZoneError struct{ Name string }

// Error says what to do.
func (e *NoZoneError) Error() string {
	return fmt.Sprintf("no DNS zone holds %s: add one, or let Muster read the zones", e.Name)
}

// ErrInvalid: not an address or host name that can have a record.
var ErrInvalid = errors.New("no address record can be made")

// Objects are the records of what was made for whom. *store.Store has them.
type Objects interface {
	Objects(ctx context.Context, instanceID string) ([]store.Object, error)
	ObjectUsers(ctx context.Context, kind store.ObjectKind, names []string) ([]store.Object, error)
	IntendObject(ctx context.Context, o store.Object) (store.Object, error)
	SettleObject(ctx context.Context, o store.Object, state store.ObjectState) error
	ForgetObject(ctx context.Context, o store.Object) error
}

// Config is what a Service is made of. Objects and Provider are needed.
type Config struct {
	Objects   Objects
	Provider  Provider
	NoReverse bool // no PTR records: the reverse zones are somebody else's
	Logger    *slog.Logger
}

// Service keeps address records. It is safe for simultaneous use.
type Service struct{ cfg Config }

// New returns a service whose parts fit together.
func New(cfg Config) (*Service, error) {
	if cfg.Objects == nil || cfg.Provider == nil {
		return nil, errors.New("dns: objects and provider are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg}, nil
}

// Add makes the records of one address of an instance: the address record, then the PTR record. Repeats do no harm. What fails is
// done by a repetition. *NoZoneError, also if only the reverse zone is missing; ErrInvalid.
func (s *Service) Add(ctx context.Context, instanceID, fqdn string, address netip.Addr) error {
	records, err := s.records(fqdn, address)
	if err != nil {
		return err
	}
	for _, r := range records {
		if err := s.add(ctx, instanceID, r); err != nil {
			return fmt.Errorf("add the record %s: %w", r, err)
		}
	}
	return nil
}

// Remove removes the records that were made for one address of an instance. Repeats do no harm.
func (s *Service) Remove(ctx context.Context, instanceID, fqdn string, address netip.Addr) error {
	records, err := s.records(fqdn, address)
	if err != nil {
		return err
	}
	objects, err := s.cfg.Objects.Objects(ctx, instanceID)
	if err != nil {
		return err
	}
	for _, r := range records {
		for _, o := range objects {
			if o.Kind == store.ObjectRecord && o.Name == r.String() {
				if err := s.remove(ctx, o); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// RemoveAll removes all records that were made for an instance. Repeats do no harm. It goes on after a failure, and returns the failures.
func (s *Service) RemoveAll(ctx context.Context, instanceID string) error {
	objects, err := s.cfg.Objects.Objects(ctx, instanceID)
	if err != nil {
		return err
	}
	var failures []error
	for _, o := range objects {
		if o.Kind == store.ObjectRecord {
			failures = append(failures, s.remove(ctx, o))
		}
	}
	return errors.Join(failures...)
}

// records returns the records that an address has.
func (s *Service) records(fqdn string, address netip.Addr) ([]Record, error) {
	name := strings.ToLower(strings.TrimSuffix(fqdn, "."))
	address = address.Unmap()
	if name == "" || strings.ContainsAny(name, " /") || len(name) > 253 {
		return nil, fmt.Errorf("%w: %q is no host name", ErrInvalid, fqdn)
	}
	if !address.IsValid() || address.Zone() != "" || address.IsUnspecified() || address.IsLoopback() || address.IsMulticast() {
		return nil, fmt.Errorf("%w: %q is no host's address", ErrInvalid, address)
	}
	kind := AAAA
	if address.Is4() {
		kind = A
	}
	records := []Record{{name, kind, address.String()}}
	if !s.cfg.NoReverse {
		records = append(records, Record{reverseName(address), PTR, name})
	}
	return records, nil
}

// add makes one record. It looks before it records the intention, so that a record that is intended was not there: whatever happens
// in between, what is found later under it is Muster's.
func (s *Service) add(ctx context.Context, instanceID string, r Record) error {
	object := store.Object{Kind: store.ObjectRecord, Name: r.String(), InstanceID: instanceID}
	has, err := s.cfg.Provider.Has(ctx, r)
	if err != nil {
		return err
	}
	known, err := s.known(ctx, object)
	if err != nil {
		return err
	}
	if has && known.State == "" {
		s.cfg.Logger.InfoContext(ctx, "A DNS record was there before; it is left alone", "record", r.String(), "instance", instanceID)
	}
	if has && known.State != store.ObjectIntended {
		return nil
	}
	if _, err := s.cfg.Objects.IntendObject(ctx, object); err != nil {
		return err
	}
	if err := s.cfg.Provider.Add(ctx, r); err != nil {
		return err
	}
	return s.cfg.Objects.SettleObject(ctx, object, store.ObjectMade)
}

// known returns what is recorded of an object; its zero value if nothing is.
func (s *Service) known(ctx context.Context, object store.Object) (store.Object, error) {
	users, err := s.cfg.Objects.ObjectUsers(ctx, object.Kind, []string{object.Name})
	if err != nil {
		return store.Object{}, err
	}
	for _, o := range users {
		if o.InstanceID == object.InstanceID {
			return o, nil
		}
	}
	return store.Object{}, nil
}

// remove removes a record that is recorded. A zone that is gone has taken its records along.
func (s *Service) remove(ctx context.Context, o store.Object) error {
	r, err := parseRecord(o.Name)
	if err != nil {
		return err
	}
	if o.State != store.ObjectFound {
		err = s.cfg.Provider.Remove(ctx, r)
	}
	if zone, ok := errors.AsType[*NoZoneError](err); ok {
		s.cfg.Logger.WarnContext(ctx, "A DNS record was not removed, for there is no zone for it any more", "record", r.String(), "zone of", zone.Name)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("remove the record %s: %w", r, err)
	}
	return s.cfg.Objects.ForgetObject(ctx, o)
}

// parseRecord reads what Record.String writes.
func parseRecord(text string) (Record, error) {
	parts := strings.Split(text, " ")
	if len(parts) != 3 {
		return Record{}, fmt.Errorf("the recorded DNS record %q is damaged", text)
	}
	return Record{Name: parts[0], Type: Type(parts[1]), Value: parts[2]}, nil
}

// reverseName is the name of an address in in-addr.arpa or ip6.arpa (RFC 1035, 3.5; RFC 3596, 2.5).
func reverseName(address netip.Addr) string {
	var name strings.Builder
	raw := address.AsSlice()
	for i := len(raw) - 1; i >= 0; i-- {
		if address.Is4() {
			fmt.Fprintf(&name, "%d.", raw[i])
		} else {
			fmt.Fprintf(&name, "%x.%x.", raw[i]&15, raw[i]>>4)
		}
	}
	if address.Is4() {
		return name.String() + "in-addr.arpa"
	}
	return name.String() + "ip6.arpa"
}
