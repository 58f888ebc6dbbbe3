// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/muster-cloud/muster/internal/ipa"
)

// Directory is FreeIPA, as far as its DNS is concerned. *ipa.Client is one.
type Directory interface {
	Batch(ctx context.Context, commands ...ipa.Command) ([]ipa.Result, error)
	ZoneFind(ctx context.Context, term string, limit int) (ipa.Found[ipa.Zone], error)
}

// FreeIPA keeps records in FreeIPA's own DNS. It needs the permissions "System: Read DNS Entries", "System: Add DNS Entries", "System:
// Update DNS Entries" and "System: Remove DNS Entries": without the first, all zones seem to be missing.
type FreeIPA struct{ directory Directory }

// NewFreeIPA returns the provider.
func NewFreeIPA(directory Directory) *FreeIPA { return &FreeIPA{directory: directory} }

// aliases bounds how many CNAME records are followed from the name of one PTR record.
const aliases = 4

// Has implements Provider.
func (f *FreeIPA) Has(ctx context.Context, r Record) (bool, error) {
	for at, hops := r, 0; hops <= aliases; hops++ {
		zone, name, err := f.zone(ctx, at.Name)
		if err != nil {
			return false, err
		}
		results, err := f.directory.Batch(ctx, ipa.RecordShow(zone, name))
		if err != nil {
			return false, err
		}
		there, err := shown(results[0])
		if err != nil {
			return false, err
		}
		next, alias := follow(at, zone, there)
		if !alias {
			return holds(there, at), nil
		}
		at = next
	}
	return false, &NoZoneError{Name: r.Name}
}

// shown reads the records of a name, of which there may be none.
func shown(result ipa.Result) (ipa.Record, error) {
	there, err := result.Record()
	if errors.Is(err, ipa.NotFound) {
		return ipa.Record{}, nil
	}
	return there, refused(err)
}

// follow says where a PTR record is kept whose own name, in this zone, has a CNAME record (RFC
// 2317, 4). The host's own name is not followed: it would be another host that gets the address.
func follow(r Record, zone string, there ipa.Record) (Record, bool) {
	if r.Type != PTR || len(there.CNAME) == 0 {
		return r, false
	}
	target := there.CNAME[0]
	if !strings.HasSuffix(target, ".") {
		target += "." + zone
	}
	r.Name = strings.ToLower(strings.TrimSuffix(target, "."))
	return r, true
}

// holds tells whether a record is among those of its name.
func holds(there ipa.Record, r Record) bool {
	return slices.ContainsFunc(valuesOf(there, r.Type), func(value string) bool { return same(r, value) })
}

// Add implements Provider.
func (f *FreeIPA) Add(ctx context.Context, r Record) error {
	return f.change(ctx, r, ipa.RecordAdd, ipa.EmptyModlist)
}

// errBlind tells that a missing zone says nothing. FreeIPA has zones of its own, and shows none to whom it shows no DNS.
var errBlind = fmt.Errorf(`%w: FreeIPA shows Muster no DNS zone at all, so nothing counts as gone; give it the permission "System: Read DNS Entries"`, ErrRefused)

// Remove implements Provider. That there is no zone is believed only of a FreeIPA that shows others.
func (f *FreeIPA) Remove(ctx context.Context, r Record) error {
	err := f.change(ctx, r, ipa.RecordDel, ipa.NotFound, ipa.AttrValueNotFound)
	if _, missing := errors.AsType[*NoZoneError](err); !missing {
		return err
	}
	if blind := f.sees(ctx); blind != nil {
		return blind
	}
	return err
}

// lookedAtOnce is how many names FreeIPA is asked for in one call.
const lookedAtOnce = 100

// Missing implements Provider. That there is no zone is believed only of a FreeIPA that shows others.
func (f *FreeIPA) Missing(ctx context.Context, records []Record) (missing []Record, err error) {
	for len(records) > 0 {
		part := records[:min(lookedAtOnce, len(records))]
		records = records[len(part):]
		some, err := f.missing(ctx, part)
		if err != nil {
			return nil, err
		}
		missing = append(missing, some...)
	}
	return missing, nil
}

func (f *FreeIPA) missing(ctx context.Context, records []Record) (missing []Record, err error) {
	// Where each record is kept: under its own name, unless that is an alias.
	places := slices.Clone(records)
	pending := make([]int, len(records)) // what is not known to be there or missing
	for i := range pending {
		pending[i] = i
	}
	var unzoned bool
	for hops := 0; len(pending) > 0 && hops <= aliases; hops++ {
		asked := make([]Record, 0, len(pending))
		for _, i := range pending {
			asked = append(asked, places[i])
		}
		zones, err := f.zones(ctx, asked)
		if err != nil {
			return nil, err
		}
		var zoned []int
		var shows []ipa.Command
		for _, i := range pending {
			zone, relative := longest(places[i].Name, zones)
			if zone == "" {
				unzoned, missing = true, append(missing, records[i])
				continue
			}
			zoned, shows = append(zoned, i), append(shows, ipa.RecordShow(zone, relative))
		}
		pending = nil
		results, err := f.directory.Batch(ctx, shows...)
		if err != nil {
			return nil, err
		}
		for n, i := range zoned {
			there, err := shown(results[n])
			if err != nil {
				return nil, err
			}
			zone, _ := longest(places[i].Name, zones)
			next, alias := follow(places[i], zone, there)
			switch {
			case alias:
				places[i], pending = next, append(pending, i)
			case !holds(there, places[i]):
				missing = append(missing, records[i])
			}
		}
	}
	for _, i := range pending {
		missing = append(missing, records[i])
	}
	if unzoned {
		if err := f.sees(ctx); err != nil {
			return nil, err
		}
	}
	return missing, nil
}

// zones are those that may hold the records, by name.
func (f *FreeIPA) zones(ctx context.Context, records []Record) (map[string]bool, error) {
	there := make(map[string]bool)
	var candidates []string
	for _, r := range records {
		for rest := r.Name; rest != ""; _, rest, _ = strings.Cut(rest, ".") {
			if _, known := there[rest]; !known {
				there[rest], candidates = false, append(candidates, rest)
			}
		}
	}
	for len(candidates) > 0 {
		part := candidates[:min(lookedAtOnce, len(candidates))]
		candidates = candidates[len(part):]
		commands := make([]ipa.Command, 0, len(part))
		for _, name := range part {
			commands = append(commands, ipa.ZoneShow(name+"."))
		}
		results, err := f.directory.Batch(ctx, commands...)
		if err != nil {
			return nil, err
		}
		for i, name := range part {
			if err := results[i].Err; err != nil && !errors.Is(err, ipa.NotFound) {
				return nil, fmt.Errorf("look for the zone %s: %w", name, refused(err))
			}
			there[name] = results[i].Err == nil
		}
	}
	return there, nil
}

// longest returns the zone with the longest name that holds a name, and the name relative to it.
func longest(name string, zones map[string]bool) (zone, relative string) {
	for rest := name; rest != ""; _, rest, _ = strings.Cut(rest, ".") {
		switch {
		case zones[rest] && rest == name:
			return name + ".", "@"
		case zones[rest]:
			return rest + ".", strings.TrimSuffix(name, "."+rest)
		}
	}
	return "", ""
}

// sees tells whether FreeIPA shows any zone.
func (f *FreeIPA) sees(ctx context.Context) error {
	shown, err := f.directory.ZoneFind(ctx, "", 1)
	if errors.Is(err, ipa.NotFound) || err == nil && len(shown.Entries) == 0 {
		return errBlind
	}
	return err
}

// change runs a command on the record, where its name leads. The codes tell that it is as wanted
// already. What is under the name is read in the same call: beside a CNAME record FreeIPA takes no
// other.
func (f *FreeIPA) change(ctx context.Context, r Record, command func(zone, name string, kind ipa.RecordKind, value string) ipa.Command,
	harmless ...ipa.Code) error {
	for at, hops := r, 0; hops <= aliases; hops++ {
		zone, name, err := f.zone(ctx, at.Name)
		if err != nil {
			return err
		}
		kind, value := attribute(at)
		results, err := f.directory.Batch(ctx, ipa.RecordShow(zone, name), command(zone, name, kind, value))
		if err != nil {
			return err
		}
		there, err := shown(results[0])
		if err != nil {
			return err
		}
		next, alias := follow(at, zone, there)
		if !alias {
			err := results[1].Err
			if slices.ContainsFunc(harmless, func(code ipa.Code) bool { return errors.Is(err, code) }) {
				return nil
			}
			return refused(err)
		}
		at = next
	}
	return &NoZoneError{Name: r.Name}
}

// refused tells a missing right, and whatever else FreeIPA answers until its set-up or the records
// beside are others, from what may pass. A ValidationError is such an answer: that of a host whose
// name has a CNAME record, say.
func refused(err error) error {
	if own, ok := errors.AsType[*ipa.Error](err); ok && (own.Code.Class() == ipa.Operator || own.Code == ipa.ValidationError) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// zone finds the zone with the longest name that holds a name, and the name relative to it. All candidates are asked for at once.
func (f *FreeIPA) zone(ctx context.Context, name string) (zone, relative string, err error) {
	zones, err := f.zones(ctx, []Record{{Name: name}})
	if err != nil {
		return "", "", err
	}
	if zone, relative = longest(name, zones); zone == "" {
		return "", "", &NoZoneError{Name: name}
	}
	return zone, relative, nil
}

// attribute says how FreeIPA names and spells the record.
func attribute(r Record) (ipa.RecordKind, string) {
	switch r.Type {
	case A:
		return ipa.RecordA, r.Value
	case AAAA:
		return ipa.RecordAAAA, r.Value
	}
	return ipa.RecordPTR, r.Value + "."
}

func valuesOf(record ipa.Record, kind Type) []string {
	switch kind {
	case A:
		return record.A
	case AAAA:
		return record.AAAA
	}
	return record.PTR
}

// same compares a value with the record's: addresses and names have several spellings.
func same(r Record, value string) bool {
	if r.Type == PTR {
		return strings.EqualFold(strings.TrimSuffix(value, "."), r.Value)
	}
	mine, err := netip.ParseAddr(r.Value)
	theirs, other := netip.ParseAddr(value)
	return err == nil && other == nil && mine == theirs
}
