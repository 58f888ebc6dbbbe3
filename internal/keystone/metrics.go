// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone

import (
	"errors"
	"strconv"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.HistogramVec
	lookups  *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "muster_keystone_request_seconds",
			Help:    "Requests to Keystone, by call and HTTP status (error: no answer).",
			Buckets: prometheus.ExponentialBuckets(0.001, 3, 9),
		}, []string{"call", "status"}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_keystone_token_lookups_total",
			Help: "Tokens looked up: hit (cached), refused (cached refusal), miss (Keystone asked).",
		}, []string{"result"}),
	}
	if registerer == nil {
		return m, nil
	}
	return m, errors.Join(registerer.Register(m.requests), registerer.Register(m.lookups))
}

func (m *metrics) observe(call string, err error, took time.Duration) {
	status := "2xx"
	var unexpected gophercloud.ErrUnexpectedResponseCode
	switch {
	case errors.As(err, &unexpected):
		status = strconv.Itoa(unexpected.Actual)
	case err != nil:
		status = "error"
	}
	m.requests.WithLabelValues(call, status).Observe(took.Seconds())
}
