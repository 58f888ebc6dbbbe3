// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package instance is the face that instances see, under /noauth: host
// certificates against one-time tokens, and revocation lists, which are no
// secrets. It has no Keystone tokens, so each address may ask only so often.
//
// It never tells an instance anything about another.
package instance

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/internal/uuid"
)

// HostCertifier issues host certificates against tokens.
type HostCertifier interface {
	IssueHost(ctx context.Context, by sshca.Actor, req sshca.HostRequest) (store.HostCert, error)
}

// RevocationLists gives out the lists of projects.
type RevocationLists interface {
	Current(ctx context.Context, projectID string) (*sshca.Snapshot, error)
	Wait(ctx context.Context, projectID, etag string) (*sshca.Snapshot, error)
}

// Config is what the face is made of.
type Config struct {
	Hosts HostCertifier
	Lists RevocationLists
	Rate  *api.RateLimiter // nil: no limit
	// MaxWait bounds ?wait=, MaxWaiting the long polls at once.
	MaxWait    time.Duration
	MaxWaiting int
}

// Face answers instances.
type Face struct {
	cfg     Config
	waiting atomic.Int64
}

// New returns the face.
func New(cfg Config) *Face { return &Face{cfg: cfg} }

// Name implements api.Face.
func (f *Face) Name() string { return "instance" }

// Register implements api.Face.
func (f *Face) Register(router *api.Router) {
	router.Handle("POST /noauth/hostcerts", f.cfg.Rate.Limited(f.CreateHostCert))
	router.Handle("GET /noauth/revokeduserkeys/{auth_id}", f.cfg.Rate.Limited(f.ShowRevokedKeys))
}

// CreateHostCert certifies a host key for whoever has the instance's token.
func (f *Face) CreateHostCert(r *api.Request) (api.Response, error) {
	var body struct {
		TokenID string `json:"token_id"`
		HostID  string `json:"host_id"`
		PubKey  string `json:"pub_key"`
	}
	if err := r.Decode(&body); err != nil {
		return api.Response{}, err
	}
	token, err := api.ID("token_id", body.TokenID)
	if err != nil {
		return api.Response{}, err
	}
	host, err := api.ID("host_id", body.HostID)
	if err != nil {
		return api.Response{}, err
	}
	if body.PubKey == "" {
		return api.Response{}, problem.InField("pub_key", "is missing")
	}
	cert, err := f.cfg.Hosts.IssueHost(r.Context(), r.Actor(), sshca.HostRequest{Token: token, InstanceID: host, PublicKey: body.PubKey})
	if err != nil {
		return api.Response{}, err
	}
	return api.Response{Location: "/hostcerts/" + cert.InstanceID + "/" + cert.MD5, Body: api.NewHostCert(cert)}, nil
}

// revokedKeys is Tatu's form of a revocation list.
type revokedKeys struct {
	AuthID   string `json:"auth_id"`
	Encoding string `json:"encoding"`
	Data     string `json:"revoked_keys_data"`
}

// ShowRevokedKeys answers with a project's revocation list: as Tatu does in
// base64 inside JSON, or raw for "Accept: application/octet-stream". With
// ?wait=SECONDS and If-None-Match it answers as soon as the list has changed,
// or with 304 when the time is over.
func (f *Face) ShowRevokedKeys(r *api.Request) (api.Response, error) {
	project, err := uuid.Parse(r.PathValue("auth_id"))
	if err != nil {
		return api.Response{}, problem.InField("auth_id", "%v", err)
	}
	wait, err := r.IntQuery("wait", 0, 0, int(f.cfg.MaxWait/time.Second))
	if err != nil {
		return api.Response{}, err
	}
	raw := strings.Contains(r.Header.Get("Accept"), "application/octet-stream")
	known := listETag(r.Header.Get("If-None-Match"))
	snapshot, err := f.snapshot(r, project, known, time.Duration(wait)*time.Second)
	if err != nil {
		return api.Response{}, err
	}
	header := http.Header{"Etag": {snapshot.ETag}, "Vary": {"Accept"}, "Cache-Control": {"no-cache"}}
	switch {
	case known == snapshot.ETag:
		return api.Response{Status: http.StatusNotModified, Header: header}, nil
	case raw:
		header.Set("Content-Type", "application/octet-stream")
		return api.Response{Header: header, Raw: snapshot.Raw}, nil
	default:
		return api.Response{Header: header, Body: revokedKeys{AuthID: project, Encoding: "base64", Data: snapshot.Base64()}}, nil
	}
}

func (f *Face) snapshot(r *api.Request, project, known string, wait time.Duration) (*sshca.Snapshot, error) {
	if wait == 0 || known == "" {
		return f.cfg.Lists.Current(r.Context(), project)
	}
	if f.waiting.Add(1) > int64(f.cfg.MaxWaiting) {
		f.waiting.Add(-1)
		return nil, &problem.Problem{Kind: problem.Unavailable, Reason: "too many requests wait already; ask without ?wait=", Cause: errors.New("[api] max_long_polls reached")}
	}
	defer f.waiting.Add(-1)
	ctx, cancel := r.Waiting(wait)
	defer cancel()
	return f.cfg.Lists.Wait(ctx, project, known)
}

// listETag reads the one tag that a client of ours sends back. A weak mark,
// which a proxy may have added, does not matter here.
func listETag(header string) string {
	return strings.TrimPrefix(strings.TrimSpace(header), "W/")
}
