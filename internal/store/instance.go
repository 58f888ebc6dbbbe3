// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// InstanceState says whether the instance is still there.
type InstanceState string

// The states of an instance.
const (
	InstanceLive    InstanceState = "live"
	InstanceDeleted InstanceState = "deleted"
)

// Instance is an instance of the cloud that asked for an identity.
type Instance struct {
	ID        string
	ProjectID string
	Hostname  string
	State     InstanceState // empty when created: live
	CreatedAt time.Time
	DeletedAt time.Time
	Token     HostToken
}

// HostToken is an instance's one-time token for a host certificate. The token itself is never stored.
type HostToken struct {
	Hash            string // hex SHA-256 of the token
	Sealed          []byte // the token, sealed by custody
	CreatedAt       time.Time
	ExpiresAt       time.Time
	UsedAt          time.Time // zero: not used
	UsedFingerprint string    // SHA256:... of the host key that it was spent on
}

func (i Instance) check() error {
	var c check
	c.id("instance ID", i.ID)
	c.id("project ID", i.ProjectID)
	c.text("host name", i.Hostname, maxName)
	i.Token.check(&c)
	return c.err
}

func (t HostToken) check(c *check) {
	c.id("hash of the token", t.Hash)
	c.ascii("fingerprint", t.UsedFingerprint)
	c.that(len(t.Sealed) <= maxHandle, "the sealed token is too long")
	c.that(!t.ExpiresAt.IsZero(), "the token must expire")
}

func (i Instance) row() []any {
	return []any{i.ID, i.ProjectID, i.Hostname, string(i.State), micros(i.CreatedAt), micros(i.DeletedAt), i.Token.Hash,
		bytes(i.Token.Sealed), micros(i.Token.CreatedAt), micros(i.Token.ExpiresAt), micros(i.Token.UsedAt), i.Token.UsedFingerprint}
}

func scanInstance(r scanner) (Instance, error) {
	var i Instance
	var created, deleted, tokenCreated, tokenExpires, tokenUsed int64
	err := r.Scan(&i.ID, &i.ProjectID, &i.Hostname, &i.State, &created, &deleted, &i.Token.Hash, &i.Token.Sealed,
		&tokenCreated, &tokenExpires, &tokenUsed, &i.Token.UsedFingerprint)
	i.CreatedAt, i.DeletedAt, i.Token.CreatedAt = fromMicros(created), fromMicros(deleted), fromMicros(tokenCreated)
	i.Token.ExpiresAt, i.Token.UsedAt = fromMicros(tokenExpires), fromMicros(tokenUsed)
	i.Token.Sealed = fromBytes(i.Token.Sealed)
	return i, err
}

// CreateInstance records an instance with its token. The first one wins, over all replicas: if there is a record, that one is
// returned, with created = false, and nothing is written. ErrConflict if it belongs to another project or was deleted: instance IDs
// are never used again.
func (s *Store) CreateInstance(ctx context.Context, i Instance, audit Audit) (stored Instance, created bool, err error) {
	i.State = InstanceLive
	if i.CreatedAt.IsZero() {
		i.CreatedAt = s.now()
	}
	if err := i.check(); err != nil {
		return Instance{}, false, fmt.Errorf("instance: %w", err)
	}
	entry, err := s.auditRow(audit)
	if err != nil {
		return Instance{}, false, err
	}
	w := &write{project: i.ProjectID, need: func(b *batch) { b.instances[i.ID] = nil }}
	row := i.row()
	// Not the named results: when ctx ends first, this call returns while the committer still writes here.
	var result Instance
	var made bool
	w.decide = func(b *batch) error {
		if there := b.instances[i.ID]; there != nil {
			result, made = *there, false
			return there.usable(i.ProjectID)
		}
		result, made = i.stored(), true
		b.instances[i.ID] = &result
		b.insert(instanceTable, row)
		b.insert(auditTable, entry)
		return nil
	}
	err = s.group(ctx, w)
	if errors.Is(err, ErrExists) {
		// Another replica made it between this one's look and its write.
		err = s.group(ctx, &write{project: w.project, need: w.need, decide: w.decide})
	}
	if err != nil {
		return Instance{}, false, fmt.Errorf("instance %s: %w", i.ID, err)
	}
	return result, made, nil
}

// stored returns the instance as it will be read back.
func (i Instance) stored() Instance {
	round := func(t time.Time) time.Time { return fromMicros(micros(t)) }
	i.CreatedAt, i.DeletedAt = round(i.CreatedAt), round(i.DeletedAt)
	i.Token.CreatedAt, i.Token.ExpiresAt, i.Token.UsedAt = round(i.Token.CreatedAt), round(i.Token.ExpiresAt), round(i.Token.UsedAt)
	i.Token.Sealed = fromBytes(i.Token.Sealed)
	return i
}

// usable refuses an instance that is deleted, or another project's.
func (i Instance) usable(projectID string) error {
	if i.State != InstanceLive {
		return fmt.Errorf("%w: it was deleted", ErrConflict)
	}
	if i.ProjectID != projectID {
		return fmt.Errorf("%w: it belongs to another project", ErrConflict)
	}
	return nil
}

var selectInstance = "SELECT " + instanceTable.list("") + " FROM instance"

// Instance returns a live instance. ErrNotFound.
func (s *Store) Instance(ctx context.Context, id string) (Instance, error) {
	i, err := one(ctx, s, scanInstance, selectInstance+" WHERE id = ? AND state = 'live'", id)
	if err != nil {
		return Instance{}, fmt.Errorf("instance %s: %w", shorten(id), err)
	}
	return i, nil
}

// InstanceByToken returns the live instance whose token has this hash, expired or not. ErrNotFound.
func (s *Store) InstanceByToken(ctx context.Context, hash string) (Instance, error) {
	if hash == "" {
		return Instance{}, fmt.Errorf("host token: %w", ErrNotFound)
	}
	i, err := one(ctx, s, scanInstance, selectInstance+" WHERE token_hash = ? AND state = 'live'", hash)
	if err != nil {
		return Instance{}, fmt.Errorf("host token: %w", err)
	}
	return i, nil
}

// Instances lists live instances by ID. The filter knows ProjectID.
func (s *Store) Instances(ctx context.Context, f Filter, page Page) ([]Instance, error) {
	limit, err := page.limit()
	if err != nil {
		return nil, err
	}
	if f.UserID != "" || f.InstanceID != "" {
		return nil, fmt.Errorf("list instances: %w: only a project can be selected", ErrInvalid)
	}
	var c conditions
	c.addSet("project_id = ?", f.ProjectID)
	c.add("id > ?", page.After)
	all, err := list(ctx, s, scanInstance, selectInstance+c.where()+" AND state = 'live' ORDER BY id LIMIT ?", append(c.args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	return all, nil
}

// RenewToken gives a live instance another token, if its hash is still oldHash; else another replica did it, and what is there
// is returned. ErrNotFound.
func (s *Store) RenewToken(ctx context.Context, id, oldHash string, token HostToken, audit Audit) (stored Instance, err error) {
	var c check
	token.check(&c)
	if c.err != nil {
		return Instance{}, fmt.Errorf("host token: %w", c.err)
	}
	entry, err := s.auditRow(audit)
	if err != nil {
		return Instance{}, err
	}
	err = s.transact(ctx, func(t *tx) error {
		n, err := t.exec(`UPDATE instance SET token_hash = ?, token_sealed = ?, token_created_at = ?, token_expires_at = ?,
			token_used_at = ?, token_fingerprint = ? WHERE id = ? AND token_hash = ? AND state = 'live'`,
			token.Hash, bytes(token.Sealed), micros(token.CreatedAt), micros(token.ExpiresAt), micros(token.UsedAt),
			token.UsedFingerprint, id, oldHash)
		if err != nil {
			return err
		}
		found, err := listTx(t, scanInstance, selectInstance+" WHERE id = ? AND state = 'live'", id)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return ErrNotFound
		}
		stored = found[0]
		if n == 0 {
			return errNothing
		}
		return t.insert(auditTable, [][]any{entry})
	})
	if err != nil {
		return Instance{}, fmt.Errorf("instance %s: %w", shorten(id), err)
	}
	return stored, nil
}

// DeleteInstance marks an instance deleted, drops its token and revokes its host certificates that have not expired, all in one
// transaction. Of the order, Reason and By are used. Repeats do nothing. ErrNotFound if the instance was never recorded.
func (s *Store) DeleteInstance(ctx context.Context, id string, at time.Time, order RevocationOrder, audit Audit) error {
	entry, err := s.auditRow(audit)
	if err != nil {
		return err
	}
	if at.IsZero() {
		at = s.now()
	}
	order.At = at
	if err := order.checkTexts(); err != nil {
		return err
	}
	// Before the transaction: MariaDB would show it, in all further reads, what was there at its first, so that it
	// would not see the certificates that are recorded while it waits for the authority.
	order.ProjectID, err = one(ctx, s, scanString, "SELECT project_id FROM instance WHERE id = ?", id)
	if err == nil {
		err = s.transact(ctx, func(t *tx) error { return s.deleteInstance(t, id, order, entry) })
	}
	if err != nil {
		return fmt.Errorf("instance %s: %w", shorten(id), err)
	}
	return nil
}

// deleteInstance locks the authority before the instance, as a batch does, so that the two don't wait for each other.
func (s *Store) deleteInstance(t *tx, id string, order RevocationOrder, entry []any) error {
	log, err := openLog(t, order)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	n, err := t.exec(`UPDATE instance SET state = 'deleted', deleted_at = ?, token_hash = '', token_sealed = ?, token_expires_at = 0
		WHERE id = ? AND state = 'live'`, micros(order.At), []byte{}, id)
	if err != nil {
		return err
	}
	if n == 0 {
		return errNothing
	}
	if log != nil {
		err := log.revokeSerials(t, hostSerials, "instance_id = ?", id)
		if err != nil {
			return err
		}
		if err := log.close(t); err != nil {
			return err
		}
	}
	return t.insert(auditTable, [][]any{entry})
}
