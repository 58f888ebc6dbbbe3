// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package tatu is the face that people's clients see: the API of Tatu, which
// "openstack ssh" and the dashboard speak. Muster answers it in full, with the
// authorization that Tatu did not have.
//
// Authorities never show a private key. What a caller may not see in a list is
// left out; a single object of that kind is not found.
package tatu

import (
	"context"
	"net/http"
	"time"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

// Authority is the SSH CA, as far as people use it.
type Authority interface {
	EnsureAuthority(ctx context.Context, by sshca.Actor, projectID string) (record store.Authority, created bool, err error)
	IssueUser(ctx context.Context, by sshca.Actor, req sshca.UserRequest) (store.UserCert, error)
	HostToken(ctx context.Context, by sshca.Actor, req sshca.InstanceRequest) (sshca.Boot, error)
	Revoke(ctx context.Context, by sshca.Actor, order store.RevocationOrder) (store.RevocationResult, error)
}

// Records are what was issued.
type Records interface {
	Authority(ctx context.Context, projectID string) (store.Authority, error)
	Authorities(ctx context.Context, page store.Page) ([]store.Authority, error)
	UserCert(ctx context.Context, serial uint64) (store.UserCert, error)
	UserCertByKey(ctx context.Context, userID, fingerprint string) (store.UserCert, error)
	UserCerts(ctx context.Context, filter store.Filter, page store.Page) ([]store.UserCert, error)
	HostCert(ctx context.Context, instanceID, fingerprint string) (store.HostCert, error)
	HostCerts(ctx context.Context, filter store.Filter, page store.Page) ([]store.HostCert, error)
	Instance(ctx context.Context, id string) (store.Instance, error)
	Instances(ctx context.Context, filter store.Filter, page store.Page) ([]store.Instance, error)
}

// Users are Keystone's.
type Users interface {
	User(ctx context.Context, id string) (keystone.User, error)
	// CredentialEnds returns when a user's credential ends (zero: never), or
	// keystone.ErrNotFound.
	CredentialEnds(ctx context.Context, userID string, credential keystone.Credential) (time.Time, error)
}

// Config is what the face is made of.
type Config struct {
	Guard     *api.Guard
	Authority Authority
	Records   Records
	Users     Users
	// These two are the instance face's, which Tatu has under both paths.
	CreateHostCert  api.Endpoint
	ShowRevokedKeys api.Endpoint
}

// Face answers people's clients.
type Face struct {
	cfg Config
}

// New returns the face.
func New(cfg Config) *Face { return &Face{cfg: cfg} }

// Name implements api.Face.
func (f *Face) Name() string { return "tatu" }

// Register implements api.Face. Every call is there with and without /v1,
// since the endpoint in Keystone's catalogue carries no version.
func (f *Face) Register(router *api.Router) {
	router.Handle("GET /{$}", f.listVersions)
	router.Handle("GET /v1", f.showVersion)
	for _, base := range []string{"", "/v1"} {
		handle := func(method, path string, endpoint api.Endpoint) {
			router.Handle(method+" "+base+path, f.cfg.Guard.Authenticated(endpoint))
		}
		handle("POST", "/authorities", f.createAuthority)
		handle("GET", "/authorities", f.listAuthorities)
		handle("GET", "/authorities/{auth_id}", f.showAuthority)
		handle("POST", "/usercerts", f.createUserCert)
		handle("GET", "/usercerts", f.listUserCerts)
		handle("GET", "/usercerts/{serial}", f.showUserCert)
		handle("GET", "/usercerts/{user_id}/{fingerprint...}", f.showUserCertByKey)
		handle("GET", "/hosts", f.listHosts)
		handle("GET", "/hosts/{host_id}", f.showHost)
		handle("POST", "/hosttokens", f.createHostToken)
		handle("GET", "/hostcerts", f.listHostCerts)
		handle("GET", "/hostcerts/{host_id}/{fingerprint...}", f.showHostCert)
		handle("GET", "/revokeduserkeys/{auth_id}", f.showRevokedKeys)
		handle("POST", "/revokeduserkeys/{auth_id}", f.revokeUserCert)
		handle("GET", "/pats", f.listPATs)
		// The one-time token decides, with or without a Keystone token.
		router.Handle("POST "+base+"/hostcerts", f.cfg.CreateHostCert)
	}
}

type link struct {
	Href string `json:"href"`
	Rel  string `json:"rel"`
}

type version struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Links  []link `json:"links"`
}

func versionOne(r *api.Request) version {
	return version{ID: "v1", Status: "CURRENT", Links: []link{{Href: r.BaseURL() + "/v1", Rel: "self"}}}
}

func (f *Face) listVersions(r *api.Request) (api.Response, error) {
	type values struct {
		Values []version `json:"values"`
	}
	return api.Response{Body: map[string]values{"versions": {[]version{versionOne(r)}}}}, nil
}

func (f *Face) showVersion(r *api.Request) (api.Response, error) {
	return api.Response{Body: map[string]version{"version": versionOne(r)}}, nil
}

// showRevokedKeys is for any caller with a token: the list is no secret.
func (f *Face) showRevokedKeys(r *api.Request) (api.Response, error) {
	project, err := api.ID("auth_id", r.PathValue("auth_id"))
	if err != nil {
		return api.Response{}, err
	}
	if err := r.Authorize(policy.KRLShow, api.Object{ProjectID: project}); err != nil {
		return api.Response{}, err
	}
	return f.cfg.ShowRevokedKeys(r)
}

// listPATs answers as a Tatu without bastions does.
func (f *Face) listPATs(r *api.Request) (api.Response, error) {
	if err := r.Authorize(policy.PATList, api.Object{ProjectID: r.Caller.ProjectID}); err != nil {
		return api.Response{}, err
	}
	return api.Response{Body: map[string][]string{"pats": {}}}, nil
}

func created(location string, body any) api.Response {
	return api.Response{Status: http.StatusCreated, Location: location, Body: body}
}
