// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
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

// KeySet names what a token was spent on: the fingerprint of its only key (SHA256:...), or a digest of all of them in whatever order.
func KeySet(fingerprints []string) string {
	if len(fingerprints) == 1 {
		return fingerprints[0]
	}
	digest := sha256.Sum256([]byte(strings.Join(slices.Sorted(slices.Values(fingerprints)), "\n")))
	return "SET256:" + base64.RawStdEncoding.EncodeToString(digest[:])
}

// maxHostCerts is how many certificates one call records.
const maxHostCerts = 16

// hostCertRows checks certificates of one instance for different keys, and returns them for inserting.
func (s *Store) hostCertRows(certs []HostCert) (checked []HostCert, rows [][]any, err error) {
	if len(certs) == 0 || len(certs) > maxHostCerts {
		return nil, nil, fmt.Errorf("%w: from 1 to %d host certificates at a time", ErrInvalid, maxHostCerts)
	}
	checked, rows = slices.Clone(certs), make([][]any, len(certs))
	keys := make(map[string]bool, len(certs))
	for i := range checked {
		c := &checked[i]
		if c.CreatedAt.IsZero() {
			c.CreatedAt = s.now()
		}
		if rows[i], err = c.row(); err != nil {
			return nil, nil, err
		}
		if c.InstanceID != certs[0].InstanceID || c.ProjectID != certs[0].ProjectID || keys[c.Fingerprint] {
			return nil, nil, fmt.Errorf("%w: the host certificates are of several instances, or for one key", ErrInvalid)
		}
		keys[c.Fingerprint] = true
	}
	return checked, rows, nil
}

// SpendToken exchanges a host token for certificates of all of an instance's keys, at once: a token that was not used
// is marked used, and the certificates and audit entry recorded. If it was used for the same set of keys, the
// certificates that are stored are returned, in the same order, with spent = false, and nothing is written. ErrConflict
// if the token is another instance's or was used for other keys, a host's key is revoked, or the authority's key is not
// active; ErrNotFound if the token is unknown or has expired, or the instance is gone. When ctx ends first, the token
// may be spent: the same call again returns the certificates.
func (s *Store) SpendToken(ctx context.Context, tokenHash string, certs []HostCert, audit Audit) (
	stored []HostCert, spent bool, err error,
) {
	sp := &spending{hash: tokenHash}
	if sp.certs, sp.rows, err = s.hostCertRows(certs); err != nil {
		return nil, false, err
	}
	if tokenHash == "" {
		return nil, false, fmt.Errorf("host token: %w: there is none", ErrInvalid)
	}
	fingerprints := make([]string, len(certs))
	for i, c := range certs {
		fingerprints[i] = c.Fingerprint
	}
	sp.keys = KeySet(fingerprints)
	if sp.entry, err = s.auditRow(audit); err != nil {
		return nil, false, err
	}
	if err := s.group(ctx, &write{project: certs[0].ProjectID, need: sp.need, decide: sp.decide}); err != nil {
		return nil, false, fmt.Errorf("host token: %w", err)
	}
	return sp.stored, sp.spent, nil
}

// spending is one SpendToken in a batch.
type spending struct {
	hash  string
	keys  string
	certs []HostCert
	rows  [][]any
	entry []any

	stored []HostCert
	spent  bool
}

func (sp *spending) need(b *batch) {
	b.tokens[sp.hash] = nil
	b.needHostSigner(sp.certs)
}

func (sp *spending) decide(b *batch) error {
	sp.stored, sp.spent = nil, false
	i := b.tokens[sp.hash]
	if i == nil || i.State != InstanceLive {
		return fmt.Errorf("%w: unknown", ErrNotFound)
	}
	if i.ID != sp.certs[0].InstanceID || i.ProjectID != sp.certs[0].ProjectID {
		return fmt.Errorf("%w: it is another instance's", ErrConflict)
	}
	used := !i.Token.UsedAt.IsZero()
	if used && i.Token.UsedFingerprint != sp.keys {
		return fmt.Errorf("%w: it was used for other keys", ErrConflict)
	}
	if used {
		found, err := b.latestHostCerts(sp.certs)
		if err != nil || len(found) == len(sp.certs) {
			sp.stored = found
			return err
		}
	}
	if !i.Token.ExpiresAt.After(b.now) {
		return fmt.Errorf("%w: it has expired", ErrNotFound)
	}
	if err := b.maySignHosts(sp.certs); err != nil {
		return err
	}
	sp.write(b, i, used)
	return nil
}

// write marks the token used, unless it was, and adds the certificates.
func (sp *spending) write(b *batch, i *Instance, used bool) {
	if !used {
		i.Token.UsedAt, i.Token.UsedFingerprint = b.now, sp.keys
		b.update("UPDATE instance SET token_used_at = ?, token_fingerprint = ? WHERE id = ? AND token_hash = ? AND token_used_at = 0",
			micros(b.now), sp.keys, i.ID, sp.hash)
	}
	sp.stored, sp.spent = b.insertHostCerts(sp.certs, sp.rows), true
	b.insert(auditTable, sp.entry)
}

// InsertHostCerts records further certificates of an instance's keys, and the audit entry, all or nothing. ErrNotFound
// if the instance is not live; ErrConflict if it is another project's, a host's key is revoked, the authority retired,
// or its key not active.
func (s *Store) InsertHostCerts(ctx context.Context, certs []HostCert, audit Audit) error {
	certs, rows, err := s.hostCertRows(certs)
	if err != nil {
		return err
	}
	entry, err := s.auditRow(audit)
	if err != nil {
		return err
	}
	id, project := certs[0].InstanceID, certs[0].ProjectID
	need := func(b *batch) {
		b.instances[id] = nil
		b.needHostSigner(certs)
	}
	decide := func(b *batch) error {
		i := b.instances[id]
		if i == nil || i.State != InstanceLive {
			return fmt.Errorf("%w: the instance is gone", ErrNotFound)
		}
		if err := i.usable(project); err != nil {
			return err
		}
		if err := b.maySignHosts(certs); err != nil {
			return err
		}
		b.insertHostCerts(certs, rows)
		b.insert(auditTable, entry)
		return nil
	}
	if err := s.group(ctx, &write{project: project, need: need, decide: decide}); err != nil {
		return fmt.Errorf("certificates of instance %s: %w", id, err)
	}
	return nil
}

func (b *batch) needHostSigner(certs []HostCert) {
	for _, c := range certs {
		b.needSigner(c.AuthorityKeyID, revokedName{c.ProjectID, RevokedKey, c.Fingerprint})
	}
}

func (b *batch) maySignHosts(certs []HostCert) error {
	for _, c := range certs {
		if err := b.maySign(c.AuthorityKeyID, revokedName{c.ProjectID, RevokedKey, c.Fingerprint}); err != nil {
			return err
		}
	}
	return nil
}

// insertHostCerts adds certificates and returns them as they will be read back.
func (b *batch) insertHostCerts(certs []HostCert, rows [][]any) []HostCert {
	stored := make([]HostCert, len(certs))
	for i, c := range certs {
		stored[i] = c.stored()
		b.newHosts[hostKey{c.InstanceID, c.Fingerprint}] = stored[i]
		b.insert(hostCertTable, rows[i])
	}
	return stored
}

// latestHostCerts returns the newest certificates for the same keys, or fewer if a key has none.
func (b *batch) latestHostCerts(certs []HostCert) ([]HostCert, error) {
	var all []HostCert
	for _, c := range certs {
		found, err := b.latestHostCert(hostKey{c.InstanceID, c.Fingerprint})
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
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
