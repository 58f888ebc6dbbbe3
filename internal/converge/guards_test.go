// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/devcloud/network"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/internal/uuid"
)

// blind is a Keystone that shows nothing, as one does to a user without rights.
type blind struct {
	converge.Keystone
	rights error
}

func (b blind) CheckRights(context.Context) error { return b.rights }

func (b blind) User(context.Context, string) (keystone.User, error) {
	return keystone.User{}, keystone.ErrNotFound
}

func (b blind) Project(context.Context, string) (keystone.Project, error) {
	return keystone.Project{}, keystone.ErrNotFound
}

func (b blind) EffectiveRoles(context.Context, string, string, ...string) ([]string, error) {
	return nil, nil
}

// TestNothingIsTakenUnchecked: before anything is taken away, the rights are
// asked for, by each controller for itself.
func TestNothingIsTakenUnchecked(t *testing.T) {
	for kind, key := range map[converge.Kind]func(person) converge.Key{
		converge.User:    func(p person) converge.Key { return converge.Key{Kind: converge.User, ID: p.user} },
		converge.Project: func(p person) converge.Key { return converge.Key{Kind: converge.Project, ID: p.project} },
		converge.Grant:   func(p person) converge.Key { return converge.GrantKey(p.user, p.project) },
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w, p, instance := peopled(t)
			seeing := w.cfg.Keystone
			w.cfg.Keystone = blind{seeing, errBroken}
			w.restart()
			w.hint(key(p))
			w.intact(p, instance)
			if failed := w.pending(); len(failed) != 1 || !strings.Contains(failed[0], "nothing is taken away") {
				t.Errorf("%v", failed)
			}
			w.cfg.Keystone = blind{seeing, nil}
			w.restart()
			w.hint(key(p))
			if live := w.live(p); len(live) != 0 {
				t.Errorf("with rights: %v", live)
			}
		})
	}
}

// closed is a Keystone all of whose domains are disabled, and that says so
// nowhere else.
type closed struct{ converge.Keystone }

func (c closed) Domain(_ context.Context, id string) (keystone.Domain, error) {
	return keystone.Domain{ID: id}, nil
}

func (c closed) Domains(ctx context.Context) ([]keystone.Domain, error) {
	all, err := c.Keystone.Domains(ctx)
	for i := range all {
		all[i].Enabled = false
	}
	return all, err
}

// TestDisabledDomain: its users and projects count as disabled, although they
// are not themselves.
func TestDisabledDomain(t *testing.T) {
	for _, kind := range []converge.Kind{converge.User, converge.Project} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w, p, _ := peopled(t)
			w.cfg.Keystone = closed{w.cfg.Keystone}
			w.restart()
			report := w.reconcile(converge.Order{DryRun: true})
			if report.Kinds[0].Remove != 1 || report.Kinds[1].Remove != 1 {
				t.Errorf("compared: %+v", report.Kinds[:2])
			}
			w.hint(map[converge.Kind]converge.Key{converge.User: {Kind: kind, ID: p.user}, converge.Project: {Kind: kind, ID: p.project}}[kind])
			if live := w.live(p); len(live) != 0 {
				t.Errorf("hinted: %v", live)
			}
			if kind == converge.Project {
				// It waits for the end of the time of grace, and is not looked at until then.
				if found := w.reconcile(converge.Order{DryRun: true}).Kinds[0]; found.Look != 0 || found.Remove != 0 {
					t.Errorf("again: %+v", found)
				}
			}
		})
	}
}

// TestLongReason: however many accounts are lost at once, the certificate goes.
func TestLongReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, _ := w.newPerson()
	for n := range 25 {
		role := w.role(fmt.Sprintf("%s%d", strings.Repeat("r", 26), n))
		w.ask("PUT", "/projects/"+p.project+"/users/"+p.user+"/roles/"+role, nil)
	}
	w.issue(p)
	w.ask("DELETE", "/projects/"+p.project, nil)
	w.hint(converge.GrantKey(p.user, p.project))
	if live := w.live(p); len(live) != 0 {
		t.Errorf("%v, %v", live, w.pending())
	}
}

// TestVeryManyCertificates: all of a user's certificates go with the role, however
// many there are.
func TestVeryManyCertificates(t *testing.T) {
	t.Parallel()
	w, p, _ := peopled(t)
	var group errgroup.Group
	group.SetLimit(50)
	for range store.MaxSerials {
		key := newKey(t)
		group.Go(func() error {
			_, err := w.ca.IssueUser(t.Context(), sshca.Actor{UserID: p.user}, sshca.UserRequest{ProjectID: p.project, UserID: p.user, UserName: "somebody",
				PublicKey: key})
			return err
		})
	}
	must(t, group.Wait())
	w.ask("DELETE", "/projects/"+p.project+"/users/"+p.user+"/roles/"+w.role("member"), nil)
	w.hint(converge.GrantKey(p.user, p.project))
	if live := w.live(p); len(live) > 0 {
		t.Errorf("%d are left: %v", len(live), w.pending())
	}
}

// TestGuardShare: many may go at once where there are very many.
func TestGuardShare(t *testing.T) {
	t.Parallel()
	w, p, _ := peopled(t)
	var err error
	controllers, err := converge.New(w.cfg)
	must(t, err)
	w.compare, err = converge.NewComparison(converge.ComparisonConfig{Controllers: controllers, Queue: w.queue, Leases: w.store, Holder: "here",
		Now: w.clock.Now, GuardCount: 1, GuardShare: 0.5})
	must(t, err)
	var all []string
	for range 5 {
		all = append(all, w.boot(p))
	}
	for gone, refused := range []bool{false, false, false, false, true, true} { // of 6
		if gone > 0 {
			must(t, w.cloud.Compute.Delete(all[gone-1]))
		}
		if found := w.reconcile(converge.Order{DryRun: true}).Kinds[2]; found.Refused != refused || found.Remove != gone || found.Total != 6 {
			t.Errorf("%d of 6: %+v", gone, found)
		}
	}
}

// growing is a Nova where something happens after its list was read.
type growing struct {
	converge.Nova
	then func()
}

func (g growing) EachServer(ctx context.Context, do func(openstack.Server) error) error {
	err := g.Nova.EachServer(ctx, do)
	g.then()
	return err
}

// TestNewAfterTheList: what is recorded after Nova's list was read is not missing
// in it, and each instance counts once.
func TestNewAfterTheList(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	s.boot("web")
	s.cfg.Nova = growing{s.cfg.Nova, func() {
		s.bootOnly("late")
		_, err := s.enrolment.Enrol(t.Context(), enroll.Actor{}, enroll.Request{InstanceID: strings.Repeat("e", 32), ProjectID: s.project,
			ProjectName: "p", Hostname: "later"})
		must(t, err)
	}}
	s.restart()
	if found := s.reconcile(converge.Order{DryRun: true}).Kinds[2]; found.Remove != 0 || found.Total != 3 {
		t.Errorf("%+v", found)
	}
}

// TestRecordedByWrongClock: what was recorded while the clock was a year ahead is
// not newer than the lists, and goes as all else does.
func TestRecordedByWrongClock(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	const year = 365 * 24 * time.Hour
	s.clock.step(year)
	plain, enrolled, stays := s.bootOnly("plain"), s.boot("enrolled"), s.boot("stays")
	f := s.floating(stays)
	s.read()
	s.clock.step(-year)
	s.delete(plain)
	s.delete(enrolled)
	must(t, s.ca.DeleteInstance(t.Context(), sshca.Actor{}, enrolled.id, "only its enrolment is left"))
	s.move(f, "")
	s.news() // lost
	report := s.reconcile(converge.Order{})
	if instances, addresses := report.Kinds[2], report.Kinds[3]; instances.Remove != 2 || addresses.Remove != 1 {
		t.Errorf("%+v, %+v", instances, addresses)
	}
	if _, err := s.store.Instance(t.Context(), plain.id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v", err)
	}
	s.gone(enrolled)
}

// TestForgedPortCompared: the comparison, too, takes no port of another project
// for an instance's. The instance has no enrolment, so that nothing else looks
// at it. Nor does it keep addresses of instances that Muster has nothing of.
func TestForgedPortCompared(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	plain := s.bootOnly("plain")
	stranger := s.bootOnly("stranger")
	must(t, s.ca.DeleteInstance(t.Context(), sshca.Actor{}, stranger.id, "never was"))
	own := slices.Clone(s.cloud.Network.Fixed(plain.id))
	attacker, _ := s.newPerson()
	port, err := s.cloud.Network.AddPort(network.Port{ProjectID: attacker.project, DeviceID: uuid.Dashed(plain.id), DeviceOwner: "compute:nova"})
	must(t, err)
	_, err = s.cloud.Network.CreateFloatingIP(attacker.project, port)
	must(t, err)
	s.news() // lost
	s.reconcile(converge.Order{})
	if got := s.recorded(plain); !slices.Equal(got, own) {
		t.Errorf("recorded %v, wanted %v", got, own)
	}
	if got := s.recorded(stranger); len(got) > 0 {
		t.Errorf("recorded of a stranger: %v", got)
	}
}

// TestGoneWithAddresses: the addresses of an instance that is gone go with it,
// and do not count once more.
func TestGoneWithAddresses(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	plain := s.bootOnly("plain")
	s.floating(plain)
	s.read()
	s.delete(plain)
	s.news() // lost
	report := s.reconcile(converge.Order{DryRun: true})
	if instances, addresses := report.Kinds[2], report.Kinds[3]; instances.Remove != 1 || addresses.Remove != 0 {
		t.Errorf("%+v, %+v", instances, addresses)
	}
}

// forgetful are records that do not take addresses away, for once.
type forgetful struct {
	converge.Records
	fail func() error
}

func (f forgetful) SetAddresses(ctx context.Context, id string, addresses []store.Address) error {
	if err := f.fail(); len(addresses) == 0 && err != nil {
		return err
	}
	return f.Records.SetAddresses(ctx, id, addresses)
}

// TestGoneInTwoTries: what could not be taken away with an instance at first goes
// with the next try, of one too that had nothing but an enrolment.
func TestGoneInTwoTries(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	id, err := s.cloud.Compute.Boot(t.Context(), compute.Server{Name: "web", ProjectID: s.project, UserID: s.user})
	must(t, err)
	canonical, err := uuid.Parse(id)
	must(t, err)
	web := guest{canonical, "web", s.cloud.Network.PortOf(id)}
	_, err = s.enrolment.Enrol(t.Context(), enroll.Actor{}, enroll.Request{InstanceID: web.id, ProjectID: s.project, ProjectName: "p", Hostname: web.name})
	must(t, err)
	s.floating(web)
	s.read()
	if got := s.recorded(web); len(got) < 2 {
		t.Fatalf("recorded: %v", got)
	}
	var broken atomic.Bool
	broken.Store(true)
	s.cfg.Records = forgetful{s.cfg.Records, func() error {
		if broken.Load() {
			return errBroken
		}
		return nil
	}}
	s.restart()
	s.delete(web)
	hints := s.news()
	s.offer(hints...)
	if failed := s.pending(); len(failed) != 1 || !strings.Contains(failed[0], errBroken.Error()) {
		t.Errorf("%v", failed)
	}
	broken.Store(false)
	s.offer(converge.Hint{Key: converge.Key{Kind: converge.Instance, ID: web.id}})
	s.gone(web)
	s.expect()
}

// TestVeryManyAddresses: of an instance with more addresses than are kept, the
// comparison does not record more either.
func TestVeryManyAddresses(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	plain := s.bootOnly("plain")
	wide := s.cloud.Network.AddNetwork(network.Network{Name: "wide", Subnets: []netip.Prefix{netip.MustParsePrefix("172.20.0.0/16")}})
	for range store.MaxAddresses {
		_, err := s.cloud.Network.AddPort(network.Port{ProjectID: s.project, NetworkID: wide, DeviceID: uuid.Dashed(plain.id), DeviceOwner: "compute:nova"})
		must(t, err)
	}
	s.news() // lost
	s.reconcile(converge.Order{})
	if got := s.recorded(plain); len(got) != store.MaxAddresses {
		t.Errorf("%d are recorded", len(got))
	}
}

// TestAddressesOfNobody: who makes a subnet chooses freely, but what can be no
// host's address is not one.
func TestAddressesOfNobody(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	plain := s.bootOnly("plain")
	own := slices.Clone(s.cloud.Network.Fixed(plain.id))
	loop := s.cloud.Network.AddNetwork(network.Network{Name: "loop", Subnets: []netip.Prefix{netip.MustParsePrefix("127.0.5.0/24")}})
	_, err := s.cloud.Network.AddPort(network.Port{ProjectID: s.project, NetworkID: loop, DeviceID: uuid.Dashed(plain.id), DeviceOwner: "compute:nova"})
	must(t, err)
	s.read()
	s.reconcile(converge.Order{})
	if got := s.recorded(plain); !slices.Equal(got, own) {
		t.Errorf("recorded %v, wanted %v", got, own)
	}
}
