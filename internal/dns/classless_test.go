// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/ipa"
)

// The names and the prefix are those of RFC 2317, 4, for another network of documentation (RFC
// 5737).
const (
	parent    = "113.0.203.in-addr.arpa."
	classless = "64/26.113.0.203.in-addr.arpa."
)

// alias has the name of 203.0.113.N lead elsewhere.
func (w *world) alias(t testing.TB, last, target string) {
	t.Helper()
	must(t, w.ipa.AddRecord(parent, last, "cnamerecord", target))
}

func noRecords(t testing.TB, w *world, zone, name string) {
	t.Helper()
	equal(t, w.records(zone, name), map[string][]string(nil))
}

func missing(t testing.TB, w *world) []string {
	t.Helper()
	there, err := w.store.Objects(t.Context(), instance)
	must(t, err)
	gone, err := w.Missing(t.Context(), there)
	must(t, err)
	var names []string
	for _, o := range gone {
		names = append(names, o.Name)
	}
	return names
}

// TestRecordsBesideAlias: the answers are those that FreeIPA 4.9.11 gave to these calls: it takes a
// zone with a slash in its name, a CNAME record with a target relative to the zone, and no PTR
// record beside it.
func TestRecordsBesideAlias(t *testing.T) {
	w := newWorld(t, parent, classless)
	w.alias(t, "71", "71.64/26")
	there, err := w.client.RecordShow(t.Context(), parent, "71")
	must(t, err)
	equal(t, there, ipa.Record{Name: "71", CNAME: []string{"71.64/26"}})
	_, err = w.client.RecordAdd(t.Context(), parent, "71", ipa.RecordPTR, "a.example.test.")
	if !errors.Is(err, ipa.ValidationError) || !strings.Contains(err.Error(),
		"invalid 'cnamerecord': CNAME record is not allowed to coexist with any other record (RFC 1034, section 3.6.2)") {
		t.Error(err)
	}
	added, err := w.client.RecordAdd(t.Context(), classless, "71", ipa.RecordPTR, "a.example.test.")
	must(t, err)
	equal(t, added, ipa.Record{Name: "71", PTR: []string{"a.example.test."}})
}

// TestAlias follows CNAME records, with absolute and with relative targets, in capitals, and
// through another.
func TestAlias(t *testing.T) {
	w := newWorld(t, parent, classless, "rev.example.test.")
	ctx := t.Context()
	w.alias(t, "70", "70.64/26.113.0.203.IN-ADDR.arpa.")
	w.alias(t, "71", "71.64/26")
	w.alias(t, "72", "72.64/26")
	must(t, w.ipa.AddRecord(classless, "72", "cnamerecord", "host72.rev.example.test."))
	addresses := []netip.Addr{addr("203.0.113.70"), addr("203.0.113.71"), addr("203.0.113.72"), addr("203.0.113.7")}
	ptr := map[string][]string{"ptrrecord": {"web.example.test."}}
	for range 2 {
		must(t, w.Set(ctx, instance, "web.example.test", addresses))
		equal(t, w.records(classless, "70"), ptr)
		equal(t, w.records(classless, "71"), ptr)
		equal(t, w.records("rev.example.test", "host72"), ptr)
		equal(t, w.records(parent, "7"), ptr)
	}
	equal(t, missing(t, w), []string(nil))
	must(t, w.ipa.RemoveRecord(classless, "71", "ptrrecord", "web.example.test."))
	must(t, w.ipa.RemoveRecord("rev.example.test", "host72", "ptrrecord", "web.example.test."))
	equal(t, missing(t, w), []string{"71.113.0.203.in-addr.arpa PTR web.example.test", "72.113.0.203.in-addr.arpa PTR web.example.test"})

	must(t, w.RemoveAll(ctx, instance))
	noRecords(t, w, classless, "70")
	noRecords(t, w, parent, "7")
	equal(t, w.records(parent, "70"), map[string][]string{"cnamerecord": {"70.64/26.113.0.203.IN-ADDR.arpa."}})
}

// TestAliasOfForeignRecord leaves alone what was there, also where an alias leads.
func TestAliasOfForeignRecord(t *testing.T) {
	w := newWorld(t, parent, classless)
	w.alias(t, "70", "70.64/26")
	for _, value := range []string{"web.example.test.", "other.example.test."} {
		must(t, w.ipa.AddRecord(classless, "70", "ptrrecord", value))
	}
	must(t, w.Set(t.Context(), instance, "web.example.test", []netip.Addr{addr("203.0.113.70")}))
	must(t, w.RemoveAll(t.Context(), instance))
	equal(t, w.records(classless, "70"), map[string][]string{"ptrrecord": {"web.example.test.", "other.example.test."}})
}

// TestAliasOutOfFreeIPA: where an alias leads out of FreeIPA or round in a circle, there is no
// zone, and nothing to remove either.
func TestAliasOutOfFreeIPA(t *testing.T) {
	w := newWorld(t, parent)
	ctx := t.Context()
	w.alias(t, "70", "70.rev.example.org.")
	w.alias(t, "71", "72")
	w.alias(t, "72", "71")
	for last, name := range map[string]string{"70": "70.rev.example.org", "71": "71.113.0.203.in-addr.arpa"} {
		addresses := []netip.Addr{addr("203.0.113." + last)}
		err := w.Set(ctx, instance, "web.example.test", addresses)
		if zone, ok := errors.AsType[*NoZoneError](err); !ok || zone.Name != name {
			t.Errorf("%s: %v", last, err)
		}
		w.cfg.Reverse = ReverseOptional
		must(t, w.Set(ctx, instance, "web.example.test", addresses))
		w.cfg.Reverse = ReverseRequired
		equal(t, w.records("example.test", "web"), map[string][]string{"arecord": {"203.0.113." + last}})
	}
	must(t, w.RemoveAll(ctx, instance))
	// Made before, and led astray since.
	must(t, w.Add(ctx, instance, "web.example.test", addr("203.0.113.80")))
	must(t, w.ipa.RemoveRecord(parent, "80", "ptrrecord", "web.example.test."))
	w.alias(t, "80", "80")
	equal(t, missing(t, w), []string{"80.113.0.203.in-addr.arpa PTR web.example.test"})
	must(t, w.RemoveAll(ctx, instance))
	objects, err := w.store.Objects(ctx, instance)
	must(t, err)
	equal(t, len(objects), 0)
}

// TestAliasOfHost: a host whose own name is an alias gets no address under the other's. Only
// somebody can change that.
func TestAliasOfHost(t *testing.T) {
	w := newWorld(t, parent)
	must(t, w.ipa.AddRecord("example.test", "web", "cnamerecord", "mail.example.test."))
	err := w.Set(t.Context(), instance, "web.example.test", []netip.Addr{addr("203.0.113.70")})
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "CNAME record is not allowed to coexist") {
		t.Error(err)
	}
	noRecords(t, w, "example.test", "mail")
	must(t, w.RemoveAll(t.Context(), instance))
	equal(t, w.records("example.test", "web"), map[string][]string{"cnamerecord": {"mail.example.test."}})
}

// TestReverseZones: the configuration says what no CNAME record that FreeIPA has does. What was
// made before moves when it changes.
func TestReverseZones(t *testing.T) {
	w := newWorld(t, parent, classless)
	ctx := t.Context()
	addresses := []netip.Addr{addr("203.0.113.70")}
	set := func(zones map[netip.Prefix]string) {
		t.Helper()
		w.cfg.ReverseZones = zones
		must(t, w.Set(ctx, instance, "web.example.test", addresses))
		equal(t, missing(t, w), []string(nil))
	}
	ptr := map[string][]string{"ptrrecord": {"web.example.test."}}
	configured := map[netip.Prefix]string{netip.MustParsePrefix("203.0.113.64/26"): classless}
	set(nil)
	equal(t, w.records(parent, "70"), ptr)
	set(configured)
	noRecords(t, w, parent, "70")
	equal(t, w.records(classless, "70"), ptr)
	w.alias(t, "70", "70.64/26") // says the same
	set(nil)
	equal(t, w.records(classless, "70"), ptr)
	set(configured)
	equal(t, w.records(classless, "70"), ptr)
	w.cfg.ReverseZones = nil // what is recorded is removed all the same
	must(t, w.RemoveAll(ctx, instance))
	noRecords(t, w, classless, "70")
	w.cfg.ReverseZones = map[netip.Prefix]string{netip.MustParsePrefix("203.0.113.64/26"): "64-26.example.org"}
	err := w.Set(ctx, instance, "web.example.test", addresses)
	if zone, ok := errors.AsType[*NoZoneError](err); !ok || zone.Name != "70.64-26.example.org" {
		t.Error(err)
	}
}

// TestReverseZoneNames: the labels below the zone are those that tell the network's addresses apart
// (RFC 2317, 4).
func TestReverseZoneNames(t *testing.T) {
	s := &Service{cfg: Config{ReverseZones: map[netip.Prefix]string{
		netip.MustParsePrefix("203.0.113.64/26"):  "64/26.113.0.203.in-addr.arpa.",
		netip.MustParsePrefix("203.0.113.96/27"):  "B.example.com",
		netip.MustParsePrefix("203.0.113.127/32"): "one.example.com",
		netip.MustParsePrefix("198.51.100.0/24"):  "c.example.com",
		netip.MustParsePrefix("198.18.16.0/20"):   "d.example.com",
		netip.MustParsePrefix("0.0.0.0/0"):        "all.example.com",
		netip.MustParsePrefix("2001:db8::/116"):   "e.example.com",
	}}}
	for address, name := range map[string]string{
		"203.0.113.70":      "70.64/26.113.0.203.in-addr.arpa",
		"203.0.113.97":      "97.b.example.com",
		"203.0.113.127":     "127.one.example.com",
		"203.0.113.128":     "128.113.0.203.all.example.com",
		"198.51.100.9":      "9.c.example.com",
		"198.18.17.9":       "9.17.d.example.com",
		"2001:db8::abc":     "c.b.a.e.example.com",
		"2001:db8::1:0:abc": "c.b.a.0.0.0.0.0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
	} {
		equal(t, s.reverseName(addr(address)), name)
	}
}
