// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// UserCert is the record of a user's certificate.
type UserCert struct {
	Serial         uint64
	ProjectID      string
	UserID         string
	UserName       string
	Principals     []string
	Fingerprint    string // of the certified key, SHA256:...
	MD5            string // of the same key, MD5:aa:bb:...
	KeyID          string
	AuthorityKeyID string
	Cert           string // an authorized_keys line without newline
	CreatedAt      time.Time
	ExpiresAt      time.Time
	RevokedAt      time.Time // zero: not revoked
	Profile        string    // hash of principals and options: equal means that the certificate allows the same
	Credential     Credential
	GroupIDs       []string // the groups by which a mapping made the user a member, where roles may come from
}

// Credential is what somebody used in the place of the own login to ask for a certificate. Empty: nothing.
type Credential struct {
	Kind  string // as keystone.CredentialKind
	ID    string
	Owner string // ID of the user whose login it stands for: not the certificate's where an operator asked in another's name
}

// check finds out whether all parts are there, or none.
func (c Credential) check(k *check) {
	k.that((c.Kind == "") == (c.ID == "") && (c.Owner == "") == (c.ID == ""), "a credential has a kind, an ID and an owner")
	k.ascii("kind of the credential", c.Kind)
	k.ascii("ID of the credential", c.ID)
	k.ascii("owner of the credential", c.Owner)
}

// row checks the record and returns it for inserting.
func (u UserCert) row() ([]any, error) {
	var c check
	c.id("project ID", u.ProjectID)
	c.id("user ID", u.UserID)
	c.name("user name", u.UserName)
	c.text("profile", u.Profile, maxName)
	u.Credential.check(&c)
	groups := ""
	if len(u.GroupIDs) > 0 {
		groups = encodeList(u.GroupIDs)
	}
	c.text("groups", groups, maxJSON)
	principals := encodeList(u.Principals)
	c.certificate(u.Serial, principals, u.Fingerprint, u.MD5, u.KeyID, u.AuthorityKeyID, u.Cert, u.ExpiresAt)
	if c.err != nil {
		return nil, fmt.Errorf("user certificate: %w", c.err)
	}
	return []any{int64(u.Serial), u.ProjectID, u.UserID, u.UserName, principals, u.Fingerprint, u.MD5, u.KeyID, u.AuthorityKeyID,
		u.Cert, micros(u.CreatedAt), micros(u.ExpiresAt), micros(u.RevokedAt), u.Profile, u.Credential.Kind, u.Credential.ID,
		u.Credential.Owner, groups}, nil
}

// certificate checks what both kinds of certificate have.
func (c *check) certificate(serial uint64, principals, fingerprint, md5, keyID, authorityKeyID, cert string, expires time.Time) {
	c.that(serial > 0 && serial <= maxSerial, "the serial is not from 1 to 2^53-1")
	c.text("principals", principals, maxJSON)
	c.that(strings.HasPrefix(fingerprint, "SHA256:"), "the fingerprint doesn't begin with SHA256:")
	c.ascii("fingerprint", fingerprint)
	c.ascii("MD5 fingerprint", md5)
	c.text("key ID", keyID, maxName)
	c.id("ID of the authority's key", authorityKeyID)
	c.text("certificate", cert, maxLine)
	c.that(!expires.IsZero(), "the certificate must expire")
}

func scanUserCert(r scanner) (UserCert, error) {
	var u UserCert
	var principals, groups string
	var created, expires, revoked int64
	err := r.Scan(&u.Serial, &u.ProjectID, &u.UserID, &u.UserName, &principals, &u.Fingerprint, &u.MD5, &u.KeyID, &u.AuthorityKeyID,
		&u.Cert, &created, &expires, &revoked, &u.Profile, &u.Credential.Kind, &u.Credential.ID, &u.Credential.Owner, &groups)
	if err != nil {
		return u, err
	}
	u.CreatedAt, u.ExpiresAt, u.RevokedAt = fromMicros(created), fromMicros(expires), fromMicros(revoked)
	if u.Principals, err = decodeList(principals); err == nil {
		u.GroupIDs, err = decodeGroups(groups)
	}
	return u, err
}

// decodeGroups reads a list of groups, which mostly is none.
func decodeGroups(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	return decodeList(text)
}

var (
	selectUserCert = "SELECT " + userCertTable.list("") + " FROM user_cert"
	// One query for both answers. A row comes back even when there is no certificate. The inner one gives no more than a number, for MariaDB
	// writes long texts of inner results to disk. COALESCE keeps the indexes of users and projects out: PostgreSQL, which knows nothing of
	// the contents of a table before its first ANALYZE, would go through all certificates of the user and the project by them.
	selectLatestUserCert = "SELECT EXISTS (SELECT 1 FROM revoked_name r WHERE r.value = ? AND r.project_id = ? AND r.kind = 'key'), " +
		userCertTable.list("c") + " FROM (SELECT 1 AS one) o LEFT JOIN user_cert c ON c.serial =" +
		" (SELECT MAX(serial) FROM user_cert WHERE fingerprint = ? AND COALESCE(user_id, '') = ? AND COALESCE(project_id, '') = ?" +
		" AND COALESCE(credential_id, '') = ?)"
)

// latestUserCert is a row of selectLatestUserCert.
type latestUserCert struct {
	cert       UserCert
	found      bool
	keyRevoked bool
}

func scanLatestUserCert(r scanner) (latestUserCert, error) {
	var l latestUserCert
	var serial, created, expires, revoked sql.NullInt64
	var project, user, name, principals, fingerprint, md5, keyID, authorityKey, cert, profile sql.NullString
	var kind, credential, owner, groups sql.NullString
	err := r.Scan(&l.keyRevoked, &serial, &project, &user, &name, &principals, &fingerprint, &md5, &keyID, &authorityKey, &cert,
		&created, &expires, &revoked, &profile, &kind, &credential, &owner, &groups)
	if err != nil || !serial.Valid {
		return l, err
	}
	l.found = true
	l.cert = UserCert{Serial: uint64(serial.Int64), ProjectID: project.String, UserID: user.String, UserName: name.String,
		Fingerprint: fingerprint.String, MD5: md5.String, KeyID: keyID.String, AuthorityKeyID: authorityKey.String, Cert: cert.String,
		CreatedAt: fromMicros(created.Int64), ExpiresAt: fromMicros(expires.Int64), RevokedAt: fromMicros(revoked.Int64),
		Profile: profile.String, Credential: Credential{kind.String, credential.String, owner.String}}
	if l.cert.Principals, err = decodeList(principals.String); err == nil {
		l.cert.GroupIDs, err = decodeGroups(groups.String)
	}
	return l, err
}

// LatestUserCert returns the newest certificate of a user for a key (SHA256:...) in a project that was asked for with a credential (empty:
// without one), expired or not, and whether the key is revoked in the project.
func (s *Store) LatestUserCert(ctx context.Context, projectID, userID, fingerprint, credentialID string) (
	cert UserCert, found, keyRevoked bool, err error,
) {
	l, err := one(ctx, s, scanLatestUserCert, selectLatestUserCert, fingerprint, projectID, fingerprint, userID, projectID, credentialID)
	if err != nil {
		return UserCert{}, false, false, fmt.Errorf("latest user certificate: %w", err)
	}
	return l.cert, l.found, l.keyRevoked, nil
}

// InsertUserCert records a certificate and the audit entry. When ctx ends first its error is returned, and the record may still be
// committed: recorded but not answered is harmless. ErrExists if the serial is taken; ErrConflict if the user's key is revoked, the
// authority retired, or its key not active.
func (s *Store) InsertUserCert(ctx context.Context, c UserCert, audit Audit) error {
	if c.CreatedAt.IsZero() {
		c.CreatedAt = s.now()
	}
	row, err := c.row()
	if err != nil {
		return err
	}
	entry, err := s.auditRow(audit)
	if err != nil {
		return err
	}
	name := revokedName{c.ProjectID, RevokedKey, c.Fingerprint}
	err = s.group(ctx, &write{
		project: c.ProjectID,
		need:    func(b *batch) { b.needSigner(c.AuthorityKeyID, name) },
		decide: func(b *batch) error {
			if err := b.maySign(c.AuthorityKeyID, name); err != nil {
				return err
			}
			b.insert(userCertTable, row)
			b.insert(auditTable, entry)
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("user certificate %d: %w", c.Serial, err)
	}
	return nil
}

// needSigner asks for what maySign must know.
func (b *batch) needSigner(authorityKeyID string, key revokedName) {
	b.projects[key.project] = false
	b.keys[authorityKeyID] = ""
	b.revoked[key] = false
}

// maySign refuses a certificate by a key that no longer signs, or for a key that was revoked.
func (b *batch) maySign(authorityKeyID string, key revokedName) error {
	switch {
	case !b.projects[key.project]:
		return fmt.Errorf("%w: the project has no live authority", ErrConflict)
	case b.keys[authorityKeyID] != KeyActive:
		return fmt.Errorf("%w: the authority's key doesn't sign any more", ErrConflict)
	case b.revoked[key]:
		return fmt.Errorf("%w: the key is revoked", ErrConflict)
	}
	return nil
}

// UserCert returns the certificate with this serial. ErrNotFound.
func (s *Store) UserCert(ctx context.Context, serial uint64) (UserCert, error) {
	if serial > maxSerial {
		return UserCert{}, fmt.Errorf("user certificate %d: %w", serial, ErrNotFound)
	}
	u, err := one(ctx, s, scanUserCert, selectUserCert+" WHERE serial = ?", int64(serial))
	if err != nil {
		return UserCert{}, fmt.Errorf("user certificate %d: %w", serial, err)
	}
	return u, nil
}

// UserCertByKey returns a user's newest certificate for a key (SHA256:... or MD5:...). ErrNotFound.
func (s *Store) UserCertByKey(ctx context.Context, userID, fingerprint string) (UserCert, error) {
	u, err := one(ctx, s, scanUserCert,
		selectUserCert+" WHERE user_id = ? AND "+fingerprintColumn(fingerprint)+" = ? ORDER BY serial DESC LIMIT 1", userID, fingerprint)
	if err != nil {
		return UserCert{}, fmt.Errorf("user certificate by key: %w", err)
	}
	return u, nil
}

// fingerprintColumn returns where a fingerprint of this form stands.
func fingerprintColumn(fingerprint string) string {
	if strings.HasPrefix(fingerprint, "MD5:") {
		return "md5"
	}
	return "fingerprint"
}

// UserCerts lists user certificates by serial. The filter knows ProjectID and UserID.
func (s *Store) UserCerts(ctx context.Context, f Filter, page Page) ([]UserCert, error) {
	if f.InstanceID != "" {
		return nil, fmt.Errorf("list user certificates: %w: they have no instance", ErrInvalid)
	}
	var c conditions
	c.addSet("project_id = ?", f.ProjectID)
	c.addSet("user_id = ?", f.UserID)
	return listBySerial(ctx, s, scanUserCert, selectUserCert, c, page)
}

// listBySerial returns one page of certificates.
func listBySerial[T any](ctx context.Context, s *Store, scan func(scanner) (T, error), head string, c conditions, page Page) ([]T, error) {
	limit, err := page.limit()
	if err != nil {
		return nil, err
	}
	after, err := page.afterSerial()
	if err != nil {
		return nil, err
	}
	c.add("serial > ?", int64(after))
	all, err := list(ctx, s, scan, head+c.where()+" ORDER BY serial LIMIT ?", append(c.args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list certificates: %w", err)
	}
	return all, nil
}
