// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// enrolment is instance n's, of a project, not yet recorded.
func (f *fixture) enrolment(project, n int, fqdn string) Enrolment {
	now := f.clock.Now()
	return Enrolment{InstanceID: id(n), ProjectID: id(project), ProjectName: "Projekt Ü", FQDN: fqdn, State: EnrolmentWanted,
		OTPState: OTPNew, OTPSealed: []byte{0, 1, 255}, Want: `{"os":"ü"}`, CreatedAt: now, NextAt: now}
}

// begun records an enrolment that takes its FQDN and a host entry.
func (f *fixture) begun(t testing.TB, e Enrolment) Enrolment {
	t.Helper()
	entry := f.entry("enrolment.create", e.ProjectID)
	stored, created, err := f.store().BeginEnrolment(t.Context(), e, EnrolmentChange{Names: []string{e.FQDN},
		Objects: []Object{{Kind: ObjectHost, Name: e.FQDN}}, Audit: &entry})
	if err != nil || !created {
		t.Fatal(created, err)
	}
	return stored
}

func TestEnrolments(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		_, err := f.store().Enrolment(ctx, id(1))
		isError(t, err, ErrNotFound)
		first, second := f.begun(t, f.enrolment(1, 100, "a.test")), f.begun(t, f.enrolment(2, 101, "b.test"))
		want := f.enrolment(1, 100, "a.test")
		want.Version, want.UpdatedAt = 1, want.CreatedAt
		equal(t, first, want)
		equal(t, must(f.store().Enrolment(ctx, id(100)))(t), want)
		equal(t, f.audited(t, "enrolment.create", id(1)), 1)

		stored, created, err := f.store().BeginEnrolment(ctx, f.enrolment(1, 100, "other.test"), EnrolmentChange{Names: []string{"b.test"}})
		if err != nil || created {
			t.Fatal(created, err)
		}
		equal(t, stored, first)
		_, _, err = f.store().BeginEnrolment(ctx, f.enrolment(1, 102, "c.test"), EnrolmentChange{Names: []string{"c.test", "b.test"}})
		isError(t, err, ErrConflict)
		taken, _ := errors.AsType[*TakenError](err)
		equal(t, taken, &TakenError{FQDN: "b.test", InstanceID: id(101)})
		_, err = f.store().Enrolment(ctx, id(102))
		isError(t, err, ErrNotFound)

		equal(t, must(f.store().Enrolments(ctx, EnrolmentFilter{}, Page{}))(t), []Enrolment{first, second})
		equal(t, must(f.store().Enrolments(ctx, EnrolmentFilter{ProjectID: id(2)}, Page{}))(t), []Enrolment{second})
		equal(t, len(must(f.store().Enrolments(ctx, EnrolmentFilter{State: EnrolmentGone}, Page{}))(t)), 0)
		equal(t, must(f.store().Enrolments(ctx, EnrolmentFilter{State: EnrolmentWanted}, Page{After: id(100), Limit: 1}))(t), []Enrolment{second})
		owners := must(f.store().Owners(ctx, []string{"a.test", "b.test", "c.test"}))(t)
		equal(t, owners, map[string]Enrolment{"a.test": {InstanceID: id(100), ProjectID: id(1), FQDN: "a.test"},
			"b.test": {InstanceID: id(101), ProjectID: id(2), FQDN: "b.test"}})
		equal(t, must(f.store().CountEnrolments(ctx))(t), map[EnrolmentState]int{EnrolmentWanted: 2})
		must(f.store().SaveEnrolment(ctx, second, EnrolmentChange{Found: []Object{{Kind: ObjectHost, Name: "b.test"}}}))(t)
		equal(t, len(must(f.store().Owners(ctx, []string{"a.test", "b.test"}))(t)), 1)
	})
}

func TestEnrolmentLimits(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		for name, change := range map[string]func(*Enrolment, *EnrolmentChange){
			"want":     func(e *Enrolment, _ *EnrolmentChange) { e.Want = strings.Repeat("x", maxWant+1) },
			"fqdn":     func(e *Enrolment, _ *EnrolmentChange) { e.FQDN = strings.Repeat("x", maxName+1) },
			"no state": func(e *Enrolment, _ *EnrolmentChange) { e.State = "" },
			"name":     func(_ *Enrolment, c *EnrolmentChange) { c.Names = []string{""} },
			"object":   func(_ *Enrolment, c *EnrolmentChange) { c.Objects = []Object{{Kind: ObjectHost}} },
			"length": func(_ *Enrolment, c *EnrolmentChange) {
				c.Made = []Object{{Kind: ObjectHost, Name: strings.Repeat("x", maxObject+1)}}
			},
		} {
			e, c := f.enrolment(1, 100, "a.test"), EnrolmentChange{}
			change(&e, &c)
			if _, _, err := f.store().BeginEnrolment(t.Context(), e, c); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		e := f.enrolment(1, 100, strings.Repeat("f", maxName))
		e.Want, e.LastError, e.ClaimedBy = strings.Repeat("w", maxWant), strings.Repeat("ü", maxText), strings.Repeat("c", maxID)
		name := strings.Repeat("n", maxObject)
		stored, _, err := f.store().BeginEnrolment(t.Context(), e, EnrolmentChange{Names: []string{e.FQDN}, Objects: []Object{{Kind: ObjectService, Name: name}}})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, len(stored.LastError), maxText)
		equal(t, must(f.store().Enrolment(t.Context(), id(100)))(t), stored)
		equal(t, must(f.store().Objects(t.Context(), id(100)))(t)[0].Name, name)
	})
}

// TestFirstEnrolmentWins has one instance, and two instances for one name, begin many times at once.
func TestFirstEnrolmentWins(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		const callers = 24
		results, made := make([]Enrolment, callers), make([]bool, callers)
		var wg sync.WaitGroup
		for n := range callers {
			s := f.store()
			wg.Go(func() {
				e := f.enrolment(1+n%2, 100+n%2, "a.test")
				e.OTPSealed = []byte{byte(n)}
				var err error
				results[n], made[n], err = s.BeginEnrolment(t.Context(), e, EnrolmentChange{Names: []string{"a.test"}})
				if err != nil && !errors.Is(err, ErrConflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		winners := 0
		for n := range callers {
			if made[n] {
				winners++
			}
			if results[n].InstanceID != "" {
				equal(t, results[n], must(f.store().Enrolment(t.Context(), results[n].InstanceID))(t))
			}
		}
		equal(t, winners, 1)
		equal(t, len(must(f.store().Enrolments(t.Context(), EnrolmentFilter{}, Page{}))(t)), 1)
	})
}

func TestSaveEnrolment(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		read := f.begun(t, f.enrolment(1, 100, "a.test"))
		f.begun(t, f.enrolment(2, 101, "b.test"))
		f.clock.step(time.Second)
		e := read
		e.State, e.OTPState, e.OTPSealed, e.LastError, e.Attempts = EnrolmentFailed, OTPUsed, nil, "no", 3
		e.NextAt, e.ClaimedBy, e.ClaimedTill = f.clock.Now().Add(time.Hour), "me", f.clock.Now().Add(time.Minute)
		entry := f.entry("enrolment.extend", id(1))
		saved := must(f.store().SaveEnrolment(ctx, e, EnrolmentChange{Names: []string{"a.test", "x.a.test"},
			Objects: []Object{{Kind: ObjectHost, Name: "a.test"}, {Kind: ObjectHost, Name: "x.a.test"}}, Audit: &entry}))(t)
		e.Version, e.UpdatedAt = 2, f.clock.Now()
		equal(t, saved, e)
		equal(t, must(f.store().Enrolment(ctx, id(100)))(t), e)
		equal(t, f.audited(t, "enrolment.extend", id(1)), 1)
		_, err := f.store().SaveEnrolment(ctx, read, EnrolmentChange{Names: []string{"late.test"}})
		isError(t, err, ErrConflict)
		_, err = f.store().SaveEnrolment(ctx, saved, EnrolmentChange{Names: []string{"b.test"}})
		if taken, ok := errors.AsType[*TakenError](err); !ok || taken.InstanceID != id(101) {
			t.Fatal(err)
		}
		missing := f.enrolment(1, 555, "z.test")
		_, err = f.store().SaveEnrolment(ctx, missing, EnrolmentChange{})
		isError(t, err, ErrNotFound)
		equal(t, len(must(f.store().Owners(ctx, []string{"a.test", "x.a.test", "late.test"}))(t)), 2)

		saved.State, saved.GoneAt, saved.NextAt = EnrolmentGone, f.clock.Now(), time.Time{}
		must(f.store().SaveEnrolment(ctx, saved, EnrolmentChange{}))(t)
		equal(t, len(must(f.store().Owners(ctx, []string{"a.test", "x.a.test", "b.test"}))(t)), 1)
		equal(t, len(must(f.store().Objects(ctx, id(100)))(t)), 0)
		equal(t, len(must(f.store().Objects(ctx, id(101)))(t)), 1)
		f.begun(t, f.enrolment(3, 102, "a.test"))
		f.clock.step(time.Second)
		equal(t, must(f.store().PruneExpired(ctx, f.clock.Now(), 100))(t), 1)
		_, err = f.store().Enrolment(ctx, id(100))
		isError(t, err, ErrNotFound)
	})
}

// TestSavesAtOnce lets exactly one of many changes of the same version through.
func TestSavesAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		e := f.begun(t, f.enrolment(1, 100, "a.test"))
		var mu sync.Mutex
		won := 0
		var wg sync.WaitGroup
		for n := range 16 {
			s := f.store()
			wg.Go(func() {
				claimed := e
				claimed.ClaimedBy = fmt.Sprint("replica", n)
				_, err := s.SaveEnrolment(t.Context(), claimed, EnrolmentChange{})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
				} else if !errors.Is(err, ErrConflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		equal(t, won, 1)
		equal(t, must(f.store().Enrolment(t.Context(), id(100)))(t).Version, int64(2))
	})
}

func TestDueEnrolments(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		due := func() (ids []string) {
			for _, e := range must(f.store().DueEnrolments(ctx, time.Hour, 10))(t) {
				ids = append(ids, e.InstanceID)
			}
			return ids
		}
		for n := range 4 {
			e := f.enrolment(1, 100+n, fmt.Sprintf("h%d.test", n))
			switch n {
			case 1:
				e.NextAt = time.Time{}
			case 2:
				e.NextAt = e.NextAt.Add(-time.Minute)
			case 3:
				e.ClaimedBy, e.ClaimedTill = "other", f.clock.Now().Add(time.Minute)
			}
			f.begun(t, e)
		}
		equal(t, due(), []string{id(102), id(100)})
		f.clock.step(time.Minute)
		equal(t, due(), []string{id(102), id(100), id(103)})
		equal(t, len(must(f.store().DueEnrolments(ctx, time.Hour, 1))(t)), 1)
		_, err := f.store().DueEnrolments(ctx, time.Hour, 0)
		isError(t, err, ErrInvalid)
		// Put off, and claimed, by a clock that is farther ahead than any that is right within the hour.
		wrong := f.clock.Now().Add(2*time.Hour + time.Second)
		putOff, claimed := f.enrolment(1, 105, "h5.test"), f.enrolment(1, 106, "h6.test")
		putOff.NextAt, claimed.ClaimedBy, claimed.ClaimedTill = wrong, "other", wrong
		f.begun(t, putOff)
		f.begun(t, claimed)
		equal(t, due(), []string{id(102), id(100), id(103), id(106), id(105)})
		f.clock.step(time.Second) // now they could be right
		equal(t, due(), []string{id(102), id(100), id(103)})
	})
}

func TestObjects(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		shared := []Object{{Kind: ObjectServiceHost, Name: "vip.test"}, {Kind: ObjectService, Name: "HTTP/vip.test"}}
		var enrolments []Enrolment
		for n := range 3 {
			e, _, err := f.store().BeginEnrolment(ctx, f.enrolment(1, 100+n, fmt.Sprint("h", n)), EnrolmentChange{Objects: shared})
			if err != nil {
				t.Fatal(err)
			}
			enrolments = append(enrolments, e)
		}
		states := func() (states []ObjectState) {
			users := must(f.store().ObjectUsers(ctx, ObjectServiceHost, []string{"vip.test", "none.test"}))(t)
			for n, o := range users {
				equal(t, o.InstanceID, id(100+n))
				states = append(states, o.State)
			}
			return states
		}
		equal(t, states(), []ObjectState{ObjectIntended, ObjectIntended, ObjectIntended})
		must(f.store().SaveEnrolment(ctx, enrolments[2], EnrolmentChange{Found: shared}))(t)
		equal(t, states(), []ObjectState{ObjectIntended, ObjectIntended, ObjectFound})
		must(f.store().SaveEnrolment(ctx, enrolments[0], EnrolmentChange{Made: shared}))(t)
		equal(t, states(), []ObjectState{ObjectMade, ObjectMade, ObjectMade})
		must(f.store().SaveEnrolment(ctx, enrolments[1], EnrolmentChange{Found: shared, Objects: shared}))(t)
		equal(t, states(), []ObjectState{ObjectMade, ObjectMade, ObjectMade})

		late, _, err := f.store().BeginEnrolment(ctx, f.enrolment(1, 103, "h3"), EnrolmentChange{Objects: shared})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, states()[3], ObjectIntended)
		released := must(f.store().ReleaseObjects(ctx, id(100)))(t)
		equal(t, len(released), 2)
		for _, o := range released {
			equal(t, o.Leaving, true)
		}
		equal(t, must(f.store().Objects(ctx, id(100)))(t), released)
		equal(t, states()[3], ObjectMade)
		if _, _, err := f.store().BeginEnrolment(ctx, f.enrolment(1, 104, "h4"), EnrolmentChange{Objects: shared}); err != nil {
			t.Fatal(err)
		}
		equal(t, len(must(f.store().ReleaseObjects(ctx, id(100)))(t)), 2)
		equal(t, states()[4], ObjectMade)
		equal(t, len(must(f.store().Objects(ctx, late.InstanceID))(t)), 2)
	})
}

// TestReleaseSome lets some objects of an instance that stays go, and hands on what others have too.
func TestReleaseSome(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		vip := Object{Kind: ObjectServiceHost, Name: "vip.test"}
		sub := Object{Kind: ObjectHost, Name: "a.x.test"}
		other := f.begun(t, f.enrolment(1, 101, "b.test"))
		_, err := f.store().SaveEnrolment(ctx, other, EnrolmentChange{Objects: []Object{vip}})
		isError(t, err, nil)
		read := f.begun(t, f.enrolment(1, 100, "a.test"))
		e, err := f.store().SaveEnrolment(ctx, read, EnrolmentChange{Names: []string{sub.Name}, Objects: []Object{vip, sub}})
		isError(t, err, nil)
		e, err = f.store().SaveEnrolment(ctx, e, EnrolmentChange{Made: []Object{sub}})
		isError(t, err, nil)
		e, err = f.store().SaveEnrolment(ctx, e, EnrolmentChange{Absent: []Object{vip, sub}})
		isError(t, err, nil)
		states := func(instance int) map[string]string {
			all := make(map[string]string)
			for _, o := range must(f.store().Objects(ctx, id(instance)))(t) {
				all[o.Name] = string(o.State)
				if o.Leaving {
					all[o.Name] += ", leaving"
				}
			}
			return all
		}
		equal(t, states(100), map[string]string{"a.test": "intended", "a.x.test": "made", "vip.test": "absent"})
		vip.InstanceID, vip.State, sub.InstanceID, sub.State = id(100), ObjectMade, id(100), ObjectMade
		isError(t, f.store().ReleaseSome(ctx, read, []Object{vip, sub}), ErrConflict)
		equal(t, states(100)["a.x.test"], "made")
		isError(t, f.store().ReleaseSome(ctx, e, []Object{vip, sub}), nil)
		equal(t, states(100), map[string]string{"a.test": "intended", "a.x.test": "made, leaving", "vip.test": "made, leaving"})
		equal(t, states(101), map[string]string{"b.test": "intended", "vip.test": "made"})

		// Wanted again.
		e, err = f.store().SaveEnrolment(ctx, e, EnrolmentChange{Objects: []Object{vip}})
		isError(t, err, nil)
		equal(t, states(100)["vip.test"], "made")
		_, err = f.store().SaveEnrolment(ctx, e, EnrolmentChange{Gone: []Object{sub}})
		isError(t, err, nil)
		equal(t, states(100), map[string]string{"a.test": "intended", "vip.test": "made"})
		third := f.begun(t, f.enrolment(1, 102, "a.x.test"))
		equal(t, third.FQDN, "a.x.test")
	})
}

// TestEnrolmentsOf reads many enrolments by their instances, with all that is recorded of them.
func TestEnrolmentsOf(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		first, second := f.enrolment(1, 100, "a.test"), f.enrolment(1, 101, "b.test")
		first.RebuiltAt, first.OTPReadAt = f.clock.Now().Add(time.Hour), f.clock.Now().Add(time.Minute)
		first, second = f.begun(t, first), f.begun(t, second)
		ids := []string{id(101), id(7), id(100)}
		for n := range 1000 {
			ids = append(ids, id(5000+n))
		}
		found := must(f.store().EnrolmentsOf(t.Context(), ids))(t)
		slices.SortFunc(found, func(a, b Enrolment) int { return strings.Compare(a.InstanceID, b.InstanceID) })
		equal(t, found, []Enrolment{first, second})
		equal(t, len(must(f.store().EnrolmentsOf(t.Context(), nil))(t)), 0)

		isError(t, f.store().SeeRebuild(t.Context(), id(7), first.RebuiltAt), nil)
		equal(t, must(f.store().RebuildsSeen(t.Context(), ids))(t), map[string]time.Time{id(7): first.RebuiltAt})
	})
}
