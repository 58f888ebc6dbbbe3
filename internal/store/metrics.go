// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics counts the work of the database.
type metrics struct {
	registerer prometheus.Registerer
	all        []prometheus.Collector
	retries    prometheus.Counter
	batch      prometheus.Histogram
	commit     prometheus.Histogram
}

// newMetrics registers them. A registerer that has them already, of another Store, is refused.
func newMetrics(s *Store) (*metrics, error) {
	m := &metrics{
		registerer: s.cfg.Registerer,
		retries: prometheus.NewCounter(prometheus.CounterOpts{Name: "muster_database_retries_total",
			Help: "Transactions and queries that were tried again after a deadlock or a lost connection."}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "muster_database_batch_writes",
			Help: "Writes of simultaneous requests that shared one transaction.", Buckets: prometheus.ExponentialBuckets(1, 2, 9)}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "muster_database_batch_seconds",
			Help: "Time of a shared transaction, its commit and retries included.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}),
	}
	queued := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "muster_database_queued_writes",
		Help: "Writes that wait for a transaction to share."}, func() float64 {
		n := 0
		for _, l := range s.lanes {
			n += len(l.brisk) + len(l.patient)
		}
		return float64(n)
	})
	m.all = []prometheus.Collector{m.retries, m.batch, m.commit, queued, collectors.NewDBStatsCollector(s.writer.db, "writer")}
	if s.reader != s.writer {
		m.all = append(m.all, collectors.NewDBStatsCollector(s.reader.db, "reader"))
	}
	if m.registerer == nil {
		return m, nil
	}
	var err error
	for i, c := range m.all {
		if err = m.registerer.Register(c); err != nil {
			m.all = m.all[:i]
			break
		}
	}
	if err != nil {
		m.unregister()
		return nil, errors.Join(ErrInvalid, err)
	}
	return m, nil
}

// unregister makes room for another Store.
func (m *metrics) unregister() {
	if m == nil || m.registerer == nil {
		return
	}
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}
