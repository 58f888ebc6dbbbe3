// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// ObjectKind is a kind of object outside of Muster.
type ObjectKind string

// The kinds of objects that are made for instances.
const (
	ObjectHost        ObjectKind = "host"         // the entry of a host name that the instance owns
	ObjectServiceHost ObjectKind = "service_host" // the entry of a host that is nobody's own, and carries services
	ObjectService     ObjectKind = "service"      // a service entry, "NAME/HOST"
	ObjectRecord      ObjectKind = "dns"          // a DNS record
)

// ObjectState says whose an object is.
type ObjectState string

// The states of an object.
const (
	ObjectIntended ObjectState = "intended" // is to be made; it may or may not have been
	ObjectAbsent   ObjectState = "absent"   // as intended, and it was seen not to be there before
	ObjectMade     ObjectState = "made"     // Muster made it
	ObjectFound    ObjectState = "found"    // it was there before: Muster never removes it
)

// Object says that an instance has an object outside of Muster. Several instances may have the same one.
type Object struct {
	Kind       ObjectKind
	Name       string
	InstanceID string
	State      ObjectState // empty when recorded: intended
	Leaving    bool        // the instance wants it no more
	CreatedAt  time.Time
	// Identity is what the entry's system knows it by, which one that is made later under the same name does not have. Empty: not known.
	Identity string
	// UnsureUntil is until when a change may have an effect of which nobody recorded how it ended, see BeginChange. Zero: there is none.
	UnsureUntil time.Time
}

// Settled tells that Muster made the object, the instance wants it, and nobody may have changed it since.
func (o Object) Settled() bool { return o.State == ObjectMade && !o.Leaving && o.UnsureUntil.IsZero() }

// EnrolmentChange is what is recorded together with an enrolment.
type EnrolmentChange struct {
	Names   []string // host names that the instance takes; those that it has already are fine
	Objects []Object // of Kind and Name, intended; of those that are recorded already it is noted that they stay
	// Made are of Kind and Name, that turned out to be Muster's: so for all instances that have them. Their Identity is recorded if it is known.
	Made []Object
	// Found are of Kind and Name, that were there before. One with an Identity was Muster's as long as it had that, which somebody else's
	// has not: then so for all instances that have it.
	Found  []Object
	Absent []Object // of Kind and Name, that were seen not to be there; counts only for those that are intended
	Gone   []Object // of Kind and Name, that were removed: forgotten, and their host names are free again
	Audit  *Audit
}

func (o Object) check() error {
	var c check
	c.id("kind of the object", string(o.Kind))
	c.that(o.Name != "", "an object must have a name")
	c.text("name of the object", o.Name, maxObject)
	c.id("instance ID", o.InstanceID)
	c.ascii("identity", o.Identity)
	return c.err
}

func (o Object) row() []any {
	return []any{string(o.Kind), o.Name, o.InstanceID, string(o.State), number(o.Leaving), micros(o.CreatedAt), micros(o.UnsureUntil), o.Identity}
}

func scanObject(r scanner) (Object, error) {
	var o Object
	var leaving, created, unsure int64
	err := r.Scan(&o.Kind, &o.Name, &o.InstanceID, &o.State, &leaving, &created, &unsure, &o.Identity)
	o.Leaving, o.CreatedAt, o.UnsureUntil = leaving != 0, fromMicros(created), fromMicros(unsure)
	return o, err
}

var selectObject = "SELECT " + objectTable.list("") + " FROM external_object"

// prepared is a change of an enrolment, checked.
type prepared struct {
	instanceID string
	gone       bool
	at         time.Time
	change     EnrolmentChange
	audit      []any
}

func (s *Store) prepare(e Enrolment, change EnrolmentChange) (*prepared, error) {
	p := &prepared{instanceID: e.InstanceID, gone: e.State == EnrolmentGone, at: e.UpdatedAt, change: change}
	if err := e.check(); err != nil {
		return nil, err
	}
	var c check
	for _, name := range change.Names {
		c.that(name != "", "a host name is empty")
		c.text("host name", name, maxName)
	}
	if c.err != nil {
		return nil, c.err
	}
	for _, objects := range [][]Object{change.Objects, change.Made, change.Found, change.Absent, change.Gone} {
		for _, o := range objects {
			o.InstanceID = e.InstanceID
			if err := o.check(); err != nil {
				return nil, err
			}
		}
	}
	if change.Audit == nil {
		return p, nil
	}
	var err error
	p.audit, err = s.auditRow(*change.Audit)
	return p, err
}

// need tells the batch what to read.
func (p *prepared) need(b *batch) {
	b.enrolments[p.instanceID] = nil
	for _, name := range p.change.Names {
		b.owners[name] = ""
	}
	if len(p.change.Objects) > 0 {
		b.objects[p.instanceID] = nil
	}
}

// write decides about names, and hands everything but the enrolment itself to the batch.
func (p *prepared) write(b *batch) error {
	for _, name := range p.change.Names {
		if owner := b.owners[name]; owner != "" && owner != p.instanceID {
			return &TakenError{FQDN: name, InstanceID: owner}
		}
	}
	for _, name := range p.change.Names {
		if b.owners[name] == "" {
			b.owners[name] = p.instanceID
			b.insert(ownerTable, []any{name, p.instanceID, micros(p.at)})
		}
	}
	p.writeObjects(b)
	if p.gone {
		b.updateAny("DELETE FROM fqdn_owner WHERE instance_id = ?", p.instanceID)
		// A DNS record's is forgotten with the record: one may be under way yet, of a replica that did not know.
		b.updateAny("DELETE FROM external_object WHERE instance_id = ? AND kind <> ?", p.instanceID, string(ObjectRecord))
	}
	if p.audit != nil {
		b.insert(auditTable, p.audit)
	}
	return nil
}

func (p *prepared) writeObjects(b *batch) {
	for _, o := range p.change.Objects {
		key := objectKey{o.Kind, o.Name}
		if b.objects[p.instanceID][key] {
			b.updateAny("UPDATE external_object SET leaving = 0 WHERE kind = ? AND name = ? AND instance_id = ? AND leaving = 1",
				string(o.Kind), o.Name, p.instanceID)
			continue
		}
		if b.objects[p.instanceID] == nil {
			b.objects[p.instanceID] = make(map[objectKey]bool)
		}
		b.objects[p.instanceID][key] = true
		o.InstanceID, o.State, o.CreatedAt = p.instanceID, ObjectIntended, p.at
		b.insert(objectTable, o.row())
	}
	for _, o := range p.change.Made {
		if b.made[o.Kind] == nil {
			b.made[o.Kind] = make(map[string]string)
		}
		b.made[o.Kind][o.Name] = cmp.Or(o.Identity, b.made[o.Kind][o.Name])
	}
	for _, o := range p.change.Found {
		if o.Identity != "" {
			b.updateAny("UPDATE external_object SET state = 'found', identity = '' WHERE kind = ? AND name = ? AND identity = ?",
				string(o.Kind), o.Name, o.Identity)
			continue
		}
		b.updateAny("UPDATE external_object SET state = 'found' WHERE kind = ? AND name = ? AND instance_id = ? "+
			"AND state IN ('intended', 'absent')", string(o.Kind), o.Name, p.instanceID)
	}
	for _, o := range p.change.Absent {
		b.updateAny("UPDATE external_object SET state = 'absent' WHERE kind = ? AND name = ? AND instance_id = ? AND state = 'intended'",
			string(o.Kind), o.Name, p.instanceID)
	}
	for _, o := range p.change.Gone {
		b.updateAny("DELETE FROM external_object WHERE kind = ? AND name = ? AND instance_id = ?", string(o.Kind), o.Name, p.instanceID)
		if o.Kind == ObjectHost {
			b.updateAny("DELETE FROM fqdn_owner WHERE fqdn = ? AND instance_id = ?", o.Name, p.instanceID)
		}
	}
}

// Owners returns which instances own the host names, by name: ID, project and FQDN. Left out are names without owner, and those
// whose owner found a foreign entry under them.
func (s *Store) Owners(ctx context.Context, names []string) (map[string]Enrolment, error) {
	owners := make(map[string]Enrolment)
	values := make([]any, 0, len(names))
	for _, name := range names {
		values = append(values, name)
	}
	type owned struct {
		name  string
		owner Enrolment
	}
	err := inChunks(values, func(chunk string, values []any) error {
		all, err := list(ctx, s, func(r scanner) (owned, error) {
			var o owned
			err := r.Scan(&o.name, &o.owner.InstanceID, &o.owner.ProjectID, &o.owner.FQDN)
			return o, err
		}, "SELECT f.fqdn, f.instance_id, e.project_id, e.fqdn FROM fqdn_owner f JOIN enrolment e ON e.instance_id = f.instance_id "+
			"JOIN external_object o ON o.kind = 'host' AND o.name = f.fqdn AND o.instance_id = f.instance_id AND o.state <> 'found' "+
			"WHERE f.fqdn IN "+chunk, values...)
		for _, o := range all {
			owners[o.name] = o.owner
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("owners of host names: %w", err)
	}
	return owners, nil
}

// Objects returns all objects of an instance, by kind and name.
func (s *Store) Objects(ctx context.Context, instanceID string) ([]Object, error) {
	all, err := list(ctx, s, scanObject, selectObject+" WHERE instance_id = ? ORDER BY kind, name", instanceID)
	if err != nil {
		return nil, fmt.Errorf("objects of instance %s: %w", shorten(instanceID), err)
	}
	return all, nil
}

// ObjectUsers returns the records of all instances that have one of the objects, of one kind, by name and instance.
func (s *Store) ObjectUsers(ctx context.Context, kind ObjectKind, names []string) ([]Object, error) {
	values := make([]any, 0, len(names))
	for _, name := range names {
		values = append(values, name)
	}
	var all []Object
	err := inChunks(values, func(chunk string, values []any) error {
		// The set of names is padded with repetitions, which IN doesn't mind.
		some, err := list(ctx, s, scanObject, selectObject+" WHERE kind = ? AND name IN "+chunk+" ORDER BY name, instance_id",
			append([]any{string(kind)}, values...)...)
		all = append(all, some...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("users of objects: %w", err)
	}
	return all, nil
}

// ObjectsOf returns the objects of one kind that several instances have, by instance ID.
func (s *Store) ObjectsOf(ctx context.Context, kind ObjectKind, instanceIDs []string) (map[string][]Object, error) {
	values := make([]any, 0, len(instanceIDs))
	for _, id := range instanceIDs {
		values = append(values, id)
	}
	all := make(map[string][]Object)
	err := inChunks(values, func(chunk string, values []any) error {
		some, err := list(ctx, s, scanObject, selectObject+" WHERE kind = ? AND instance_id IN "+chunk+" ORDER BY name",
			append([]any{string(kind)}, values...)...)
		for _, o := range some {
			all[o.InstanceID] = append(all[o.InstanceID], o)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("objects of instances: %w", err)
	}
	return all, nil
}

// ReleaseObjects records that an instance wants its objects no more, and hands on, to other instances that have them too, that Muster made
// them. Of several instances that leave at once, at least the last one sees no other user. It returns the objects as they are now. DNS
// records are left out: see BeginChange.
func (s *Store) ReleaseObjects(ctx context.Context, instanceID string) (released []Object, err error) {
	const own = " WHERE instance_id = ? AND kind <> ?"
	args := []any{instanceID, string(ObjectRecord)}
	// Before the transaction: MariaDB would show it, in all further reads, what was there at its first. An instance that leaves gets no
	// objects any more.
	had, err := list(ctx, s, scanObject, selectObject+own, args...)
	if err == nil {
		err = s.transact(ctx, func(t *tx) error {
			if err := lockObjects(t, had); err != nil {
				return err
			}
			if _, err := t.exec("UPDATE external_object SET leaving = 1"+own, args...); err != nil {
				return err
			}
			// That Muster made an object is read after whoever was about to record it.
			if released, err = listTx(t, scanObject, selectObject+own+" ORDER BY kind, name", args...); err != nil {
				return err
			}
			return handOn(t, released)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("objects of instance %s: %w", shorten(instanceID), err)
	}
	return released, nil
}

// lockObjects locks the rows of objects, those of other instances too, in an order to which all keep: else, of many instances that leave
// at once and share an object, each would have its own row and wait for the others'.
func lockObjects(t *tx, objects []Object) error {
	sorted := slices.SortedFunc(slices.Values(objects), func(a, b Object) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	text := "SELECT instance_id FROM external_object WHERE kind = ? AND name = ? ORDER BY instance_id" + t.pool.engine.updateLock()
	for _, o := range sorted {
		if _, err := listTx(t, scanString, text, string(o.Kind), o.Name); err != nil {
			return err
		}
	}
	return nil
}

// ReleaseSome is ReleaseObjects for some objects of an instance that stays. ErrConflict: its enrolment was changed
// since it was read, and may want them again.
func (s *Store) ReleaseSome(ctx context.Context, e Enrolment, objects []Object) error {
	err := s.transact(ctx, func(t *tx) error {
		// The row is locked with it: who wants the objects again comes before this, and is seen here, or after it.
		n, err := t.exec("UPDATE enrolment SET version = version WHERE instance_id = ? AND version = ?", e.InstanceID, e.Version)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: it was changed meanwhile", ErrConflict)
		}
		if err := lockObjects(t, objects); err != nil {
			return err
		}
		if err := handOn(t, objects); err != nil {
			return err
		}
		for _, o := range objects {
			_, err := t.exec("UPDATE external_object SET leaving = 1 WHERE kind = ? AND name = ? AND instance_id = ?",
				string(o.Kind), o.Name, e.InstanceID)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("objects of instance %s: %w", shorten(e.InstanceID), err)
	}
	return nil
}

// handOn tells the other instances that have an object that Muster made it.
func handOn(t *tx, objects []Object) error {
	for _, o := range objects {
		if o.State != ObjectMade {
			continue
		}
		if _, err := t.exec("UPDATE external_object SET state = 'made' WHERE kind = ? AND name = ? AND state <> 'made'", string(o.Kind), o.Name); err != nil {
			return err
		}
	}
	return nil
}
