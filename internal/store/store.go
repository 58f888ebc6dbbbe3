// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// idleTime is how long an unused connection is kept.
const idleTime = 30 * time.Second

// Config says which database to use, and how.
type Config struct {
	// URL names the database as SQLAlchemy writes it: sqlite:////var/lib/muster/muster.db,
	// postgresql://user:password@host/name, mysql+pymysql://user:password@host/name?charset=utf8.
	URL string
	// MustExist refuses a SQLite file that isn't there, instead of making it.
	MustExist bool
	// At most MaxPoolSize (default 5) and MaxOverflow connections are open; all go when idle. The two are one limit here, and two
	// settings for the sake of oslo.db's names. SQLite has one writer and MaxPoolSize readers.
	MaxPoolSize, MaxOverflow int
	// ConnectionRecycleTime is the age at which a connection is replaced (default 1 h).
	ConnectionRecycleTime time.Duration
	// PoolTimeout limits a call: the wait for a connection and its statements (default 30 s).
	PoolTimeout time.Duration
	// MaxRetries is how often Open tries again to connect (0: never; -1: until its context ends), RetryInterval the pause between
	// (default 10 s).
	MaxRetries    int
	RetryInterval time.Duration

	Now        func() time.Time      // default time.Now
	Logger     *slog.Logger          // default: discards
	Registerer prometheus.Registerer // nil: no metrics
}

// Store is the database. Its methods may be called at the same time.
type Store struct {
	cfg      Config
	location location
	writer   *pool
	reader   *pool
	metrics  *metrics
	lanes    []lanes      // one for each committer
	seed     maphash.Seed // spreads projects over the committers
	running  atomic.Bool
	// committed counts shared transactions.
	committed atomic.Int64
	serials   serials
}

// Open connects to the database and checks that it answers. It doesn't look at the schema; see CheckSchema. Grouped writes wait for Run.
// ErrInvalid: the URL or a number is wrong. ErrUnavailable: no answer after all retries.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	loc, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg, err = cfg.complete(); err != nil {
		return nil, err
	}
	var galera atomic.Bool
	writer, reader, err := loc.connect(cfg.MustExist, cfg.PoolTimeout, &galera)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", loc, err)
	}
	s := &Store{cfg: cfg, location: loc, writer: newPool(writer, loc.engine), seed: maphash.MakeSeed()}
	s.writer.galera = &galera
	s.reader = s.writer
	if reader != writer {
		s.reader = newPool(reader, loc.engine)
	}
	s.limitPools()
	s.lanes = newLanes(loc.engine)
	if s.metrics, err = newMetrics(s); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.connect(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", loc, err), s.Close())
	}
	return s, nil
}

// complete fills in defaults and refuses numbers that make no sense.
func (c Config) complete() (Config, error) {
	if c.MaxPoolSize < 0 || c.MaxOverflow < 0 || c.ConnectionRecycleTime < 0 || c.PoolTimeout < 0 || c.MaxRetries < -1 ||
		c.RetryInterval < 0 {
		return Config{}, fmt.Errorf("database settings: %w: a size, count or time is negative", ErrInvalid)
	}
	c.MaxPoolSize = cmp.Or(c.MaxPoolSize, 5)
	c.ConnectionRecycleTime = cmp.Or(c.ConnectionRecycleTime, time.Hour)
	c.PoolTimeout = cmp.Or(c.PoolTimeout, 30*time.Second)
	c.RetryInterval = cmp.Or(c.RetryInterval, 10*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// limitPools bounds the connections. SQLite allows one writer, and a file has no connections to renew.
func (s *Store) limitPools() {
	if s.location.engine == engineSQLite {
		s.writer.db.SetMaxOpenConns(1)
		s.reader.db.SetMaxOpenConns(s.cfg.MaxPoolSize)
		s.reader.db.SetMaxIdleConns(s.cfg.MaxPoolSize)
		return
	}
	// Those above the pool's size go when they were idle for a while, not at once: a connection is dear to make, and prepares every
	// statement anew.
	s.writer.db.SetMaxOpenConns(s.cfg.MaxPoolSize + s.cfg.MaxOverflow)
	s.writer.idle = s.cfg.MaxPoolSize + s.cfg.MaxOverflow
	s.writer.db.SetMaxIdleConns(s.writer.idle)
	s.writer.db.SetConnMaxIdleTime(idleTime)
	s.writer.db.SetConnMaxLifetime(s.cfg.ConnectionRecycleTime)
}

// connect waits until the database answers.
func (s *Store) connect(ctx context.Context) error {
	for tries := 0; ; tries++ {
		err := s.ping(ctx)
		if err == nil || ctx.Err() != nil || (s.cfg.MaxRetries >= 0 && tries >= s.cfg.MaxRetries) || !temporary(err) {
			return explain(ctx, err)
		}
		s.cfg.Logger.WarnContext(ctx, "database doesn't answer, trying again", "database", s.location.String(),
			"error", err, "pause", s.cfg.RetryInterval)
		select {
		case <-time.After(s.cfg.RetryInterval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// temporary says whether waiting may help against an error of connecting. A file that can't be opened stays so.
func temporary(err error) bool {
	switch judge(err) {
	case faultLost, faultRetry:
		return true
	}
	return false
}

// ping asks the writing side, for a SQLite file may be readable only.
func (s *Store) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, min(connectTimeout, s.cfg.PoolTimeout))
	defer cancel()
	if err := s.writer.db.PingContext(ctx); err != nil {
		return err
	}
	return s.reader.db.PingContext(ctx)
}

// Ping asks the database for an answer. ErrUnavailable if there is none.
func (s *Store) Ping(ctx context.Context) error { return explain(ctx, s.ping(ctx)) }

// Close closes all connections. Run must have returned.
func (s *Store) Close() error {
	s.metrics.unregister()
	err := s.writer.db.Close()
	if s.reader != s.writer {
		err = errors.Join(s.reader.db.Close(), err)
	}
	return err
}

// now returns the time at the resolution of the database.
func (s *Store) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Microsecond) }

// micros is how times are stored; zero for no time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// fromMicros is the other way.
func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

// number is how a truth value is stored.
func number(is bool) int64 {
	if is {
		return 1
	}
	return 0
}
