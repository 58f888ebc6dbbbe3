// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// withGeneration is the condition that a host certificate c was revoked with all that its CA generation signed, and
// neither by its serial, key ID or key. That takes the certificate from those who trust the generation. It says nothing
// against the host key, also if the generation's private key was lost to somebody: that an instance has the key stands
// in our records, which nobody can write who merely signs certificates.
const withGeneration = `c.revoked_at <> 0
	AND EXISTS (SELECT 1 FROM authority_key a WHERE a.id = c.authority_key_id AND a.state = 'revoked')
	AND NOT EXISTS (SELECT 1 FROM revocation r WHERE r.project_id = c.project_id AND r.kind = 'serial' AND r.serial = c.serial)
	AND NOT EXISTS (SELECT 1 FROM revoked_name n WHERE n.value IN (c.fingerprint, c.key_id) AND n.project_id = c.project_id
		AND n.kind IN ('key', 'key_id'))`

// HostKeyHolders returns the certificates, not expired, of live instances other than notOf (empty: of all) for this
// host key (SHA256:...), at most limit (0: DefaultPageLimit), those of other projects than projectID first. They are
// not revoked, or only with their CA generation: the key still speaks for their instance.
func (s *Store) HostKeyHolders(ctx context.Context, fingerprint, notOf, projectID string, limit int) ([]HostCert, error) {
	limit, err := Page{Limit: limit}.limit()
	if err != nil {
		return nil, err
	}
	// The limit is in the text since SQLite plans a statement anew each time that a placeholder for it is bound, which costs more than this
	// query. Callers have a few limits.
	all, err := list(ctx, s, scanHostCert, "SELECT "+hostCertTable.list("c")+` FROM host_cert c JOIN instance i ON i.id = c.instance_id
		WHERE c.fingerprint = ? AND c.expires_at > ? AND c.instance_id <> ? AND `+holds+`
		ORDER BY CASE WHEN c.project_id = ? THEN 1 ELSE 0 END, c.serial LIMIT `+strconv.Itoa(limit),
		fingerprint, micros(s.now()), notOf, projectID)
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
	RevokedAt time.Time // zero: not revoked, or only with its CA generation
	// Shared: the key speaks for another live instance too.
	Shared bool
}

// holds is the condition that a key which is not expired speaks for the instance i of its certificate c.
const holds = "i.state = 'live' AND (c.revoked_at = 0 OR " + withGeneration + ")"

// One that is good comes first. One that was revoked by itself comes before those that were revoked with their
// generation: those do not take back what was said against the key.
var selectHostKey = "SELECT " + instanceTable.list("i") + `, c.expires_at, CASE WHEN ` + withGeneration + ` THEN 0 ELSE c.revoked_at END,
	CASE WHEN EXISTS (SELECT 1 FROM host_cert c JOIN instance i ON i.id = c.instance_id WHERE c.fingerprint = ? AND c.instance_id <> ?
		AND c.expires_at > ? AND ` + holds + `) THEN 1 ELSE 0 END
	FROM host_cert c JOIN instance i ON i.id = c.instance_id WHERE c.fingerprint = ? AND c.instance_id = ?
	ORDER BY CASE WHEN c.expires_at <= ? THEN 3 WHEN c.revoked_at = 0 THEN 0 WHEN ` + withGeneration + ` THEN 2 ELSE 1 END,
	c.expires_at DESC LIMIT 1`

// HostKey returns what is known of an instance's key (SHA256:...) that was certified. ErrNotFound.
func (s *Store) HostKey(ctx context.Context, instanceID, fingerprint string) (HostKey, error) {
	now := micros(s.now())
	k, err := one(ctx, s, scanHostKey, selectHostKey, fingerprint, instanceID, now, fingerprint, instanceID, now)
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
