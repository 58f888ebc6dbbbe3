// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package operator is the face that those who run a cloud or administer a
// project see: revocation in all its forms, instances that must end or come
// back, their enrolment in FreeIPA, and the audit log. Tatu had nothing of it.
package operator

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/notify"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/sshca/sshkey"
	"github.com/muster-cloud/muster/internal/store"
)

// Authority takes back what was given, and changes keys.
type Authority interface {
	Revoke(ctx context.Context, by sshca.Actor, order store.RevocationOrder) (store.RevocationResult, error)
	RevokeUser(ctx context.Context, by sshca.Actor, userID, reason string) (certificates int, err error)
	DeleteInstance(ctx context.Context, by sshca.Actor, instanceID, reason string) error
	RenewToken(ctx context.Context, by sshca.Actor, instanceID string) (renewed store.Instance, made bool, err error)
	Rotate(ctx context.Context, by sshca.Actor, order sshca.Rotation) (key store.AuthorityKey, added bool, err error)
	Retire(ctx context.Context, by sshca.Actor, projectID string, role store.Role, generation int) (store.RevocationResult, error)
}

// Records are what was issued, taken back, and done.
type Records interface {
	Authority(ctx context.Context, projectID string) (store.Authority, error)
	Instance(ctx context.Context, id string) (store.Instance, error)
	UserCert(ctx context.Context, serial uint64) (store.UserCert, error)
	Revocations(ctx context.Context, projectID string, afterVersion uint64, limit int) ([]store.Revocation, error)
	Audits(ctx context.Context, filter store.AuditFilter, page store.Page) ([]store.Audit, error)
	Enrolment(ctx context.Context, instanceID string) (store.Enrolment, error)
	Enrolments(ctx context.Context, filter store.EnrolmentFilter, page store.Page) ([]store.Enrolment, error)
	PendingKeys(ctx context.Context, page store.Page) ([]store.PendingKey, error)
	AppendAudit(ctx context.Context, entry store.Audit) error
}

// Sessions are the tokens that were validated before and are believed for a while.
type Sessions interface {
	ForgetUser(id string)
}

// Events are the notifications that came to this replica.
type Events interface {
	Events(limit int) []notify.Event
}

// Config is what the face is made of.
type Config struct {
	Guard      *api.Guard
	Authority  Authority
	Records    Records
	Sessions   Sessions
	Events     Events
	Enrolments Enrolments // nil: instances are not enrolled
	Comparison Comparison // nil: nothing follows the cloud
	Health     Health     // which neighbours do not answer
}

// Face answers operators and administrators of projects.
type Face struct {
	cfg Config
}

// New returns the face.
func New(cfg Config) *Face { return &Face{cfg: cfg} }

// Name implements api.Face.
func (f *Face) Name() string { return "operator" }

// Register implements api.Face.
func (f *Face) Register(router *api.Router) {
	handle := func(pattern string, endpoint api.Endpoint) {
		router.Handle(pattern, f.cfg.Guard.Authenticated(endpoint))
	}
	handle("POST /v1/revocations", f.revoke)
	handle("GET /v1/revocations", f.listRevocations)
	f.registerGenerations(handle)
	handle("DELETE /v1/hosts/{host_id}", f.deleteHost)
	handle("POST /v1/hosts/{host_id}/token", f.renewHostToken)
	handle("GET /v1/audit", f.listAudit)
	if f.cfg.Enrolments != nil {
		f.registerEnrolments(handle)
	}
	if f.cfg.Comparison != nil {
		f.registerConvergence(handle)
	}
	handle("GET /v1/events", f.listEvents)
}

// order is the body of POST /v1/revocations: a project, and one of the rest.
type order struct {
	AuthID       string     `json:"auth_id"`
	Serial       api.Serial `json:"serial"`
	UserID       string     `json:"user_id"`
	PubKey       string     `json:"pub_key"`
	Fingerprint  string     `json:"fingerprint"`
	KeyID        string     `json:"key_id"`
	GenerationID string     `json:"generation_id"`
	Reason       string     `json:"reason"`
}

// outcome is what a revocation did.
type outcome struct {
	AuthID       string `json:"auth_id,omitempty"`
	Version      uint64 `json:"version,omitempty"`
	Certificates int    `json:"certificates"`
	Already      bool   `json:"already"`
}

func (f *Face) revoke(r *api.Request) (api.Response, error) {
	var body order
	if err := r.Decode(&body); err != nil {
		return api.Response{}, err
	}
	if body.AuthID == "" && body.UserID != "" {
		return f.revokeUserEverywhere(r, body)
	}
	revocation, err := body.revocation()
	if err != nil {
		return api.Response{}, err
	}
	if err := f.authorizeRevocation(r, revocation); err != nil {
		return api.Response{}, err
	}
	result, err := f.cfg.Authority.Revoke(r.Context(), r.Actor(), revocation)
	if err != nil {
		return api.Response{}, err
	}
	if revocation.UserID != "" {
		f.cfg.Sessions.ForgetUser(revocation.UserID)
	}
	return api.Response{Body: outcome{
		AuthID: revocation.ProjectID, Version: result.Version, Certificates: result.Certificates, Already: result.Already,
	}}, nil
}

// authorizeRevocation checks that the caller may revoke this. What is one's
// own, by the records, may be revoked by oneself, as with Tatu's call: a
// certificate, or all that one has. A key is nobody's own, since whoever names
// another's could end it for ever.
func (f *Face) authorizeRevocation(r *api.Request, revocation store.RevocationOrder) error {
	rule, object := policy.RevocationCreate, api.Object{ProjectID: revocation.ProjectID}
	if revocation.AuthorityKeyID != "" {
		return r.Authorize(policy.AuthorityRevokeGeneration, object)
	}
	if r.Allowed(rule, object) {
		return nil
	}
	owner := revocation.UserID
	if revocation.Serial != 0 {
		cert, err := f.cfg.Records.UserCert(r.Context(), revocation.Serial)
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrInvalid) {
			return err
		}
		if err == nil && cert.ProjectID == revocation.ProjectID {
			owner = cert.UserID
		}
	}
	if owner != "" {
		rule, object.UserID = policy.UserCertRevoke, owner
	}
	return r.Authorize(rule, object)
}

// revokeUserEverywhere is for the cloud's operator alone: an object without
// project is nobody else's.
func (f *Face) revokeUserEverywhere(r *api.Request, body order) (api.Response, error) {
	user, err := api.UserID("user_id", body.UserID)
	if err != nil {
		return api.Response{}, err
	}
	if body.Serial != 0 || body.PubKey != "" || body.Fingerprint != "" || body.KeyID != "" || body.GenerationID != "" {
		return api.Response{}, problem.InField("auth_id", "is missing")
	}
	if err := r.Authorize(policy.RevocationCreate, api.Object{UserID: user}); err != nil {
		return api.Response{}, err
	}
	n, err := f.cfg.Authority.RevokeUser(r.Context(), r.Actor(), user, body.Reason)
	if err != nil {
		return api.Response{}, err
	}
	f.cfg.Sessions.ForgetUser(user)
	return api.Response{Body: outcome{Certificates: n}}, nil
}

// revocation checks an order and turns it into the domain's.
func (o order) revocation() (store.RevocationOrder, error) {
	project, err := api.ID("auth_id", o.AuthID)
	if err != nil {
		return store.RevocationOrder{}, err
	}
	revocation := store.RevocationOrder{ProjectID: project, Serial: uint64(o.Serial), KeyID: o.KeyID, Fingerprint: o.Fingerprint, Reason: o.Reason}
	named := 0
	for _, given := range []bool{o.Serial != 0, o.UserID != "", o.PubKey != "", o.Fingerprint != "", o.KeyID != "", o.GenerationID != ""} {
		if given {
			named++
		}
	}
	if named != 1 {
		return revocation, problem.New(problem.Invalid, "name exactly one of serial, user_id, pub_key, fingerprint, key_id and generation_id")
	}
	switch {
	case o.UserID != "":
		revocation.UserID, err = api.UserID("user_id", o.UserID)
	case o.GenerationID != "":
		revocation.AuthorityKeyID, err = api.ID("generation_id", o.GenerationID)
	case o.PubKey != "":
		// A key that is too weak to certify may well have to be revoked.
		key, parseErr := sshkey.Policy{MinRSABits: leastRSABits, AllowSecurityKeys: true}.Parse(o.PubKey)
		if parseErr != nil {
			return revocation, problem.InField("pub_key", "%v", parseErr)
		}
		revocation.Fingerprint = key.SHA256
	}
	return revocation, err
}

// leastRSABits is what Go's RSA reads at all.
const leastRSABits = 1024

// revocation is an entry of a project's log on the wire.
type revocation struct {
	AuthID       string   `json:"auth_id"`
	Version      uint64   `json:"version"`
	Kind         string   `json:"kind"`
	Serial       uint64   `json:"serial,omitempty"`
	Value        string   `json:"value,omitempty"`
	GenerationID string   `json:"generation_id,omitempty"`
	Reason       string   `json:"reason"`
	By           string   `json:"by"`
	CreatedAt    api.Time `json:"created_at"`
	ExpiresAt    api.Time `json:"expires_at"`
}

func (f *Face) listRevocations(r *api.Request) (api.Response, error) {
	scope, err := f.projectScope(r)
	if err != nil {
		return api.Response{}, err
	}
	page, err := r.ListPage("auth_id")
	if err != nil {
		return api.Response{}, err
	}
	after, err := strconv.ParseUint("0"+page.After, 10, 63)
	if err != nil {
		return api.Response{}, problem.InField("marker", "is no version")
	}
	if err := r.Authorize(policy.RevocationCreate, api.Object{ProjectID: scope}); err != nil {
		return api.Response{}, err
	}
	records, err := f.cfg.Records.Revocations(r.Context(), scope, after, page.Limit)
	if err != nil {
		return api.Response{}, err
	}
	list := struct {
		Revocations []revocation `json:"revocations"`
		Links       api.Links    `json:"links"`
	}{Revocations: []revocation{}}
	last := ""
	for _, record := range records {
		last = fmt.Sprint(record.Version)
		list.Revocations = append(list.Revocations, revocation{
			AuthID: record.ProjectID, Version: record.Version, Kind: string(record.Kind), Serial: record.Serial, Value: record.Value,
			GenerationID: record.AuthorityKeyID, Reason: record.Reason, By: record.By,
			CreatedAt: api.Time(record.CreatedAt), ExpiresAt: api.Time(record.ExpiresAt),
		})
	}
	// A version is given whole, so that a page may hold more than its limit.
	list.Links = r.Links(page, min(len(records), page.Limit), last)
	return api.Response{Body: list}, nil
}

// projectScope is the project that a log is asked of: the token's, or the one
// in ?auth_id=.
func (f *Face) projectScope(r *api.Request) (string, error) {
	if asked := r.URL.Query().Get("auth_id"); asked != "" {
		return api.ID("auth_id", asked)
	}
	if r.Caller.ProjectID == "" {
		return "", problem.InField("auth_id", "is missing, and the token is not for a project")
	}
	return r.Caller.ProjectID, nil
}

// entry is an audit record on the wire.
type entry struct {
	ID           string            `json:"id"`
	At           api.Time          `json:"at"`
	Actor        string            `json:"actor"`
	ActorName    string            `json:"actor_name"`
	ActorProject string            `json:"actor_project"`
	Action       string            `json:"action"`
	Outcome      string            `json:"outcome"`
	ObjectKind   string            `json:"object_kind"`
	ObjectID     string            `json:"object_id"`
	AuthID       string            `json:"auth_id"`
	Reason       string            `json:"reason"`
	RequestID    string            `json:"request_id"`
	Remote       string            `json:"remote"`
	Details      map[string]string `json:"details"`
	Times        int64             `json:"times"`
}

func (f *Face) listAudit(r *api.Request) (api.Response, error) {
	page, err := r.ListPage("actor", "action", "object", "since", "until")
	if err != nil {
		return api.Response{}, err
	}
	if page.After != "" {
		if page.After, err = api.ID("marker", page.After); err != nil {
			return api.Response{}, err
		}
	}
	filter, err := f.auditFilter(r)
	if err != nil {
		return api.Response{}, err
	}
	records, err := f.cfg.Records.Audits(r.Context(), filter, page)
	if err != nil {
		return api.Response{}, err
	}
	list := struct {
		Entries []entry   `json:"audit"`
		Links   api.Links `json:"links"`
	}{Entries: []entry{}}
	last := ""
	for _, a := range records {
		last = a.ID
		list.Entries = append(list.Entries, entry{
			ID: a.ID, At: api.Time(a.At), Actor: a.Actor, ActorName: a.ActorName, ActorProject: a.ActorProject,
			Action: a.Action, Outcome: a.Outcome, ObjectKind: a.ObjectKind, ObjectID: a.ObjectID, AuthID: a.ProjectID,
			Reason: a.Reason, RequestID: a.RequestID, Remote: a.Remote, Details: a.Details, Times: a.Times,
		})
	}
	list.Links = r.Links(page, len(records), last)
	return api.Response{Body: list}, nil
}

// auditFilter reads the query and checks that the caller may see so much.
func (f *Face) auditFilter(r *api.Request) (store.AuditFilter, error) {
	query := r.URL.Query()
	filter := store.AuditFilter{Actor: query.Get("actor"), Action: query.Get("action"), ObjectID: query.Get("object")}
	var err error
	for name, into := range map[string]*time.Time{"since": &filter.Since, "until": &filter.Until} {
		if text := query.Get(name); text != "" {
			if *into, err = time.Parse(time.RFC3339, text); err != nil {
				return filter, problem.InField(name, "want a time as in 2026-11-22T13:00:00Z")
			}
		}
	}
	scope, err := r.ReadScope(policy.AllProjects, policy.SudoProject)
	if err != nil {
		return filter, err
	}
	filter.ProjectID = scope.ProjectID
	if filter.ProjectID == "" {
		return filter, r.Authorize(policy.AuditListAll, api.Object{})
	}
	return filter, r.Authorize(policy.AuditList, api.Object{ProjectID: filter.ProjectID})
}
