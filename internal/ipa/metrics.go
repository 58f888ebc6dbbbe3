// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what operators see of the calls. Labels hold no host name but the servers' own.
type metrics struct {
	calls    *prometheus.CounterVec
	items    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	logins   *prometheus.CounterVec
	inFlight *prometheus.GaugeVec
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_freeipa_calls_total", Help: "Calls to FreeIPA by command and outcome.",
		}, []string{"command", "outcome"}),
		items: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_freeipa_batch_items_total", Help: "Commands within batch calls to FreeIPA by command and outcome.",
		}, []string{"command", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "muster_freeipa_call_seconds", Help: "How long calls to FreeIPA took, waiting and log-in included.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 13),
		}, []string{"command"}),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_freeipa_logins_total", Help: "Log-ins to FreeIPA by outcome.",
		}, []string{"outcome"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "muster_freeipa_calls_in_flight", Help: "Calls that a FreeIPA server is working on.",
		}, []string{"server"}),
	}
	if registerer == nil {
		return m, nil
	}
	for _, collector := range []prometheus.Collector{m.calls, m.items, m.seconds, m.logins, m.inFlight} {
		if err := registerer.Register(collector); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(command string, err error, took time.Duration) {
	m.calls.WithLabelValues(command, outcomeOf(err)).Inc()
	m.seconds.WithLabelValues(command).Observe(took.Seconds())
}

func (m *metrics) observeItem(command string, err error) {
	m.items.WithLabelValues(command, outcomeOf(err)).Inc()
}

func (m *metrics) countLogin(err error) {
	m.logins.WithLabelValues(outcomeOf(err)).Inc()
}

// outcomeOf names an outcome for a metric: a short fixed list, whatever a server may answer.
func outcomeOf(err error) string {
	var own *Error
	var transport *TransportError
	var login *LoginError
	var members *MemberError
	var away *UnavailableError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &own):
		if name := own.Code.name(); name != "" {
			return name
		}
		return "other_" + own.Code.Class().String()
	case errors.As(err, &members):
		return "left_out"
	case errors.Is(err, ErrBusy):
		return "busy"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.As(err, &login):
		return "login"
	case errors.As(err, &away):
		return "unavailable"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &transport):
		return "transport"
	}
	return "error"
}
