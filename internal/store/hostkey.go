// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// HostKeyHolders returns the certificates, neither expired nor revoked, of live instances for this host key (SHA256:...), at most limit
// (0: DefaultPageLimit).
func (s *Store) HostKeyHolders(ctx context.Context, fingerprint string, limit int) ([]HostCert, error) {
	limit, err := Page{Limit: limit}.limit()
	if err != nil {
		return nil, err
	}
	// The limit is in the text since SQLite plans a statement anew each time that a placeholder for it is bound, which costs more than this
	// query. Callers have a few limits.
	all, err := list(ctx, s, scanHostCert, "SELECT "+hostCertTable.list("c")+` FROM host_cert c JOIN instance i ON i.id = c.instance_id
		WHERE c.fingerprint = ? AND c.revoked_at = 0 AND c.expires_at > ? AND i.state = 'live' ORDER BY c.serial LIMIT `+strconv.Itoa(limit),
		fingerprint, micros(s.now()))
	if err != nil {
		return nil, fmt.Errorf("holders of a host key: %w", err)
	}
	return all, nil
}

// HostKey is what is known of an instance's host key.
type HostKey struct {
	Instance Instance // live or deleted
	// Of the certificate for the key that is good for longest.
	ExpiresAt time.Time
	RevokedAt time.Time // zero: not revoked
	// Shared: another live instance has a good certificate for the key too.
	Shared bool
}

var selectHostKey = "SELECT " + instanceTable.list("i") + `, c.expires_at, c.revoked_at, CASE WHEN EXISTS (
	SELECT 1 FROM host_cert o JOIN instance j ON j.id = o.instance_id WHERE o.fingerprint = c.fingerprint AND o.instance_id <> c.instance_id
	AND o.revoked_at = 0 AND o.expires_at > ? AND j.state = 'live') THEN 1 ELSE 0 END
	FROM host_cert c JOIN instance i ON i.id = c.instance_id WHERE c.fingerprint = ? AND c.instance_id = ?
	ORDER BY CASE WHEN c.revoked_at = 0 THEN 0 ELSE 1 END, c.expires_at DESC LIMIT 1`

// HostKey returns what is known of an instance's key (SHA256:...) that was certified. ErrNotFound.
func (s *Store) HostKey(ctx context.Context, instanceID, fingerprint string) (HostKey, error) {
	k, err := one(ctx, s, scanHostKey, selectHostKey, micros(s.now()), fingerprint, instanceID)
	if err != nil {
		return HostKey{}, fmt.Errorf("host key of an instance: %w", err)
	}
	return k, nil
}

func scanHostKey(r scanner) (HostKey, error) {
	var k HostKey
	var expires, revoked, shared int64
	var err error
	k.Instance, err = scanInstance(further{r, []any{&expires, &revoked, &shared}})
	k.ExpiresAt, k.RevokedAt, k.Shared = fromMicros(expires), fromMicros(revoked), shared != 0
	return k, err
}

// further scans more columns behind a record's own.
type further struct {
	scanner
	more []any
}

// Scan implements scanner.
func (f further) Scan(dest ...any) error { return f.scanner.Scan(append(dest, f.more...)...) }
