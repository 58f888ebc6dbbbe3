// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/store"
)

// attempt brings FreeIPA in line with one enrolment. Each step may have been done before, by an attempt that was cut short.
type attempt struct {
	service *Service
	e       store.Enrolment // as it is to be recorded
	want    want
	objects map[objectKey]store.Object // as recorded before the attempt
	change  store.EnrolmentChange      // what was learned and is not recorded yet
}

// foreignError tells that FreeIPA has an entry that is not ours.
type foreignError struct{ fqdn, instanceID string }

// Error says what to do.
func (e *foreignError) Error() string {
	return fmt.Sprintf("FreeIPA has a host entry %s that Muster did not make, and leaves it alone; remove it there, then run: "+
		"muster enrolment retry %s; or make it this instance's: muster enrolment adopt %[2]s", e.fqdn, e.instanceID)
}

// errLater tells that an entry is on its way out.
var errLater = errors.New("the entry is being removed for another instance")

// classOf tells what can be done about an attempt's error.
func classOf(err error) ipa.Class {
	var foreign *foreignError
	var members *ipa.MemberError
	switch {
	case errors.As(err, &foreign):
		return ipa.Permanent
	case errors.As(err, &members):
		return ipa.Operator // a right is missing, or the host is gone again
	case errors.Is(err, ipa.NotFound):
		return ipa.Repeatable // an entry went that was there a moment ago
	}
	return ipa.ClassOf(err)
}

// problems collects the errors of several commands and returns the one that decides: what an operator must do before what may pass
// by itself, and that before what stays as it is. Of several alike it is the first, for later ones may come from it.
type problems struct{ worst error }

func (p *problems) add(err error) {
	if err == nil {
		return
	}
	rank := func(err error) int {
		return slices.Index([]ipa.Class{ipa.Permanent, ipa.Repeatable, ipa.Operator}, classOf(err))
	}
	if p.worst == nil || rank(err) > rank(p.worst) {
		p.worst = err
	}
}

// run makes the attempt. What it returns as error is recorded with the enrolment.
func (a *attempt) run(ctx context.Context) error {
	if a.e.State == store.EnrolmentLeaving {
		return a.remove(ctx)
	}
	if err := a.hosts(ctx); err != nil {
		return err
	}
	if len(a.want.Services) > 0 {
		if err := a.record(ctx); err != nil {
			return err
		}
		if err := a.services(ctx); err != nil {
			return err
		}
	}
	if err := a.dropUnnamed(ctx); err != nil {
		return err
	}
	a.e.State = store.EnrolmentCreated
	if a.e.OTPState == store.OTPUsed {
		a.e.State = store.EnrolmentEnrolled
	}
	return nil
}

// record saves what was learned so far, so that a crash from here on loses none of it.
func (a *attempt) record(ctx context.Context) error {
	if len(a.change.Made) == 0 && len(a.change.Found) == 0 && len(a.change.Absent) == 0 {
		return nil
	}
	saved, err := a.service.cfg.Store.SaveEnrolment(ctx, a.e, a.change)
	if err != nil {
		return err
	}
	a.e, a.change = saved, store.EnrolmentChange{}
	return nil
}

// made notes that an object is Muster's, and what it is known by, if that was told.
func (a *attempt) made(kind store.ObjectKind, name, identity string) {
	a.change.Made = append(a.change.Made, store.Object{Kind: kind, Name: name, Identity: identity})
}

// found notes that an object is somebody else's. If Muster had made one of the name, it had the identity lost.
func (a *attempt) found(kind store.ObjectKind, name, lost string) {
	a.service.metrics.found.Inc()
	a.change.Found = append(a.change.Found, store.Object{Kind: kind, Name: name, Identity: lost})
}

// same tells whether an entry that FreeIPA shows may be the one that was recorded. What was recorded before identities were is believed.
func same(recorded, shown string) bool { return recorded == "" || shown == "" || recorded == shown }

// ours tells whether Muster made the host entry that FreeIPA shows: it is the one that was recorded, or its description says so.
func (a *attempt) ours(o store.Object, shown ipa.Host) bool {
	return o.State == store.ObjectMade && same(o.Identity, shown.ID) || madeFor(a.e.InstanceID, shown)
}

// replaced logs that an entry is left alone which somebody made anew under the name of one of Muster's.
func (a *attempt) replaced(ctx context.Context, o store.Object) {
	a.service.cfg.Logger.InfoContext(ctx, "An entry that Muster had made was replaced by somebody else; the new one is left alone",
		"kind", string(o.Kind), "name", o.Name, "instance", a.e.InstanceID)
}

// objectKey is one object of the instance.
type objectKey struct {
	kind store.ObjectKind
	name string
}

// readObjects reads what is known of the instance's objects. All is new to an enrolment that was just recorded.
func (a *attempt) readObjects(ctx context.Context) error {
	a.objects = make(map[objectKey]store.Object)
	if a.e.Version == 1 {
		return nil
	}
	objects, err := a.service.cfg.Store.Objects(ctx, a.e.InstanceID)
	for _, o := range objects {
		a.objects[objectKey{o.Kind, o.Name}] = o
	}
	return err
}

// users says who has an object.
type users struct {
	made    bool     // Muster made it
	id      string   // the identity of what Muster made, if it is known
	leaving bool     // another instance is about to remove it
	staying bool     // another instance has it
	all     []string // instances
}

// users returns who has the objects, by name.
func (a *attempt) users(ctx context.Context, kind store.ObjectKind, names []string) (map[string]users, error) {
	objects, err := a.service.cfg.Store.ObjectUsers(ctx, kind, names)
	byName := make(map[string]users)
	for _, o := range objects {
		u := byName[o.Name]
		u.all = append(u.all, o.InstanceID)
		u.made = u.made || o.State == store.ObjectMade
		u.id = cmp.Or(u.id, o.Identity)
		if o.InstanceID != a.e.InstanceID {
			u.leaving = u.leaving || o.Leaving
			u.staying = u.staying || !o.Leaving
		}
		byName[o.Name] = u
	}
	return byName, err
}
