// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/test/mortal"
)

// mortalReplica is a replica's way to FreeIPA and the database.
type mortalReplica struct {
	Directory
	Records
	death *mortal.Death
}

func (m mortalReplica) Batch(ctx context.Context, commands ...ipa.Command) (results []ipa.Result, err error) {
	if len(commands) == 0 {
		return nil, nil
	}
	err = m.death.Step(commands[0].Name(), func() error {
		results, err = m.Directory.Batch(ctx, commands...)
		return err
	})
	return results, err
}

func (m mortalReplica) ServiceFind(ctx context.Context, filter ipa.ServiceFilter) (found ipa.Found[ipa.Service], err error) {
	err = m.death.Step("service_find", func() error {
		found, err = m.Directory.ServiceFind(ctx, filter)
		return err
	})
	return found, err
}

func (m mortalReplica) BeginEnrolment(ctx context.Context, e store.Enrolment, c store.EnrolmentChange) (stored store.Enrolment, created bool, err error) {
	err = m.death.Step("begin", func() error {
		stored, created, err = m.Records.BeginEnrolment(ctx, e, c)
		return err
	})
	return stored, created, err
}

func (m mortalReplica) SaveEnrolment(ctx context.Context, e store.Enrolment, c store.EnrolmentChange) (stored store.Enrolment, err error) {
	err = m.death.Step("save", func() error {
		stored, err = m.Records.SaveEnrolment(ctx, e, c)
		return err
	})
	return stored, err
}

func (m mortalReplica) ReleaseObjects(ctx context.Context, instanceID string) (objects []store.Object, err error) {
	err = m.death.Step("release", func() error {
		objects, err = m.Records.ReleaseObjects(ctx, instanceID)
		return err
	})
	return objects, err
}

func (m mortalReplica) ReleaseSome(ctx context.Context, e store.Enrolment, objects []store.Object) error {
	return m.death.Step("release", func() error { return m.Records.ReleaseSome(ctx, e, objects) })
}

// dying makes a configuration's replica die.
func dying(d *mortal.Death) func(*Config) {
	return func(c *Config) {
		m := mortalReplica{Directory: c.Directory, Records: c.Store, death: d}
		c.Directory, c.Store = m, m
	}
}

// dies runs a replica until it is dead, or an enrolment has a state.
func (w *world) dies(t *testing.T, d *mortal.Death, n int, state store.EnrolmentState, do func(r *replica) error, change ...func(*Config)) {
	t.Helper()
	r := w.idle(t, append(change, dying(d))...)
	stop := r.run(t)
	defer stop()
	if err := do(r); err != nil && !errors.Is(err, mortal.ErrDied) {
		t.Error(err)
	}
	for {
		e, err := r.store.Enrolment(t.Context(), id(n))
		if err == nil && e.State == state && !r.claimed(e) {
			break
		}
		select {
		case <-d.Dead:
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	stop()
	// Claims of the dead run out.
	w.skew.Add(int64(time.Hour))
}

func TestDeathWhileEnrolling(t *testing.T) {
	mortal.AtEachStep(t, 4, func(t *testing.T, d *mortal.Death) {
		w := newWorld(t)
		must(t, w.ipa.AddHost("theirs.example.test", ""))
		req := request(1, "tripleo", "a", "compact_service_HTTP", `["x"]`, "managed_service_a", "haproxy/vip.example.test",
			"managed_service_b", "haproxy/theirs.example.test")
		w.dies(t, d, 1, store.EnrolmentCreated, func(r *replica) error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			go func() {
				<-d.Dead
				cancel()
			}()
			_, err := r.Enrol(ctx, operator, req)
			if ctx.Err() != nil {
				return nil
			}
			return err
		})
		r := w.replica(t)
		answer := r.enrol(t, req)
		r.reach(t, 1, store.EnrolmentCreated)
		hosts, services := w.entries()
		equal(t, hosts, []string{"a.example.test", "a.x.example.test", "theirs.example.test", "vip.example.test"})
		equal(t, services, []string{"HTTP/a.x.example.test", "haproxy/theirs.example.test", "haproxy/vip.example.test"})
		must(t, w.ipa.Join("a.example.test", answer.OTP))
		r.leave(t, 1)
		hosts, services = w.entries()
		equal(t, hosts, []string{"theirs.example.test"})
		equal(t, services, []string(nil))
	})
}

// TestDeathWhileUpdating: services come and go with the metadata, and nobody else's are touched.
func TestDeathWhileUpdating(t *testing.T) {
	mortal.AtEachStep(t, 8, func(t *testing.T, d *mortal.Death) {
		w := newWorld(t)
		must(t, w.ipa.AddHost("theirs.example.test", ""))
		must(t, w.ipa.AddService("HTTP/theirs.example.test"))
		removing := func(c *Config) { c.RemoveUnnamed = true }
		first := w.idle(t, removing)
		stop := first.run(t)
		first.enrol(t, request(2, "tripleo", "b", "managed_service_a", "mysql/vip.example.test"))
		first.enrol(t, request(1, "tripleo", "a", "compact_service_HTTP", `["x", "y"]`, "managed_service_a", "mysql/vip.example.test",
			"managed_service_b", "HTTP/theirs.example.test", "managed_service_c", "haproxy/theirs.example.test",
			"managed_service_d", "haproxy/vip2.example.test"))
		stop()
		update := Update{InstanceID: id(1), ProjectDomain: inDefault, Metadata: map[string]string{"compact_service_HTTP": `["y", "z"]`}}
		w.dies(t, d, 1, store.EnrolmentCreated, func(r *replica) error { return r.Update(t.Context(), operator, update) }, removing)
		r := w.replica(t, removing)
		must(t, r.Update(t.Context(), operator, update))
		r.reach(t, 1, store.EnrolmentCreated)
		hosts, services := w.entries()
		equal(t, hosts, []string{"a.example.test", "a.y.example.test", "a.z.example.test", "b.example.test", "theirs.example.test", "vip.example.test"})
		equal(t, services, []string{"HTTP/a.y.example.test", "HTTP/a.z.example.test", "HTTP/theirs.example.test", "mysql/vip.example.test"})
		for _, v := range w.ipa.Services() {
			if slices.Contains(v.ManagedBy, "a.example.test") && !strings.Contains(v.Principal, "/a.") {
				t.Errorf("%s is still managed by the instance: %v", v.Principal, v.ManagedBy)
			}
		}
		r.leave(t, 1)
		r.leave(t, 2)
		hosts, services = w.entries()
		equal(t, hosts, []string{"theirs.example.test"})
		equal(t, services, []string{"HTTP/theirs.example.test"})
	})
}

func TestDeathWhileRebuilding(t *testing.T) {
	mortal.AtEachStep(t, 3, func(t *testing.T, d *mortal.Death) {
		w := newWorld(t)
		req := request(1, "web", "a", "compact_service_HTTP", `["x"]`)
		first := w.idle(t)
		stop := first.run(t)
		old := first.enrol(t, req).OTP
		must(t, w.ipa.Join("a.example.test", old))
		first.joined(t, 1)
		stop()
		w.dies(t, d, 1, store.EnrolmentCreated, func(r *replica) error { return r.Rebuild(t.Context(), operator, id(1), w.now()) })
		r := w.replica(t)
		must(t, r.Rebuild(t.Context(), operator, id(1), w.now()))
		r.reach(t, 1, store.EnrolmentCreated)
		otp := r.enrol(t, req).OTP
		if otp == old {
			t.Error("the old one-time password")
		}
		must(t, w.ipa.Join("a.example.test", otp))
	})
}

func TestDeathWhileLeaving(t *testing.T) {
	mortal.AtEachStep(t, 6, func(t *testing.T, d *mortal.Death) {
		w := newWorld(t)
		must(t, w.ipa.AddHost("theirs.example.test", ""))
		must(t, w.ipa.AddService("HTTP/theirs.example.test"))
		must(t, w.ipa.AddZone("10.in-addr.arpa."))
		first := w.idle(t)
		stop := first.run(t)
		first.enrol(t, request(1, "tripleo", "a", "compact_service_HTTP", `["x"]`, "managed_service_a", "haproxy/vip.example.test",
			"managed_service_b", "HTTP/theirs.example.test"))
		first.enrol(t, request(2, "tripleo", "b", "managed_service_a", "mysql/vip.example.test"))
		must(t, first.dns.Set(t.Context(), id(1), "a.example.test", []netip.Addr{address(t, "10.1.1.1")}))
		stop()
		w.dies(t, d, 1, store.EnrolmentGone, func(r *replica) error { return r.Leave(t.Context(), operator, id(1)) })
		r := w.replica(t)
		r.leave(t, 1)
		hosts, services := w.entries()
		equal(t, hosts, []string{"b.example.test", "theirs.example.test", "vip.example.test"})
		equal(t, services, []string{"HTTP/theirs.example.test", "mysql/vip.example.test"})
		r.leave(t, 2)
		hosts, _ = w.entries()
		equal(t, hosts, []string{"theirs.example.test"})
		r.enrol(t, request(3, "other", "a"))
	})
}
