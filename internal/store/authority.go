// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// Role says whose certificates an authority's key signs.
type Role string

// The two roles of a key.
const (
	RoleUser Role = "user"
	RoleHost Role = "host"
)

// KeyState says what an authority's key is still good for.
type KeyState string

// The states of a key, in the order in which it passes them.
const (
	KeyActive  KeyState = "active"  // signs, and is trusted
	KeyTrusted KeyState = "trusted" // no longer signs, is trusted
	KeyRevoked KeyState = "revoked" // neither
)

// Authority is a project's pair of certificate authorities.
type Authority struct {
	ProjectID string
	Name      string // the project's name, at most 255 bytes
	CreatedAt time.Time
	RetiredAt time.Time // zero: live
	Keys      []AuthorityKey
}

// AuthorityKey is one generation of an authority's key for one role.
type AuthorityKey struct {
	ID         string // 32 random hex digits
	ProjectID  string
	Role       Role
	Generation int // 1, 2, ...; unique for a project and role
	Algorithm  string
	PublicKey  string // an authorized_keys line without newline
	Handle     []byte // how custody finds the private key; opaque here
	CreatedAt  time.Time
	State      KeyState
}

func (a Authority) check() error {
	var c check
	c.id("project ID", a.ProjectID)
	c.name("name of the project", a.Name)
	c.that(len(a.Keys) > 0 && len(a.Keys) <= maxDetails, "an authority has from 1 to 64 keys")
	for _, k := range a.Keys {
		c.id("key ID", k.ID)
		c.that(k.ProjectID == "" || k.ProjectID == a.ProjectID, "the key belongs to another project")
		c.that(k.Role == RoleUser || k.Role == RoleHost, "the key has no role")
		c.that(k.Generation > 0 && k.Generation < 1<<31, "the generation is not positive")
		c.that(k.State == KeyActive || k.State == KeyTrusted || k.State == KeyRevoked, "the key has no state")
		c.text("algorithm", k.Algorithm, maxID)
		c.text("public key", k.PublicKey, maxLine)
		c.that(len(k.Handle) <= maxHandle, "the key's handle is too long")
	}
	return c.err
}

func (k AuthorityKey) row() []any {
	return []any{k.ID, k.ProjectID, string(k.Role), k.Generation, k.Algorithm, k.PublicKey, bytes(k.Handle), micros(k.CreatedAt),
		string(k.State)}
}

// CreateAuthority records an authority with its first keys, and the audit entry. ErrExists if the project has one.
func (s *Store) CreateAuthority(ctx context.Context, a Authority, audit Audit) error {
	if err := a.check(); err != nil {
		return fmt.Errorf("authority: %w", err)
	}
	if a.CreatedAt.IsZero() {
		a.CreatedAt = s.now()
	}
	keys := make([][]any, len(a.Keys))
	for i, k := range a.Keys {
		if k.CreatedAt.IsZero() {
			k.CreatedAt = a.CreatedAt
		}
		k.ProjectID = a.ProjectID
		keys[i] = k.row()
	}
	entry, err := s.auditRow(audit)
	if err != nil {
		return err
	}
	err = s.transact(ctx, func(t *tx) error {
		if err := t.insert(authorityTable, [][]any{{a.ProjectID, a.Name, micros(a.CreatedAt), micros(a.RetiredAt), 0}}); err != nil {
			return err
		}
		if err := t.insert(authorityKeyTable, keys); err != nil {
			return err
		}
		return t.insert(auditTable, [][]any{entry})
	})
	if err != nil {
		return fmt.Errorf("authority of project %s: %w", a.ProjectID, err)
	}
	return nil
}

// bytes makes an empty value of no value, for the columns are NOT NULL.
func bytes(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// fromBytes is the other way: the drivers don't agree on what an empty value is.
func fromBytes(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// Authority returns the authority of a project with its keys, newest generation first. ErrNotFound.
func (s *Store) Authority(ctx context.Context, projectID string) (Authority, error) {
	found, err := list(ctx, s, scanAuthority, selectAuthority+" WHERE a.project_id = ?"+authorityOrder, projectID)
	if err != nil || len(found) == 0 {
		return Authority{}, fmt.Errorf("authority of project %s: %w", shorten(projectID), cmp.Or(err, ErrNotFound))
	}
	return gather(found)[0], nil
}

// Authorities lists authorities with their keys by project ID.
func (s *Store) Authorities(ctx context.Context, page Page) ([]Authority, error) {
	limit, err := page.limit()
	if err != nil {
		return nil, err
	}
	found, err := list(ctx, s, scanAuthority, selectAuthority+` JOIN (SELECT project_id FROM authority WHERE project_id > ?
		ORDER BY project_id LIMIT ?) p ON p.project_id = a.project_id`+authorityOrder, page.After, limit)
	if err != nil {
		return nil, fmt.Errorf("list authorities: %w", err)
	}
	return gather(found), nil
}

const selectAuthority = `SELECT a.project_id, a.name, a.created_at, a.retired_at,
	k.id, k.role, k.generation, k.algorithm, k.public_key, k.handle, k.created_at, k.state
	FROM authority a JOIN authority_key k ON k.project_id = a.project_id`
const authorityOrder = " ORDER BY a.project_id, k.role, k.generation DESC"

// scanAuthority reads an authority with one of its keys.
func scanAuthority(r scanner) (Authority, error) {
	var a Authority
	var k AuthorityKey
	var created, retired, keyCreated int64
	err := r.Scan(&a.ProjectID, &a.Name, &created, &retired,
		&k.ID, &k.Role, &k.Generation, &k.Algorithm, &k.PublicKey, &k.Handle, &keyCreated, &k.State)
	a.CreatedAt, a.RetiredAt, k.CreatedAt, k.ProjectID = fromMicros(created), fromMicros(retired), fromMicros(keyCreated), a.ProjectID
	k.Handle = fromBytes(k.Handle)
	a.Keys = []AuthorityKey{k}
	return a, err
}

// gather makes one authority of the rows with the same project, which stand together.
func gather(rows []Authority) []Authority {
	var all []Authority
	for _, row := range rows {
		if n := len(all); n > 0 && all[n-1].ProjectID == row.ProjectID {
			all[n-1].Keys = append(all[n-1].Keys, row.Keys...)
			continue
		}
		all = append(all, row)
	}
	return all
}

func scanKeyState(r scanner) (AuthorityKey, error) {
	var k AuthorityKey
	err := r.Scan(&k.ID, &k.State)
	return k, err
}
