// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/store"
)

const (
	nova     = "nova/undercloud.example.test"
	nobody   = "nobody/undercloud.example.test" // has no rights
	instance = "00000000000000000000000000000001"
	other    = "00000000000000000000000000000002"
)

// world is a FreeIPA server with its DNS, and a service that writes to it.
type world struct {
	*Service
	ipa    *freeipa.Server
	store  *store.Store
	client *ipa.Client
	login  func(user string) *ipa.Client
}

func newWorld(t testing.TB, zones ...string) *world {
	t.Helper()
	server, err := freeipa.New(freeipa.Config{Domain: "example.test", Passwords: map[string]string{nova: "secret", nobody: "secret"}})
	must(t, err)
	must(t, server.GrantHostManagement(nova))
	for _, zone := range zones {
		must(t, server.AddZone(zone))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	background(t, func(ctx context.Context) error { return server.Serve(ctx, listener) })
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(server.CA())
	login := func(user string) *ipa.Client {
		client, err := ipa.New(ipa.Config{Servers: []string{listener.Addr().String()}, RootCAs: pool, Password: &ipa.Password{User: user, Password: "secret"},
			DialTimeout: time.Minute, LoginTimeout: time.Minute})
		must(t, err)
		t.Cleanup(client.Close)
		return client
	}
	client := login(nova)
	records, err := store.Open(t.Context(), store.Config{URL: "sqlite:///" + filepath.Join(t.TempDir(), "muster.db")})
	must(t, err)
	t.Cleanup(func() { must(t, records.Close()) })
	_, err = records.Upgrade(t.Context())
	must(t, err)
	service, err := New(Config{Objects: records, Provider: NewFreeIPA(client)})
	must(t, err)
	return &world{Service: service, ipa: server, store: records, client: client, login: login}
}

func background(t testing.TB, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t testing.TB, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("wanted -, got +:\n%s", diff)
	}
}

// records returns what a name of a zone has, by type of record.
func (w *world) records(zone, name string) map[string][]string { return w.ipa.Records(zone)[name] }

var addr = netip.MustParseAddr

// Add makes the records of one address more.
func (w *world) Add(ctx context.Context, instanceID, fqdn string, address netip.Addr) error {
	records, err := w.Records(fqdn, []netip.Addr{address})
	for _, r := range records {
		if err == nil {
			err = w.addWanted(ctx, instanceID, r)
		}
	}
	return err
}

// Remove removes the records of one address, and leaves the others.
func (w *world) Remove(ctx context.Context, instanceID, fqdn string, address netip.Addr) error {
	records, err := w.Records(fqdn, []netip.Addr{address})
	if err != nil {
		return err
	}
	there, err := w.recorded(ctx, instanceID)
	for _, o := range there {
		if err == nil && slices.ContainsFunc(records, func(r Record) bool { return r.String() == o.Name }) {
			err = w.remove(ctx, o)
		}
	}
	return err
}

func TestAddresses(t *testing.T) {
	w := newWorld(t, "77.168.192.in-addr.arpa.", "d.f.ip6.arpa.")
	ctx := t.Context()
	for range 2 {
		must(t, w.Add(ctx, instance, "Web.example.test.", addr("192.168.77.5")))
		must(t, w.Add(ctx, instance, "web.example.test", addr("::ffff:192.168.77.6")))
		must(t, w.Add(ctx, instance, "web.example.test", addr("fd00::1:2")))
	}
	equal(t, w.records("example.test", "web"), map[string][]string{"arecord": {"192.168.77.5", "192.168.77.6"}, "aaaarecord": {"fd00::1:2"}})
	equal(t, w.records("77.168.192.in-addr.arpa", "6"), map[string][]string{"ptrrecord": {"web.example.test."}})
	reverse := strings.TrimSuffix("2.0.0.0.1.0.0.0."+strings.Repeat("0.", 20)+"0.0.d.f.ip6.arpa", ".d.f.ip6.arpa")
	equal(t, w.records("d.f.ip6.arpa", reverse), map[string][]string{"ptrrecord": {"web.example.test."}})

	for range 2 {
		must(t, w.Remove(ctx, instance, "web.example.test", addr("192.168.77.5")))
	}
	equal(t, w.records("example.test", "web"), map[string][]string{"arecord": {"192.168.77.6"}, "aaaarecord": {"fd00::1:2"}})
	equal(t, w.records("77.168.192.in-addr.arpa", "5"), map[string][]string(nil))
	for range 2 {
		must(t, w.RemoveAll(ctx, instance))
	}
	for _, zone := range []string{"example.test", "77.168.192.in-addr.arpa", "d.f.ip6.arpa"} {
		for name, kinds := range w.ipa.Records(zone) {
			if name != "@" && (kinds["arecord"] != nil || kinds["ptrrecord"] != nil) {
				t.Errorf("left in %s: %s %v", zone, name, kinds)
			}
		}
	}
	objects, err := w.store.Objects(ctx, instance)
	must(t, err)
	equal(t, len(objects), 0)
}

// TestLongestZone writes into the zone that is nearest to the name.
func TestLongestZone(t *testing.T) {
	w := newWorld(t, "lab.example.test.", "host.deep.lab.example.test.", "10.in-addr.arpa.", "2.10.in-addr.arpa.")
	ctx := t.Context()
	must(t, w.Add(ctx, instance, "a.lab.example.test", addr("10.2.3.4")))
	must(t, w.Add(ctx, instance, "host.deep.lab.example.test", addr("10.3.3.4")))
	must(t, w.Add(ctx, instance, "xlab.example.test", addr("10.20.3.4")))
	equal(t, w.records("lab.example.test", "a"), map[string][]string{"arecord": {"10.2.3.4"}})
	equal(t, w.records("host.deep.lab.example.test", "@")["arecord"], []string{"10.3.3.4"})
	equal(t, w.records("example.test", "xlab"), map[string][]string{"arecord": {"10.20.3.4"}})
	equal(t, w.records("2.10.in-addr.arpa", "4.3"), map[string][]string{"ptrrecord": {"a.lab.example.test."}})
	equal(t, w.records("10.in-addr.arpa", "4.3.3"), map[string][]string{"ptrrecord": {"host.deep.lab.example.test."}})
	equal(t, w.records("10.in-addr.arpa", "4.3.20"), map[string][]string{"ptrrecord": {"xlab.example.test."}})
}

// TestMissingZone names what is missing. The address record is made where only the reverse zone is.
func TestMissingZone(t *testing.T) {
	w := newWorld(t)
	err := w.Add(t.Context(), instance, "web.example.org", addr("10.0.0.1"))
	if zone, ok := errors.AsType[*NoZoneError](err); !ok || zone.Name != "web.example.org" || !strings.Contains(err.Error(), "no DNS zone holds web.example.org") {
		t.Error(err)
	}
	err = w.Add(t.Context(), instance, "web.example.test", addr("10.0.0.1"))
	if zone, ok := errors.AsType[*NoZoneError](err); !ok || zone.Name != "1.0.0.10.in-addr.arpa" {
		t.Error(err)
	}
	equal(t, w.records("example.test", "web"), map[string][]string{"arecord": {"10.0.0.1"}})
	w.cfg.Reverse = ReverseOff
	must(t, w.Add(t.Context(), instance, "web.example.test", addr("10.0.0.2")))
	must(t, w.RemoveAll(t.Context(), instance))
	equal(t, w.records("example.test", "web"), map[string][]string(nil))
}

// TestForeignRecords leaves records alone that others made, beside and under the same name.
func TestForeignRecords(t *testing.T) {
	w := newWorld(t, "10.in-addr.arpa.")
	ctx := t.Context()
	for _, value := range []string{"10.0.0.1", "10.0.0.9"} {
		_, err := w.client.RecordAdd(ctx, "example.test.", "web", ipa.RecordA, value)
		must(t, err)
	}
	_, err := w.client.RecordAdd(ctx, "10.in-addr.arpa.", "2.0.0", ipa.RecordPTR, "Theirs.example.test.")
	must(t, err)
	for range 2 {
		must(t, w.Add(ctx, instance, "web.example.test", addr("10.0.0.1")))
		must(t, w.Add(ctx, instance, "web.example.test", addr("10.0.0.2")))
	}
	// What was not made for this instance is not removed for it.
	must(t, w.Remove(ctx, other, "web.example.test", addr("10.0.0.2")))
	must(t, w.RemoveAll(ctx, other))
	equal(t, w.records("example.test", "web")["arecord"], []string{"10.0.0.1", "10.0.0.9", "10.0.0.2"})
	must(t, w.Remove(ctx, instance, "web.example.test", addr("10.0.0.1")))
	must(t, w.Remove(ctx, instance, "web.example.test", addr("10.0.0.9")))
	must(t, w.RemoveAll(ctx, instance))
	equal(t, w.records("example.test", "web")["arecord"], []string{"10.0.0.1", "10.0.0.9"})
	equal(t, w.records("10.in-addr.arpa", "2.0.0")["ptrrecord"], []string{"Theirs.example.test."})
	equal(t, w.records("10.in-addr.arpa", "1.0.0"), map[string][]string(nil))
}

// TestZoneGone forgets records whose zone was removed.
func TestZoneGone(t *testing.T) {
	w := newWorld(t)
	w.cfg.Reverse = ReverseOff
	must(t, w.Add(t.Context(), instance, "web.example.test", addr("10.0.0.1")))
	gone := store.Object{Kind: store.ObjectRecord, Name: "web.gone.example A 10.0.0.1", InstanceID: instance}
	change, err := w.store.BeginChange(t.Context(), gone, false, lateTime)
	must(t, err)
	must(t, w.store.EndChange(t.Context(), change))
	must(t, w.RemoveAll(t.Context(), instance))
	objects, err := w.store.Objects(t.Context(), instance)
	must(t, err)
	equal(t, len(objects), 0)
}

// TestZoneHidden: a Muster that may not read the DNS any more sees no zone, and takes none for gone.
func TestZoneHidden(t *testing.T) {
	w := newWorld(t)
	w.cfg.Reverse = ReverseOff
	ctx := t.Context()
	must(t, w.Add(ctx, instance, "web.example.test", addr("10.0.0.1")))
	seeing := w.cfg.Provider
	w.cfg.Provider = NewFreeIPA(w.login(nobody))
	if err := w.RemoveAll(ctx, instance); err == nil || !strings.Contains(err.Error(), "System: Read DNS Entries") {
		t.Errorf("%v", err)
	}
	w.cfg.Provider = seeing
	must(t, w.RemoveAll(ctx, instance))
	equal(t, w.records("example.test", "web"), map[string][]string(nil))
}

// TestSet has the records follow the addresses.
func TestSet(t *testing.T) {
	w := newWorld(t, "10.in-addr.arpa.")
	ctx := t.Context()
	steps := []struct {
		trim      bool
		addresses []string
		want      []string
	}{
		{false, []string{"10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1"}, []string{"10.0.0.1"}},
		{false, []string{"10.0.0.1", "10.0.0.2"}, []string{"10.0.0.1", "10.0.0.2"}},
		{true, []string{"10.0.0.2", "10.0.0.3"}, []string{"10.0.0.2"}},
		{false, []string{"10.0.0.3"}, []string{"10.0.0.3"}},
		{false, nil, nil},
	}
	for _, step := range steps {
		for range 2 {
			var addresses []netip.Addr
			for _, text := range step.addresses {
				addresses = append(addresses, addr(text))
			}
			if step.trim {
				must(t, w.Trim(ctx, instance, "web.example.test", addresses))
			} else {
				must(t, w.Set(ctx, instance, "web.example.test", addresses))
			}
			equal(t, w.records("example.test", "web")["arecord"], step.want)
			for n := range 4 {
				name := strconv.Itoa(n) + ".0.0"
				equal(t, w.records("10.in-addr.arpa", name) != nil, slices.Contains(step.want, "10.0.0."+strconv.Itoa(n)))
			}
		}
	}
}

// TestMissing: of many records those are told that are not there, or whose zone is gone. Where no zone is seen, nothing counts as missing.
func TestMissing(t *testing.T) {
	w := newWorld(t, "10.in-addr.arpa.")
	ctx := t.Context()
	var addresses []netip.Addr
	for n := range 2*lookedAtOnce + 3 {
		addresses = append(addresses, netip.AddrFrom4([4]byte{10, 0, byte(n / 250), byte(n%250 + 1)}))
	}
	must(t, w.Service.Set(ctx, instance, "web.example.test", addresses[:3]))
	must(t, w.ipa.RemoveRecord("example.test.", "web", "arecord", "10.0.0.2"))
	must(t, w.ipa.RemoveRecord("10.in-addr.arpa.", "3.0.0", "ptrrecord", "web.example.test."))
	recorded, err := w.store.Objects(ctx, instance)
	must(t, err)
	equal(t, len(recorded), 6)
	recorded = append(recorded, store.Object{Kind: store.ObjectRecord, Name: "web.gone.example A 10.0.0.1", InstanceID: instance, State: store.ObjectMade})
	for _, a := range addresses[3:] { // of another instance, not there either
		recorded = append(recorded, store.Object{Kind: store.ObjectRecord, Name: "db.example.test A " + a.String(), InstanceID: other, State: store.ObjectMade})
	}
	recorded = append(recorded,
		store.Object{Kind: store.ObjectRecord, Name: "db.example.test A 10.9.9.9", InstanceID: other, State: store.ObjectIntended},
		store.Object{Kind: store.ObjectRecord, Name: "damaged", InstanceID: other, State: store.ObjectMade})
	missing, err := w.Service.Missing(ctx, recorded)
	must(t, err)
	names := map[string]int{}
	for _, o := range missing {
		if o.InstanceID == other {
			names["db"]++
		} else {
			names[o.Name]++
		}
	}
	equal(t, names, map[string]int{"web.example.test A 10.0.0.2": 1, "3.0.0.10.in-addr.arpa PTR web.example.test": 1, "web.gone.example A 10.0.0.1": 1,
		"db": len(addresses) - 3})

	w.cfg.Provider = NewFreeIPA(w.login(nobody))
	if missing, err := w.Service.Missing(ctx, recorded); !errors.Is(err, ErrRefused) || missing != nil {
		t.Errorf("%v, %v", missing, err)
	}
}

// TestSetAsksNobodyInVain: what is as it should be costs no call.
func TestSetAsksNobodyInVain(t *testing.T) {
	w := newWorld(t, "10.in-addr.arpa.")
	must(t, w.Set(t.Context(), instance, "web.example.test", []netip.Addr{addr("10.0.0.1")}))
	provider := &failing{Provider: w.cfg.Provider, at: 1}
	w.cfg.Provider = provider
	must(t, w.Set(t.Context(), instance, "web.example.test", []netip.Addr{addr("10.0.0.1")}))
	equal(t, provider.calls, 0)
}

// TestSetGoesOn after a record that fails: the others are seen to.
func TestSetGoesOn(t *testing.T) {
	w := newWorld(t)
	err := w.Set(t.Context(), instance, "web.example.test", []netip.Addr{addr("10.0.0.1"), addr("fd00::1")})
	if _, ok := errors.AsType[*NoZoneError](err); !ok {
		t.Error(err)
	}
	equal(t, w.records("example.test", "web"), map[string][]string{"arecord": {"10.0.0.1"}, "aaaarecord": {"fd00::1"}})
	w.cfg.Reverse = ReverseOptional
	must(t, w.Set(t.Context(), instance, "web.example.test", []netip.Addr{addr("10.0.0.1"), addr("fd00::1")}))
	if err := w.Set(t.Context(), other, "web.example.org", []netip.Addr{addr("10.0.0.1")}); err == nil {
		t.Error("a missing zone is optional for PTR records only")
	}
	must(t, w.Set(t.Context(), instance, "web.example.test", nil))
	equal(t, w.records("example.test", "web"), map[string][]string(nil))
}

// TestSharedRecord stays as long as one of the instances has it.
func TestSharedRecord(t *testing.T) {
	w := newWorld(t)
	w.cfg.Reverse = ReverseOff
	ctx := t.Context()
	for _, id := range []string{instance, other} {
		must(t, w.Set(ctx, id, "web.example.test", []netip.Addr{addr("10.0.0.1")}))
	}
	must(t, w.RemoveAll(ctx, instance))
	equal(t, w.records("example.test", "web")["arecord"], []string{"10.0.0.1"})
	must(t, w.RemoveAll(ctx, other))
	equal(t, w.records("example.test", "web")["arecord"], []string(nil))
}

// failing breaks a provider at one of its calls, before it is carried out or after.
type failing struct {
	Provider
	calls, at int
	after     bool
}

var errBroken = errors.New("broken")

func (f *failing) call(do func() error) error {
	f.calls++
	if f.calls != f.at {
		return do()
	}
	if f.after {
		_ = do()
	}
	return errBroken
}

func (f *failing) Has(ctx context.Context, r Record) (has bool, err error) {
	err = f.call(func() error { has, err = f.Provider.Has(ctx, r); return err })
	return has, err
}

func (f *failing) Add(ctx context.Context, r Record) error {
	return f.call(func() error { return f.Provider.Add(ctx, r) })
}

func (f *failing) Remove(ctx context.Context, r Record) error {
	return f.call(func() error { return f.Provider.Remove(ctx, r) })
}

// TestFailureAtEachCall sees that a repetition ends well, and that nothing is left over or taken away that is not Muster's.
func TestFailureAtEachCall(t *testing.T) {
	const calls = 6 // of Has, Add and Remove, for two records
	for at := range calls {
		for _, after := range []bool{false, true} {
			w := newWorld(t, "10.in-addr.arpa.")
			provider := &failing{Provider: w.cfg.Provider, at: at + 1, after: after}
			w.cfg.Provider = provider
			ctx := t.Context()
			_, err := w.client.RecordAdd(ctx, "example.test.", "web", ipa.RecordA, "10.0.0.9")
			must(t, err)
			failed := 0
			repeat := func(do func() error) {
				for err := do(); err != nil; err = do() {
					if failed++; !errors.Is(err, errBroken) || failed > 1 {
						t.Fatal(err)
					}
				}
			}
			repeat(func() error { return w.Add(ctx, instance, "web.example.test", addr("10.0.0.1")) })
			equal(t, w.records("example.test", "web")["arecord"], []string{"10.0.0.9", "10.0.0.1"})
			repeat(func() error { return w.RemoveAll(ctx, instance) })
			equal(t, w.records("example.test", "web")["arecord"], []string{"10.0.0.9"})
			equal(t, w.records("10.in-addr.arpa", "1.0.0"), map[string][]string(nil))
			equal(t, failed, 1)
		}
	}
}

func TestInvalidAddresses(t *testing.T) {
	w := newWorld(t)
	for _, text := range []string{"0.0.0.0", "127.0.0.1", "::1", "::", "ff02::1", "224.0.0.1", "fe80::1%eth0"} {
		if err := w.Add(t.Context(), instance, "web.example.test", addr(text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, name := range []string{"", ".", "a b.example.test", strings.Repeat("a.", 128)} {
		if err := w.Add(t.Context(), instance, name, addr("10.0.0.1")); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := w.Add(t.Context(), instance, "web.example.test", netip.Addr{}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// TestReverseNames compares with names from RFC 1035, 3.5, and RFC 3596, 2.5.
func TestReverseNames(t *testing.T) {
	equal(t, reverseName(addr("10.2.0.52")), "52.0.2.10.in-addr.arpa")
	equal(t, reverseName(addr("4321:0:1:2:3:4:567:89ab")),
		"b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa")
}

// FuzzRecord sees that what is recorded of a record is read again.
func FuzzRecord(f *testing.F) {
	f.Add("web.example.test", "10.0.0.1")
	f.Add("web.example.test", "fd00::1")
	f.Add("a b", "::ffff:1.2.3.4")
	s := &Service{}
	f.Fuzz(func(t *testing.T, name, text string) {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return
		}
		records, err := s.records(name, address)
		if err != nil {
			return
		}
		for _, r := range records {
			if again, err := parseRecord(r.String()); err != nil || again != r || len(r.String()) > 512 {
				t.Errorf("%q: %+v, %v", r, again, err)
			}
		}
		if !slices.ContainsFunc(records, func(r Record) bool { return r.Type == PTR }) {
			t.Error("no PTR record")
		}
	})
}
