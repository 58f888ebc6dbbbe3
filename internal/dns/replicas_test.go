// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/store"
)

// play runs actors one at a time: each stops before its steps, and goes on when it is chosen. The choices are played through in turn: all of
// those with at most so many switches away from an actor that could have gone on.
type play struct {
	t      *testing.T
	prefix []int // choices of this run
	trace  []decision
	left   int // switches

	actors  []*actor
	current *actor
	parked  chan struct{}
}

// decision is one that was made, of so many.
type decision struct{ chosen, options int }

type actor struct {
	name string
	step chan struct{}
	done bool
}

// spawn adds an actor that does something.
func (p *play) spawn(name string, do func()) {
	a := &actor{name: name, step: make(chan struct{})}
	p.actors = append(p.actors, a)
	go func() {
		defer func() { a.done = true; p.parked <- struct{}{} }()
		<-a.step
		do()
	}()
}

// stop lets others go on, if they are chosen.
func (p *play) stop() {
	a := p.current
	p.parked <- struct{}{}
	<-a.step
}

// run plays all actors to their end.
func (p *play) run() {
	for {
		var ready []*actor
		for _, a := range p.actors {
			if !a.done {
				ready = append(ready, a)
			}
		}
		if len(ready) == 0 {
			return
		}
		// Who was at it goes on, if nothing else was chosen.
		now := slices.Index(ready, p.current)
		if now > 0 {
			ready[0], ready[now] = ready[now], ready[0]
		}
		options := len(ready)
		if now >= 0 && p.left == 0 {
			options = 1
		}
		chosen := 0
		if n := len(p.trace); n < len(p.prefix) {
			chosen = p.prefix[n]
		}
		if now >= 0 && chosen > 0 {
			p.left--
		}
		p.trace = append(p.trace, decision{chosen, options})
		p.current = ready[chosen]
		p.current.step <- struct{}{}
		<-p.parked
	}
}

// all repeats a scenario with all choices, up to the first that fails.
func (p *play) all(switches int, scenario func()) {
	for p.prefix = nil; ; {
		p.trace, p.actors, p.current, p.left, p.parked = nil, nil, nil, switches, make(chan struct{})
		scenario()
		if p.t.Failed() {
			p.t.Logf("choices: %v", p.trace)
			return
		}
		last := len(p.trace) - 1
		for last >= 0 && p.trace[last].chosen+1 == p.trace[last].options {
			last--
		}
		if last < 0 {
			return
		}
		p.prefix = p.prefix[:0]
		for _, d := range p.trace[:last+1] {
			p.prefix = append(p.prefix, d.chosen)
		}
		p.prefix[last]++
	}
}

// cloud is what the actors work on: a DNS server, the records, and what each instance should have.
type cloud struct {
	*play
	store  *store.Store
	ahead  time.Duration
	zone   map[Record]bool
	wanted map[string][]netip.Addr // by instance
	fqdn   string
}

// replica is one of Muster's. It dies before its nth call, if n is set; if it had sent the call to the DNS server, that may come late.
type replica struct {
	*store.Store
	c    *cloud
	dies int
	sent bool
}

func (r *replica) before(late func()) {
	r.c.stop()
	if r.dies--; r.dies != 0 {
		return
	}
	if r.sent && late != nil {
		r.c.spawn("late", late)
	}
	// What it had to do is done by another.
	r.c.spawn("instead", func() { r.c.follow(&replica{Store: r.Store, c: r.c}, instance) })
	runtime.Goexit()
}

func (r *replica) Objects(ctx context.Context, instanceID string) ([]store.Object, error) {
	r.before(nil)
	return r.Store.Objects(ctx, instanceID)
}

func (r *replica) ObjectUsers(ctx context.Context, kind store.ObjectKind, names []string) ([]store.Object, error) {
	r.before(nil)
	return r.Store.ObjectUsers(ctx, kind, names)
}

func (r *replica) BeginChange(ctx context.Context, o store.Object, leaving bool, late time.Duration) (store.ObjectChange, error) {
	r.before(nil)
	return r.Store.BeginChange(ctx, o, leaving, late)
}

func (r *replica) EndChange(ctx context.Context, change store.ObjectChange) error {
	r.before(nil)
	return r.Store.EndChange(ctx, change)
}

func (r *replica) Has(_ context.Context, record Record) (bool, error) {
	r.before(nil)
	return r.c.zone[record], nil
}

func (r *replica) Missing(context.Context, []Record) ([]Record, error) { return nil, nil }

func (r *replica) Add(_ context.Context, record Record) error {
	r.before(func() { r.c.zone[record] = true })
	r.c.zone[record] = true
	return nil
}

func (r *replica) Remove(_ context.Context, record Record) error {
	r.before(func() { delete(r.c.zone, record) })
	delete(r.c.zone, record)
	return nil
}

// follow does what package converge does: it looks again until nothing changed meanwhile.
func (c *cloud) follow(r *replica, id string) {
	service, err := New(Config{Objects: r, Provider: r, Reverse: ReverseOff})
	if err != nil {
		c.t.Error(err)
		return
	}
	for range 5 {
		aim := c.wanted[id]
		err := service.Set(context.Background(), id, c.fqdn, aim)
		if err != nil && !errors.Is(err, ErrOvertaken) {
			c.t.Error(err)
			return
		}
		r.before(nil)
		if err == nil && slices.Equal(aim, c.wanted[id]) {
			return
		}
	}
	c.t.Error("no end of looking")
}

// alone is a replica that nobody disturbs.
func (c *cloud) alone() *Service {
	service, err := New(Config{Objects: c.store, Provider: plain{c}, Reverse: ReverseOff})
	must(c.t, err)
	return service
}

// plain is the DNS server without stops.
type plain struct{ c *cloud }

func (p plain) Has(_ context.Context, r Record) (bool, error)       { return p.c.zone[r], nil }
func (p plain) Missing(context.Context, []Record) ([]Record, error) { return nil, nil }
func (p plain) Add(_ context.Context, r Record) error               { p.c.zone[r] = true; return nil }
func (p plain) Remove(_ context.Context, r Record) error            { delete(p.c.zone, r); return nil }

// prepare begins anew, under another name.
func (c *cloud) prepare(fqdn string) {
	for _, id := range []string{instance, other} {
		must(c.t, c.alone().RemoveAll(context.Background(), id))
	}
	c.fqdn, c.zone, c.wanted = fqdn, make(map[Record]bool), make(map[string][]netip.Addr)
}

// agrees holds DNS against what is wanted.
func (c *cloud) agrees(when string) {
	want := make(map[Record]bool)
	for _, addresses := range c.wanted {
		for _, a := range addresses {
			want[Record{c.fqdn, A, a.String()}] = true
		}
	}
	if !maps.Equal(want, c.zone) {
		c.t.Errorf("when %s: %v, wanted %v", when, c.zone, want)
	}
}

// compare is the comparison, when no call can be late any more: an instance is looked at if its rows are not as they should be.
func (c *cloud) compare() {
	c.ahead += time.Hour
	for _, id := range []string{instance, other} {
		objects, err := c.store.Objects(context.Background(), id)
		must(c.t, err)
		settled := 0
		for _, o := range objects {
			if o.Settled() {
				settled++
			}
		}
		if len(objects) != len(c.wanted[id]) || settled != len(objects) {
			must(c.t, c.alone().Set(context.Background(), id, c.fqdn, c.wanted[id]))
		}
		objects, err = c.store.Objects(context.Background(), id)
		must(c.t, err)
		for _, o := range objects {
			if !o.Settled() {
				c.t.Errorf("unsure still: %+v", o)
			}
		}
	}
}

// TestReplicasAtOnce: several replicas work on the same records while what is wanted changes. Whatever the order of their steps, and if one
// of them dies at any of its steps, and its last call arrives any time later, DNS has in the end what is wanted.
func TestReplicasAtOnce(t *testing.T) {
	const (
		live, dying = 2, 1 // switches away from replicas that could go on
		steps       = 8    // at which a replica dies
	)
	one := []netip.Addr{addr("10.0.0.1")}
	type event struct {
		instance string
		wanted   []netip.Addr
	}
	for _, scenario := range []struct {
		name   string
		there  bool // the record is there, and the first instance's
		events []event
	}{
		{"gone again", false, []event{{instance, one}, {instance, nil}}},
		{"back again", true, []event{{instance, nil}, {instance, one}}},
		{"two alike", false, []event{{instance, one}, {instance, one}}},
		{"to another", true, []event{{instance, nil}, {other, one}}},
		{"from both", true, []event{{instance, nil}, {other, nil}}},
	} {
		t.Run(scenario.name, func(t *testing.T) {
			t.Parallel()
			c := &cloud{play: &play{t: t}}
			var err error
			c.store, err = store.Open(t.Context(), store.Config{URL: "sqlite:///" + filepath.Join(t.TempDir(), "muster.db"),
				Now: func() time.Time { return time.Now().Add(c.ahead) }})
			must(t, err)
			t.Cleanup(func() { must(t, c.store.Close()) })
			_, err = c.store.Upgrade(t.Context())
			must(t, err)
			runs := 0
			perform := func(dies int, sent bool) {
				runs++
				c.prepare(fmt.Sprintf("web%d.example.test", runs))
				if scenario.there {
					c.wanted[instance] = one
					must(t, c.alone().Set(context.Background(), instance, c.fqdn, one))
				}
				for n, e := range scenario.events {
					r := &replica{Store: c.store, c: c}
					if n == 0 {
						r.dies, r.sent = dies, sent
					}
					c.spawn(fmt.Sprint("replica ", n), func() {
						c.wanted[e.instance] = e.wanted
						c.follow(r, e.instance)
					})
				}
				c.run()
				if dies == 0 {
					c.agrees("all replicas have ended")
				}
				c.compare()
				c.agrees("the comparison has ended")
			}
			c.all(live, func() { perform(0, false) })
			for dies := 1; dies <= steps && !t.Failed(); dies++ {
				c.all(0, func() { perform(dies, false) })
				c.all(dying, func() { perform(dies, true) })
			}
			t.Log(runs, "orders")
		})
	}
}
