// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are explained to operators in docs/metrics.md.
type metrics struct {
	issued, refused, revoked, vouched *prometheus.CounterVec
	reused, leftOut, rotated          prometheus.Counter
	tokens, renewedTokens             prometheus.Counter
	unknownTokens, misusedTokens      prometheus.Counter
	sharedKeys, builds                prometheus.Counter
	buildTime                         prometheus.Histogram
	waiters                           prometheus.Gauge
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
		issued:        vector("muster_certificates_issued_total", "Certificates signed and recorded.", "kind"),
		refused:       vector("muster_certificates_refused_total", "Requests for a certificate that were refused.", "kind"),
		revoked:       vector("muster_revocations_total", "Revocations ordered, by what they named.", "by"),
		vouched:       vector("muster_host_keys_vouched_total", "Requests signed with a host key, by what is known of the key.", "outcome"),
		reused:        counter("muster_certificates_reused_total", "Certificates given again instead of a new one."),
		rotated:       counter("muster_authority_rotations_total", "Generations added to authorities."),
		leftOut:       counter("muster_roles_left_out_total", "Roles left out of a certificate because they cannot be accounts."),
		tokens:        counter("muster_host_tokens_created_total", "One-time tokens made for instances."),
		renewedTokens: counter("muster_host_tokens_renewed_total", "One-time tokens that took the place of one that was spent or expired."),
		unknownTokens: counter("muster_host_tokens_unknown_total", "Requests with a token that is not known."),
		misusedTokens: counter("muster_host_tokens_misused_total", "Tokens used for another key or by another instance."),
		sharedKeys:    counter("muster_host_keys_shared_total", "Instances that came with another instance's host key."),
		builds:        counter("muster_krl_builds_total", "Revocation lists built."),
		buildTime: make.NewHistogram(prometheus.HistogramOpts{
			Name: "muster_krl_build_seconds", Help: "Time to build a revocation list.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8),
		}),
		waiters: make.NewGauge(prometheus.GaugeOpts{
			Name: "muster_krl_waiters", Help: "Requests that wait for a revocation list to change.",
		}),
	}
}
