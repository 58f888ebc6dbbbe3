// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/devcloud/network"
	"github.com/muster-cloud/muster/internal/dns"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/notify"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/internal/uuid"
)

const (
	ipaUser   = "nova/muster.example.test"
	zone      = "example.test"
	reverse4  = "113.0.203.in-addr.arpa" // of the network Public
	reverse10 = "10.in-addr.arpa"
	reverse6  = "0.0.0.0.2.4.d.f.ip6.arpa"
)

// site is a world with a FreeIPA, its DNS, and the notifications that nobody
// has read yet.
type site struct {
	*world
	person
	directory *ipa.Client
	enrolment *enroll.Service

	mu     sync.Mutex
	unread []converge.Hint
}

// newSite has the zone of the host names and the given ones.
func newSite(t testing.TB, zones ...string) *site {
	t.Helper()
	s := &site{}
	s.world = newWorldWith(t, &freeipa.Config{Domain: zone, Passwords: map[string]string{ipaUser: "secret"}})
	must(t, s.cloud.FreeIPA.GrantHostManagement(ipaUser))
	for _, one := range zones {
		must(t, s.cloud.FreeIPA.AddZone(one+"."))
	}
	s.person, _ = s.newPerson()
	s.directory = s.newDirectory()
	records, err := dns.New(dns.Config{Objects: s.store, Provider: dns.NewFreeIPA(s.directory)})
	must(t, err)
	keyring, err := custody.ParseKeyring(strings.NewReader(custody.NewMasterKey()))
	must(t, err)
	s.enrolment, err = enroll.New(enroll.Config{Store: s.store, Directory: s.directory, Sealer: keyring, DNS: records, Realm: "EXAMPLE.TEST",
		Rules: enroll.Rules{Domain: zone}, Now: s.clock.Now, PollEvery: 5 * time.Millisecond, BackoffMin: 5 * time.Millisecond,
		BackoffMax: 20 * time.Millisecond, AttemptTime: patience, AnswerWithin: patience})
	must(t, err)
	run(t, s.enrolment.Run)
	s.cfg.Enrolments, s.cfg.Neutron, s.cfg.DNS = leaving{s.enrolled, s.enrolment}, s.newNeutron("muster", musterPassword, false), records
	s.cfg.Published = converge.Published{Floating: []string{converge.AnyNetwork}}
	s.rebuildControllers()
	s.cloud.Notifier.To(s)
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) newDirectory() *ipa.Client {
	s.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.cloud.FreeIPA.CA())
	_, port, _ := strings.Cut(s.cloud.FreeIPAAddress(), ":")
	client, err := ipa.New(ipa.Config{Servers: []string{"localhost:" + port}, RootCAs: pool, BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond,
		Password: &ipa.Password{User: ipaUser, Password: "secret"}, DialTimeout: patience, LoginTimeout: patience, Timeout: patience})
	must(s.t, err)
	s.t.Cleanup(client.Close)
	return client
}

// leaving has instances leave FreeIPA, and only notes what else is ordered.
type leaving struct {
	*enrolments
	service *enroll.Service
}

func (l leaving) Leave(ctx context.Context, id string) error {
	return l.service.Leave(ctx, enroll.Actor{}, id)
}

func (l leaving) Astray(ctx context.Context, all []store.Enrolment) ([]string, error) {
	return l.service.Astray(ctx, all)
}

func (l leaving) Mend(ctx context.Context, id string) error {
	return l.service.Mend(ctx, enroll.Actor{}, id)
}

// Publish implements messaging.Publisher.
func (s *site) Publish(_ context.Context, _, _ string, body []byte) error {
	message, err := notify.Parse(body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unread = append(s.unread, message.Hints()...)
	return err
}

// news takes the hints that came since the last time.
func (s *site) news() []converge.Hint {
	s.t.Helper()
	must(s.t, s.cloud.Notifier.Flush(s.t.Context()))
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.unread
	s.unread = nil
	return all
}

// read has all news worked on.
func (s *site) read() {
	s.t.Helper()
	s.offer(s.news()...)
}

// guest is an instance.
type guest struct{ id, name, port string }

// boot starts an instance that has enrolled under its name.
func (s *site) boot(name string) guest {
	s.t.Helper()
	g := s.bootOnly(name)
	answer, err := s.enrolment.Enrol(s.t.Context(), enroll.Actor{}, enroll.Request{InstanceID: g.id, ProjectID: s.project, ProjectName: "p", Hostname: name})
	must(s.t, err)
	if answer.OTP == "" {
		s.t.Fatalf("%s did not enrol: %+v", name, answer)
	}
	return g
}

// bootOnly starts an instance that is not to enrol.
func (s *site) bootOnly(name string) guest {
	s.t.Helper()
	id, err := s.cloud.Compute.Boot(s.t.Context(), compute.Server{Name: name, ProjectID: s.project, UserID: s.user})
	must(s.t, err)
	canonical, err := uuid.Parse(id)
	must(s.t, err)
	_, err = s.ca.HostToken(s.t.Context(), sshca.Actor{}, sshca.InstanceRequest{InstanceID: canonical, ProjectID: s.project, Hostname: name})
	must(s.t, err)
	return guest{canonical, name, s.cloud.Network.PortOf(id)}
}

// floating takes a floating IP, on an instance's port or (no guest) on none.
func (s *site) floating(on ...guest) network.FloatingIP {
	s.t.Helper()
	port := ""
	for _, g := range on {
		port = g.port
	}
	f, err := s.cloud.Network.CreateFloatingIP(s.project, port)
	must(s.t, err)
	return f
}

func (s *site) move(f network.FloatingIP, port string) {
	s.t.Helper()
	must(s.t, s.cloud.Network.Associate(f.ID, port))
}

func (s *site) delete(g guest) {
	s.t.Helper()
	must(s.t, s.cloud.Compute.Delete(g.id))
}

// records are the address and PTR records of all zones, as a zone file has them.
func (s *site) records() []string {
	all := []string{}
	for _, in := range []string{zone, reverse4, reverse10, reverse6} {
		for name, kinds := range s.cloud.FreeIPA.Records(in) {
			for kind, values := range kinds {
				for _, value := range values {
					// FreeIPA's own are left out.
					if name != "@" && !strings.HasPrefix(name, "ipa") && !strings.HasPrefix(name, "_") && kind != "nsrecord" {
						all = append(all, fmt.Sprintf("%s %s %s", name, strings.ToUpper(strings.TrimSuffix(kind, "record")), value))
					}
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

// wants are the records that a floating IP of the network Public has.
func wants(g guest, f network.FloatingIP) []string {
	last := f.Address.As4()[3]
	return []string{fmt.Sprintf("%d PTR %s.%s.", last, g.name, zone), fmt.Sprintf("%s A %s", g.name, f.Address)}
}

// expect holds the records against what should be there, and nothing else.
func (s *site) expect(groups ...[]string) {
	s.t.Helper()
	want := slices.Concat(groups...)
	if want == nil {
		want = []string{}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, s.records()); diff != "" {
		s.t.Fatalf("wanted -, got +:\n%s", diff)
	}
}

func (s *site) eventually(is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !is() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// gone waits until FreeIPA has nothing of an instance any more.
func (s *site) gone(g guest) {
	s.t.Helper()
	s.eventually(func() bool {
		e, err := s.store.Enrolment(s.t.Context(), g.id)
		return err == nil && e.State == store.EnrolmentGone
	})
	e, err := s.store.Enrolment(s.t.Context(), g.id)
	if err != nil || e.State != store.EnrolmentGone {
		s.t.Fatalf("%s: %+v, %v", g.name, e, err)
	}
	objects, err := s.store.Objects(s.t.Context(), g.id)
	for _, o := range objects {
		// What was removed and may come back yet, see store.BeginChange, stays recorded for a while.
		if !o.Leaving || !o.UnsureUntil.After(s.clock.Now()) {
			s.t.Errorf("%s left %+v", g.name, o)
		}
	}
	must(s.t, err)
	if addresses := s.recorded(g); len(addresses) > 0 {
		s.t.Errorf("%s left %v", g.name, addresses)
	}
}

// recorded are an instance's addresses by Muster's records.
func (s *site) recorded(g guest) (all []netip.Addr) {
	s.t.Helper()
	addresses, err := s.store.Addresses(s.t.Context(), g.id)
	must(s.t, err)
	for _, a := range addresses {
		all = append(all, a.IP)
	}
	return all
}

// dueNow makes what was put off due, and waits until it was tried once more.
func (s *site) dueNow() {
	s.t.Helper()
	s.clock.step(2 * time.Hour)
	s.eventually(func() bool { return s.pending() == nil })
}
