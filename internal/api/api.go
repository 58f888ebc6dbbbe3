// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package api is Muster's HTTP side: listeners, what every request passes
// through, and how answers and errors are written. Each protocol is a face in
// a package of its own below this one: tatu, vendordata, instance, operator
// and health. A face registers endpoints; an endpoint reads a request,
// authorises, lets the domain act and returns a [Response] or an error.
//
// Errors cross into HTTP only here, by [problem.Kind]. An error of any other
// type is answered as 500 with the request's ID, and its text goes to the log.
//
// The package decides nothing about certificates or hosts, and never logs
// bodies, tokens or query strings.
package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

// Face is one protocol: a set of endpoints with their shape of errors.
type Face interface {
	// Name is what configuration calls it.
	Name() string
	// Register adds the face's endpoints.
	Register(*Router)
}

// Endpoint answers one kind of request.
type Endpoint func(*Request) (Response, error)

// Request is a request with what Muster knows of it.
type Request struct {
	*http.Request
	ID     string  // "req-" and 32 hexadecimal digits
	Remote string  // the client's address, without port
	Caller *Caller // nil on endpoints without authentication
	// Arrived is when the request was read, before anything was done about it.
	Arrived time.Time

	secure     bool // the client used HTTPS
	record     *record
	writer     http.ResponseWriter
	connection context.Context // the request's own, without the time limit
	settings   *RouterConfig
}

// Response is an answer. A nil Body is sent as no body at all.
type Response struct {
	Status   int // 0 means 200
	Location string
	Header   http.Header
	Body     any    // written as JSON, unless Raw is set
	Raw      []byte // written as it is, with the Content-Type in Header
	// Serve writes status and body itself, with the header set before; nil:
	// they are as above.
	Serve func(http.ResponseWriter, *http.Request)
}

// ErrorShape writes a refusal in the way of a protocol.
type ErrorShape func(status int, reason string) any

// Actor is the caller for the audit records.
func (r *Request) Actor() sshca.Actor {
	actor := sshca.Actor{RequestID: r.ID, Remote: r.Remote}
	if r.Caller != nil {
		actor.UserID, actor.UserName, actor.ProjectID = r.Caller.UserID, r.Caller.UserName, r.Caller.ProjectID
	}
	return actor
}

// BaseURL begins links: what is configured, else the scheme and host that the
// client used.
func (r *Request) BaseURL() string {
	if r.settings.PublicURL != "" {
		return r.settings.PublicURL
	}
	if r.secure {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// statusOf maps every error to a status, a reason for the caller, and how long
// the caller should wait before trying again.
func statusOf(err error, requestID string) (status int, reason string, retryAfter time.Duration) {
	var refusal *problem.Problem
	var keystoneAway *keystone.UnavailableError
	var neighbour away
	switch {
	case errors.As(err, &refusal):
		return statusOfKind[refusal.Kind], refusal.Error(), retryAfterKind[refusal.Kind]
	// It is an UnavailableError too, whose advice would be wrong.
	case errors.Is(err, keystone.ErrForbidden):
		return http.StatusServiceUnavailable, "Muster may not ask Keystone; its operator finds the reason in the log under " + requestID, time.Minute
	case errors.As(err, &keystoneAway):
		return http.StatusServiceUnavailable, "Keystone does not answer; try again later", keystoneAway.RetryAfter
	case errors.As(err, &neighbour):
		return http.StatusServiceUnavailable, neighbour.Away() + " does not answer; try again later", 5 * time.Second
	case errors.Is(err, keystone.ErrInvalidToken):
		return http.StatusUnauthorized, "the token is not valid", 0
	case errors.Is(err, keystone.ErrBoundToken):
		return http.StatusUnauthorized, "the token is bound to a client certificate (OAuth 2.0 mutual TLS), which Muster cannot check; use a token of another kind", 0
	case errors.Is(err, store.ErrUnavailable):
		return http.StatusServiceUnavailable, "the database does not answer; try again later", 5 * time.Second
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, "the request took too long; try again later", 5 * time.Second
	case errors.Is(err, errClientGone):
		return statusClientClosed, "the client went away", 0
	case errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable, "the request was given up; try again later", 5 * time.Second
	case errors.Is(err, store.ErrInvalid):
		return http.StatusBadRequest, "the request holds a value that cannot be looked up or recorded, such as a marker that no list gave out", 0
	case errors.Is(err, store.ErrNotFound):
		return http.StatusNotFound, "not found", 0
	default:
		return http.StatusInternalServerError, "something went wrong here; the log has it under " + requestID, 0
	}
}

// away is an error of a neighbour of Muster's that could not be asked.
type away interface {
	error
	Away() string // its name, as people call it
}

// errClientGone is why a request was given up whose client did not wait.
var errClientGone = errors.New("the client went away")

// errEnding is why a request was given up that ran for too long after Muster
// was told to end.
var errEnding = errors.New("the server ends")

// blame finds out why a request was given up: by its client, or by Muster.
func blame(err error, request *Request) error {
	if !errors.Is(err, context.Canceled) || request.connection == nil || request.connection.Err() == nil {
		return err
	}
	if errors.Is(context.Cause(request.connection), errEnding) {
		return fmt.Errorf("%w: %w", errEnding, err)
	}
	return fmt.Errorf("%w: %w", errClientGone, err)
}

// statusClientClosed is nginx's status for a client that did not wait. It is
// only ever seen in logs and metrics.
const statusClientClosed = 499

var statusOfKind = map[problem.Kind]int{
	problem.Invalid:      http.StatusBadRequest,
	problem.Unauthorized: http.StatusUnauthorized,
	problem.Forbidden:    http.StatusForbidden,
	problem.NotFound:     http.StatusNotFound,
	problem.Conflict:     http.StatusConflict,
	problem.TooLarge:     http.StatusRequestEntityTooLarge,
	problem.TooMany:      http.StatusTooManyRequests,
	problem.Unavailable:  http.StatusServiceUnavailable,
}

var retryAfterKind = map[problem.Kind]time.Duration{
	problem.TooMany:     time.Second,
	problem.Unavailable: 5 * time.Second,
}

func newRequestID() string {
	id := make([]byte, 16)
	rand.Read(id)
	return "req-" + hex.EncodeToString(id)
}

// IntQuery reads a number from the query, or returns the fallback where there
// is none. It refuses what is not between least and most.
func (r *Request) IntQuery(name string, fallback, least, most int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, problem.InField(name, "want a number from %d to %d", least, most)
	}
	return n, nil
}

// drainKey finds the context that ends when the listener shuts down.
type drainKey struct{}

// Waiting prepares a long poll: the time-outs of connection and request are
// put off, and the context that is returned ends after the limit, when the
// client goes away, or when Muster shuts down.
func (r *Request) Waiting(limit time.Duration) (context.Context, context.CancelFunc) {
	connection := http.NewResponseController(r.writer)
	// A connection without deadlines to set is a test's, and never times out.
	_ = connection.SetReadDeadline(time.Time{})
	_ = connection.SetWriteDeadline(time.Now().Add(limit + answerTime))
	ctx, cancel := context.WithTimeout(r.connection, limit)
	drain, ok := r.connection.Value(drainKey{}).(context.Context)
	if !ok {
		return ctx, cancel
	}
	// The drain lives as long as Muster, and must not hold on to every wait.
	forget := context.AfterFunc(drain, cancel)
	return ctx, func() {
		forget()
		cancel()
	}
}

// Transferring gives the client so long to take a long answer.
func (r *Request) Transferring(limit time.Duration) {
	// As in Waiting: a connection without deadlines is a test's.
	_ = http.NewResponseController(r.writer).SetWriteDeadline(time.Now().Add(limit))
}

// answerTime is what a client has to take the answer, after the time for
// making it.
const answerTime = 30 * time.Second

// seconds formats a duration for Retry-After, rounded up.
func seconds(d time.Duration) string {
	return fmt.Sprint(int64((d + time.Second - 1) / time.Second))
}
