// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/store"
)

var errDied = errors.New("the process died")

// death ends a process at one of its steps: before the step is done, or after, when nobody hears of it any more. A step is a
// call to FreeIPA or a write to the database.
type death struct {
	mu    sync.Mutex
	steps int
	at    int // which step; 0: never
	after bool
	dead  chan struct{} // closed by death
	trace []string
}

func newDeath(at int, after bool) *death {
	return &death{at: at, after: after, dead: make(chan struct{})}
}

// step carries a step out, unless the process is dead.
func (d *death) step(name string, do func() error) error {
	d.mu.Lock()
	select {
	case <-d.dead:
		d.mu.Unlock()
		return errDied
	default:
	}
	d.steps++
	d.trace = append(d.trace, name)
	if d.steps != d.at {
		d.mu.Unlock()
		return do()
	}
	close(d.dead)
	d.mu.Unlock()
	if d.after {
		_ = do()
	}
	return errDied
}

// mortal is a replica's way to FreeIPA and the database.
type mortal struct {
	Directory
	Records
	death *death
}

func (m mortal) Batch(ctx context.Context, commands ...ipa.Command) (results []ipa.Result, err error) {
	if len(commands) == 0 {
		return nil, nil
	}
	err = m.death.step(commands[0].Name(), func() error {
		results, err = m.Directory.Batch(ctx, commands...)
		return err
	})
	return results, err
}

func (m mortal) ServiceFind(ctx context.Context, filter ipa.ServiceFilter) (found ipa.Found[ipa.Service], err error) {
	err = m.death.step("service_find", func() error {
		found, err = m.Directory.ServiceFind(ctx, filter)
		return err
	})
	return found, err
}

func (m mortal) BeginEnrolment(ctx context.Context, e store.Enrolment, c store.EnrolmentChange) (stored store.Enrolment, created bool, err error) {
	err = m.death.step("begin", func() error {
		stored, created, err = m.Records.BeginEnrolment(ctx, e, c)
		return err
	})
	return stored, created, err
}

func (m mortal) SaveEnrolment(ctx context.Context, e store.Enrolment, c store.EnrolmentChange) (stored store.Enrolment, err error) {
	err = m.death.step("save", func() error {
		stored, err = m.Records.SaveEnrolment(ctx, e, c)
		return err
	})
	return stored, err
}

func (m mortal) ReleaseObjects(ctx context.Context, instanceID string) (objects []store.Object, err error) {
	err = m.death.step("release", func() error {
		objects, err = m.Records.ReleaseObjects(ctx, instanceID)
		return err
	})
	return objects, err
}

func (m mortal) ReleaseSome(ctx context.Context, e store.Enrolment, objects []store.Object) error {
	return m.death.step("release", func() error { return m.Records.ReleaseSome(ctx, e, objects) })
}

// mortal makes a configuration's replica die.
func (d *death) config(c *Config) {
	m := mortal{Directory: c.Directory, Records: c.Store, death: d}
	c.Directory, c.Store = m, m
}

// atEachStep runs a scenario without a death, and then with one at each step it has, before and after. A scenario lets a replica do
// something, with the death; when that replica is dead or done, another one must bring it to the same end.
func atEachStep(t *testing.T, minimum int, scenario func(t *testing.T, d *death)) {
	t.Helper()
	whole := newDeath(0, false)
	scenario(t, whole)
	t.Logf("steps: %v", whole.trace)
	if whole.steps < minimum {
		t.Fatalf("only %d steps: %v", whole.steps, whole.trace)
	}
	for at := 1; at <= whole.steps; at++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d %s, done %v", at, whole.trace[at-1], after), func(t *testing.T) {
				t.Parallel()
				scenario(t, newDeath(at, after))
			})
		}
	}
}

// dies runs a replica until it is dead, or an enrolment has a state.
func (w *world) dies(t *testing.T, d *death, n int, state store.EnrolmentState, do func(r *replica) error, change ...func(*Config)) {
	t.Helper()
	r := w.idle(t, append(change, d.config)...)
	stop := r.run(t)
	defer stop()
	if err := do(r); err != nil && !errors.Is(err, errDied) {
		t.Error(err)
	}
	for {
		e, err := r.store.Enrolment(t.Context(), id(n))
		if err == nil && e.State == state && !r.claimed(e) {
			break
		}
		select {
		case <-d.dead:
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
	atEachStep(t, 4, func(t *testing.T, d *death) {
		w := newWorld(t)
		must(t, w.ipa.AddHost("theirs.example.test", ""))
		req := request(1, "tripleo", "a", "compact_service_HTTP", `["x"]`, "managed_service_a", "haproxy/vip.example.test",
			"managed_service_b", "haproxy/theirs.example.test")
		w.dies(t, d, 1, store.EnrolmentCreated, func(r *replica) error {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			go func() {
				<-d.dead
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
	atEachStep(t, 8, func(t *testing.T, d *death) {
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
	atEachStep(t, 3, func(t *testing.T, d *death) {
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
	atEachStep(t, 6, func(t *testing.T, d *death) {
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
