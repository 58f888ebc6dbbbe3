// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"time"
)

// LiveCert is what a comparison needs to know of a user certificate that is neither expired nor revoked.
type LiveCert struct {
	Serial     uint64
	ProjectID  string
	UserID     string
	Principals []string
	ExpiresAt  time.Time
	Credential Credential
	GroupIDs   []string
}

const selectLiveCert = "SELECT serial, project_id, user_id, principals, expires_at, credential_kind, credential_id, credential_owner, group_ids " +
	"FROM user_cert WHERE revoked_at = 0 AND "

func scanLiveCert(r scanner) (LiveCert, error) {
	var l LiveCert
	var principals, groups string
	var expires int64
	err := r.Scan(&l.Serial, &l.ProjectID, &l.UserID, &principals, &expires, &l.Credential.Kind, &l.Credential.ID, &l.Credential.Owner, &groups)
	if err != nil {
		return l, err
	}
	l.ExpiresAt = fromMicros(expires)
	if l.Principals, err = decodeList(principals); err == nil {
		l.GroupIDs, err = decodeGroups(groups)
	}
	return l, err
}

// LiveUserCerts lists, by serial, the user certificates of a project, of a user, or of a user in a project, that are good now.
func (s *Store) LiveUserCerts(ctx context.Context, f Filter, page Page) ([]LiveCert, error) {
	if f.InstanceID != "" || f.ProjectID == "" && f.UserID == "" {
		return nil, fmt.Errorf("list live certificates: %w: say a project or a user", ErrInvalid)
	}
	limit, err := page.limit()
	if err != nil {
		return nil, err
	}
	after, err := page.afterSerial()
	if err != nil {
		return nil, err
	}
	text, args := "expires_at > ?", []any{micros(s.now())}
	if f.ProjectID != "" {
		text, args = text+" AND project_id = ?", append(args, f.ProjectID)
	}
	if f.UserID != "" {
		text, args = text+" AND user_id = ?", append(args, f.UserID)
	}
	all, err := list(ctx, s, scanLiveCert, selectLiveCert+text+" AND serial > ? ORDER BY serial LIMIT ?", append(args, int64(after), limit)...)
	if err != nil {
		return nil, fmt.Errorf("list live certificates: %w", err)
	}
	return all, nil
}

// CredentialCerts lists, by serial, the user certificates that are good now and were asked for with the credential.
func (s *Store) CredentialCerts(ctx context.Context, credentialID string, page Page) ([]LiveCert, error) {
	limit, err := page.limit()
	if err != nil {
		return nil, err
	}
	after, err := page.afterSerial()
	if err != nil {
		return nil, err
	}
	if credentialID == "" {
		return nil, fmt.Errorf("list a credential's certificates: %w: say which credential", ErrInvalid)
	}
	all, err := list(ctx, s, scanLiveCert, selectLiveCert+
		"credential_id <> '' AND credential_id = ? AND expires_at > ? AND serial > ? ORDER BY serial LIMIT ?",
		credentialID, micros(s.now()), int64(after), limit)
	if err != nil {
		return nil, fmt.Errorf("list a credential's certificates: %w", err)
	}
	return all, nil
}

// AllLiveUserCerts lists every user certificate that is good now, the one that ends first before the others, after the given one (the zero
// value: from the first), at most limit. It never reads those that have expired, which may be many more.
func (s *Store) AllLiveUserCerts(ctx context.Context, after LiveCert, limit int) ([]LiveCert, error) {
	limit, err := Page{Limit: limit}.limit()
	if err != nil {
		return nil, err
	}
	from := max(micros(s.now())+1, micros(after.ExpiresAt))
	all, err := list(ctx, s, scanLiveCert, selectLiveCert+
		"expires_at >= ? AND (expires_at > ? OR serial > ?) ORDER BY expires_at, serial LIMIT ?",
		from, micros(after.ExpiresAt), int64(after.Serial), limit)
	if err != nil {
		return nil, fmt.Errorf("list live certificates: %w", err)
	}
	return all, nil
}

// AuthorityLife says since when an authority's project is gone, and the authority retired. Zero: it is not.
type AuthorityLife struct {
	ProjectID string
	GoneAt    time.Time
	RetiredAt time.Time
}

const selectAuthorityLife = "SELECT project_id, gone_at, retired_at FROM authority WHERE "

func scanAuthorityLife(r scanner) (AuthorityLife, error) {
	var l AuthorityLife
	var gone, retired int64
	err := r.Scan(&l.ProjectID, &gone, &retired)
	l.GoneAt, l.RetiredAt = fromMicros(gone), fromMicros(retired)
	return l, err
}

// AuthorityLives lists all authorities by project ID.
func (s *Store) AuthorityLives(ctx context.Context, page Page) ([]AuthorityLife, error) {
	limit, err := page.limit()
	if err != nil {
		return nil, err
	}
	all, err := list(ctx, s, scanAuthorityLife, selectAuthorityLife+"project_id > ? ORDER BY project_id LIMIT ?", page.After, limit)
	if err != nil {
		return nil, fmt.Errorf("list authorities: %w", err)
	}
	return all, nil
}

// AuthorityLife returns a project's. ErrNotFound.
func (s *Store) AuthorityLife(ctx context.Context, projectID string) (AuthorityLife, error) {
	l, err := one(ctx, s, scanAuthorityLife, selectAuthorityLife+"project_id = ?", projectID)
	if err != nil {
		return AuthorityLife{}, fmt.Errorf("authority of project %s: %w", shorten(projectID), err)
	}
	return l, nil
}

// SetAuthorityLife changes a project's authority from what was read. With a time in RetiredAt the authority issues
// nothing any more; without one it does. ErrConflict: it was changed meanwhile.
func (s *Store) SetAuthorityLife(ctx context.Context, was, now AuthorityLife, audit Audit) error {
	entry, err := s.auditRow(audit)
	if err != nil {
		return err
	}
	err = s.transact(ctx, func(t *tx) error {
		n, err := t.exec("UPDATE authority SET gone_at = ?, retired_at = ? WHERE project_id = ? AND gone_at = ? AND retired_at = ?",
			micros(now.GoneAt), micros(now.RetiredAt), was.ProjectID, micros(was.GoneAt), micros(was.RetiredAt))
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: it was changed meanwhile", ErrConflict)
		}
		return t.insert(auditTable, [][]any{entry})
	})
	if err != nil {
		return fmt.Errorf("authority of project %s: %w", shorten(was.ProjectID), err)
	}
	return nil
}
