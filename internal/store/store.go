// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config says which database to use, and how.
type Config struct {
	// URL names the database as SQLAlchemy writes it: sqlite:////var/lib/muster/muster.db,
	// postgresql://user:password@host/name, mysql+pymysql://user:password@host/name?charset=utf8.
	URL string
	// MaxPoolSize is how many connections are kept (default 5), MaxOverflow how many more may be opened for a while
	// (default 50). SQLite has one writer and MaxPoolSize readers.
	MaxPoolSize, MaxOverflow int
	// ConnectionRecycleTime is the age at which a connection is replaced (default 1 h).
	ConnectionRecycleTime time.Duration
	// PoolTimeout limits a call: the wait for a connection and the statement (default 30 s).
	PoolTimeout time.Duration
	// MaxRetries is how often Open tries again to connect (default 10; -1: until its context ends), RetryInterval the pause between (default 10 s).
	MaxRetries    int
	RetryInterval time.Duration

	Now        func() time.Time      // default time.Now
	Logger     *slog.Logger          // default: discards
	Registerer prometheus.Registerer // nil: no metrics
}

// Store is the database. Its methods may be called at the same time.
type Store struct{}
