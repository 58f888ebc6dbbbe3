// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

const late = 10 * time.Minute

// TestObjectChanges one after the other: what comes of each is certain.
func TestObjectChanges(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		o := Object{Kind: ObjectRecord, Name: "a.test A 10.0.0.1", InstanceID: id(1)}
		only := func() Object {
			t.Helper()
			objects := must(f.store().Objects(ctx, id(1)))(t)
			equal(t, len(objects), 1)
			return objects[0]
		}
		c := must(f.store().BeginChange(ctx, o, false, late))(t)
		want := o
		want.State, want.CreatedAt, want.UnsureUntil = ObjectIntended, f.clock.Now(), f.clock.Now().Add(late)
		equal(t, only(), want)
		equal(t, c.Object, want)
		equal(t, c.Certain, true)
		isError(t, f.store().EndChange(ctx, c), nil)
		want.State, want.UnsureUntil = ObjectMade, time.Time{}
		equal(t, only(), want)
		equal(t, only().Settled(), true)

		other := o
		other.InstanceID = id(2)
		c = must(f.store().BeginChange(ctx, other, false, late))(t)
		equal(t, c.Others, true)
		equal(t, only().Settled(), false)
		isError(t, f.store().EndChange(ctx, c), nil)
		equal(t, only().Settled(), true)

		c = must(f.store().BeginChange(ctx, o, true, late))(t)
		equal(t, c.Others, true)
		want.State, want.Leaving, want.UnsureUntil = ObjectIntended, true, f.clock.Now().Add(late)
		equal(t, only(), want)
		isError(t, f.store().EndChange(ctx, c), nil)
		equal(t, len(must(f.store().Objects(ctx, id(1)))(t)), 0)
		c = must(f.store().BeginChange(ctx, other, true, late))(t)
		equal(t, c.Others, false)
		isError(t, f.store().EndChange(ctx, c), nil)
		isError(t, f.store().EndChange(ctx, c), nil)
		equal(t, len(must(f.store().ObjectUsers(ctx, o.Kind, []string{o.Name}))(t)), 0)
		_, err := f.store().BeginChange(ctx, Object{Kind: ObjectRecord, InstanceID: id(1)}, false, late)
		isError(t, err, ErrInvalid)
	})
}

// TestUnsureChanges: a change that was not ended, or not alone, leaves its object unsure until one was.
func TestUnsureChanges(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		o := Object{Kind: ObjectRecord, Name: "a.test A 10.0.0.1", InstanceID: id(1)}
		settled := func() bool {
			objects := must(f.store().Objects(ctx, id(1)))(t)
			return len(objects) == 0 || objects[0].Settled()
		}
		begin := func(leaving bool) ObjectChange {
			t.Helper()
			return must(f.store().BeginChange(ctx, o, leaving, late))(t)
		}
		dead := begin(false)
		next := begin(true)
		equal(t, next.Certain, false)
		isError(t, f.store().EndChange(ctx, next), nil)
		equal(t, settled(), false)
		isError(t, f.store().EndChange(ctx, dead), ErrConflict) // it was not dead at all
		f.clock.step(late - time.Second)
		isError(t, f.store().EndChange(ctx, begin(true)), nil)
		equal(t, settled(), false)
		f.clock.step(2 * time.Second) // what was done while it was unsure does not make that longer
		next = begin(true)
		equal(t, next.Certain, false)
		isError(t, f.store().EndChange(ctx, next), nil)
		equal(t, len(must(f.store().Objects(ctx, id(1)))(t)), 0)

		// Two that want the same need not be repeated.
		first, second := begin(false), begin(false)
		isError(t, f.store().EndChange(ctx, first), nil)
		isError(t, f.store().EndChange(ctx, second), nil)
		equal(t, settled(), false)
		f.clock.step(late + time.Second)
		isError(t, f.store().EndChange(ctx, begin(false)), nil)
		equal(t, settled(), true)

		// The contrary of what was begun last is.
		first, second = begin(true), begin(false)
		isError(t, f.store().EndChange(ctx, second), nil)
		isError(t, f.store().EndChange(ctx, first), ErrConflict)
		f.clock.step(late + time.Second)
		isError(t, f.store().EndChange(ctx, begin(true)), nil)

		// So is what was taken away from under another instance.
		isError(t, f.store().EndChange(ctx, begin(false)), nil)
		removal := begin(true)
		other := o
		other.InstanceID = id(2)
		addition := must(f.store().BeginChange(ctx, other, false, late))(t)
		isError(t, f.store().EndChange(ctx, addition), nil)
		isError(t, f.store().EndChange(ctx, removal), ErrConflict)
		equal(t, begin(true).Others, true)
	})
}

// TestChangeByWrongClock: a replica whose clock was years ahead leaves nothing unsure for years.
func TestChangeByWrongClock(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		o := Object{Kind: ObjectRecord, Name: "a.test A 10.0.0.1", InstanceID: id(1)}
		f.clock.step(10 * 365 * 24 * time.Hour)
		must(f.store().BeginChange(ctx, o, false, late))(t)
		f.clock.step(-10 * 365 * 24 * time.Hour)
		for _, settled := range []bool{false, true} {
			c := must(f.store().BeginChange(ctx, o, false, late))(t)
			isError(t, f.store().EndChange(ctx, c), nil)
			equal(t, must(f.store().Objects(ctx, id(1)))(t)[0].Settled(), settled)
			f.clock.step(late + time.Second)
		}
	})
}

// TestChangesAtOnce: of changes that begin at the same moment, no two think that they are alone.
func TestChangesAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		o := Object{Kind: ObjectRecord, Name: "a.test A 10.0.0.1", InstanceID: id(1)}
		var mu sync.Mutex
		alone := 0
		times := make(map[time.Time]bool)
		var wg sync.WaitGroup
		for n := range 8 {
			s := f.store()
			wg.Go(func() {
				c, err := s.BeginChange(ctx, o, n%2 == 0, late)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if times[c.Object.UnsureUntil] = true; c.alone {
					alone++
				}
			})
		}
		wg.Wait()
		equal(t, alone, 1)
		equal(t, len(times), 8)
	})
}

// TestDoubtRecords: DNS records that are not there though they were made are unsettled, of all instances that have them. What is under way, or no
// DNS record, is left as it is.
func TestDoubtRecords(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx, s := t.Context(), f.store()
		made := func(name string, n int) Object {
			t.Helper()
			c := must(s.BeginChange(ctx, Object{Kind: ObjectRecord, Name: name, InstanceID: id(n)}, false, late))(t)
			isError(t, s.EndChange(ctx, c), nil)
			return c.Object
		}
		lost, kept := "a.test A 10.0.0.1", "a.test A 10.0.0.2"
		made(lost, 1)
		made(lost, 2)
		made(kept, 1)
		busy := made("a.test A 10.0.0.3", 1)
		must(s.BeginChange(ctx, busy, false, late))(t)
		isError(t, s.DoubtRecords(ctx, nil), nil)
		isError(t, s.DoubtRecords(ctx, []string{lost, busy.Name}), nil)
		settled := map[string]bool{}
		for _, n := range []int{1, 2} {
			for _, o := range must(s.Objects(ctx, id(n)))(t) {
				settled[o.Name+" "+o.InstanceID] = o.Settled()
				if o.Name == busy.Name {
					equal(t, o.UnsureUntil.IsZero(), false)
				}
			}
		}
		equal(t, settled, map[string]bool{lost + " " + id(1): false, lost + " " + id(2): false, kept + " " + id(1): true, busy.Name + " " + id(1): false})
	})
}

// TestIdentities: what an entry is known by is recorded for all instances that have it, and is forgotten when it is somebody else's.
func TestIdentities(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx, s := t.Context(), f.store()
		shared := Object{Kind: ObjectServiceHost, Name: "vip.test"}
		var enrolments []Enrolment
		for _, n := range []int{100, 101} {
			e, _, err := s.BeginEnrolment(ctx, f.enrolment(1, n, fmt.Sprintf("h%d.test", n)), EnrolmentChange{Objects: []Object{shared}})
			isError(t, err, nil)
			enrolments = append(enrolments, e)
		}
		save := func(n int, change EnrolmentChange) {
			t.Helper()
			enrolments[n] = must(s.SaveEnrolment(ctx, enrolments[n], change))(t)
		}
		is := func(state ObjectState, identity string) {
			t.Helper()
			for _, e := range enrolments {
				objects := must(s.Objects(ctx, e.InstanceID))(t)
				equal(t, len(objects), 1)
				equal(t, objects[0].State, state)
				equal(t, objects[0].Identity, identity)
			}
		}
		with := func(identity string) []Object {
			o := shared
			o.Identity = identity
			return []Object{o}
		}
		save(0, EnrolmentChange{Made: with("first")})
		is(ObjectMade, "first")
		save(1, EnrolmentChange{Made: with("")}) // nobody told
		is(ObjectMade, "first")
		save(1, EnrolmentChange{Found: with("")}) // seen by one that did not know that it is Muster's
		save(1, EnrolmentChange{Found: with("another")})
		is(ObjectMade, "first")
		save(1, EnrolmentChange{Made: with("second")}) // made again
		is(ObjectMade, "second")
		save(0, EnrolmentChange{Found: with("second")})
		is(ObjectFound, "")
		_, err := s.SaveEnrolment(ctx, enrolments[0], EnrolmentChange{Made: with("ü")})
		isError(t, err, ErrInvalid)
	})
}
