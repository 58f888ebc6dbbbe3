// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Audit is one entry of the audit trail: who did what, to what, and how it ended.
type Audit struct {
	ID           string // UUIDv7 of At in hex, so that entries order by time; made by the store if empty
	At           time.Time
	Actor        string // user ID
	ActorName    string
	ActorProject string
	Action       string
	Outcome      string // "ok", "refused" or "failed"
	ObjectKind   string
	ObjectID     string
	ProjectID    string
	Reason       string
	RequestID    string
	Remote       string
	Details      map[string]string
	Times        int64 // how often it happened within its minute; 0 is taken for 1. See AppendRefusal
}

// AuditFilter selects entries of the audit trail; empty fields select all.
type AuditFilter struct {
	ProjectID string
	Actor     string
	Action    string
	ObjectID  string
	Since     time.Time // inclusive
	Until     time.Time // exclusive
}

// auditRow completes an entry and returns it for inserting. Foreign text that doesn't fit is cut: a caller's odd bytes must not keep what
// it did out of the trail.
func (s *Store) auditRow(a Audit) ([]any, error) {
	if a.At.IsZero() {
		a.At = s.now()
	}
	if a.ID == "" {
		id, err := auditID(a.At)
		if err != nil {
			return nil, fmt.Errorf("audit entry: %w", err)
		}
		a.ID = id
	}
	if len(a.ID) != 32 || strings.Trim(a.ID, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("audit entry: %w: the ID is not 32 hex digits", ErrInvalid)
	}
	if len(a.Details) > maxDetails {
		return nil, fmt.Errorf("audit entry: %w: more than %d details", ErrInvalid, maxDetails)
	}
	details := make(map[string]string, len(a.Details))
	for name, value := range a.Details {
		details[cut(name, maxID)] = cut(value, maxName)
	}
	text, err := json.Marshal(details)
	if err != nil {
		return nil, fmt.Errorf("audit entry: %w: %w", ErrInvalid, err)
	}
	return []any{a.ID, micros(a.At), cut(a.Actor, maxID), cut(a.ActorName, maxName), cut(a.ActorProject, maxID), cut(a.Action, maxID),
		cut(a.Outcome, maxID), cut(a.ObjectKind, maxID), cut(a.ObjectID, maxName), cut(a.ProjectID, maxID), note(a.Reason),
		cut(a.RequestID, maxID), cut(a.Remote, maxID), string(text), max(a.Times, 1)}, nil
}

// auditID makes a UUIDv7 (RFC 9562, 5.7) whose first 60 free bits are the time, to the microsecond, so that entries order by time.
func auditID(at time.Time) (string, error) {
	var id [16]byte
	if _, err := rand.Read(id[8:]); err != nil {
		return "", err
	}
	binary.BigEndian.PutUint64(id[:8], timeBits(at))
	id[8] = id[8]&0x3f | 0x80
	return hex.EncodeToString(id[:]), nil
}

// timeBits is the first half of a UUIDv7: 48 bits of milliseconds, the version, and 12 bits of the rest (RFC 9562, 6.2, method 3).
func timeBits(at time.Time) uint64 {
	us := max(at.UnixMicro(), 0)
	ms, rest := uint64(us/1000), uint64(us%1000)
	return ms<<16 | 7<<12 | rest*4096/1000
}

// firstAuditID is less than the ID of any entry made at that time or later.
func firstAuditID(at time.Time) string { return fmt.Sprintf("%016x%016x", timeBits(at), 0) }

// AppendAudit records an audit entry.
func (s *Store) AppendAudit(ctx context.Context, a Audit) error {
	entry, err := s.auditRow(a)
	if err != nil {
		return err
	}
	err = s.group(ctx, &write{project: a.ProjectID, decide: func(b *batch) error {
		b.insert(auditTable, entry)
		return nil
	}})
	if err != nil {
		return fmt.Errorf("audit entry: %w", err)
	}
	return nil
}

// refusalSpan is the time in which refusals become one entry.
const refusalSpan = time.Minute

// AppendRefusal records that something was refused. Within a minute, on all replicas together, refusals of the same caller (the address,
// where nobody knows more) and action are one entry, which says what the first of them was and how often it happened: nobody fills the
// trail by asking again. Refusals of different objects are told apart by of, which must not be anything that a caller can make up.
func (s *Store) AppendRefusal(ctx context.Context, a Audit, of string) error {
	if a.At.IsZero() {
		a.At = s.now()
	}
	caller := "user " + a.Actor
	if a.Actor == "" {
		caller = "address " + a.Remote
	}
	a.ID = refusalID(a.At, caller, a.Action, of)
	entry, err := s.auditRow(a)
	if err != nil {
		return err
	}
	// All of an entry's refusals have one committer, which adds up those of a batch.
	err = s.group(ctx, &write{project: a.ID, decide: func(b *batch) error {
		b.refuse(a.ID, entry)
		return nil
	}})
	if err != nil {
		return fmt.Errorf("audit entry: %w", err)
	}
	return nil
}

// refusalID is the ID of the entry for all refusals of a minute that are the same. Its time is the minute's beginning.
func refusalID(at time.Time, of ...string) string {
	hash := sha256.New()
	for _, text := range of {
		fmt.Fprintf(hash, "%d %s\n", len(text), text)
	}
	var id [16]byte
	copy(id[8:], hash.Sum(nil))
	binary.BigEndian.PutUint64(id[:8], timeBits(at.Truncate(refusalSpan)))
	id[8] = id[8]&0x3f | 0x80
	return hex.EncodeToString(id[:])
}

// refuse adds a refusal to its entry.
func (b *batch) refuse(id string, entry []any) {
	if first, ok := b.refusals[id]; ok {
		times := len(first) - 1
		first[times] = first[times].(int64) + entry[times].(int64)
		return
	}
	b.refusals[id] = slices.Clone(entry)
}

// writeRefusals adds the entries, or their counts to those that are there: in the order of their IDs, in which no two transactions wait
// for each other.
func (b *batch) writeRefusals() error {
	for _, id := range slices.Sorted(maps.Keys(b.refusals)) {
		if _, err := b.tx.exec(insertRefusal[b.tx.pool.engine], b.refusals[id]...); err != nil {
			return err
		}
	}
	return nil
}

var insertRefusal = func() map[engine]string {
	insert := "INSERT INTO audit (" + auditTable.list("") + ") VALUES " + inList(len(auditTable.columns))
	add := " ON CONFLICT (id) DO UPDATE SET times = audit.times + excluded.times"
	return map[engine]string{
		engineSQLite: insert + add, enginePostgreSQL: insert + add,
		engineMariaDB: insert + " ON DUPLICATE KEY UPDATE times = times + VALUES(times)",
	}
}()

func scanAudit(r scanner) (Audit, error) {
	var a Audit
	var at int64
	var details string
	err := r.Scan(&a.ID, &at, &a.Actor, &a.ActorName, &a.ActorProject, &a.Action, &a.Outcome, &a.ObjectKind, &a.ObjectID, &a.ProjectID,
		&a.Reason, &a.RequestID, &a.Remote, &details, &a.Times)
	if err != nil {
		return a, err
	}
	a.At = fromMicros(at)
	if err := json.Unmarshal([]byte(details), &a.Details); err != nil {
		return a, fmt.Errorf("%w: an audit entry's details are damaged", ErrUnavailable)
	}
	return a, nil
}

// Audits lists audit entries, newest first; After is the ID of the last entry seen. They are found by the ID, which the store makes of At;
// an entry of refusals stands at the beginning of its minute, and has the time of the first.
func (s *Store) Audits(ctx context.Context, f AuditFilter, page Page) ([]Audit, error) {
	limit, err := page.limit()
	if err != nil {
		return nil, err
	}
	var c conditions
	c.addSet("project_id = ?", f.ProjectID)
	c.addSet("actor = ?", f.Actor)
	c.addSet("action = ?", f.Action)
	c.addSet("object_id = ?", f.ObjectID)
	c.addSet("id < ?", page.After)
	if !f.Since.IsZero() {
		c.add("id >= ?", firstAuditID(f.Since.Truncate(refusalSpan)))
		c.add("at >= ?", micros(f.Since))
	}
	if !f.Until.IsZero() {
		c.add("id < ?", firstAuditID(f.Until))
		c.add("at < ?", micros(f.Until))
	}
	all, err := list(ctx, s, scanAudit, "SELECT "+auditTable.list("")+" FROM audit"+c.where()+" ORDER BY id DESC LIMIT ?",
		append(c.args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list audit entries: %w", err)
	}
	return all, nil
}
