// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are explained to operators in docs/metrics.md.
type metrics struct {
	worked  *prometheus.CounterVec
	retries *prometheus.CounterVec
	delay   *prometheus.HistogramVec

	failing, failingAge *prometheus.GaugeVec
}

func newMetrics(registerer prometheus.Registerer, q *Queue) *metrics {
	make := promauto.With(registerer)
	make.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "muster_converge_oldest_seconds", Help: "How long the key has waited that waits longest.",
	}, q.oldest)
	if registerer != nil {
		registerer.MustRegister(depths{q, prometheus.NewDesc("muster_converge_queue_keys", "Keys that wait to be worked on.", []string{"kind"}, nil)})
	}
	return &metrics{
		worked: make.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_converge_keys_total", Help: "Keys worked on, by kind and outcome.",
		}, []string{"kind", "outcome"}),
		retries: make.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_converge_retries_total", Help: "Keys that were put off and taken up again, by kind.",
		}, []string{"kind"}),
		failing: make.NewGaugeVec(prometheus.GaugeOpts{
			Name: "muster_converge_failing_keys", Help: "Keys that failed and are tried again, in the whole database, by kind.",
		}, []string{"kind"}),
		failingAge: make.NewGaugeVec(prometheus.GaugeOpts{
			Name: "muster_converge_failing_oldest_seconds", Help: "Since when the key has failed that has failed longest, by kind; 0 if none.",
		}, []string{"kind"}),
		delay: make.NewHistogramVec(prometheus.HistogramOpts{
			Name: "muster_converge_seconds", Help: "Time from a key's coming to the queue until it has converged, by kind.",
			Buckets: prometheus.ExponentialBuckets(0.002, 3, 11),
		}, []string{"kind"}),
	}
}

// oldest returns seconds.
func (q *Queue) oldest() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	age := 0.0
	for _, line := range q.waiting {
		age = max(age, q.cfg.Now().Sub(line[0].since).Seconds())
	}
	return age
}

// depths collects how many keys of each kind wait.
type depths struct {
	queue *Queue
	desc  *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (d depths) Describe(to chan<- *prometheus.Desc) { to <- d.desc }

// Collect implements prometheus.Collector.
func (d depths) Collect(to chan<- prometheus.Metric) {
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	for _, kind := range Kinds() {
		to <- prometheus.MustNewConstMetric(d.desc, prometheus.GaugeValue, float64(len(d.queue.waiting[kind])), string(kind))
	}
}
