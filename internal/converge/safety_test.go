// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/internal/uuid"
)

// peopled has a person with a role, a certificate, and an instance with a token.
func peopled(t *testing.T) (w *world, p person, instance string) {
	t.Helper()
	w = newWorld(t)
	p, _ = w.newPerson()
	w.ask("PUT", "/projects/"+p.project+"/users/"+p.user+"/roles/"+w.role("member"), nil)
	w.issue(p)
	return w, p, w.boot(p)
}

// intact fails the test unless all of it is still there.
func (w *world) intact(p person, instance string) {
	w.t.Helper()
	if live := w.live(p); len(live) != 1 {
		w.t.Errorf("certificates: %v", live)
	}
	if _, err := w.store.Instance(w.t.Context(), instance); err != nil {
		w.t.Errorf("instance: %v", err)
	}
	if life, err := w.store.AuthorityLife(w.t.Context(), p.project); err != nil || !life.GoneAt.IsZero() {
		w.t.Errorf("authority: %+v, %v", life, err)
	}
	if len(w.enrolled.left) != 0 {
		w.t.Errorf("left FreeIPA: %v", w.enrolled.left)
	}
}

func everyKey(p person, instance string) []converge.Key {
	return []converge.Key{{Kind: converge.User, ID: p.user}, {Kind: converge.Project, ID: p.project}, converge.GrantKey(p.user, p.project),
		{Kind: converge.Group, ID: "0123456789abcdef0123456789abcdef"}, {Kind: converge.Role, ID: "0123456789abcdef0123456789abcdef"},
		{Kind: converge.Domain, ID: "0123456789abcdef0123456789abcdef"}, {Kind: converge.Instance, ID: instance},
		{Kind: converge.Address, ID: instance}}
}

// TestHintsAloneDoNothing: any number of hints change nothing that is so in the cloud.
func TestHintsAloneDoNothing(t *testing.T) {
	t.Parallel()
	w, p, instance := peopled(t)
	for range 3 {
		w.hint(everyKey(p, instance)...)
		w.offer(converge.Hint{Key: converge.Key{Kind: converge.Instance, ID: instance}, Rebuilt: true})
	}
	w.reconcile(converge.Order{})
	w.intact(p, instance)
	if failed := w.pending(); failed != nil || len(w.enrolled.rebuilt) != 0 {
		t.Error(failed, w.enrolled.rebuilt)
	}
}

// TestServiceUserWithoutRights: a service user that lost its role sees nothing,
// and removes nothing: by hint, by comparison, whatever is really gone.
func TestServiceUserWithoutRights(t *testing.T) {
	for _, left := range []string{"", "reader"} {
		t.Run("left with "+left, func(t *testing.T) {
			t.Parallel()
			w, p, instance := peopled(t)
			w.hint(everyKey(p, instance)...) // logs in
			muster := w.cloud.Identity.UserID("muster")
			service := w.cloud.Identity.ProjectID("service")
			if left != "" {
				w.ask("PUT", "/projects/"+service+"/users/"+muster+"/roles/"+w.role(left), nil)
			}
			w.ask("DELETE", "/projects/"+service+"/users/"+muster+"/roles/"+w.role("admin"), nil)
			w.clock.step(time.Minute)
			w.hint(everyKey(p, instance)...)
			if _, err := w.compare.Reconcile(t.Context(), converge.Order{Force: true}); err == nil {
				t.Error("it was compared without rights")
			}
			w.intact(p, instance)
			if failed := w.pending(); len(failed) < 5 {
				t.Errorf("failures recorded: %v", failed)
			}

			// With its role again, the same keys do what there is to do.
			w.ask("PUT", "/projects/"+service+"/users/"+muster+"/roles/"+w.role("admin"), nil)
			w.ask("DELETE", "/users/"+p.user, nil)
			w.renew()
			w.hint(everyKey(p, instance)...)
			if live := w.live(p); len(live) != 0 {
				t.Errorf("certificates of a user who is gone: %v", live)
			}
		})
	}
}

// renew makes the clients log in anew.
func (w *world) renew() {
	w.t.Helper()
	w.cfg.Nova = w.newNova()
	client, err := keystone.New(keystone.Config{AuthURL: w.cloud.AuthURL(), Username: "muster", Password: musterPassword, UserDomainID: "default",
		ProjectName: "service", ProjectDomainID: "default"})
	if err != nil {
		w.t.Fatal(err)
	}
	w.cfg.Keystone, w.cfg.Caches = client, client
	w.rebuildControllers()
}

func (w *world) newNova() *openstack.Servers {
	w.t.Helper()
	nova, err := openstack.NewServers(w.logIn("muster", musterPassword))
	if err != nil {
		w.t.Fatal(err)
	}
	return nova
}

func (w *world) newNeutron(user, password string, names bool) *openstack.Networks {
	w.t.Helper()
	neutron, err := openstack.NewNetworks(w.logIn(user, password), names)
	if err != nil {
		w.t.Fatal(err)
	}
	return neutron
}

// logIn is a user's, in project service.
func (w *world) logIn(user, password string) openstack.Config {
	return openstack.Config{
		Auth: gophercloud.AuthOptions{IdentityEndpoint: w.cloud.AuthURL(), Username: user, Password: password, DomainID: "default",
			Scope: &gophercloud.AuthScope{ProjectName: "service", DomainID: "default"}},
		Transport: http.DefaultTransport, Timeout: patience,
	}
}

var errBroken = errors.New("broken off")

// brokenKeystone fails one of its calls, some of them half-way.
type brokenKeystone struct {
	converge.Keystone
	call string
	err  error
}

func (b brokenKeystone) fails(call string) error {
	if b.call == call {
		return b.err
	}
	return nil
}

func (b brokenKeystone) User(ctx context.Context, id string) (keystone.User, error) {
	if err := b.fails("User"); err != nil {
		return keystone.User{}, err
	}
	return b.Keystone.User(ctx, id)
}

func (b brokenKeystone) Project(ctx context.Context, id string) (keystone.Project, error) {
	if err := b.fails("Project"); err != nil {
		return keystone.Project{}, err
	}
	return b.Keystone.Project(ctx, id)
}

func (b brokenKeystone) Domain(ctx context.Context, id string) (keystone.Domain, error) {
	if err := b.fails("Domain"); err != nil {
		return keystone.Domain{}, err
	}
	return b.Keystone.Domain(ctx, id)
}

func (b brokenKeystone) EffectiveRoles(ctx context.Context, userID, projectID string, groupIDs ...string) ([]string, error) {
	if err := b.fails("EffectiveRoles"); err != nil {
		return nil, err
	}
	return b.Keystone.EffectiveRoles(ctx, userID, projectID, groupIDs...)
}

func (b brokenKeystone) CheckRights(ctx context.Context) error {
	return errors.Join(b.fails("CheckRights"), b.Keystone.CheckRights(ctx))
}

func (b brokenKeystone) Domains(ctx context.Context) ([]keystone.Domain, error) {
	if b.call == "no domains" {
		return nil, nil
	}
	all, err := b.Keystone.Domains(ctx)
	return all, errors.Join(b.fails("Domains"), err)
}

func (b brokenKeystone) EachProject(ctx context.Context, domain string, do func(keystone.Project) error) error {
	if b.call == "no projects" || b.call == "EachProject" {
		return b.fails("EachProject")
	}
	return b.Keystone.EachProject(ctx, domain, do)
}

func (b brokenKeystone) EachUser(ctx context.Context, domain string, do func(keystone.User) error) error {
	if err := b.fails("EachUser"); err != nil {
		return err
	}
	return b.Keystone.EachUser(ctx, domain, do)
}

func (b brokenKeystone) EachAssignment(ctx context.Context, do func(keystone.Assignment) error) error {
	if err := b.fails("EachAssignment"); err != nil {
		return err
	}
	return b.Keystone.EachAssignment(ctx, do)
}

// brokenNova lists the first instances, and then no more.
type brokenNova struct {
	converge.Nova
	err error
}

func (b brokenNova) EachServer(context.Context, func(openstack.Server) error) error { return b.err }

func (b brokenNova) Server(context.Context, string) (openstack.Server, error) {
	return openstack.Server{}, b.err
}

// TestPartialLists: a list that failed, or is only a part, or empty where it
// can't be, compares nothing at all, not even what was listed well.
func TestPartialLists(t *testing.T) {
	for _, call := range []string{"CheckRights", "Domains", "no domains", "EachProject", "no projects", "EachUser", "EachAssignment", "Nova"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			w, p, instance := peopled(t)
			gone, _ := w.newPerson() // something to find
			w.ask("PUT", "/projects/"+gone.project+"/users/"+gone.user+"/roles/"+w.role("member"), nil)
			w.issue(gone)
			w.ask("DELETE", "/projects/"+gone.project, nil)
			if call == "Nova" {
				w.cfg.Nova = brokenNova{w.cfg.Nova, errBroken}
			}
			w.cfg.Keystone = brokenKeystone{w.keystone, call, errBroken}
			w.rebuildControllers()
			if report, err := w.compare.Reconcile(t.Context(), converge.Order{Force: true}); err == nil {
				t.Errorf("it was compared: %+v", report)
			}
			w.intact(p, instance)
			if live := w.live(gone); len(live) != 1 {
				t.Error("something was done after half a comparison")
			}
		})
	}
}

// TestKeystoneFails: nobody has lost anything because Keystone does not answer
// one of the questions, though it answers all others.
func TestKeystoneFails(t *testing.T) {
	for call, failing := range map[string]int{"User": 1, "Project": 1, "Domain": 2, "EffectiveRoles": 1} {
		for _, err := range []error{keystone.ErrUnavailable, keystone.ErrForbidden, context.DeadlineExceeded} {
			t.Run(call+" "+err.Error(), func(t *testing.T) {
				t.Parallel()
				w, p, instance := peopled(t)
				w.cfg.Keystone = brokenKeystone{w.keystone, call, err}
				w.restart()
				w.hint(converge.Key{Kind: converge.User, ID: p.user}, converge.Key{Kind: converge.Project, ID: p.project}, converge.GrantKey(p.user, p.project))
				w.intact(p, instance)
				if failed := w.pending(); len(failed) != failing {
					t.Errorf("failures recorded: %v", failed)
				}
			})
		}
	}
}

// TestNovaFails: an instance is not gone because Nova does not answer.
func TestNovaFails(t *testing.T) {
	t.Parallel()
	w, p, instance := peopled(t)
	for _, err := range []error{openstack.ErrUnavailable, openstack.ErrForbidden, context.DeadlineExceeded} {
		w.cfg.Nova = brokenNova{w.cfg.Nova, err}
		w.rebuildControllers()
		w.hint(converge.Key{Kind: converge.Instance, ID: instance})
		w.intact(p, instance)
	}
	if failed := w.pending(); len(failed) != 1 {
		t.Error(failed)
	}
}

// TestGuard: a comparison that would take away too much takes away nothing of
// that kind, until an operator says so.
func TestGuard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	owner, _ := w.newPerson()
	var all []string
	for range 40 {
		all = append(all, w.boot(owner))
	}
	for _, id := range all[:21] {
		if err := w.cloud.Compute.Delete(id); err != nil {
			t.Fatal(err)
		}
	}
	count := func() int {
		t.Helper()
		left, err := w.store.Instances(t.Context(), store.Filter{}, store.Page{})
		if err != nil {
			t.Fatal(err)
		}
		return len(left)
	}
	kind := func(r converge.Report) converge.KindReport { return r.Kinds[2] }
	if found := kind(w.reconcile(converge.Order{})); !found.Refused || found.Remove != 21 || found.Total != 40 || count() != 40 {
		t.Errorf("21 of 40: %+v, left %d", found, count())
	}
	if found := kind(w.reconcile(converge.Order{DryRun: true, Force: true})); found.Refused || len(found.Suspects) != 21 || count() != 40 {
		t.Errorf("dry run: %+v, left %d", found, count())
	}
	// A hint about one of them is no comparison.
	w.hint(converge.Key{Kind: converge.Instance, ID: all[0]})
	if count() != 39 {
		t.Errorf("hinted: left %d", count())
	}
	if found := kind(w.reconcile(converge.Order{})); found.Refused || count() != 19 {
		t.Errorf("20 of 39: %+v, left %d", found, count())
	}
}

func TestForce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	owner, _ := w.newPerson()
	for range 21 {
		if err := w.cloud.Compute.Delete(w.boot(owner)); err != nil {
			t.Fatal(err)
		}
	}
	w.reconcile(converge.Order{})
	w.reconcile(converge.Order{Force: true})
	left, err := w.store.Instances(t.Context(), store.Filter{}, store.Page{})
	if err != nil || len(left) != 0 {
		t.Errorf("left: %d, %v", len(left), err)
	}
}

// TestLease: of two replicas one compares, and after its death the other.
func TestLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	controllers, err := converge.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	leases := &toldLeases{Leases: w.store, told: make(chan bool)}
	registry := prometheus.NewRegistry()
	c, err := converge.NewComparison(converge.ComparisonConfig{Controllers: controllers, Queue: w.queue, Leases: leases, Holder: "alive",
		Interval: 20 * time.Millisecond, Now: w.clock.Now, Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	if held, err := w.store.Lease(t.Context(), "compare", "dead", time.Hour); err != nil || !held {
		t.Fatal(held, err)
	}
	run(t, c.Run)
	for range 3 {
		if leases.await(t) {
			t.Fatal("two replicas compare at once")
		}
	}
	if n := done(t, registry); n != 0 {
		t.Errorf("compared %v times while another replica holds the lease", n)
	}
	w.clock.step(2 * time.Hour) // the holder is dead
	for !leases.await(t) {
	}
	w.clock.step(time.Hour)
	leases.await(t) // the next turn comes after the first comparison
	if done(t, registry) == 0 {
		t.Error("nobody compares after the holder's death")
	}
}

// TestOtherReplicaCompares: a replica that cannot reach Keystone does not keep
// the others, which can, from comparing.
func TestOtherReplicaCompares(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	compare := func(holder string, interval time.Duration, asked converge.Keystone) *prometheus.Registry {
		t.Helper()
		cfg := w.cfg
		cfg.Keystone = asked
		controllers, err := converge.New(cfg)
		must(t, err)
		registry := prometheus.NewRegistry()
		c, err := converge.NewComparison(converge.ComparisonConfig{Controllers: controllers, Queue: w.queue, Leases: w.store, Holder: holder,
			Interval: interval, Now: w.clock.Now, Registerer: registry})
		must(t, err)
		run(t, c.Run)
		return registry
	}
	cutOff := compare("cut off", time.Hour, brokenKeystone{w.keystone, "Domains", errBroken})
	await := func(outcome string, in *prometheus.Registry) {
		t.Helper()
		for deadline := time.Now().Add(patience); compared(t, in, outcome) == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("no comparison is", outcome)
			}
		}
	}
	await("failed", cutOff)
	await("done", compare("well", 200*time.Millisecond, w.keystone))
}

// toldLeases tells of each attempt whether it was held. Nobody goes on until
// that is heard, or the comparison ends.
type toldLeases struct {
	converge.Leases
	told chan bool
}

func (l *toldLeases) Lease(ctx context.Context, name, holder string, ttl time.Duration) (bool, error) {
	held, err := l.Leases.Lease(ctx, name, holder, ttl)
	if err == nil {
		select {
		case l.told <- held:
		case <-ctx.Done():
		}
	}
	return held, err
}

func (l *toldLeases) await(t *testing.T) bool {
	t.Helper()
	select {
	case held := <-l.told:
		return held
	case <-time.After(patience):
		t.Fatal("nobody tries to compare")
		return false
	}
}

// done is how many comparisons went through.
func done(t *testing.T, from prometheus.Gatherer) float64 { return compared(t, from, "done") }

// compared is how many comparisons had an outcome.
func compared(t *testing.T, from prometheus.Gatherer, outcome string) float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := 0.0
	for _, family := range families {
		if family.GetName() != "muster_converge_comparisons_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			if metric.GetLabel()[0].GetValue() == outcome {
				n += metric.GetCounter().GetValue()
			}
		}
	}
	return n
}

// TestProjectLife: a project's end and return, with its authority.
func TestProjectLife(t *testing.T) {
	t.Parallel()
	w, p, _ := peopled(t)
	w.disable("project", p.project)
	key := converge.Key{Kind: converge.Project, ID: p.project}
	w.hint(key)
	life := func() store.AuthorityLife {
		t.Helper()
		life, err := w.store.AuthorityLife(t.Context(), p.project)
		if err != nil {
			t.Fatal(err)
		}
		return life
	}
	if l := life(); l.GoneAt.IsZero() || !l.RetiredAt.IsZero() || len(w.live(p)) != 0 {
		t.Fatalf("at once: %+v", l)
	}
	w.clock.step(6 * 24 * time.Hour)
	w.reconcile(converge.Order{})
	if l := life(); !l.RetiredAt.IsZero() {
		t.Fatalf("before the grace has ended: %+v", l)
	}
	w.clock.step(2 * 24 * time.Hour)
	w.reconcile(converge.Order{})
	if l := life(); l.RetiredAt.IsZero() {
		t.Fatalf("after the grace: %+v", l)
	}
	w.ask("PATCH", "/projects/"+p.project, map[string]any{"project": map[string]any{"enabled": true}})
	w.reconcile(converge.Order{})
	if l := life(); !l.GoneAt.IsZero() || !l.RetiredAt.IsZero() {
		t.Fatalf("enabled again: %+v", l)
	}
	w.issue(p)
}

// TestCreateAuthorities: a project has its authority before anybody asks.
func TestCreateAuthorities(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.CreateAuthorities = true
	w.rebuildControllers()
	hinted, _ := w.newPerson()
	w.hint(converge.Key{Kind: converge.Project, ID: hinted.project})
	if _, err := w.store.Authority(t.Context(), hinted.project); err != nil {
		t.Error(err)
	}
	found, _ := w.newPerson()
	w.reconcile(converge.Order{})
	if _, err := w.store.Authority(t.Context(), found.project); err != nil {
		t.Error(err)
	}
}

// TestInstanceGone: its token, certificates and enrolment end, by hint or comparison.
func TestInstanceGone(t *testing.T) {
	for _, how := range []string{"hinted", "compared"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w, p, instance := peopled(t)
			other := w.boot(p)
			if err := w.cloud.Compute.Delete(instance); err != nil {
				t.Fatal(err)
			}
			if how == "hinted" {
				w.hint(converge.Key{Kind: converge.Instance, ID: instance})
			} else {
				w.reconcile(converge.Order{})
			}
			if _, err := w.store.Instance(t.Context(), instance); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("instance: %v", err)
			}
			if _, err := w.store.Instance(t.Context(), other); err != nil {
				t.Errorf("other instance: %v", err)
			}
		})
	}
}

// TestBootedIsNotGone: Nova, which just spoke for an instance that boots, does
// not answer for it yet. It is ended only by what else says that it changed.
func TestBootedIsNotGone(t *testing.T) {
	t.Parallel()
	w, _, instance := peopled(t)
	if err := w.cloud.Compute.Delete(instance); err != nil {
		t.Fatal(err)
	}
	booted := converge.Hint{Key: converge.Key{Kind: converge.Instance, ID: instance}, Booted: true}
	w.offer(booted)
	if _, err := w.store.Instance(t.Context(), instance); err != nil {
		t.Errorf("ended right after its boot: %v", err)
	}
	if failed := w.pending(); failed != nil {
		t.Error(failed)
	}
	w.offer(booted, converge.Hint{Key: booted.Key})
	if _, err := w.store.Instance(t.Context(), instance); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("hinted otherwise too: %v", err)
	}
}

// TestRebuilt: a rebuild gives a new token once, however often it is hinted;
// without a hint, the comparison finds it.
func TestRebuilt(t *testing.T) {
	for _, how := range []string{"hinted", "compared"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w, _, instance := peopled(t)
			w.spend(instance)
			before := w.tokenOf(instance)
			find := func() {
				t.Helper()
				if how == "compared" {
					w.reconcile(converge.Order{})
					return
				}
				w.offer(converge.Hint{Key: converge.Key{Kind: converge.Instance, ID: instance}, Rebuilt: true})
			}
			find()
			if w.tokenOf(instance) != before {
				t.Fatal("a new token without a rebuild")
			}
			if err := w.cloud.Compute.Rebuild(instance); err != nil {
				t.Fatal(err)
			}
			find()
			after := w.tokenOf(instance)
			if after == before {
				t.Fatal("no new token")
			}
			find()
			find()
			if w.tokenOf(instance) != after {
				t.Error("a second new token for one rebuild")
			}
		})
	}
}

func (w *world) tokenOf(instance string) string {
	w.t.Helper()
	record, err := w.store.Instance(w.t.Context(), instance)
	if err != nil {
		w.t.Fatal(err)
	}
	return record.Token.Hash
}

// spend uses the instance's token for a host certificate.
func (w *world) spend(instance string) {
	w.t.Helper()
	record, err := w.store.Instance(w.t.Context(), instance)
	if err != nil {
		w.t.Fatal(err)
	}
	boot, err := w.ca.HostToken(w.t.Context(), sshca.Actor{}, sshca.InstanceRequest{InstanceID: instance, ProjectID: record.ProjectID, Hostname: record.Hostname})
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = w.ca.IssueHost(w.t.Context(), sshca.Actor{}, sshca.HostRequest{Token: boot.Token, InstanceID: instance, PublicKey: newKey(w.t)})
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestMoved: whatever Nova does to an instance but for deleting and rebuilding
// it, the instance stays who it is, hinted or compared.
func TestMoved(t *testing.T) {
	for name, act := range map[string]func(*compute.Service, string) error{
		"evacuated": (*compute.Service).Evacuate,
		"resized":   func(s *compute.Service, id string) error { return s.Resize(id, "m1.large") },
		"shelved":   (*compute.Service).Shelve,
		"unshelved": (*compute.Service).Unshelve,
		"renamed":   func(s *compute.Service, id string) error { return s.Rename(id, "another name") },
		"metadata":  func(s *compute.Service, id string) error { return s.SetMetadata(id, map[string]string{"a": "b"}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, p, instance := peopled(t)
			w.enrolRecord(instance, p.project)
			w.spend(instance)
			before := w.tokenOf(instance)
			w.clock.step(time.Hour)
			if err := act(w.cloud.Compute, instance); err != nil {
				t.Fatal(err)
			}
			w.offer(converge.Hint{Key: converge.Key{Kind: converge.Instance, ID: instance}, Rebuilt: name == "evacuated"})
			w.reconcile(converge.Order{})
			w.intact(p, instance)
			if w.tokenOf(instance) != before || len(w.enrolled.rebuilt) != 0 {
				t.Error("it got a new identity")
			}
			if report := w.reconcile(converge.Order{DryRun: true}); report.Kinds[2].Look != 0 {
				t.Errorf("it is looked at again and again: %+v", report.Kinds[2])
			}
		})
	}
}

// enrolRecord makes an enrolment that has been joined.
func (w *world) enrolRecord(instance, project string) {
	w.t.Helper()
	_, _, err := w.store.BeginEnrolment(w.t.Context(), store.Enrolment{InstanceID: instance, ProjectID: project, FQDN: instance + ".example.test",
		State: store.EnrolmentEnrolled, OTPState: store.OTPUsed, Want: "{}"}, store.EnrolmentChange{})
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestRebuiltBefore: a rebuild from before Muster heard of an instance is none of
// the living host, whatever happens to the instance later.
func TestRebuiltBefore(t *testing.T) {
	t.Parallel()
	w, p, _ := peopled(t)
	id, err := w.cloud.Compute.Boot(t.Context(), compute.Server{Name: "old", ProjectID: p.project, UserID: p.user})
	must(t, err)
	id, err = uuid.Parse(id)
	must(t, err)
	must(t, w.cloud.Compute.Rebuild(id))
	_, err = w.ca.HostToken(t.Context(), sshca.Actor{}, sshca.InstanceRequest{InstanceID: id, ProjectID: p.project, Hostname: "old"})
	must(t, err)
	w.enrolRecord(id, p.project)
	w.spend(id)
	before := w.tokenOf(id)
	must(t, w.cloud.Compute.Evacuate(id))
	w.hint(converge.Key{Kind: converge.Instance, ID: id})
	w.offer(converge.Hint{Key: converge.Key{Kind: converge.Instance, ID: id}, Rebuilt: true}) // late
	w.reconcile(converge.Order{})
	if w.tokenOf(id) != before || len(w.enrolled.rebuilt) != 0 {
		t.Errorf("it got a new identity: %v", w.enrolled.rebuilt)
	}
}

// TestMetadataChanged: what an enrolled instance's metadata says now, which Nova
// is asked for, goes to its enrolment, by hint and by comparison; that of others
// is of no interest.
func TestMetadataChanged(t *testing.T) {
	t.Parallel()
	w, p, enrolled := peopled(t)
	w.enrolRecord(enrolled, p.project)
	other := w.boot(p)
	for _, id := range []string{enrolled, other} {
		if err := w.cloud.Compute.SetMetadata(id, map[string]string{"compact_service_HTTP": `["x"]`}); err != nil {
			t.Fatal(err)
		}
	}
	w.hint(converge.Key{Kind: converge.Instance, ID: enrolled}, converge.Key{Kind: converge.Instance, ID: other})
	want := []string{enrolled + ` ["x"]`}
	if !slices.Equal(w.enrolled.updated, want) {
		t.Errorf("hinted: %v", w.enrolled.updated)
	}
	w.enrolled.updated = nil
	if report := w.reconcile(converge.Order{}); report.Kinds[2].Look != 1 || !slices.Equal(w.enrolled.updated, want) {
		t.Errorf("compared: %v, %+v", w.enrolled.updated, report)
	}
}

// TestRebuiltUnheard: the rebuild of an instance that has nothing but an
// enrolment is found by comparison too.
func TestRebuiltUnheard(t *testing.T) {
	t.Parallel()
	w, p, _ := peopled(t)
	id, err := w.cloud.Compute.Boot(t.Context(), compute.Server{Name: "web2", ProjectID: p.project, UserID: p.user})
	if err != nil {
		t.Fatal(err)
	}
	if id, err = uuid.Parse(id); err != nil {
		t.Fatal(err)
	}
	w.enrolRecord(id, p.project)
	if err := w.cloud.Compute.Rebuild(id); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.reconcile(converge.Order{})
		if !slices.Equal(w.enrolled.rebuilt, []string{id}) {
			t.Fatalf("rebuilt: %v", w.enrolled.rebuilt)
		}
	}
}

// coarseNova keeps whole seconds, as the real one's database does.
type coarseNova struct{ converge.Nova }

func (n coarseNova) Server(ctx context.Context, id string) (openstack.Server, error) {
	server, err := n.Nova.Server(ctx, id)
	server.LaunchedAt = server.LaunchedAt.Truncate(time.Second)
	return server, err
}

func (n coarseNova) RebuiltAt(ctx context.Context, id string) (time.Time, error) {
	at, err := n.Nova.RebuiltAt(ctx, id)
	return at.Truncate(time.Second), err
}

// TestRebuiltWithinASecond: a rebuild in the second in which the token was
// spent is one, though Nova's time of it is the earlier one.
func TestRebuiltWithinASecond(t *testing.T) {
	t.Parallel()
	w, _, instance := peopled(t)
	w.cfg.Nova = coarseNova{w.cfg.Nova}
	w.rebuildControllers()
	w.spend(instance)
	before := w.tokenOf(instance)
	if err := w.cloud.Compute.Rebuild(instance); err != nil {
		t.Fatal(err)
	}
	w.offer(converge.Hint{Key: converge.Key{Kind: converge.Instance, ID: instance}, Rebuilt: true})
	if w.tokenOf(instance) == before {
		t.Error("no new token")
	}
}
