// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// RouterConfig is what all requests of a listener have in common.
type RouterConfig struct {
	Logger         *slog.Logger
	Metrics        *Metrics
	TrustedProxies []netip.Prefix // whose X-Forwarded-For is believed
	PublicURL      string         // base of links; empty: from each request
	KeystoneURL    string         // where clients without a token are sent
	MaxBody        int64          // bytes; default 256 KiB, since Nova sends 64 kB of user-data in base64
	MaxPage        int            // entries; default and at most store.MaxPageLimit
	RequestTimeout time.Duration  // for making an answer, long polls excepted; default 30 s
	Errors         ErrorShape     // on paths that no face has said otherwise of; default TitledError
}

const defaultTimeout = 30 * time.Second

// Router finds the endpoint of a request. It answers what it does not know
// with 404 or 405 in the shape of the face that the path belongs to.
type Router struct {
	cfg    RouterConfig
	mux    *http.ServeMux
	shapes map[string]ErrorShape // by path

	patterns []string
}

// NewRouter returns a router with the faces' endpoints.
func NewRouter(cfg RouterConfig, faces ...Face) *Router {
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = 256 << 10
	}
	if cfg.MaxPage <= 0 || cfg.MaxPage > store.MaxPageLimit {
		cfg.MaxPage = store.MaxPageLimit
	}
	cfg.RequestTimeout = cmp.Or(cfg.RequestTimeout, defaultTimeout)
	if cfg.Errors == nil {
		cfg.Errors = TitledError
	}
	router := &Router{cfg: cfg, mux: http.NewServeMux(), shapes: make(map[string]ErrorShape)}
	for _, face := range faces {
		face.Register(router)
	}
	return router
}

// Shape says how errors look at a path, given without a trailing slash. On all
// others they look as the configuration says.
func (ro *Router) Shape(path string, shape ErrorShape) { ro.shapes[path] = shape }

// Handle registers an endpoint under one of net/http's patterns. A trailing
// slash on the request's path is as good as none.
func (ro *Router) Handle(pattern string, endpoint Endpoint) {
	ro.patterns = append(ro.patterns, pattern)
	ro.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		request := r.Context().Value(requestKey{}).(*Request)
		ctx, cancel := context.WithTimeout(r.Context(), ro.cfg.RequestTimeout)
		defer cancel()
		request.Request, request.connection = r.WithContext(ctx), r.Context()
		ro.run(w.(*answer), request, endpoint)
	})
}

// HandleHTTP registers what writes its answer by itself, such as metrics.
func (ro *Router) HandleHTTP(pattern string, handler http.Handler) {
	ro.patterns = append(ro.patterns, pattern)
	ro.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		w.(*answer).known = true
		handler.ServeHTTP(w, r)
	})
}

// Patterns returns what is registered, to hold the API's description against.
func (ro *Router) Patterns() []string { return slices.Clone(ro.patterns) }

type requestKey struct{}

// ServeHTTP gives the request its ID, finds its endpoint, and writes one
// record about it.
func (ro *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request := &Request{ID: newRequestID(), Remote: ro.remote(r), Arrived: time.Now(), secure: ro.secure(r), record: &record{}, writer: w,
		settings: &ro.cfg}
	a := &answer{ResponseWriter: w}
	w.Header().Set("X-Openstack-Request-Id", request.ID)
	trimSlashes(r.URL)
	r = r.WithContext(context.WithValue(r.Context(), requestKey{}, request))
	request.Request = r
	defer ro.finish(a, request)
	ro.mux.ServeHTTP(a, r)
	if !a.known {
		ro.unknown(a, request)
	}
}

// trimSlashes takes trailing slashes off a path. An encoded slash within it,
// as in a fingerprint, stays what it is.
func trimSlashes(u *url.URL) {
	escaped := u.EscapedPath()
	trimmed := strings.TrimRight(escaped, "/")
	if trimmed == "" || trimmed == escaped {
		return
	}
	if path, err := url.PathUnescape(trimmed); err == nil {
		u.Path, u.RawPath = path, trimmed
	}
}

// run lets an endpoint answer, whatever it does.
func (ro *Router) run(a *answer, request *Request, endpoint Endpoint) {
	a.known = true
	var response Response
	err := checkQuery(request.URL.RawQuery)
	if err == nil {
		response, err = endpoint(request)
	}
	if err == nil {
		err = a.send(request, response)
	}
	if err != nil {
		ro.fail(a, request, err)
	}
}

// checkQuery refuses a query that cannot be read whole, of which net/http would
// pass over a part, and values that no database takes as text.
func checkQuery(raw string) error {
	if raw == "" {
		return nil
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return problem.New(problem.Invalid, "the query cannot be read: %v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		for _, value := range values[name] {
			if !utf8.ValidString(value) || strings.Contains(value, "\x00") {
				return problem.InField(name, "is not text in UTF-8, or has a zero byte")
			}
		}
	}
	return nil
}

// fail writes an error in the shape of the path.
func (ro *Router) fail(a *answer, request *Request, err error) {
	err = blame(err, request)
	status, reason, retryAfter := statusOf(err, request.ID)
	request.record.err = err
	if a.status != 0 {
		return
	}
	response := Response{Status: status, Body: ro.shape(request.URL.Path)(status, reason)}
	a.known = true
	if retryAfter > 0 {
		a.Header().Set("Retry-After", seconds(retryAfter))
	}
	if status == http.StatusUnauthorized {
		a.Header().Set("WWW-Authenticate", ro.challenge(request.URL.Path))
	}
	if err := a.send(request, response); err != nil && request.record.err == nil {
		request.record.err = err
	}
}

// challenge tells who may ask at a path: instances sign, all others have a token.
func (ro *Router) challenge(path string) string {
	if strings.HasPrefix(path, "/noauth/") {
		return agentapi.SignatureHeader
	}
	return fmt.Sprintf("Keystone uri=%q", ro.cfg.KeystoneURL)
}

// unknown answers for the mux, which found no endpoint and left its verdict in
// the status that was held back.
func (ro *Router) unknown(a *answer, request *Request) {
	status, reason := http.StatusNotFound, "there is nothing at this path"
	if a.held == http.StatusMethodNotAllowed {
		status, reason = a.held, fmt.Sprintf("%s is not allowed here, but %s", request.Method, a.Header().Get("Allow"))
	}
	a.known = true
	a.Header().Del("Location")
	a.Header().Del("X-Content-Type-Options")
	request.record.err = errors.New(reason)
	_ = a.send(request, Response{Status: status, Body: ro.shape(request.URL.Path)(status, reason)})
}

func (ro *Router) shape(path string) ErrorShape {
	if shape, ok := ro.shapes[path]; ok {
		return shape
	}
	return ro.cfg.Errors
}

// finish writes the request's record, and turns a panic into a 500: one bad
// request must not end the connections of others.
func (ro *Router) finish(a *answer, request *Request) {
	if cause := recover(); cause != nil && cause != http.ErrAbortHandler {
		ro.cfg.Logger.Error("An endpoint panicked", "request_id", request.ID, "panic", cause, "stack", string(debug.Stack()))
		ro.fail(a, request, fmt.Errorf("panic: %v", cause))
	}
	elapsed := time.Since(request.Arrived)
	ro.cfg.Metrics.observe(request, a.status, elapsed)
	request.record.write(ro.cfg.Logger, request, a, elapsed)
}

// remote returns the client's address. Behind trusted proxies it is the last
// address in X-Forwarded-For that is not one of theirs.
func (ro *Router) remote(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "unix"
	}
	address := peer.Addr().Unmap()
	if !ro.trusted(address) {
		return address.String()
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		next, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		address = next.Unmap()
		if !ro.trusted(address) {
			break
		}
	}
	return address.String()
}

// secure tells whether the client used HTTPS, to us or to a trusted proxy.
func (ro *Router) secure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && ro.trusted(peer.Addr().Unmap()) && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

func (ro *Router) trusted(address netip.Addr) bool {
	return slices.ContainsFunc(ro.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(address) })
}
