// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// EnrolmentState says how far an enrolment is.
type EnrolmentState string

// The states of an enrolment.
const (
	EnrolmentWanted   EnrolmentState = "wanted"   // recorded; FreeIPA has not all of it yet
	EnrolmentCreated  EnrolmentState = "created"  // FreeIPA has all of it; the instance has not joined yet
	EnrolmentEnrolled EnrolmentState = "enrolled" // the instance has joined
	EnrolmentFailed   EnrolmentState = "failed"   // see LastError; without NextAt nothing happens until somebody acts
	EnrolmentLeaving  EnrolmentState = "leaving"  // being removed
	EnrolmentGone     EnrolmentState = "gone"     // removed
)

// OTPState says where an instance's one-time password is.
type OTPState string

// The states of a one-time password.
const (
	OTPNew     OTPState = "new"     // made; FreeIPA may or may not have it
	OTPRebuild OTPState = "rebuild" // as OTPNew, and the host's keytab is to be made invalid before
	OTPSet     OTPState = "set"     // FreeIPA has it
	OTPUsed    OTPState = "used"    // spent or dropped
)

// Enrolment is an instance's enrolment in FreeIPA.
type Enrolment struct {
	InstanceID  string
	ProjectID   string
	ProjectName string
	FQDN        string
	State       EnrolmentState
	OTPState    OTPState
	OTPSealed   []byte    // the one-time password, sealed by custody; empty once it is used
	Want        string    // what the instance wants, as JSON of package enroll
	LastError   string    // of the last attempt; "" if it succeeded; stored in one line, cut if too long
	Attempts    int       // failed ones in a row
	NextAt      time.Time // when there is something to do; zero: not until somebody acts
	ClaimedBy   string    // the replica that works on it, until ClaimedTill
	ClaimedTill time.Time
	CreatedAt   time.Time
	UpdatedAt   time.Time
	GoneAt      time.Time
	RebuiltAt   time.Time // the rebuild, by Nova's clock, for which the one-time password was made; zero: for none
	OTPReadAt   time.Time // when the instance last got the one-time password, and FreeIPA had no keytab of its host yet; zero: not known
	Version     int64     // grows with each change
}

// HasEntry tells whether FreeIPA has taken the host entry that Muster made for the instance: the name is the instance's
// then, until it leaves. An enrolment that failed may have failed because the name is somebody else's, or later, when
// the instance could not join.
func (e Enrolment) HasEntry() bool {
	return (e.OTPState == OTPSet || e.OTPState == OTPUsed) && e.State != EnrolmentLeaving && e.State != EnrolmentGone
}

// TakenError tells that a host name belongs to another instance. It is an ErrConflict.
type TakenError struct {
	FQDN       string
	InstanceID string // the owner
}

// Error names the host name and its owner.
func (e *TakenError) Error() string {
	return fmt.Sprintf("%s: %s belongs to instance %s", ErrConflict, e.FQDN, e.InstanceID)
}

// Unwrap returns ErrConflict.
func (e *TakenError) Unwrap() error { return ErrConflict }

func (e Enrolment) check() error {
	var c check
	c.id("instance ID", e.InstanceID)
	c.id("project ID", e.ProjectID)
	c.name("project name", e.ProjectName)
	c.text("FQDN", e.FQDN, maxName)
	c.id("state", string(e.State))
	c.id("state of the password", string(e.OTPState))
	c.ascii("replica", e.ClaimedBy)
	c.text("what is wanted", e.Want, maxWant)
	c.that(len(e.OTPSealed) <= maxHandle, "the sealed password is too long")
	c.that(e.Attempts >= 0 && e.Attempts < 1<<31, "the attempts are out of range")
	return c.err
}

func (e Enrolment) row() []any {
	return append([]any{e.InstanceID}, e.changes()...)
}

// changes are the columns that an update sets, in their order in the table.
func (e Enrolment) changes() []any {
	return []any{e.ProjectID, e.ProjectName, e.FQDN, string(e.State), string(e.OTPState), bytes(e.OTPSealed), e.Want,
		note(e.LastError), int64(e.Attempts), micros(e.NextAt), e.ClaimedBy, micros(e.ClaimedTill), micros(e.CreatedAt),
		micros(e.UpdatedAt), micros(e.GoneAt), e.Version, micros(e.RebuiltAt), micros(e.OTPReadAt)}
}

// stored returns the enrolment as it will be read back.
func (e Enrolment) stored() Enrolment {
	for _, t := range []*time.Time{&e.NextAt, &e.ClaimedTill, &e.CreatedAt, &e.UpdatedAt, &e.GoneAt, &e.RebuiltAt, &e.OTPReadAt} {
		*t = fromMicros(micros(*t))
	}
	e.OTPSealed, e.LastError = fromBytes(e.OTPSealed), note(e.LastError)
	return e
}

func scanEnrolment(r scanner) (Enrolment, error) {
	var e Enrolment
	var attempts, next, claimed, created, updated, gone, rebuilt, read int64
	err := r.Scan(&e.InstanceID, &e.ProjectID, &e.ProjectName, &e.FQDN, &e.State, &e.OTPState, &e.OTPSealed, &e.Want, &e.LastError,
		&attempts, &next, &e.ClaimedBy, &claimed, &created, &updated, &gone, &e.Version, &rebuilt, &read)
	e.Attempts, e.NextAt, e.ClaimedTill = int(attempts), fromMicros(next), fromMicros(claimed)
	e.CreatedAt, e.UpdatedAt, e.GoneAt = fromMicros(created), fromMicros(updated), fromMicros(gone)
	e.RebuiltAt, e.OTPReadAt = fromMicros(rebuilt), fromMicros(read)
	e.OTPSealed = fromBytes(e.OTPSealed)
	return e, err
}

var (
	selectEnrolment = "SELECT " + enrolmentTable.list("") + " FROM enrolment"
	updateEnrolment = enrolmentTable.update("instance_id = ? AND version = ?")
)

// BeginEnrolment records an enrolment with the names that it takes and the objects that are to be made. The first one wins, over all
// replicas: if the instance has one, that is returned, with created = false, and nothing is written. *TakenError: a name is another
// instance's.
func (s *Store) BeginEnrolment(ctx context.Context, e Enrolment, change EnrolmentChange) (stored Enrolment, created bool, err error) {
	e.Version = 1
	if e.CreatedAt.IsZero() {
		e.CreatedAt = s.now()
	}
	e.UpdatedAt = e.CreatedAt
	prepared, err := s.prepare(e, change)
	if err != nil {
		return Enrolment{}, false, fmt.Errorf("enrolment: %w", err)
	}
	// Not the named results: when ctx ends first, this call returns while the committer still writes here.
	var result Enrolment
	var made bool
	decide := func(b *batch) error {
		if there := b.enrolments[e.InstanceID]; there != nil {
			result, made = *there, false
			return nil
		}
		if err := prepared.write(b); err != nil {
			return err
		}
		result, made = e.stored(), true
		b.enrolments[e.InstanceID] = &result
		b.insert(enrolmentTable, e.row())
		return nil
	}
	if err := s.groupEnrolment(ctx, e, prepared.need, decide); err != nil {
		return Enrolment{}, false, fmt.Errorf("enrolment of instance %s: %w", e.InstanceID, err)
	}
	return result, made, nil
}

// SaveEnrolment records a change of an enrolment that was read before, and returns it with its new version. With the
// state EnrolmentGone its names are free again and its objects, but for DNS records, forgotten. ErrConflict: somebody
// else has changed it since it was read; *TakenError: a name is another instance's; ErrNotFound.
func (s *Store) SaveEnrolment(ctx context.Context, e Enrolment, change EnrolmentChange) (Enrolment, error) {
	read := e.Version
	e.Version++
	e.UpdatedAt = s.now()
	prepared, err := s.prepare(e, change)
	if err != nil {
		return Enrolment{}, fmt.Errorf("enrolment: %w", err)
	}
	decide := func(b *batch) error {
		there := b.enrolments[e.InstanceID]
		if there == nil {
			return ErrNotFound
		}
		if there.Version != read {
			return fmt.Errorf("%w: it was changed meanwhile", ErrConflict)
		}
		if err := prepared.write(b); err != nil {
			return err
		}
		now := e.stored()
		b.enrolments[e.InstanceID] = &now
		b.update(updateEnrolment, append(e.changes(), e.InstanceID, read)...)
		return nil
	}
	if err := s.groupEnrolment(ctx, e, prepared.need, decide); err != nil {
		return Enrolment{}, fmt.Errorf("enrolment of instance %s: %w", shorten(e.InstanceID), err)
	}
	return e.stored(), nil
}

// groupEnrolment commits a write of an enrolment, which comes in crowds and whose callers wait for FreeIPA.
func (s *Store) groupEnrolment(ctx context.Context, e Enrolment, need func(*batch), decide func(*batch) error) error {
	err := s.group(ctx, &write{project: e.ProjectID, patient: true, need: need, decide: decide})
	if errors.Is(err, ErrExists) {
		// Another replica took the instance or a name between this one's look and its write.
		err = s.group(ctx, &write{project: e.ProjectID, patient: true, need: need, decide: decide})
	}
	return err
}

// Enrolment returns an instance's enrolment. ErrNotFound.
func (s *Store) Enrolment(ctx context.Context, instanceID string) (Enrolment, error) {
	e, err := one(ctx, s, scanEnrolment, selectEnrolment+" WHERE instance_id = ?", instanceID)
	if err != nil {
		return Enrolment{}, fmt.Errorf("enrolment of instance %s: %w", shorten(instanceID), err)
	}
	return e, nil
}

// EnrolmentFilter selects enrolments of a list; empty fields select all.
type EnrolmentFilter struct {
	ProjectID string
	State     EnrolmentState
}

// Enrolments lists enrolments by instance ID.
func (s *Store) Enrolments(ctx context.Context, f EnrolmentFilter, page Page) ([]Enrolment, error) {
	limit, err := page.limit()
	if err != nil {
		return nil, err
	}
	var c conditions
	c.addSet("project_id = ?", f.ProjectID)
	c.addSet("state = ?", string(f.State))
	c.add("instance_id > ?", page.After)
	all, err := list(ctx, s, scanEnrolment, selectEnrolment+c.where()+" ORDER BY instance_id LIMIT ?", append(c.args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list enrolments: %w", err)
	}
	return all, nil
}

// EnrolmentsOf returns the enrolments of those of the instances that have one, in no order.
func (s *Store) EnrolmentsOf(ctx context.Context, instanceIDs []string) ([]Enrolment, error) {
	values := make([]any, 0, len(instanceIDs))
	for _, id := range instanceIDs {
		values = append(values, id)
	}
	var all []Enrolment
	err := inChunks(values, func(chunk string, values []any) error {
		some, err := list(ctx, s, scanEnrolment, selectEnrolment+" WHERE instance_id IN "+chunk, values...)
		all = append(all, some...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("enrolments of instances: %w", err)
	}
	return all, nil
}

// DueEnrolments returns enrolments whose time has come and that no replica works on, at most limit, the most overdue first. None is put off,
// or worked on, for longer than longest: later times were set by a clock that was far ahead, and are not believed.
func (s *Store) DueEnrolments(ctx context.Context, longest time.Duration, limit int) ([]Enrolment, error) {
	if limit < 1 || limit > MaxPageLimit {
		return nil, fmt.Errorf("due enrolments: %w: the limit is from 1 to %d", ErrInvalid, MaxPageLimit)
	}
	now, wrong := micros(s.now()), micros(s.now().Add(longest+MaxClockError))
	all, err := list(ctx, s, scanEnrolment, selectEnrolment+
		" WHERE next_at > 0 AND (next_at <= ? OR next_at > ?) AND (claimed_till <= ? OR claimed_till > ?) ORDER BY next_at LIMIT ?", now, wrong, now, wrong, limit)
	if err != nil {
		return nil, fmt.Errorf("due enrolments: %w", err)
	}
	return all, nil
}

// CountEnrolments returns how many enrolments are in each state.
func (s *Store) CountEnrolments(ctx context.Context) (map[EnrolmentState]int, error) {
	type count struct {
		state EnrolmentState
		n     int
	}
	all, err := list(ctx, s, func(r scanner) (count, error) {
		var c count
		err := r.Scan(&c.state, &c.n)
		return c, err
	}, "SELECT state, COUNT(*) FROM enrolment GROUP BY state")
	if err != nil {
		return nil, fmt.Errorf("count enrolments: %w", err)
	}
	counts := make(map[EnrolmentState]int, len(all))
	for _, c := range all {
		counts[c.state] = c.n
	}
	return counts, nil
}
