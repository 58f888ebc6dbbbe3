// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"sync"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/store"
)

// TestLeaveBeforeItWasMade: an instance goes before FreeIPA was ever reached for it. What is there under its names then is somebody else's.
func TestLeaveBeforeItWasMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, w.ipa.AddHost("a.example.test", "theirs"))
	must(t, w.ipa.AddHost("vip-1.example.test", ""))
	must(t, w.ipa.AddService("HTTP/vip-1.example.test"))
	w.ipa.Inject(func(string) freeipa.Fault { return freeipa.Fault{Status: 503} })
	r := w.replica(t, func(c *Config) { c.AnswerWithin = 10 * time.Second })
	_, err := r.Enrol(t.Context(), operator, request(1, "web", "a", "managed_service_x", "HTTP/vip-1.example.test"))
	must(t, err)
	must(t, r.Leave(t.Context(), operator, id(1)))
	w.ipa.Inject(nil)
	r.reach(t, 1, store.EnrolmentGone)
	hosts, services := w.entries()
	equal(t, hosts, []string{"a.example.test", "vip-1.example.test"})
	equal(t, services, []string{"HTTP/vip-1.example.test"})
	must(t, w.ipa.Join("a.example.test", "theirs"))
}

// TestLeaveWhatOthersUse: a service that somebody let another host manage, and a host on which somebody made another service, stay when the
// instance goes for which they were made.
func TestLeaveWhatOthersUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, w.ipa.AddHost("theirs.example.test", ""))
	r := w.replica(t)
	r.enrol(t, request(1, "web", "a", "managed_service_x", "HTTP/vip-1.example.test", "managed_service_y", "HTTP/vip-2.example.test",
		"managed_service_z", "HTTP/vip-3.example.test"))
	must(t, r.ipa.ServiceAddHost(t.Context(), "HTTP/vip-1.example.test", "theirs.example.test"))
	must(t, w.ipa.AddService("ldap/vip-2.example.test"))
	r.leave(t, 1)
	hosts, services := w.entries()
	equal(t, hosts, []string{"theirs.example.test", "vip-1.example.test", "vip-2.example.test"})
	equal(t, services, []string{"HTTP/vip-1.example.test", "ldap/vip-2.example.test"})
}

// foreignService is on a host that Muster did not make either.
const foreignService = "HTTP/theirs.example.test"

// withForeignService has it, and an instance that is enrolled.
func withForeignService(t *testing.T, change ...func(*Config)) (*world, *replica) {
	t.Helper()
	w := newWorld(t)
	must(t, w.ipa.AddHost("theirs.example.test", ""))
	r := w.replica(t, change...)
	r.enrol(t, request(1, "tripleo", "a"))
	return w, r
}

func (w *world) hasForeignService(t *testing.T) {
	t.Helper()
	_, services := w.entries()
	equal(t, services, []string{foreignService})
}

// TestLeaveServiceManagedBefore: an instance may manage a service already when it asks for it. That does not make it Muster's.
func TestLeaveServiceManagedBefore(t *testing.T) {
	t.Parallel()
	w, r := withForeignService(t)
	must(t, w.ipa.AddService(foreignService))
	must(t, r.ipa.ServiceAddHost(t.Context(), foreignService, "a.example.test"))
	r.enrol(t, request(1, "tripleo", "a", "managed_service_x", foreignService))
	r.reach(t, 1, store.EnrolmentCreated)
	r.leave(t, 1)
	w.hasForeignService(t)
}

// TestLeaveServiceMadeMeanwhile: Muster saw that a service was not there, and before it could make it somebody else did.
func TestLeaveServiceMadeMeanwhile(t *testing.T) {
	t.Parallel()
	var w *world
	meanwhile := sync.OnceFunc(func() {
		must(t, w.ipa.AddService(foreignService))
		w.ipa.Inject(func(string) freeipa.Fault { return freeipa.Fault{Status: 403} })
	})
	w, r := withForeignService(t, func(c *Config) { c.Directory = meeting{c.Directory, "service_add", func() { meanwhile() }, func() {}} })
	_, err := r.Enrol(t.Context(), operator, request(1, "tripleo", "a", "managed_service_x", foreignService))
	must(t, err)
	must(t, r.Leave(t.Context(), operator, id(1)))
	w.ipa.Inject(nil)
	r.reach(t, 1, store.EnrolmentGone)
	w.hasForeignService(t)
}

// TestUnnamedBeforeItWasMade: a service that an instance named for a while, in which FreeIPA was away, is not Muster's.
func TestUnnamedBeforeItWasMade(t *testing.T) {
	t.Parallel()
	w, r := withForeignService(t, func(c *Config) { c.RemoveUnnamed = true })
	must(t, w.ipa.AddService(foreignService))
	w.ipa.Inject(func(string) freeipa.Fault { return freeipa.Fault{Status: 503} })
	for _, metadata := range []map[string]string{{"managed_service_x": foreignService}, nil} {
		must(t, r.Update(t.Context(), operator, Update{InstanceID: id(1), ProjectDomain: inDefault, Metadata: metadata}))
	}
	w.ipa.Inject(nil)
	r.until(t, 1, func(e store.Enrolment) bool { return e.State == store.EnrolmentCreated && e.NextAt.IsZero() })
	objects, err := r.store.Objects(t.Context(), id(1))
	must(t, err)
	equal(t, len(objects), 1)
	w.hasForeignService(t)
}
