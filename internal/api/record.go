// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// record is what is logged of a request, once, when it is over.
type record struct {
	err error
}

// globalID is how OpenStack services pass the ID of the request that made
// them ask.
var globalID = regexp.MustCompile(`^req-[0-9a-fA-F-]{32,36}$`)

func (rec *record) write(logger *slog.Logger, request *Request, a *answer, elapsed time.Duration) {
	level := slog.LevelInfo
	if a.status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	if !logger.Enabled(context.Background(), level) {
		return
	}
	attributes := make([]slog.Attr, 0, 12)
	attributes = append(attributes,
		slog.String("request_id", request.ID),
		slog.String("method", request.Method),
		slog.String("path", loggedPath(request.URL.Path)),
		slog.Int("status", a.status),
		slog.Int("bytes", a.bytes),
		slog.Duration("elapsed", elapsed),
		slog.String("remote", request.Remote),
	)
	if caller := request.Caller; caller != nil {
		attributes = append(attributes, slog.String("user", caller.UserID), slog.String("project", caller.ProjectID))
	}
	if id := request.Header.Get("X-Openstack-Request-Id"); globalID.MatchString(id) {
		attributes = append(attributes, slog.String("global_request_id", id))
	}
	if rec.err != nil {
		attributes = append(attributes, slog.Any("error", rec.err))
	}
	logger.LogAttrs(context.Background(), level, "request", attributes...)
}

// hostTokens begins the Location of a one-time token. There is nothing to fetch,
// but whoever follows it has the token in the path.
const hostTokens = "/hosttokens/"

// loggedPath is a path without a token.
func loggedPath(path string) string {
	if before, _, found := strings.Cut(path, hostTokens); found {
		return before + hostTokens + "..."
	}
	return path
}

// Metrics count requests. Their names are explained in docs/metrics.md.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// NewMetrics registers the metrics of all listeners.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	make := promauto.With(registerer)
	return &Metrics{
		requests: make.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_http_requests_total", Help: "Requests answered, by endpoint and status.",
		}, []string{"endpoint", "status"}),
		duration: make.NewHistogramVec(prometheus.HistogramOpts{
			Name: "muster_http_request_seconds", Help: "Time to answer, by endpoint; long polls wait on purpose.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 300},
		}, []string{"endpoint"}),
	}
}

func (m *Metrics) observe(request *Request, status int, elapsed time.Duration) {
	endpoint := request.Pattern
	if endpoint == "" {
		endpoint = "unknown" // never the path: strangers choose it
	}
	m.requests.WithLabelValues(endpoint, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(endpoint).Observe(elapsed.Seconds())
}
