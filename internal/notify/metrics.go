// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are explained to operators in docs/metrics.md.
type metrics struct {
	messages       *prometheus.CounterVec
	redelivered    prometheus.Counter
	refused        prometheus.Counter
	unacknowledged prometheus.Gauge
	seconds        prometheus.Histogram
	connected      prometheus.Gauge
	disconnects    prometheus.Counter
	subscribed     *prometheus.GaugeVec
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	name := func(n, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "muster", Subsystem: "notifications", Name: n, Help: help}
	}
	m := &metrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts(name("received_total",
			"Notifications received, by who sent them and what became of them.")), []string{"service", "outcome"}),
		redelivered: prometheus.NewCounter(prometheus.CounterOpts(name("redelivered_total",
			"Notifications that came once more."))),
		refused: prometheus.NewCounter(prometheus.CounterOpts(name("refused_total",
			"Times that hints could neither be worked on nor recorded."))),
		unacknowledged: prometheus.NewGauge(prometheus.GaugeOpts(name("unacknowledged",
			"Notifications whose keys have not converged and are not recorded."))),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "muster", Subsystem: "notifications",
			Name: "acknowledge_seconds", Help: "Time from a notification's arrival until its keys had converged or were recorded.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14)}),
		connected:   prometheus.NewGauge(prometheus.GaugeOpts(name("connected", "1 while there is a connection to the broker."))),
		disconnects: prometheus.NewCounter(prometheus.CounterOpts(name("disconnects_total", "Connections to the broker that were lost."))),
		subscribed: prometheus.NewGaugeVec(prometheus.GaugeOpts(name("subscribed",
			"1 while a queue of the broker is received from, by queue.")), []string{"queue"}),
	}
	if registerer != nil {
		registerer.MustRegister(m.messages, m.redelivered, m.refused, m.unacknowledged, m.seconds, m.connected, m.disconnects, m.subscribed)
	}
	return m
}

func (m *metrics) received(e *Event, redelivered bool) {
	m.messages.WithLabelValues(service(e.Type), string(e.Outcome)).Inc()
	if redelivered {
		m.redelivered.Inc()
	}
}

// service is one of a few words: the sender chooses the event type.
func service(eventType string) string {
	kind, _, _ := strings.Cut(eventType, ".")
	switch kind {
	case "identity":
		return "keystone"
	case "compute", "instance", "scheduler":
		return "nova"
	case "floatingip", "port", "port_forwarding", "network", "subnet", "router", "security_group", "security_group_rule":
		return "neutron"
	}
	return "other"
}
