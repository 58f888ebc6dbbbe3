// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ObjectChange is a change of an object outside of Muster that was begun: it is made, or taken away, for an instance.
//
// Replicas change objects at the same time, and one may die at any instant, with a call on its way that nobody hears of
// again. So each change is recorded before it begins, in the rows of all instances that have the object, and there is
// until when it may have an effect. Who ends a change and finds it recorded still, and saw no other one under way when
// it began, knows how the object is: nobody else can have touched it. For everybody else the rows stay unsure, and say
// so: what is unsure is done again each time that somebody looks, until it was done by one alone.
type ObjectChange struct {
	Object Object // as it is recorded now
	Others bool   // another instance wants the object
	// Certain: before, it was known how the object is. Else a change may be under way, or have ended unknown.
	Certain bool

	alone bool  // no other change can have an effect any more
	rest  int64 // until when others may, if not
}

// BeginChange records that an object is about to be made for an instance, or (leaving) to be taken away. The change must have its effect
// within the time late, or never: late bounds the call itself, what may hold up a call that was given up, and the clocks' differences.
func (s *Store) BeginChange(ctx context.Context, o Object, leaving bool, late time.Duration) (ObjectChange, error) {
	o.State, o.Leaving = ObjectIntended, leaving
	if o.CreatedAt.IsZero() {
		o.CreatedAt = s.now()
	}
	if err := o.check(); err != nil {
		return ObjectChange{}, fmt.Errorf("object: %w", err)
	}
	var c ObjectChange
	begin := func(t *tx) (err error) {
		c, err = s.beginChange(t, o, late)
		return err
	}
	var err error
	for range overtakings {
		// Another replica may have recorded the object's own row between this one's look and its write, or that of another instance.
		if err = s.transact(ctx, begin); !errors.Is(err, ErrExists) {
			break
		}
	}
	if err != nil {
		return ObjectChange{}, fmt.Errorf("object %s: %w", shorten(o.Name), err)
	}
	return c, nil
}

// overtakings bounds how often rows may appear just when a change begins. There is one for each instance that has the object.
const overtakings = 100

// errOvertaken: a row of another instance came that is not locked.
var errOvertaken = fmt.Errorf("%w: a row of the object that is not locked", ErrExists)

func (s *Store) beginChange(t *tx, o Object, late time.Duration) (ObjectChange, error) {
	// Locks the rows: who else begins a change waits, and then sees this one.
	locked, err := t.exec("UPDATE external_object SET leaving = leaving WHERE kind = ? AND name = ?", string(o.Kind), o.Name)
	if err != nil {
		return ObjectChange{}, err
	}
	rows, err := listTx(t, scanObject, selectObject+" WHERE kind = ? AND name = ?", string(o.Kind), o.Name)
	if err != nil {
		return ObjectChange{}, err
	}
	if locked != int64(len(rows)) {
		return ObjectChange{}, errOvertaken
	}
	c := ObjectChange{Object: o, Certain: true}
	own := false
	var latest time.Time
	for _, row := range rows {
		if row.InstanceID == o.InstanceID {
			own, c.Object.CreatedAt = true, row.CreatedAt
		} else if !row.Leaving && row.State != ObjectFound {
			c.Others = true
		}
		c.Certain = c.Certain && row.UnsureUntil.IsZero()
		if row.UnsureUntil.After(latest) {
			latest = row.UnsureUntil
		}
	}
	now := s.now()
	c.alone = !latest.After(now)
	if latest.After(now.Add(late + MaxClockError)) {
		latest = now.Add(late) // by a clock that was far ahead
	}
	// No two changes that are under way have the same time: it tells whose is the last.
	c.Object.UnsureUntil, c.rest = now.Add(late), micros(latest)+1
	if !c.Object.UnsureUntil.After(latest) {
		c.Object.UnsureUntil = latest.Add(time.Microsecond)
	}
	c.Object.UnsureUntil = fromMicros(micros(c.Object.UnsureUntil))
	return c, writeChange(t, c.Object, own)
}

// writeChange records the beginning of a change with the object's own row, which may be there, and those of other instances.
func writeChange(t *tx, o Object, own bool) error {
	if !own {
		if err := t.insert(objectTable, [][]any{o.row()}); err != nil {
			return err
		}
	} else if _, err := t.exec("UPDATE external_object SET state = ?, leaving = ? WHERE kind = ? AND name = ? AND instance_id = ?",
		string(o.State), number(o.Leaving), string(o.Kind), o.Name, o.InstanceID); err != nil {
		return err
	}
	_, err := t.exec("UPDATE external_object SET unsure_until = ? WHERE kind = ? AND name = ?", micros(o.UnsureUntil), string(o.Kind), o.Name)
	return err
}

// EndChange records that a change was carried out. If it is certain what came of it, what was made is settled, and what
// was taken away forgotten; else it stays unsure. ErrConflict: another change began meanwhile that is to the contrary,
// so one of the two is to be repeated by whoever knows which. Who could not carry a change out does not end it.
func (s *Store) EndChange(ctx context.Context, c ObjectChange) error {
	err := s.transact(ctx, func(t *tx) error { return endChange(t, c) })
	if err != nil {
		return fmt.Errorf("object %s: %w", shorten(c.Object.Name), err)
	}
	return nil
}

func endChange(t *tx, c ObjectChange) error {
	o, unsure := c.Object, c.rest
	text := "UPDATE external_object SET leaving = leaving"
	if c.alone {
		unsure = 0
		if text = "UPDATE external_object SET state = 'made', unsure_until = 0"; o.Leaving {
			text = "DELETE FROM external_object"
		}
	}
	n, err := t.exec(text+" WHERE kind = ? AND name = ? AND instance_id = ? AND unsure_until = ?",
		string(o.Kind), o.Name, o.InstanceID, micros(o.UnsureUntil))
	if err != nil {
		return err
	}
	if n == 0 {
		return judgeChange(t, c)
	}
	_, err = t.exec("UPDATE external_object SET unsure_until = ? WHERE kind = ? AND name = ? AND unsure_until = ?",
		unsure, string(o.Kind), o.Name, micros(o.UnsureUntil))
	return err
}

// judgeChange looks whether what was begun after a change leaves the object as this one did.
func judgeChange(t *tx, c ObjectChange) error {
	rows, err := listTx(t, scanObject, selectObject+" WHERE kind = ? AND name = ?", string(c.Object.Kind), c.Object.Name)
	if err != nil {
		return err
	}
	own, wanted := false, false
	for _, row := range rows {
		own = own || row.InstanceID == c.Object.InstanceID
		wanted = wanted || !row.Leaving && row.State != ObjectFound
	}
	if wanted != (c.Others || !c.Object.Leaving) || !c.Object.Leaving && !own {
		return fmt.Errorf("%w: it was changed meanwhile", ErrConflict)
	}
	return nil
}

// DoubtRecords records that DNS records which Muster made were seen not to be there. They count as unsettled then, and are made again by
// whoever looks at one of their instances. One that is being changed is left as it is.
func (s *Store) DoubtRecords(ctx context.Context, names []string) error {
	values := make([]any, 0, len(names))
	for _, name := range names {
		values = append(values, name)
	}
	err := inChunks(values, func(chunk string, values []any) error {
		return s.transact(ctx, func(t *tx) error {
			_, err := t.exec("UPDATE external_object SET state = 'intended' WHERE kind = ? AND state = 'made' AND unsure_until = 0 AND name IN "+chunk,
				append([]any{string(ObjectRecord)}, values...)...)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("doubt DNS records: %w", err)
	}
	return nil
}
