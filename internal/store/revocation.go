// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// RevocationKind says what an entry of the revocation log names.
type RevocationKind string

// The kinds of entries.
const (
	RevokedSerial       RevocationKind = "serial"
	RevokedKey          RevocationKind = "key"
	RevokedKeyID        RevocationKind = "key_id"
	RevokedAuthorityKey RevocationKind = "authority_key"
)

// Revocation is one entry of a project's revocation log. Entries are ordered by version, then Seq; who has all up to a
// version needs only the later ones.
type Revocation struct {
	ProjectID      string
	Version        uint64 // of the project's log, from 1
	Seq            int    // within the version, from 0
	Kind           RevocationKind
	AuthorityKeyID string    // the key that signed; the revoked key itself for authority_key; empty for key
	Serial         uint64    // for serial
	Value          string    // fingerprint SHA256:... for key, the key ID for key_id
	ExpiresAt      time.Time // from when the entry is of no use; zero: never
	CreatedAt      time.Time
	Reason         string
	By             string // user ID, or the name of the part of Muster that did it
}

// RevocationOrder says what to revoke in a project. Exactly one of Serial, Serials, UserID, AllUsers, Fingerprint, KeyID and
// AuthorityKeyID is set.
type RevocationOrder struct {
	ProjectID string
	Serial    uint64 // a user or host certificate
	// Serials are user certificates, at most MaxSerials. Those that are unknown, expired or revoked are passed over.
	Serials        []uint64
	UserID         string // all the user's certificates that are recorded
	AllUsers       bool   // all users' certificates that are recorded
	Fingerprint    string // SHA256:... of a user's or host's key
	KeyID          string
	AuthorityKeyID string
	Reason         string
	By             string
	At             time.Time // zero: now
}

// RevocationResult says what Revoke did.
type RevocationResult struct {
	Version      uint64 // of the project's log after the call
	Certificates int    // how many certificates were marked that had not expired
	Already      bool   // all of it was revoked before; nothing was written
}

// maxMarked is how many certificates one transaction marks, so that none is long.
const maxMarked = 500

// MaxSerials is how many certificates one order may name.
const MaxSerials = maxMarked

// revokedName is a key or key ID that a project's log names for ever.
type revokedName struct {
	project string
	kind    RevocationKind
	value   string
}

func scanRevokedName(r scanner) (revokedName, error) {
	var n revokedName
	err := r.Scan(&n.project, &n.kind, &n.value)
	return n, err
}

func (o RevocationOrder) check() error {
	var c check
	c.id("project ID", o.ProjectID)
	n := 0
	for _, set := range []bool{
		o.Serial != 0, len(o.Serials) > 0, o.UserID != "", o.AllUsers, o.Fingerprint != "", o.KeyID != "", o.AuthorityKeyID != "",
	} {
		if set {
			n++
		}
	}
	c.that(n == 1, "say exactly one of serial, serials, user, all users, fingerprint, key ID and authority's key")
	c.that(len(o.Serials) <= MaxSerials, "there are too many serials for one order")
	c.that(o.Serial <= maxSerial, "the serial is above 2^53-1")
	c.ascii("user ID", o.UserID)
	c.that(o.Fingerprint == "" || strings.HasPrefix(o.Fingerprint, "SHA256:"), "the fingerprint doesn't begin with SHA256:")
	c.ascii("fingerprint", o.Fingerprint)
	c.text("key ID", o.KeyID, maxName)
	c.ascii("ID of the authority's key", o.AuthorityKeyID)
	if c.err != nil {
		return fmt.Errorf("revocation: %w", c.err)
	}
	return o.checkTexts()
}

func (o RevocationOrder) checkTexts() error {
	var c check
	c.text("reason", o.Reason, maxText)
	c.text("by", o.By, maxName)
	if c.err != nil {
		return fmt.Errorf("revocation: %w", c.err)
	}
	return nil
}

// revocationLog is a project's log, open for one more version. It is locked until the transaction ends, so that versions appear in the
// order of commits.
type revocationLog struct {
	order   RevocationOrder
	version uint64
	entries [][]any
	marked  int // certificates
	good    int // those of them that had not expired
}

// openLog locks the log. ErrNotFound if the project has no authority.
func openLog(t *tx, o RevocationOrder) (*revocationLog, error) {
	n, err := t.exec("UPDATE authority SET krl_version = krl_version + 1 WHERE project_id = ?", o.ProjectID)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("%w: the project has no authority", ErrNotFound)
	}
	versions, err := listTx(t, scanUint, "SELECT krl_version FROM authority WHERE project_id = ?", o.ProjectID)
	if err != nil {
		return nil, err
	}
	if len(versions) != 1 {
		return nil, errStale
	}
	return &revocationLog{order: o, version: versions[0]}, nil
}

// add appends an entry.
func (l *revocationLog) add(kind RevocationKind, authorityKeyID string, serial uint64, value string, expires int64) {
	l.entries = append(l.entries, []any{
		l.order.ProjectID, int64(l.version), len(l.entries), string(kind), authorityKeyID, int64(serial), value,
		expires, micros(l.order.At), l.order.Reason, l.order.By,
	})
}

// close writes the entries. Without any, the version stays what it was.
func (l *revocationLog) close(t *tx) error {
	if len(l.entries) > 0 {
		return t.insert(revocationTable, l.entries)
	}
	l.version--
	_, err := t.exec("UPDATE authority SET krl_version = ? WHERE project_id = ?", int64(l.version), l.order.ProjectID)
	return err
}

// marking is a table whose certificates are marked.
type marking string

const (
	userSerials marking = "user_cert"
	hostSerials marking = "host_cert"
)

// markedCert is what a revocation needs of a certificate.
type markedCert struct {
	serial         uint64
	authorityKeyID string
	expires        int64
	revoked        int64
}

func scanMarkedCert(r scanner) (markedCert, error) {
	var m markedCert
	err := r.Scan(&m.serial, &m.authorityKeyID, &m.expires, &m.revoked)
	return m, err
}

const selectMarked = "SELECT serial, authority_key_id, expires_at, revoked_at FROM "

// find returns at most limit certificates of the project, not revoked yet, that match and have a greater serial.
// Expired ones are among them: our clock may run ahead, and what is not revoked now would be good again once it is
// right. Of a whole generation, which may have signed very many and whose own entry covers them, they are left out.
func (l *revocationLog) find(t *tx, in marking, condition, value string, after uint64, limit int) ([]markedCert, error) {
	from := int64(0)
	if l.order.AuthorityKeyID != "" {
		from = micros(l.order.At)
	}
	return listTx(t, scanMarkedCert, selectMarked+string(in)+" WHERE "+condition+
		" AND project_id = ? AND serial > ? AND revoked_at = 0 AND expires_at > ? ORDER BY serial LIMIT ?",
		value, l.order.ProjectID, int64(after), from, limit)
}

// mark sets the time of revocation.
func (l *revocationLog) mark(t *tx, in marking, certs []markedCert) error {
	serials := make([]any, len(certs))
	for i, c := range certs {
		serials[i] = int64(c.serial)
	}
	l.marked += len(certs)
	for _, c := range certs {
		if c.expires > micros(l.order.At) {
			l.good++
		}
	}
	return inChunks(serials, func(list string, values []any) error {
		_, err := t.exec("UPDATE "+string(in)+" SET revoked_at = ? WHERE serial IN "+list, append([]any{micros(l.order.At)}, values...)...)
		return err
	})
}

// revokeSerials marks all that match, each with its entry.
func (l *revocationLog) revokeSerials(t *tx, in marking, condition, value string) error {
	for after := uint64(0); ; {
		certs, err := l.find(t, in, condition, value, after, maxMarked)
		if err != nil || len(certs) == 0 {
			return err
		}
		after = certs[len(certs)-1].serial
		l.addSerials(certs)
		if err := l.mark(t, in, certs); err != nil {
			return err
		}
	}
}

func (l *revocationLog) addSerials(certs []markedCert) {
	for _, c := range certs {
		l.add(RevokedSerial, c.authorityKeyID, c.serial, "", c.expires)
	}
}

// Revoke revokes and records the audit entry. ErrNotFound if the project has no authority, no certificate with this serial, or no such key
// of its authority; users, fingerprints and key IDs need not be known. Many certificates are marked in several transactions, of which the
// first has the entries that name a key or key ID; after an error, the call can be repeated.
func (s *Store) Revoke(ctx context.Context, o RevocationOrder, audit Audit) (RevocationResult, error) {
	if err := o.check(); err != nil {
		return RevocationResult{}, err
	}
	if o.At.IsZero() {
		o.At = s.now()
	}
	entry, err := s.auditRow(audit)
	if err != nil {
		return RevocationResult{}, err
	}
	r := revoking{order: o, entry: entry}
	for more := true; more; {
		if err := s.transact(ctx, r.step); err != nil {
			return RevocationResult{}, fmt.Errorf("revoke in project %s: %w", o.ProjectID, err)
		}
		more = r.commit()
	}
	return r.result, nil
}

// revoking is one Revoke over its transactions. A step leaves what it did in log and next; only commit makes it count, for a
// step may run again.
type revoking struct {
	order  RevocationOrder
	entry  []any // nil once it's written
	result RevocationResult
	cursor cursor

	log  *revocationLog
	next cursor
	more bool
}

// cursor is how far each table has been marked.
type cursor struct{ user, host uint64 }

// commit takes over what the last step did, and says whether there is more.
func (r *revoking) commit() bool {
	wrote := r.log.marked > 0 || len(r.log.entries) > 0
	r.result.Version = r.log.version
	r.result.Certificates += r.log.good
	if r.entry != nil {
		r.result.Already = !wrote
	}
	r.entry, r.cursor = nil, r.next
	return r.more
}

func (r *revoking) step(t *tx) error {
	log, err := openLog(t, r.order)
	if err != nil {
		return err
	}
	r.log, r.next, r.more = log, r.cursor, false
	switch o := r.order; {
	case o.Serial != 0:
		err = log.revokeSerial(t, o.Serial)
	case len(o.Serials) > 0:
		err = log.revokeAll(t, o.Serials)
	case o.UserID != "":
		err = r.markSome(t, "user_id = ?", o.UserID)
	case o.AllUsers:
		err = r.markSome(t, "project_id = ?", o.ProjectID)
	case o.Fingerprint != "":
		if err = log.addName(t, RevokedKey, o.Fingerprint); err == nil {
			err = r.markSome(t, "fingerprint = ?", o.Fingerprint)
		}
	case o.KeyID != "":
		if err = log.addName(t, RevokedKeyID, o.KeyID); err == nil {
			err = r.markSome(t, "key_id = ?", o.KeyID)
		}
	default:
		if err = log.revokeAuthorityKey(t, o.AuthorityKeyID); err == nil {
			err = r.markSome(t, "authority_key_id = ?", o.AuthorityKeyID)
		}
	}
	if err != nil {
		return err
	}
	if err := log.close(t); err != nil {
		return err
	}
	if log.marked == 0 && len(log.entries) == 0 {
		return errNothing
	}
	if r.entry == nil {
		return nil
	}
	return t.insert(auditTable, [][]any{r.entry})
}

// markSome marks at most maxMarked certificates: the users', then the hosts'. Only a user's own have entries of their own; else
// one entry names them all.
func (r *revoking) markSome(t *tx, condition, value string) error {
	certs, err := r.log.find(t, userSerials, condition, value, r.cursor.user, maxMarked)
	if err != nil {
		return err
	}
	if err := r.log.mark(t, userSerials, certs); err != nil {
		return err
	}
	if n := len(certs); n > 0 {
		r.next.user, r.more = certs[n-1].serial, n == maxMarked
	}
	if r.order.UserID != "" || r.order.AllUsers {
		r.log.addSerials(certs)
		return nil
	}
	if r.more {
		return nil
	}
	certs, err = r.log.find(t, hostSerials, condition, value, r.cursor.host, maxMarked)
	if err != nil {
		return err
	}
	if n := len(certs); n > 0 {
		r.next.host, r.more = certs[n-1].serial, n == maxMarked
	}
	return r.log.mark(t, hostSerials, certs)
}

// revokeAll marks those of the named user certificates that are still good.
func (l *revocationLog) revokeAll(t *tx, serials []uint64) error {
	values := make([]any, len(serials))
	for i, serial := range serials {
		values[i] = int64(serial)
	}
	var good []markedCert
	err := inChunks(values, func(list string, values []any) error {
		found, err := listTx(t, scanMarkedCert, selectMarked+string(userSerials)+
			" WHERE project_id = ? AND revoked_at = 0 AND expires_at > ? AND serial IN "+list+" ORDER BY serial",
			append([]any{l.order.ProjectID, micros(l.order.At)}, values...)...)
		good = append(good, found...)
		return err
	})
	if err != nil {
		return err
	}
	l.addSerials(good)
	return l.mark(t, userSerials, good)
}

// revokeSerial finds the certificate among the users' and the hosts'.
func (l *revocationLog) revokeSerial(t *tx, serial uint64) error {
	for _, in := range []marking{userSerials, hostSerials} {
		certs, err := listTx(t, scanMarkedCert, selectMarked+string(in)+" WHERE serial = ? AND project_id = ?", int64(serial), l.order.ProjectID)
		if err != nil {
			return err
		}
		if len(certs) == 0 {
			continue
		}
		if certs[0].revoked != 0 {
			return l.nameSerial(t, in, certs)
		}
		l.addSerials(certs)
		return l.mark(t, in, certs)
	}
	return fmt.Errorf("%w: serial %d", ErrNotFound, serial)
}

// nameSerial adds the entry of a host certificate that was revoked with its generation alone: now there is something against it, too.
func (l *revocationLog) nameSerial(t *tx, in marking, certs []markedCert) error {
	if in != hostSerials {
		return nil
	}
	found, err := listTx(t, scanUint, "SELECT c.serial FROM host_cert c WHERE c.serial = ? AND "+withGeneration, int64(certs[0].serial))
	if err == nil && len(found) > 0 {
		l.addSerials(certs)
	}
	return err
}

// addName adds an entry for a name, if it isn't there.
func (l *revocationLog) addName(t *tx, kind RevocationKind, value string) error {
	found, err := listTx(t, scanRevokedName,
		"SELECT project_id, kind, value FROM revoked_name WHERE value = ? AND project_id = ? AND kind = ?",
		value, l.order.ProjectID, string(kind))
	if err != nil || len(found) > 0 {
		return err
	}
	l.add(kind, "", 0, value, 0)
	return t.insert(revokedNameTable, [][]any{{value, l.order.ProjectID, string(kind)}})
}

// revokeAuthorityKey takes a key out of use, with its entry, if it isn't out already.
func (l *revocationLog) revokeAuthorityKey(t *tx, id string) error {
	keys, err := listTx(t, scanKeyState, "SELECT id, state FROM authority_key WHERE id = ? AND project_id = ?", id, l.order.ProjectID)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return fmt.Errorf("%w: the authority's key", ErrNotFound)
	}
	if keys[0].State == KeyRevoked {
		return nil
	}
	l.add(RevokedAuthorityKey, id, 0, "", 0)
	_, err = t.exec("UPDATE authority_key SET state = 'revoked' WHERE id = ? AND project_id = ?", id, l.order.ProjectID)
	return err
}

// UserProjects returns the projects in which a user has certificates that are recorded and not revoked, expired or not (see find).
func (s *Store) UserProjects(ctx context.Context, userID string) ([]string, error) {
	all, err := list(ctx, s, scanString,
		"SELECT DISTINCT project_id FROM user_cert WHERE user_id = ? AND revoked_at = 0 ORDER BY project_id", userID)
	if err != nil {
		return nil, fmt.Errorf("projects of a user: %w", err)
	}
	return all, nil
}

// The limits of Revocations.
const (
	DefaultRevocations = 1000
	MaxRevocations     = 50_000
)

var selectRevocation = "SELECT " + revocationTable.list("") + " FROM revocation WHERE project_id = ? AND "

func scanRevocation(r scanner) (Revocation, error) {
	var v Revocation
	var expires, created int64
	err := r.Scan(&v.ProjectID, &v.Version, &v.Seq, &v.Kind, &v.AuthorityKeyID, &v.Serial, &v.Value, &expires, &created, &v.Reason, &v.By)
	v.ExpiresAt, v.CreatedAt = fromMicros(expires), fromMicros(created)
	return v, err
}

// Revocations returns the entries of a project's log after a version, in order, whole versions only: at most limit entries (0:
// DefaultRevocations, at most MaxRevocations), but never less than one version. An empty answer means that there are none.
func (s *Store) Revocations(ctx context.Context, projectID string, afterVersion uint64, limit int) ([]Revocation, error) {
	if limit < 0 || limit > MaxRevocations {
		return nil, fmt.Errorf("revocations: %w: the limit is from 1 to %d", ErrInvalid, MaxRevocations)
	}
	limit = cmp.Or(limit, DefaultRevocations)
	if afterVersion > maxSerial {
		return nil, nil
	}
	all, err := list(ctx, s, scanRevocation, selectRevocation+"version > ? ORDER BY version, seq LIMIT ?",
		projectID, int64(afterVersion), limit+1)
	if err != nil {
		return nil, fmt.Errorf("revocations: %w", err)
	}
	if len(all) <= limit {
		return all, nil
	}
	last := all[limit].Version
	whole := slices.IndexFunc(all, func(r Revocation) bool { return r.Version == last })
	if whole > 0 {
		return all[:whole], nil
	}
	all, err = list(ctx, s, scanRevocation, selectRevocation+"version = ? ORDER BY seq", projectID, int64(last))
	if err != nil {
		return nil, fmt.Errorf("revocations: %w", err)
	}
	return all, nil
}

// projectVersion is the version of a project's log.
type projectVersion struct {
	project string
	version uint64
}

// KRLVersions returns the version of each project's revocation log that has one.
func (s *Store) KRLVersions(ctx context.Context) (map[string]uint64, error) {
	all, err := list(ctx, s, func(r scanner) (projectVersion, error) {
		var v projectVersion
		err := r.Scan(&v.project, &v.version)
		return v, err
	}, "SELECT project_id, krl_version FROM authority WHERE krl_version > 0")
	if err != nil {
		return nil, fmt.Errorf("versions of the revocation logs: %w", err)
	}
	versions := make(map[string]uint64, len(all))
	for _, v := range all {
		versions[v.project] = v.version
	}
	return versions, nil
}
