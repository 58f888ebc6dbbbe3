// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/address"
	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/devcloud/network"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/internal/uuid"
)

// TestFloatingIP goes with an instance: associated, moved, removed, given back,
// and lost with the instance, of which Neutron tells nobody.
func TestFloatingIP(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web, db := s.boot("web"), s.boot("db")
	s.read()
	s.expect()
	f := s.floating()
	s.read()
	s.expect()
	s.move(f, web.port)
	s.read()
	s.expect(wants(web, f))
	s.move(f, db.port)
	s.read()
	s.expect(wants(db, f))
	s.move(f, "")
	s.read()
	s.expect()
	s.move(f, web.port)
	second := s.floating(db)
	s.read()
	s.expect(wants(web, f), wants(db, second))
	must(t, s.cloud.Network.DeleteFloatingIP(second.ID))
	s.read()
	s.expect(wants(web, f))
	s.delete(web)
	s.read()
	s.gone(web)
	s.expect()
	// The address goes to another instance.
	s.move(f, db.port)
	s.read()
	s.expect(wants(db, f))
	if failed := s.pending(); failed != nil {
		t.Error(failed)
	}
}

// TestFixedAddresses go to DNS where the operator says so, IPv6 too.
func TestFixedAddresses(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4, reverse10, reverse6)
	private := strings.ReplaceAll(s.cloud.Network.NetworkID(network.Private), "-", "")
	s.cfg.Published = converge.Published{Fixed: []string{private}}
	s.restart()
	web := s.boot("web")
	s.floating(web)
	storage := s.cloud.Network.AddNetwork(network.Network{Name: "storage", Subnets: []netip.Prefix{netip.MustParsePrefix("172.20.0.0/24")}})
	_, err := s.cloud.Network.AddPort(network.Port{ProjectID: s.project, NetworkID: storage, DeviceID: uuid.Dashed(web.id), DeviceOwner: "compute:nova"})
	must(t, err)
	s.read()
	fixed := s.cloud.Network.Fixed(web.id)
	four := fixed[0].As4()
	six := fmt.Sprintf("%x", fixed[1].As16())[16:]
	slash := strings.Split(six, "")
	slices.Reverse(slash)
	want := []string{"web A " + fixed[0].String(), "web AAAA " + fixed[1].String(),
		fmt.Sprintf("%d.%d.%d PTR web.%s.", four[3], four[2], four[1], zone),
		strings.Join(slash, ".") + ".0.0.0.0.0.0.0.0 PTR web." + zone + "."}
	s.expect(want)
	if got := s.recorded(web); len(got) != 4 {
		t.Errorf("recorded: %v", got)
	}
	// The network leaves the configuration: the next comparison takes the records along.
	s.cfg.Published = converge.Published{}
	s.restart()
	s.reconcile(converge.Order{})
	s.expect()
}

// TestNamesOfInstance: what a host certificate may say follows too.
func TestNamesOfInstance(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	book := address.NewBook(s.store, address.Domains{})
	names := func(g guest) []string {
		t.Helper()
		instance, err := s.store.Instance(t.Context(), g.id)
		must(t, err)
		names, err := book.Names(t.Context(), instance)
		must(t, err)
		return names
	}
	plain, enrolled := s.bootOnly("plain"), s.boot("web")
	f, g := s.floating(plain), s.floating(enrolled)
	s.read()
	fixed := func(g guest) (all []string) {
		for _, ip := range s.cloud.Network.Fixed(g.id) {
			all = append(all, ip.String())
		}
		return all
	}
	if diff := cmp.Diff(append([]string{"plain", f.Address.String()}, fixed(plain)...), names(plain)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(append([]string{"web", "web.example.test", g.Address.String()}, fixed(enrolled)...), names(enrolled)); diff != "" {
		t.Error(diff)
	}
	s.move(f, "")
	s.read()
	if diff := cmp.Diff(append([]string{"plain"}, fixed(plain)...), names(plain)); diff != "" {
		t.Error(diff)
	}
	s.expect(wants(enrolled, g))
	// One that is not enrolled has no records, and nothing to fail by.
	if failed := s.pending(); failed != nil {
		t.Error(failed)
	}
}

// TestNamesOfAddresses: the names that Neutron gives ports and floating IPs are recorded with their
// addresses, follow events, and are found by the comparison where no event told.
func TestNamesOfAddresses(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	s.cfg.Neutron = s.newNeutron("muster", musterPassword, true)
	s.restart()
	web := s.bootOnly("web")
	f := s.floating(web)
	s.read()
	names := func() map[string]bool {
		t.Helper()
		recorded, err := s.store.Addresses(t.Context(), web.id)
		must(t, err)
		all := map[string]bool{}
		for _, a := range recorded {
			all[a.Name] = true
		}
		return all
	}
	want := func(when string, want map[string]bool) {
		t.Helper()
		if diff := cmp.Diff(want, names()); diff != "" {
			t.Error(when, diff)
		}
	}
	want("without the extension", map[string]bool{"": true})
	must(t, s.cloud.Network.NamePort(web.port, "web.example.com"))
	must(t, s.cloud.Network.NameFloatingIP(f.ID, "www", "example.com"))
	s.read()
	want("after the events", map[string]bool{"web.example.com": true, "www.example.com": true})
	must(t, s.cloud.Network.NamePort(web.port, "db.example.com"))
	s.news() // lost
	s.reconcile(converge.Order{})
	want("after the comparison", map[string]bool{"db.example.com": true, "www.example.com": true})
}

// TestAnyOrder: whatever order events come in, how often, and on whichever of
// two replicas, DNS agrees with Neutron in the end.
func TestAnyOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	guests := []guest{s.boot("a"), s.boot("b"), s.boot("c")}
	pool := []network.FloatingIP{s.floating(), s.floating(), s.floating()}
	s.read()
	first := s.queue
	s.rebuildControllers() // the other replica
	queues := []*converge.Queue{first, s.queue}
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	for round := range 8 {
		holder := make([]int, len(pool)) // 0: nobody, else a guest
		var waiting []<-chan error
		for range 6 {
			i := random.IntN(len(pool))
			to := random.IntN(len(guests) + 1)
			port := ""
			if to > 0 {
				port = guests[to-1].port
			}
			if s.cloud.Network.Associate(pool[i].ID, port) == nil {
				holder[i] = to
			}
			hints := s.news()
			hints = append(hints, hints...)
			random.Shuffle(len(hints), func(i, j int) { hints[i], hints[j] = hints[j], hints[i] })
			for _, hint := range hints {
				waiting = append(waiting, queues[random.IntN(2)].Offer(t.Context(), []converge.Hint{hint}))
			}
		}
		for _, one := range waiting {
			must(t, <-one)
		}
		if failed := s.pending(); failed != nil {
			t.Fatal(round, failed)
		}
		var want [][]string
		for i, to := range holder {
			if to > 0 {
				want = append(want, wants(guests[to-1], pool[i]))
			}
		}
		s.expect(want...)
		for _, f := range pool {
			s.move(f, "")
		}
		s.read()
		s.expect()
	}
}

// TestSwap: two instances change their floating IPs at once.
func TestSwap(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web, db := s.boot("web"), s.boot("db")
	f, g := s.floating(web), s.floating(db)
	s.read()
	s.expect(wants(web, f), wants(db, g))
	s.move(f, "")
	s.move(g, web.port)
	s.move(f, db.port)
	hints := s.news()
	slices.Reverse(hints)
	var waiting sync.WaitGroup
	for _, hint := range hints {
		waiting.Go(func() {
			if err := <-s.queue.Offer(t.Context(), []converge.Hint{hint}); err != nil {
				t.Error(err)
			}
		})
	}
	waiting.Wait()
	s.expect(wants(web, g), wants(db, f))
}

// hookedNeutron does something right after a list of floating IPs was read.
type hookedNeutron struct {
	converge.Neutron
	hook func()
}

func (h hookedNeutron) PortFloatingIPs(ctx context.Context, ports []string) ([]openstack.FloatingIP, error) {
	all, err := h.Neutron.PortFloatingIPs(ctx, ports)
	h.hook()
	return all, err
}

// TestMovedWhileRead: a floating IP moves between the question who has it and
// the record of the answer. The event finds nobody in the records.
func TestMovedWhileRead(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web, db := s.boot("web"), s.boot("db")
	s.read()
	f := s.floating()
	s.news()
	var moved atomic.Bool
	s.cfg.Neutron = hookedNeutron{s.cfg.Neutron, func() {
		if moved.Swap(true) {
			return
		}
		s.move(f, db.port)
		// All that the event leads to is done before the first answer is recorded.
		for _, hint := range s.news() {
			if hint.Key.Kind == converge.Address {
				s.offer(hint)
			}
		}
	}}
	s.restart()
	s.move(f, web.port)
	s.news()
	s.hint(converge.Key{Kind: converge.Instance, ID: web.id})
	s.hint(converge.Key{Kind: converge.Instance, ID: db.id})
	s.expect(wants(db, f))
	if got := s.recorded(web); slices.Contains(got, f.Address) {
		t.Errorf("recorded with the instance that lost it: %v", got)
	}
}

// TestRestless: an instance whose addresses never rest is put off, and holds up nobody.
func TestRestless(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web := s.boot("web")
	f := s.floating()
	s.news()
	there := false
	s.cfg.Neutron = hookedNeutron{s.cfg.Neutron, func() {
		if there = !there; there {
			s.move(f, web.port)
		} else {
			s.move(f, "")
		}
	}}
	s.restart()
	s.hint(converge.Key{Kind: converge.Instance, ID: web.id})
	if failed := s.pending(); len(failed) != 1 || !strings.Contains(failed[0], "change faster") {
		t.Error(failed)
	}
}

// TestDeletedWhileDNSIsAway: what is left goes when FreeIPA is back.
func TestDeletedWhileDNSIsAway(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web, db := s.boot("web"), s.boot("db")
	f, g := s.floating(web), s.floating(db)
	s.read()
	s.cloud.FreeIPA.Inject(func(string) freeipa.Fault { return freeipa.Fault{Status: 503} })
	s.delete(web)
	s.move(g, "")
	s.read()
	if failed := s.pending(); len(failed) != 1 || !strings.HasPrefix(failed[0], "instance "+db.id) {
		t.Error(failed)
	}
	if got := s.recorded(db); slices.Contains(got, g.Address) {
		t.Error("who has the address is not known although Neutron said it")
	}
	s.expect(wants(web, f), wants(db, g))
	s.cloud.FreeIPA.Inject(nil)
	s.dueNow()
	s.gone(web)
	s.expect()
	// A call that seemed to fail may have come through late. The next comparison sees to that.
	s.clock.step(time.Hour)
	s.reconcile(converge.Order{})
	if objects, err := s.store.Objects(t.Context(), web.id); err != nil || len(objects) > 0 {
		t.Errorf("recorded for ever: %+v, %v", objects, err)
	}
}

// TestForeignRecords are left alone, whatever happens to the instance.
func TestForeignRecords(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web := s.boot("web")
	f, g := s.floating(), s.floating()
	foreign := append(wants(web, f), "web A 192.0.2.1")
	for _, value := range []string{f.Address.String(), "192.0.2.1"} {
		_, err := s.directory.RecordAdd(t.Context(), zone+".", "web", ipa.RecordA, value)
		must(t, err)
	}
	_, err := s.directory.RecordAdd(t.Context(), reverse4+".", fmt.Sprint(f.Address.As4()[3]), ipa.RecordPTR, "web."+zone+".")
	must(t, err)
	s.move(f, web.port)
	s.read()
	s.expect(foreign)
	s.move(f, "")
	s.move(g, web.port)
	s.read()
	s.expect(foreign, wants(web, g))
	s.reconcile(converge.Order{})
	s.delete(web)
	s.read()
	s.gone(web)
	s.expect(foreign)
}

// TestForeignHost: an instance that could not enrol because its name is
// somebody else's gets no record under that name.
func TestForeignHost(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	must(t, s.cloud.FreeIPA.AddHost("mail."+zone, ""))
	mail := s.bootOnly("mail")
	answer, err := s.enrolment.Enrol(t.Context(), enroll.Actor{}, enroll.Request{InstanceID: mail.id, ProjectID: s.project, ProjectName: "p", Hostname: "mail"})
	if err == nil && answer.OTP != "" {
		t.Fatal("it enrolled")
	}
	f := s.floating(mail)
	s.read()
	s.expect()
	s.reconcile(converge.Order{})
	s.expect()
	// Adopted by an operator, the name is the instance's.
	_, err = s.enrolment.Adopt(t.Context(), enroll.Actor{}, mail.id)
	must(t, err)
	s.eventually(func() bool {
		e, err := s.store.Enrolment(t.Context(), mail.id)
		return err == nil && e.State == store.EnrolmentCreated
	})
	s.reconcile(converge.Order{})
	s.expect(wants(mail, f))
}

// TestMissingZone is an error that people can read and act on, and no noise.
func TestMissingZone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	web := s.boot("web")
	f := s.floating(web)
	s.read()
	// What can be done is done.
	s.expect([]string{"web A " + f.Address.String()})
	failed := s.pending()
	if len(failed) != 1 || !strings.Contains(failed[0], "no DNS zone holds") || !strings.Contains(failed[0], "add one") {
		t.Fatal(failed)
	}
	keys, err := s.store.PendingKeys(t.Context(), store.Page{})
	must(t, err)
	if pause := keys[0].NextAt.Sub(s.clock.Now()); pause < 30*time.Minute {
		t.Errorf("tried again after %v", pause)
	}
	must(t, s.cloud.FreeIPA.AddZone(reverse4+"."))
	s.dueNow()
	s.expect(wants(web, f))
}

// TestMissingZoneIsOver: that somebody must act is said no longer when the comparison found it done, nor when the instance is gone.
func TestMissingZoneIsOver(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	web, mail := s.boot("web"), s.boot("mail")
	f := s.floating(web)
	s.floating(mail)
	s.read()
	if failed := s.pending(); len(failed) != 2 {
		t.Fatal(failed)
	}
	s.delete(mail)
	s.read()
	s.gone(mail)
	if failed := s.pending(); len(failed) != 1 {
		t.Error(failed)
	}
	must(t, s.cloud.FreeIPA.AddZone(reverse4+"."))
	s.reconcile(converge.Order{})
	s.expect(wants(web, f))
	if failed := s.pending(); len(failed) != 0 {
		t.Error(failed)
	}
}

// TestClasslessZone: the network becomes classless (RFC 2317) after a record was made. This one, and
// those that are made later, are kept where the CNAME records lead, and go with the instances.
func TestClasslessZone(t *testing.T) {
	t.Parallel()
	const classless = "64/26." + reverse4
	s := newSite(t, reverse4, classless)
	web, mail := s.boot("web"), s.boot("mail")
	f, g := s.floating(web), s.floating()
	last := func(f network.FloatingIP) string { return strconv.Itoa(int(f.Address.As4()[3])) }
	alias := func(f network.FloatingIP) string {
		t.Helper()
		must(t, s.cloud.FreeIPA.AddRecord(reverse4+".", last(f), "cnamerecord", last(f)+".64/26"))
		return last(f) + " CNAME " + last(f) + ".64/26"
	}
	kept := func(f network.FloatingIP) []string { return s.cloud.FreeIPA.Records(classless)[last(f)]["ptrrecord"] }
	s.read()
	s.expect(wants(web, f))
	must(t, s.cloud.FreeIPA.RemoveRecord(reverse4+".", last(f), "ptrrecord", "web."+zone+"."))
	aliases := []string{alias(f), alias(g)}
	s.reconcile(converge.Order{})
	s.move(g, mail.port)
	s.read()
	s.expect(wants(web, f)[1:], wants(mail, g)[1:], aliases)
	if !slices.Equal(kept(f), []string{"web." + zone + "."}) || !slices.Equal(kept(g), []string{"mail." + zone + "."}) {
		t.Error(kept(f), kept(g))
	}
	s.delete(web)
	s.delete(mail)
	s.read()
	s.gone(web)
	s.gone(mail)
	s.expect(aliases)
	if kept(f) != nil || kept(g) != nil {
		t.Error(kept(f), kept(g))
	}
	if failed := s.pending(); len(failed) != 0 {
		t.Error(failed)
	}
}

// TestNameIsAlias: that FreeIPA takes no address beside the CNAME record of a host's name is
// somebody's to put right, and no noise.
func TestNameIsAlias(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web := s.boot("web")
	must(t, s.cloud.FreeIPA.AddRecord(zone+".", "web", "cnamerecord", "mail."+zone+"."))
	f := s.floating(web)
	s.read()
	failed := s.pending()
	if len(failed) != 1 || !strings.Contains(failed[0], "CNAME record is not allowed to coexist") {
		t.Fatal(failed)
	}
	keys, err := s.store.PendingKeys(t.Context(), store.Page{})
	must(t, err)
	if pause := keys[0].NextAt.Sub(s.clock.Now()); pause < 30*time.Minute {
		t.Errorf("tried again after %v", pause)
	}
	must(t, s.cloud.FreeIPA.RemoveRecord(zone+".", "web", "cnamerecord", "mail."+zone+"."))
	s.dueNow()
	s.expect(wants(web, f))
}

// TestForgedPort: a port of another project that says it is the instance's is not.
func TestForgedPort(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web := s.boot("web")
	attacker, _ := s.newPerson()
	port, err := s.cloud.Network.AddPort(network.Port{ProjectID: attacker.project, DeviceID: uuid.Dashed(web.id), DeviceOwner: "compute:nova"})
	must(t, err)
	_, err = s.cloud.Network.CreateFloatingIP(attacker.project, port)
	must(t, err)
	s.read()
	s.reconcile(converge.Order{})
	s.expect()
	if diff := cmp.Diff(s.cloud.Network.Fixed(web.id)[:2], s.recorded(web), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// TestNeutronWithoutRights: Neutron shows a user without rights empty lists.
// Nothing is gone because of that.
func TestNeutronWithoutRights(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web := s.boot("web")
	f := s.floating(web)
	s.read()
	outsider, err := s.cloud.Identity.CreateUser("outsider", "secret")
	must(t, err)
	must(t, s.cloud.Identity.Grant(outsider, s.cloud.Identity.ProjectID("service"), "member"))
	before := s.recorded(web)
	neutron := s.cfg.Neutron
	s.cfg.Neutron = s.newNeutron("outsider", "secret", false)
	s.restart()
	s.move(f, "")
	s.read()
	if failed := s.pending(); len(failed) == 0 || !strings.Contains(failed[0], "nothing is taken away") {
		t.Error(failed)
	}
	if _, err := s.compare.Reconcile(t.Context(), converge.Order{Force: true}); err == nil {
		t.Error("it was compared without rights")
	}
	s.expect(wants(web, f))
	if got := s.recorded(web); !slices.Equal(got, before) {
		t.Errorf("%v, before %v", got, before)
	}
	s.cfg.Neutron = neutron
	s.restart()
	s.dueNow()
	s.expect()
}

// brokenNeutron fails.
type brokenNeutron struct {
	converge.Neutron
	call string
}

func (b brokenNeutron) EachPort(ctx context.Context, do func(openstack.Port) error) error {
	err := b.Neutron.EachPort(ctx, do)
	if b.call == "EachPort" {
		err = errBroken
	}
	return err
}

func (b brokenNeutron) EachFloatingIP(ctx context.Context, do func(openstack.FloatingIP) error) error {
	if b.call == "EachFloatingIP" {
		return errBroken
	}
	return b.Neutron.EachFloatingIP(ctx, do)
}

// TestHalfAList: nothing is taken from half a list of Neutron's, and nobody else
// waits for Neutron.
func TestHalfAList(t *testing.T) {
	for _, call := range []string{"EachPort", "EachFloatingIP"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, reverse4)
			web := s.boot("web")
			f := s.floating(web)
			s.read()
			must(t, s.cloud.Network.DeleteFloatingIP(f.ID))
			gone := s.bootOnly("gone")
			s.delete(gone)
			s.news()
			s.cfg.Neutron = brokenNeutron{s.cfg.Neutron, call}
			s.restart()
			if _, err := s.compare.Reconcile(t.Context(), converge.Order{Force: true}); !errors.Is(err, errBroken) {
				t.Error(err)
			}
			s.expect(wants(web, f))
			if _, err := s.store.Instance(t.Context(), gone.id); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("an instance that is gone waits for Neutron: %v", err)
			}
		})
	}
}

// TestComparedAddresses: the comparison finds what no event told.
func TestComparedAddresses(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web, db, late := s.boot("web"), s.boot("db"), s.boot("late")
	f, g := s.floating(web), s.floating(db)
	s.read()
	h := s.floating(late)
	s.move(f, "")
	s.move(g, web.port)
	s.move(f, db.port)
	s.news() // lost
	report := s.reconcile(converge.Order{DryRun: true})
	if found := report.Kinds[3]; found.Kind != converge.Address || found.Remove != 2 || found.Look != 3 || found.Total < 8 {
		t.Errorf("%+v", found)
	}
	s.expect(wants(web, f), wants(db, g))
	s.reconcile(converge.Order{})
	s.expect(wants(web, g), wants(db, f), wants(late, h))
	if found := s.reconcile(converge.Order{}).Kinds[3]; found.Remove != 0 || found.Look != 0 {
		t.Errorf("the second time: %+v", found)
	}
	// A record that was never made, as after a death between record and DNS.
	objects, err := s.store.ObjectsOf(t.Context(), store.ObjectRecord, []string{web.id})
	must(t, err)
	made := slices.IndexFunc(objects[web.id], func(o store.Object) bool { return strings.Contains(o.Name, " A ") })
	forgotten, err := s.store.BeginChange(t.Context(), objects[web.id][made], true, time.Minute)
	must(t, err)
	must(t, s.store.EndChange(t.Context(), forgotten))
	must(t, s.directory.RecordDel(t.Context(), zone+".", "web", ipa.RecordA, g.Address.String()))
	s.reconcile(converge.Order{})
	s.expect(wants(web, g), wants(db, f), wants(late, h))
	// Addresses and records of instances that are gone, left by a replica that did not know.
	s.delete(late)
	s.read()
	s.gone(late)
	must(t, s.store.SetAddresses(t.Context(), late.id, []store.Address{{SourceID: web.id, IP: netip.MustParseAddr("10.9.9.9"), Kind: store.AddressFixed}}))
	must(t, s.cfg.DNS.Set(t.Context(), late.id, "late."+zone, []netip.Addr{h.Address}))
	s.clock.step(time.Minute)
	s.reconcile(converge.Order{})
	s.gone(late)
	s.expect(wants(web, g), wants(db, f))
}

// countingNeutron counts questions about single instances, and does something
// after the first list of floating IPs.
type countingNeutron struct {
	converge.Neutron
	asked atomic.Int64
	once  func()
}

func (c *countingNeutron) InstancePorts(ctx context.Context, id string) ([]openstack.Port, error) {
	c.asked.Add(1)
	return c.Neutron.InstancePorts(ctx, id)
}

func (c *countingNeutron) EachFloatingIP(ctx context.Context, do func(openstack.FloatingIP) error) error {
	err := c.Neutron.EachFloatingIP(ctx, do)
	c.once()
	return err
}

// TestManyUnrecorded: when the addresses of all instances are new, as after an
// upgrade, Neutron is not asked about each, and what moves meanwhile is not missed.
func TestManyUnrecorded(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	guests := []guest{s.boot("web")}
	for n := range 30 {
		guests = append(guests, s.bootOnly(fmt.Sprint("plain", n)))
	}
	f, moving, leaving := s.floating(guests[0]), s.floating(guests[1]), s.floating(guests[3])
	s.news() // lost
	meanwhile := func() {
		s.move(moving, guests[2].port)
		must(t, s.cloud.Network.DeleteFloatingIP(leaving.ID))
		s.news() // nobody is recorded with them yet
	}
	neutron := &countingNeutron{Neutron: s.cfg.Neutron, once: func() {}}
	s.cfg.Neutron = neutron
	s.restart()
	s.reconcile(converge.Order{DryRun: true})
	if got := s.recorded(guests[4]); len(got) > 0 {
		t.Errorf("recorded by a dry run: %v", got)
	}
	neutron.once = sync.OnceFunc(meanwhile)
	s.reconcile(converge.Order{})
	for i, want := range map[int][]netip.Addr{0: {f.Address}, 1: nil, 2: {moving.Address}, 3: nil, 4: nil} {
		want = append(want, s.cloud.Network.Fixed(guests[i].id)...)
		if got := s.recorded(guests[i]); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", guests[i].name, got, want)
		}
	}
	s.expect(wants(guests[0], f))
	// web for its DNS records, and those between which an address moved or that lost one; each is asked twice at most.
	if asked := neutron.asked.Load(); asked > 8 {
		t.Errorf("Neutron was asked about single instances %d times", asked)
	}
	if found := s.reconcile(converge.Order{}).Kinds[3]; found.Remove != 0 || found.Look != 0 {
		t.Errorf("the second time: %+v", found)
	}
}

// TestGuardOfAddresses: Neutron that lost its floating IPs takes none away.
func TestGuardOfAddresses(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	var want [][]string
	var all []network.FloatingIP
	for n := range 21 {
		g := s.boot(fmt.Sprint("web", n))
		f := s.floating(g)
		want, all = append(want, wants(g, f)), append(all, f)
	}
	s.read()
	s.expect(want...)
	for _, f := range all {
		must(t, s.cloud.Network.DeleteFloatingIP(f.ID))
	}
	s.news()
	if found := s.reconcile(converge.Order{}).Kinds[3]; !found.Refused || found.Remove != 21 || found.Total != 63 {
		t.Errorf("%+v", found)
	}
	s.expect(want...)
	s.reconcile(converge.Order{Force: true})
	s.expect()
}

// TestStaleReplica: a replica that is slow to write to DNS does not undo what a
// faster one did, nor make records for an instance that has left.
func TestStaleReplica(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web := s.boot("web")
	f := s.floating(web)
	s.news()
	fast := s.queue
	s.cfg.DNS = slowDNS{s.cfg.DNS, sync.OnceFunc(func() {
		s.delete(web)
		must(t, <-fast.Offer(t.Context(), s.news()))
		s.gone(web)
	})}
	s.rebuildControllers()
	s.hint(converge.Key{Kind: converge.Instance, ID: web.id})
	s.expect()
	s.gone(web)
	_ = f
}

// slowDNS lets something happen before it writes.
type slowDNS struct {
	converge.DNS
	before func()
}

func (d slowDNS) Set(ctx context.Context, instanceID, fqdn string, addresses []netip.Addr) error {
	d.before()
	return d.DNS.Set(ctx, instanceID, fqdn, addresses)
}

// TestRecordsRemovedByOthers: what somebody took out of DNS, or out of FreeIPA, is seen by a comparison, which changes nothing if it is only to
// look, and comes back.
func TestRecordsRemovedByOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web, mail := s.boot("web"), s.boot("mail")
	f, g := s.floating(web), s.floating(mail)
	s.read()
	s.expect(wants(web, f), wants(mail, g))
	must(t, s.cloud.FreeIPA.RemoveRecord(zone+".", "web", "arecord", f.Address.String()))
	s.expect(wants(web, f)[:1], wants(mail, g))
	looked := func(report converge.Report) (n int) {
		for _, kind := range report.Kinds {
			if kind.Kind == converge.Address {
				n = kind.Look
			}
		}
		return n
	}
	for range 2 {
		if n := looked(s.reconcile(converge.Order{DryRun: true})); n != 1 {
			t.Errorf("a look finds %d instances", n)
		}
		s.expect(wants(web, f)[:1], wants(mail, g))
	}
	s.reconcile(converge.Order{})
	s.expect(wants(web, f), wants(mail, g))
	if n := looked(s.reconcile(converge.Order{DryRun: true})); n != 0 {
		t.Errorf("a look finds %d instances afterwards", n)
	}
	s.delete(web)
	s.delete(mail)
	s.read()
	s.gone(web)
	s.gone(mail)
	s.expect()
}

// TestEntryRemovedByOthers: a host that somebody took out of FreeIPA is told by the comparison.
func TestEntryRemovedByOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	web := s.boot("web")
	s.read()
	must(t, s.cloud.FreeIPA.Remove("web."+zone))
	looked := func(order converge.Order) (n int) {
		for _, kind := range s.reconcile(order).Kinds {
			if kind.Kind == converge.Instance {
				n = kind.Look
			}
		}
		return n
	}
	if n := looked(converge.Order{DryRun: true}); n != 1 {
		t.Errorf("a look finds %d instances", n)
	}
	if n := looked(converge.Order{}); n != 1 {
		t.Errorf("the comparison looks at %d instances", n)
	}
	e, err := s.store.Enrolment(t.Context(), web.id)
	if err != nil || e.State != store.EnrolmentFailed || !strings.Contains(e.LastError, "somebody removed the host entry") {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestComparedWithoutFreeIPA: all else is compared, and what could not be is said.
func TestComparedWithoutFreeIPA(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web, mail := s.boot("web"), s.boot("mail")
	f := s.floating(web)
	s.read()
	s.cloud.FreeIPA.Inject(func(string) freeipa.Fault { return freeipa.Fault{Status: 503} })
	s.delete(mail)
	s.news() // which nobody hears of
	if _, err := s.compare.Reconcile(t.Context(), converge.Order{}); err == nil || !strings.Contains(err.Error(), "compare entries with FreeIPA") ||
		!strings.Contains(err.Error(), "compare DNS records") {
		t.Error(err)
	}
	s.cloud.FreeIPA.Inject(nil)
	s.gone(mail)
	s.expect(wants(web, f))
}
