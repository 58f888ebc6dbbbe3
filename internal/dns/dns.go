// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package dns keeps the address records of instances: A or AAAA for the host name, and PTR back to it.
//
// Each record that is to be made is recorded for its instance before, and only such records are ever removed. A record
// that was there before is left alone, now and later. Which addresses an instance has, others tell: the package asks nobody.
//
// Replicas may work on the same records at once, and die at any instant. While it is not certain what came of that, what was
// recorded stays so and counts for nothing: see store.BeginChange.
package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

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

// Provider is a DNS server's records. It finds the zone of a record by itself: the one with the
// longest name that fits. A PTR record whose name has a CNAME record is kept where that leads, at
// each call anew (RFC 2317).
type Provider interface {
	// Has tells whether the record is there. *NoZoneError.
	Has(ctx context.Context, r Record) (bool, error)
	// Add adds the record beside others of its name. That it is there already is no error. *NoZoneError.
	Add(ctx context.Context, r Record) error
	// Remove removes the record and leaves others of its name. That it is not there is no error. *NoZoneError is certain: there is none, and
	// not only none that Muster may see.
	Remove(ctx context.Context, r Record) error
	// Missing returns those of the records that are not there, also for want of a zone. It asks for many at a time.
	Missing(ctx context.Context, records []Record) ([]Record, error)
}

// NoZoneError tells that the DNS server has no zone for a name, or that Muster may not see it.
type NoZoneError struct{ Name string }

// Error says what to do.
func (e *NoZoneError) Error() string {
	return fmt.Sprintf("no DNS zone holds %s: add one, or let Muster read the zones", e.Name)
}

// ErrInvalid: not an address or host name that can have a record.
var ErrInvalid = errors.New("no address record can be made")

// ErrRefused: the DNS server lets Muster in, but does not let it do this. That stays so until
// somebody changes Muster's rights, or the records that are in the way.
var ErrRefused = errors.New("the DNS server does not let Muster do that")

// ErrOvertaken: another replica changed the same records to the contrary at the same time. Who knows how they should be looks again.
var ErrOvertaken = errors.New("another replica changed the same DNS records")

const (
	// changeTime bounds the change of one record, from its beginning to the DNS server's answer.
	changeTime = time.Minute
	// lateTime is after which a change has no effect any more. It is far above what a DNS server that hung may take to carry out what it was
	// sent by somebody who has given it up or died, and by how much replicas' clocks may differ.
	lateTime = 10 * time.Minute
	// tries bounds how often all records of an instance are removed again because another replica made some.
	tries = 5
)

// Objects are the records of what was made for whom. *store.Store has them.
type Objects interface {
	Objects(ctx context.Context, instanceID string) ([]store.Object, error)
	ObjectUsers(ctx context.Context, kind store.ObjectKind, names []string) ([]store.Object, error)
	BeginChange(ctx context.Context, o store.Object, leaving bool, late time.Duration) (store.ObjectChange, error)
	EndChange(ctx context.Context, c store.ObjectChange) error
}

// Reverse says what of PTR records.
type Reverse string

// What of PTR records.
const (
	ReverseRequired Reverse = "required" // each address has one; that its zone is missing is an error
	ReverseOptional Reverse = "optional" // where there is a zone for it
	ReverseOff      Reverse = "off"      // none: the reverse zones are somebody else's
)

// Config is what a Service is made of. Objects and Provider are needed.
type Config struct {
	Objects  Objects
	Provider Provider
	Reverse  Reverse // default ReverseRequired
	// ReverseZones are zones for the PTR records of networks, by network, where they are not under
	// the address's own name (RFC 2317) and no CNAME record that the Provider has says so. The
	// smallest network that has an address decides. The networks have no host bits.
	ReverseZones map[netip.Prefix]string
	Logger       *slog.Logger
	Registerer   prometheus.Registerer
}

// Service keeps address records. It is safe for simultaneous use.
type Service struct {
	cfg     Config
	changes *prometheus.CounterVec
}

// New returns a service whose parts fit together.
func New(cfg Config) (*Service, error) {
	if cfg.Objects == nil || cfg.Provider == nil {
		return nil, errors.New("dns: objects and provider are needed")
	}
	cfg.Reverse = cmp.Or(cfg.Reverse, ReverseRequired)
	if cfg.Reverse != ReverseRequired && cfg.Reverse != ReverseOptional && cfg.Reverse != ReverseOff {
		return nil, fmt.Errorf("dns: reverse records %q: must be %q, %q or %q", cfg.Reverse, ReverseRequired, ReverseOptional, ReverseOff)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg, changes: promauto.With(cfg.Registerer).NewCounterVec(prometheus.CounterOpts{
		Name: "muster_dns_changes_total", Help: "Changes of DNS records, by type of record and outcome.",
	}, []string{"type", "outcome"})}, nil
}

// Set makes the records of an instance's addresses: those of these addresses are there afterwards, and none that was made for the instance
// before and is not theirs. What is recorded as made is believed to be there. It goes on after a failure, and returns the failures; a
// repetition does what is left. ErrInvalid; ErrOvertaken; ErrRefused, told before other failures; *NoZoneError, also if only a reverse zone is
// missing, but only if that is all that is wrong.
func (s *Service) Set(ctx context.Context, instanceID, fqdn string, addresses []netip.Addr) error {
	return s.set(ctx, instanceID, fqdn, addresses, true)
}

// Trim is Set, but that it makes no record.
func (s *Service) Trim(ctx context.Context, instanceID, fqdn string, addresses []netip.Addr) error {
	return s.set(ctx, instanceID, fqdn, addresses, false)
}

func (s *Service) set(ctx context.Context, instanceID, fqdn string, addresses []netip.Addr, add bool) error {
	wanted, err := s.Records(fqdn, addresses)
	if err != nil {
		return err
	}
	there, err := s.recorded(ctx, instanceID)
	if err != nil {
		return err
	}
	var failures []error
	made := make(map[Record]bool)
	for _, o := range there {
		r, err := parseRecord(o.Name)
		switch {
		case err != nil:
			failures = append(failures, err)
		case !slices.Contains(wanted, r):
			failures = append(failures, s.remove(ctx, o))
		default:
			made[r] = o.Settled()
		}
	}
	for _, r := range wanted {
		if add && !made[r] {
			failures = append(failures, s.addWanted(ctx, instanceID, r))
		}
	}
	return worst(failures)
}

// Missing returns those of the recorded records that the DNS server does not have although Muster made them: somebody else has removed them. Of
// those that are being changed, or are unsure, nothing is said.
func (s *Service) Missing(ctx context.Context, recorded []store.Object) (missing []store.Object, err error) {
	var records []Record
	asked := make(map[Record]bool)
	for _, o := range recorded {
		if r, err := parseRecord(o.Name); err == nil && o.Settled() && !asked[r] {
			asked[r], records = true, append(records, r)
		}
	}
	gone, err := s.cfg.Provider.Missing(ctx, records)
	if err != nil {
		return nil, err
	}
	lacks := make(map[string]bool, len(gone))
	for _, r := range gone {
		lacks[r.String()] = true
	}
	for _, o := range recorded {
		if lacks[o.Name] && o.Settled() {
			missing = append(missing, o)
		}
	}
	return missing, nil
}

// worst begins with what Muster may not do, and leaves missing zones out where there are other failures.
func worst(failures []error) error {
	others := slices.DeleteFunc(slices.Clone(failures), func(err error) bool {
		_, missing := errors.AsType[*NoZoneError](err)
		return missing || err == nil
	})
	slices.SortStableFunc(others, func(a, b error) int {
		return cmp.Compare(refusedFirst(a), refusedFirst(b))
	})
	return cmp.Or(errors.Join(others...), errors.Join(failures...))
}

func refusedFirst(err error) int {
	if errors.Is(err, ErrRefused) {
		return 0
	}
	return 1
}

// Records returns the records that addresses have under a host name, each once. ErrInvalid.
func (s *Service) Records(fqdn string, addresses []netip.Addr) ([]Record, error) {
	var all []Record
	for _, address := range addresses {
		records, err := s.records(fqdn, address)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			if !slices.Contains(all, r) {
				all = append(all, r)
			}
		}
	}
	return all, nil
}

// addWanted makes a record, or does without where that may be.
func (s *Service) addWanted(ctx context.Context, instanceID string, r Record) error {
	err := s.add(ctx, instanceID, r)
	if _, missing := errors.AsType[*NoZoneError](err); missing && r.Type == PTR && s.cfg.Reverse == ReverseOptional {
		s.cfg.Logger.DebugContext(ctx, "An address has no PTR record, for there is no zone for it", "record", r.String())
		return nil
	}
	if err != nil {
		s.count(r, "failed")
		return fmt.Errorf("add the record %s: %w", r, err)
	}
	return nil
}

func (s *Service) count(r Record, outcome string) {
	s.changes.WithLabelValues(string(r.Type), outcome).Inc()
}

// recorded are an instance's DNS records, whoever made them.
func (s *Service) recorded(ctx context.Context, instanceID string) ([]store.Object, error) {
	objects, err := s.cfg.Objects.Objects(ctx, instanceID)
	return slices.DeleteFunc(objects, func(o store.Object) bool { return o.Kind != store.ObjectRecord }), err
}

// RemoveAll removes all records that were made for an instance. Repeats do no harm. It goes on after a failure, and returns the failures.
func (s *Service) RemoveAll(ctx context.Context, instanceID string) (err error) {
	for range tries {
		if err = s.removeAll(ctx, instanceID); !errors.Is(err, ErrOvertaken) {
			break
		}
	}
	return err
}

func (s *Service) removeAll(ctx context.Context, instanceID string) error {
	there, err := s.recorded(ctx, instanceID)
	if err != nil {
		return err
	}
	var failures []error
	for _, o := range there {
		failures = append(failures, s.remove(ctx, o))
	}
	return worst(failures)
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
	if s.cfg.Reverse != ReverseOff {
		records = append(records, Record{s.reverseName(address), PTR, name})
	}
	return records, nil
}

// add makes one record. It looks before it records that, so that a record that is recorded was not there: whatever happens in between, what
// is found later under it is Muster's.
func (s *Service) add(ctx context.Context, instanceID string, r Record) error {
	object := store.Object{Kind: store.ObjectRecord, Name: r.String(), InstanceID: instanceID}
	has, err := s.cfg.Provider.Has(ctx, r)
	if err != nil {
		return err
	}
	users, err := s.cfg.Objects.ObjectUsers(ctx, object.Kind, []string{object.Name})
	if err != nil {
		return err
	}
	if has && len(users) == 0 {
		// It may have been one of Muster's that another replica has just removed.
		if has, err = s.cfg.Provider.Has(ctx, r); err != nil {
			return err
		}
	}
	if has && len(users) == 0 {
		s.cfg.Logger.InfoContext(ctx, "A DNS record was there before; it is left alone", "record", r.String(), "instance", instanceID)
		return nil
	}
	if has && slices.ContainsFunc(users, func(o store.Object) bool { return o.InstanceID == instanceID && o.Settled() }) {
		return nil
	}
	if err := s.change(ctx, object, r, false); err != nil {
		return err
	}
	s.count(r, "added")
	return nil
}

// change makes a record, or (leaving) removes it if no other instance has it.
func (s *Service) change(ctx context.Context, o store.Object, r Record, leaving bool) error {
	bounded, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	change, err := s.cfg.Objects.BeginChange(bounded, o, leaving, lateTime)
	if err != nil {
		return err
	}
	switch {
	case !leaving:
		err = s.cfg.Provider.Add(bounded, r)
	case !change.Others:
		err = s.withdraw(bounded, r)
	case !change.Certain:
		// Somebody may have removed it, who did not know of the other instance.
		err = s.cfg.Provider.Add(bounded, r)
	}
	if err != nil {
		return err
	}
	err = s.cfg.Objects.EndChange(ctx, change)
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("%w: %w", ErrOvertaken, err)
	}
	return err
}

// withdraw has the DNS server remove a record. A zone that is gone has taken its records along.
func (s *Service) withdraw(ctx context.Context, r Record) error {
	err := s.cfg.Provider.Remove(ctx, r)
	if zone, ok := errors.AsType[*NoZoneError](err); ok {
		s.cfg.Logger.WarnContext(ctx, "A DNS record was not removed, for there is no zone for it any more", "record", r.String(), "zone of", zone.Name)
		return nil
	}
	return err
}

// remove removes a record that is recorded, unless another instance has it too.
func (s *Service) remove(ctx context.Context, o store.Object) error {
	r, err := parseRecord(o.Name)
	if err != nil {
		return err
	}
	if err := s.change(ctx, o, r, true); err != nil {
		s.count(r, "failed")
		return fmt.Errorf("remove the record %s: %w", r, err)
	}
	s.count(r, "removed")
	return nil
}

// parseRecord reads what Record.String writes.
func parseRecord(text string) (Record, error) {
	parts := strings.Split(text, " ")
	if len(parts) != 3 {
		return Record{}, fmt.Errorf("the recorded DNS record %q is damaged", text)
	}
	return Record{Name: parts[0], Type: Type(parts[1]), Value: parts[2]}, nil
}

// reverseName is the name of an address's PTR record: in the zone that its network is given, if it
// is, below it the labels of the address that the network does not fix, one at least.
func (s *Service) reverseName(address netip.Addr) string {
	name, longest := reverseName(address), -1
	for network, zone := range s.cfg.ReverseZones {
		if network.Contains(address) && network.Bits() > longest {
			longest = network.Bits()
			bits := 4 // of a label
			if address.Is4() {
				bits = 8
			}
			own := max(1, (address.BitLen()-network.Bits()+bits-1)/bits)
			labels := strings.Split(reverseName(address), ".")[:own]
			name = strings.Join(labels, ".") + "." + strings.ToLower(strings.TrimSuffix(zone, "."))
		}
	}
	return name
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
