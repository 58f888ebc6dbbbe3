// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/uuid"
)

// revokedKeys is Tatu's form of a revocation list.
type revokedKeys struct {
	AuthID   string `json:"auth_id"`
	Encoding string `json:"encoding"`
	Data     string `json:"revoked_keys_data"`
}

// ShowRevokedKeys answers with a project's revocation list: as Tatu does in
// base64 inside JSON, or raw and signed for "Accept: application/octet-stream". With
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
	header := http.Header{"Etag": {tag(snapshot, raw)}, "Vary": {"Accept"}, "Cache-Control": {"no-cache"}}
	switch {
	case known == snapshot.ETag:
		return api.Response{Status: http.StatusNotModified, Header: header}, nil
	case raw:
		header.Set("Content-Type", "application/octet-stream")
		f.sign(r, snapshot, header)
		return api.Response{Header: header, Raw: snapshot.Raw}, nil
	default:
		return api.Response{Header: header, Body: revokedKeys{AuthID: project, Encoding: "base64", Data: snapshot.Base64()}}, nil
	}
}

// signTimeout bounds the making of a signature.
const signTimeout = 10 * time.Second

// sign adds the signature of the project's user CA. A list without one is
// better than none: who does not look at signatures can still use it. After a
// long poll the time for ordinary requests may be over.
func (f *Face) sign(r *api.Request, snapshot *sshca.Snapshot, header http.Header) {
	ctx, cancel := r.Waiting(signTimeout)
	defer cancel()
	signature, err := snapshot.Signature(ctx)
	if err != nil {
		f.cfg.Logger.WarnContext(r.Context(), "A revocation list goes out without signature; agents keep the one they have",
			"request_id", r.ID, "error", err)
		return
	}
	if signature != "" {
		header.Set(agentapi.SignatureHeader, signature)
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

// tag names the bytes of the raw list. The JSON around it says the same in
// other bytes, so there it is a weak one (RFC 9110, 8.8.1).
func tag(snapshot *sshca.Snapshot, raw bool) string {
	if raw {
		return snapshot.ETag
	}
	return "W/" + snapshot.ETag
}

// listETag reads the one tag that a client of ours sends back. A weak mark,
// which a proxy may have added too, does not matter here.
func listETag(header string) string {
	return strings.TrimPrefix(strings.TrimSpace(header), "W/")
}
