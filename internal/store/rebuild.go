// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// RebuildSeen returns up to what time, by Nova's clock, an instance's rebuilds were seen to. Zero: none was.
func (s *Store) RebuildSeen(ctx context.Context, instanceID string) (time.Time, error) {
	at, err := one(ctx, s, scanUint, "SELECT rebuilt_at FROM converge_rebuild WHERE instance_id = ?", instanceID)
	if errors.Is(err, ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("rebuilds of instance %s: %w", shorten(instanceID), err)
	}
	return fromMicros(int64(at)), nil
}

// RebuildsSeen is RebuildSeen for many instances, by ID. Left out are those of which nothing was seen to.
func (s *Store) RebuildsSeen(ctx context.Context, instanceIDs []string) (map[string]time.Time, error) {
	values := make([]any, 0, len(instanceIDs))
	for _, id := range instanceIDs {
		values = append(values, id)
	}
	type seen struct {
		id string
		at int64
	}
	all := make(map[string]time.Time)
	err := inChunks(values, func(chunk string, values []any) error {
		some, err := list(ctx, s, func(r scanner) (v seen, err error) { err = r.Scan(&v.id, &v.at); return },
			"SELECT instance_id, rebuilt_at FROM converge_rebuild WHERE instance_id IN "+chunk, values...)
		for _, v := range some {
			all[v.id] = fromMicros(v.at)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("rebuilds of instances: %w", err)
	}
	return all, nil
}

// SeeRebuild records it. It never goes back in time.
func (s *Store) SeeRebuild(ctx context.Context, instanceID string, at time.Time) error {
	var c check
	c.id("instance ID", instanceID)
	if c.err != nil {
		return fmt.Errorf("rebuild: %w", c.err)
	}
	write := func(t *tx) error {
		n, err := t.exec("UPDATE converge_rebuild SET rebuilt_at = CASE WHEN rebuilt_at > ? THEN rebuilt_at ELSE ? END WHERE instance_id = ?",
			micros(at), micros(at), instanceID)
		if err != nil || n > 0 {
			return err
		}
		_, err = t.exec("INSERT INTO converge_rebuild (instance_id, rebuilt_at) VALUES (?, ?)", instanceID, micros(at))
		return err
	}
	err := s.transact(ctx, write)
	if errors.Is(err, ErrExists) {
		err = s.transact(ctx, write)
	}
	if err != nil {
		return fmt.Errorf("rebuilds of instance %s: %w", instanceID, err)
	}
	return nil
}

// ForgetRebuild removes the record of an instance that is gone.
func (s *Store) ForgetRebuild(ctx context.Context, instanceID string) error {
	err := s.transact(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM converge_rebuild WHERE instance_id = ?", instanceID)
		return err
	})
	if err != nil {
		return fmt.Errorf("rebuilds of instance %s: %w", shorten(instanceID), err)
	}
	return nil
}
