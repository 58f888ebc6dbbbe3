// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// HostCert is the record of an instance's host certificate.
type HostCert struct {
	Serial         uint64
	ProjectID      string
	InstanceID     string
	Hostname       string
	Principals     []string
	Fingerprint    string // of the certified key, SHA256:...
	MD5            string // of the same key, MD5:aa:bb:...
	KeyID          string
	AuthorityKeyID string
	Cert           string // an authorized_keys line without newline
	CreatedAt      time.Time
	ExpiresAt      time.Time
	RevokedAt      time.Time // zero: not revoked
}

// row checks the record and returns it for inserting.
func (h HostCert) row() ([]any, error) {
	var c check
	c.id("project ID", h.ProjectID)
	c.id("instance ID", h.InstanceID)
	c.text("host name", h.Hostname, maxName)
	principals := encodeList(h.Principals)
	c.certificate(h.Serial, principals, h.Fingerprint, h.MD5, h.KeyID, h.AuthorityKeyID, h.Cert, h.ExpiresAt)
	if c.err != nil {
		return nil, fmt.Errorf("host certificate: %w", c.err)
	}
	return []any{int64(h.Serial), h.ProjectID, h.InstanceID, h.Hostname, principals, h.Fingerprint, h.MD5, h.KeyID, h.AuthorityKeyID,
		h.Cert, micros(h.CreatedAt), micros(h.ExpiresAt), micros(h.RevokedAt)}, nil
}

func scanHostCert(r scanner) (HostCert, error) {
	var h HostCert
	var principals string
	var created, expires, revoked int64
	err := r.Scan(&h.Serial, &h.ProjectID, &h.InstanceID, &h.Hostname, &principals, &h.Fingerprint, &h.MD5, &h.KeyID, &h.AuthorityKeyID,
		&h.Cert, &created, &expires, &revoked)
	if err != nil {
		return h, err
	}
	h.CreatedAt, h.ExpiresAt, h.RevokedAt = fromMicros(created), fromMicros(expires), fromMicros(revoked)
	h.Principals, err = decodeList(principals)
	return h, err
}

// stored returns the certificate as it will be read back.
func (h HostCert) stored() HostCert {
	h.CreatedAt, h.ExpiresAt = fromMicros(micros(h.CreatedAt)), fromMicros(micros(h.ExpiresAt))
	return h
}

var (
	selectHostCert       = "SELECT " + hostCertTable.list("") + " FROM host_cert"
	selectLatestHostCert = selectHostCert + " WHERE instance_id = ? AND fingerprint = ? ORDER BY serial DESC LIMIT 1"
)

// SpendToken exchanges a host token for a host certificate, at once: a token that was not used is marked used, and the certificate and audit
// entry recorded. If it was used for the same key, the certificate that is stored is returned with spent = false, and nothing is
// written. ErrConflict if the token is another instance's or was used for another key, the host's key is revoked, or the authority's key
// is not active; ErrNotFound if the token is unknown or has expired, or the instance is gone. When ctx ends first, the token may be spent:
// the same call again returns the certificate.
func (s *Store) SpendToken(ctx context.Context, tokenHash, fingerprint string, c HostCert, audit Audit) (stored HostCert, spent bool, err error) {
	if c.CreatedAt.IsZero() {
		c.CreatedAt = s.now()
	}
	row, err := c.row()
	if err != nil {
		return HostCert{}, false, err
	}
	if tokenHash == "" || fingerprint != c.Fingerprint {
		return HostCert{}, false, fmt.Errorf("host token: %w: the certificate is for another key", ErrInvalid)
	}
	entry, err := s.auditRow(audit)
	if err != nil {
		return HostCert{}, false, err
	}
	sp := &spending{hash: tokenHash, cert: c, row: row, entry: entry, name: revokedName{c.ProjectID, RevokedKey, fingerprint}}
	if err := s.group(ctx, &write{project: c.ProjectID, need: sp.need, decide: sp.decide}); err != nil {
		return HostCert{}, false, fmt.Errorf("host token: %w", err)
	}
	return sp.stored, sp.spent, nil
}

// spending is one SpendToken in a batch.
type spending struct {
	hash       string
	cert       HostCert
	row, entry []any
	name       revokedName

	stored HostCert
	spent  bool
}

func (sp *spending) need(b *batch) {
	b.tokens[sp.hash] = nil
	b.needSigner(sp.cert.AuthorityKeyID, sp.name)
}

func (sp *spending) decide(b *batch) error {
	sp.stored, sp.spent = HostCert{}, false
	i := b.tokens[sp.hash]
	if i == nil || i.State != InstanceLive {
		return fmt.Errorf("%w: unknown", ErrNotFound)
	}
	if i.ID != sp.cert.InstanceID || i.ProjectID != sp.cert.ProjectID {
		return fmt.Errorf("%w: it is another instance's", ErrConflict)
	}
	used := !i.Token.UsedAt.IsZero()
	if used && i.Token.UsedFingerprint != sp.cert.Fingerprint {
		return fmt.Errorf("%w: it was used for another key", ErrConflict)
	}
	if used {
		found, err := b.latestHostCert(hostKey{i.ID, sp.cert.Fingerprint})
		if err != nil {
			return err
		}
		if len(found) > 0 {
			sp.stored = found[0]
			return nil
		}
	}
	if !i.Token.ExpiresAt.After(b.now) {
		return fmt.Errorf("%w: it has expired", ErrNotFound)
	}
	if err := b.maySign(sp.cert.AuthorityKeyID, sp.name); err != nil {
		return err
	}
	sp.write(b, i, used)
	return nil
}

// write marks the token used, unless it was, and adds the certificate.
func (sp *spending) write(b *batch, i *Instance, used bool) {
	if !used {
		i.Token.UsedAt, i.Token.UsedFingerprint = b.now, sp.cert.Fingerprint
		b.update("UPDATE instance SET token_used_at = ?, token_fingerprint = ? WHERE id = ? AND token_hash = ? AND token_used_at = 0",
			micros(b.now), sp.cert.Fingerprint, i.ID, sp.hash)
	}
	sp.stored, sp.spent = sp.cert.stored(), true
	b.newHosts[hostKey{i.ID, sp.cert.Fingerprint}] = sp.stored
	b.insert(hostCertTable, sp.row)
	b.insert(auditTable, sp.entry)
}

// latestHostCert looks among what this batch adds, then in the database.
func (b *batch) latestHostCert(key hostKey) ([]HostCert, error) {
	if h, ok := b.newHosts[key]; ok {
		return []HostCert{h}, nil
	}
	return listTx(b.tx, scanHostCert, selectLatestHostCert, key.instance, key.fingerprint)
}

// HostCert returns an instance's newest certificate for a key (SHA256:... or MD5:...). ErrNotFound.
func (s *Store) HostCert(ctx context.Context, instanceID, fingerprint string) (HostCert, error) {
	h, err := one(ctx, s, scanHostCert, selectHostCert+" WHERE instance_id = ? AND "+fingerprintColumn(fingerprint)+
		" = ? ORDER BY serial DESC LIMIT 1", instanceID, fingerprint)
	if err != nil {
		return HostCert{}, fmt.Errorf("host certificate by key: %w", err)
	}
	return h, nil
}

// HostCerts lists host certificates by serial. The filter knows ProjectID and InstanceID.
func (s *Store) HostCerts(ctx context.Context, f Filter, page Page) ([]HostCert, error) {
	if f.UserID != "" {
		return nil, fmt.Errorf("list host certificates: %w: they have no user", ErrInvalid)
	}
	var c conditions
	c.addSet("project_id = ?", f.ProjectID)
	c.addSet("instance_id = ?", f.InstanceID)
	return listBySerial(ctx, s, scanHostCert, selectHostCert, c, page)
}

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
