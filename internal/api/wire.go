// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/internal/uuid"
)

// Time is a time as Tatu's clients read it: UTC, microseconds, no zone.
type Time time.Time

// timeFormat is that of Python's isoformat for a time without zone.
const timeFormat = `"2006-01-02T15:04:05.000000"`

// MarshalJSON implements json.Marshaler. The zero time is null.
func (t Time) MarshalJSON() ([]byte, error) {
	if time.Time(t).IsZero() {
		return []byte("null"), nil
	}
	return time.Time(t).UTC().AppendFormat(nil, timeFormat), nil
}

// HostCert is a host certificate on the wire.
type HostCert struct {
	HostID      string `json:"host_id"`
	Fingerprint string `json:"fingerprint"`
	AuthID      string `json:"auth_id"`
	Cert        string `json:"cert"`
	Hostname    string `json:"hostname"`
	Serial      uint64 `json:"serial"`
	Revoked     bool   `json:"revoked"`
	CreatedAt   Time   `json:"created_at"`
	ExpiresAt   Time   `json:"expires_at"`
}

// NewHostCert returns the wire form of a record.
func NewHostCert(c store.HostCert) HostCert {
	return HostCert{
		HostID: c.InstanceID, Fingerprint: c.MD5, AuthID: c.ProjectID, Cert: c.Cert, Hostname: c.Hostname,
		Serial: c.Serial, Revoked: !c.RevokedAt.IsZero(), CreatedAt: Time(c.CreatedAt), ExpiresAt: Time(c.ExpiresAt),
	}
}

// TitledError is the shape of Tatu's errors. Its client for people prints the
// message, which Tatu never sent.
func TitledError(status int, reason string) any {
	return struct {
		Title       string `json:"title"`
		Description string `json:"description"`
		Message     string `json:"message"` // the description again
	}{http.StatusText(status), reason, reason}
}

// ID reads a UUID from a field of a request.
func ID(field, text string) (string, error) {
	return readID(field, text, uuid.Parse)
}

// UserID reads a Keystone user's ID from a field of a request.
func UserID(field, text string) (string, error) {
	return readID(field, text, uuid.ParseUser)
}

func readID(field, text string, parse func(string) (string, error)) (string, error) {
	if text == "" {
		return "", problem.InField(field, "is missing")
	}
	id, err := parse(text)
	if err != nil {
		return "", problem.InField(field, "%v", err)
	}
	return id, nil
}

// Links lead to the other pages of a list.
type Links struct {
	Self string `json:"self"`
	Next string `json:"next,omitempty"`
}

// ListPage reads the query's limit and marker. Without a limit a page holds
// the most. What is neither of the two nor one of the list's filters is
// refused: who misspells a filter must not get everything.
func (r *Request) ListPage(filters ...string) (store.Page, error) {
	known := append([]string{"limit", "marker"}, filters...)
	for _, name := range slices.Sorted(maps.Keys(r.URL.Query())) {
		if !slices.Contains(known, name) {
			return store.Page{}, problem.InField(printableName(name), "is no filter of this list; there are %s", strings.Join(known, ", "))
		}
	}
	limit, err := r.IntQuery("limit", r.settings.MaxPage, 1, 1<<31-1)
	return store.Page{After: r.URL.Query().Get("marker"), Limit: min(limit, r.settings.MaxPage)}, err
}

// printableName is a name that a caller made up, as far as it can be told.
func printableName(name string) string {
	const most = 40
	clean := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, name)
	return clean[:min(len(clean), most)]
}

// Links returns those of a page whose last entry has the key.
func (r *Request) Links(page store.Page, entries int, lastKey string) Links {
	links := Links{Self: r.BaseURL() + r.URL.Path}
	if r.URL.RawQuery != "" {
		links.Self += "?" + r.URL.RawQuery
	}
	if entries == page.Limit {
		query := r.URL.Query()
		query.Set("marker", lastKey)
		links.Next = r.BaseURL() + r.URL.Path + "?" + query.Encode()
	}
	return links
}

// Scope is what a list covers: one project, or all of them.
type Scope struct {
	ProjectID string // empty: all
}

// ReadScope reads the headers with which an operator looks beyond the token's
// project, and checks that the caller may.
func (r *Request) ReadScope(allProjectsRule, sudoProjectRule string) (Scope, error) {
	all, err := boolHeader(r.Header.Get("X-Auth-All-Projects"))
	switch {
	case err != nil:
		return Scope{}, problem.InField("X-Auth-All-Projects", "want True or False")
	case all:
		return Scope{}, r.Authorize(allProjectsRule, Object{})
	}
	if other := r.Header.Get("X-Auth-Sudo-Project-ID"); other != "" {
		project, err := ID("X-Auth-Sudo-Project-ID", other)
		if err != nil {
			return Scope{}, err
		}
		return Scope{ProjectID: project}, r.Authorize(sudoProjectRule, Object{ProjectID: project})
	}
	if r.Caller.ProjectID == "" {
		return Scope{}, problem.New(problem.Forbidden, "the token is not for a project; ask with X-Auth-Sudo-Project-ID or X-Auth-All-Projects")
	}
	return Scope{ProjectID: r.Caller.ProjectID}, nil
}

// boolHeader reads what clients write for yes and no: Tatu's True and False,
// and what OpenStack's services take (oslo.utils, strutils.bool_from_string).
func boolHeader(text string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "true", "1", "yes", "on", "t", "y":
		return true, nil
	case "", "false", "0", "no", "off", "f", "n":
		return false, nil
	}
	return false, strconv.ErrSyntax
}

// Serial is a certificate's serial number. Clients send it as a number or as text.
type Serial uint64

// UnmarshalJSON implements json.Unmarshaler.
func (s *Serial) UnmarshalJSON(text []byte) error {
	serial, err := strconv.ParseUint(strings.Trim(string(text), `"`), 10, 63)
	if err != nil {
		return problem.InField("serial", "is no serial number")
	}
	*s = Serial(serial)
	return nil
}
