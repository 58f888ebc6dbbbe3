// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are explained to operators in docs/metrics.md.
type metrics struct {
	answers, attempts    *prometheus.CounterVec
	reports              *prometheus.CounterVec
	states               *prometheus.GaugeVec
	nameConflicts, found prometheus.Counter
	attemptTime          prometheus.Histogram
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	make := promauto.With(registerer)
	counter := func(name, help string) prometheus.Counter {
		return make.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	vector := func(name, help, label string) *prometheus.CounterVec {
		return make.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	return &metrics{
		answers: vector("muster_enrolment_answers_total",
			"Answers to instances that enrol: with a one-time password, after joining, pending, or refused.", "outcome"),
		attempts: vector("muster_enrolment_attempts_total",
			"Attempts to bring FreeIPA in line with an enrolment, by how they ended.", "outcome"),
		reports: vector("muster_enrolment_reports_total",
			"Reports of instances about their joining, by what they said.", "outcome"),
		states: make.NewGaugeVec(prometheus.GaugeOpts{Name: "muster_enrolments",
			Help: "Enrolments by state, in the whole database."}, []string{"state"}),
		nameConflicts: counter("muster_enrolment_name_conflicts_total", "Instances that asked for a host name of another instance."),
		found: counter("muster_enrolment_foreign_entries_total",
			"Entries of FreeIPA that an instance would have had, and that Muster left alone because it did not make them."),
		attemptTime: make.NewHistogram(prometheus.HistogramOpts{Name: "muster_enrolment_attempt_seconds",
			Help: "Time of one attempt.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 14)}),
	}
}
