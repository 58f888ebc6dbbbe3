// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package tatu

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

// userCert is a user certificate on the wire.
type userCert struct {
	UserID      string   `json:"user_id"`
	UserName    string   `json:"user_name"`
	Principals  string   `json:"principals"`
	Fingerprint string   `json:"fingerprint"`
	AuthID      string   `json:"auth_id"`
	Cert        string   `json:"cert"`
	Revoked     bool     `json:"revoked"`
	Serial      uint64   `json:"serial"`
	CreatedAt   api.Time `json:"created_at"`
	ExpiresAt   api.Time `json:"expires_at"`
	// CredentialID is the application credential, trust or access token with
	// which it was asked for; not in Tatu.
	CredentialID string `json:"credential_id,omitempty"`
}

func newUserCert(c store.UserCert) userCert {
	return userCert{
		UserID: c.UserID, UserName: c.UserName, Principals: strings.Join(c.Principals, ","), Fingerprint: c.MD5,
		AuthID: c.ProjectID, Cert: c.Cert, Revoked: !c.RevokedAt.IsZero(), Serial: c.Serial,
		CreatedAt: api.Time(c.CreatedAt), ExpiresAt: api.Time(c.ExpiresAt), CredentialID: c.Credential.ID,
	}
}

func (f *Face) createUserCert(r *api.Request) (api.Response, error) {
	var body struct {
		UserID   string `json:"user_id"`
		AuthID   string `json:"auth_id"`
		PubKey   string `json:"pub_key"`
		Lifetime int64  `json:"lifetime"` // seconds; not in Tatu
	}
	if err := r.Decode(&body); err != nil {
		return api.Response{}, err
	}
	user, err := api.UserID("user_id", body.UserID)
	if err != nil {
		return api.Response{}, err
	}
	project, err := api.ID("auth_id", body.AuthID)
	if err != nil {
		return api.Response{}, err
	}
	switch {
	case body.PubKey == "":
		return api.Response{}, problem.InField("pub_key", "is missing")
	case body.Lifetime < 0 || body.Lifetime > maxLifetime:
		return api.Response{}, problem.InField("lifetime", "want a number of seconds from 0 to %d", maxLifetime)
	}
	if err := r.Authorize(policy.UserCertCreate, api.Object{ProjectID: project, UserID: user}); err != nil {
		return api.Response{}, err
	}
	name, err := f.userName(r, user)
	if err != nil {
		return api.Response{}, err
	}
	limits, err := f.limits(r, user, project)
	if err != nil {
		return api.Response{}, err
	}
	cert, err := f.cfg.Authority.IssueUser(r.Context(), r.Actor(), sshca.UserRequest{
		ProjectID: project, UserID: user, UserName: name,
		PublicKey: body.PubKey, Lifetime: time.Duration(body.Lifetime) * time.Second, Limits: limits,
	})
	if err != nil {
		return api.Response{}, err
	}
	return created("/usercerts/"+cert.UserID+"/"+cert.MD5, newUserCert(cert)), nil
}

// limits are those of the caller's token. docs/tokens.md has the table of all
// that narrows or lends one.
func (f *Face) limits(r *api.Request, userID, projectID string) (sshca.Limits, error) {
	token := r.Caller.Token
	var l sshca.Limits
	// In another's name, or for another project, a policy rule lets operators in.
	if userID == token.UserID && projectID == token.ProjectID {
		l.Roles, l.GroupIDs = append([]string{}, token.Roles...), token.GroupIDs
	}
	if id := token.Credential.ID; id != "" {
		l.Credential = store.Credential{Kind: string(token.Credential.Kind), ID: id, Owner: token.UserID}
		// The token may be remembered from before its credential was deleted.
		ends, err := f.cfg.Users.CredentialEnds(r.Context(), token.UserID, token.Credential)
		if errors.Is(err, keystone.ErrNotFound) {
			return l, keystone.ErrInvalidToken
		}
		if err != nil {
			return l, err
		}
		l.Until = ends
	}
	switch {
	case token.Credential.Kind == keystone.ApplicationCredential:
		// Its holder makes a token whenever one is needed, until it ends.
	case !token.OwnLogin():
		if l.Until.IsZero() || token.ExpiresAt.Before(l.Until) {
			l.Until = token.ExpiresAt
		}
	case !token.PasswordExpiresAt.IsZero():
		// A token outlives the password that it was made with.
		l.Until = token.PasswordExpiresAt
		if token.ExpiresAt.After(l.Until) {
			l.Until = token.ExpiresAt
		}
	}
	return l, nil
}

// maxLifetime keeps seconds within what a time.Duration holds; the real limit
// is the configuration's.
const maxLifetime = 10 * 365 * 24 * 3600

// userName is the token's for oneself, and Keystone's for another user.
func (f *Face) userName(r *api.Request, userID string) (string, error) {
	if userID == r.Caller.UserID {
		return r.Caller.UserName, nil
	}
	user, err := f.cfg.Users.User(r.Context(), userID)
	if errors.Is(err, keystone.ErrNotFound) {
		return "", problem.InField("user_id", "Keystone knows no user %s", userID)
	}
	return user.Name, err
}

func (f *Face) listUserCerts(r *api.Request) (api.Response, error) {
	page, err := r.ListPage()
	if err != nil {
		return api.Response{}, err
	}
	filter, err := f.visibleUserCerts(r)
	if err != nil {
		return api.Response{}, err
	}
	records, err := f.cfg.Records.UserCerts(r.Context(), filter, page)
	if err != nil {
		return api.Response{}, err
	}
	list := struct {
		Certs []userCert `json:"certs"`
		Links api.Links  `json:"links"`
	}{Certs: []userCert{}}
	last := ""
	for _, record := range records {
		list.Certs, last = append(list.Certs, newUserCert(record)), fmt.Sprint(record.Serial)
	}
	list.Links = r.Links(page, len(records), last)
	return api.Response{Body: list}, nil
}

// visibleUserCerts is what the caller may see: everything, the project's, or
// one's own in the project.
func (f *Face) visibleUserCerts(r *api.Request) (store.Filter, error) {
	scope, err := r.ReadScope(policy.AllProjects, policy.SudoProject)
	if err != nil {
		return store.Filter{}, err
	}
	filter := store.Filter{ProjectID: scope.ProjectID}
	if scope.ProjectID == "" {
		return filter, r.Authorize(policy.UserCertListAll, api.Object{})
	}
	if r.Allowed(policy.UserCertListProject, api.Object{ProjectID: scope.ProjectID}) {
		return filter, nil
	}
	filter.UserID = r.Caller.UserID
	return filter, r.Authorize(policy.UserCertList, api.Object{ProjectID: scope.ProjectID, UserID: filter.UserID})
}

func (f *Face) showUserCert(r *api.Request) (api.Response, error) {
	serial, err := strconv.ParseUint(r.PathValue("serial"), 10, 63)
	if err != nil {
		return api.Response{}, problem.InField("serial", "is no serial number")
	}
	cert, err := f.cfg.Records.UserCert(r.Context(), serial)
	return f.visibleUserCert(r, cert, err)
}

func (f *Face) showUserCertByKey(r *api.Request) (api.Response, error) {
	user, err := api.UserID("user_id", r.PathValue("user_id"))
	if err != nil {
		return api.Response{}, err
	}
	cert, err := f.cfg.Records.UserCertByKey(r.Context(), user, r.PathValue("fingerprint"))
	return f.visibleUserCert(r, cert, err)
}

// visibleUserCert shows a certificate to those who may see it. To others it
// is as if it did not exist.
func (f *Face) visibleUserCert(r *api.Request, cert store.UserCert, err error) (api.Response, error) {
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrInvalid):
		return api.Response{}, problem.New(problem.NotFound, "no such user certificate")
	case err != nil:
		return api.Response{}, err
	case !r.Allowed(policy.UserCertShow, api.Object{ProjectID: cert.ProjectID, UserID: cert.UserID}):
		return api.Response{}, problem.New(problem.NotFound, "no such user certificate")
	}
	return api.Response{Body: newUserCert(cert)}, nil
}

func (f *Face) revokeUserCert(r *api.Request) (api.Response, error) {
	project, err := api.ID("auth_id", r.PathValue("auth_id"))
	if err != nil {
		return api.Response{}, err
	}
	var body struct {
		Serial api.Serial `json:"serial"`
		Reason string     `json:"reason"` // not in Tatu
	}
	if err := r.Decode(&body); err != nil {
		return api.Response{}, err
	}
	if body.Serial == 0 {
		return api.Response{}, problem.InField("serial", "is missing")
	}
	if err := f.authorizeRevocation(r, project, uint64(body.Serial)); err != nil {
		return api.Response{}, err
	}
	result, err := f.cfg.Authority.Revoke(r.Context(), r.Actor(), store.RevocationOrder{ProjectID: project, Serial: uint64(body.Serial), Reason: body.Reason})
	if err != nil {
		return api.Response{}, err
	}
	if result.Already {
		return api.Response{}, problem.InField("serial", "certificate %d is revoked already", body.Serial)
	}
	return api.Response{Body: struct{}{}}, nil
}

// authorizeRevocation finds whose certificate it is and whether the caller may
// revoke it. Who may not even see the project's authority learns nothing.
func (f *Face) authorizeRevocation(r *api.Request, project string, serial uint64) error {
	cert, err := f.cfg.Records.UserCert(r.Context(), serial)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil && cert.ProjectID == project {
		return r.Authorize(policy.UserCertRevoke, api.Object{ProjectID: project, UserID: cert.UserID})
	}
	if err := r.Authorize(policy.AuthorityShow, api.Object{ProjectID: project}); err != nil {
		return err
	}
	if _, err := f.cfg.Records.Authority(r.Context(), project); errors.Is(err, store.ErrNotFound) {
		return problem.New(problem.NotFound, "project %s has no authority", project)
	} else if err != nil {
		return err
	}
	return problem.InField("serial", "authority %s has issued no user certificate %d", project, serial)
}
