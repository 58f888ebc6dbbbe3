// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/muster-cloud/muster/internal/store"
)

// Leases let one replica at a time do something.
type Leases interface {
	Lease(ctx context.Context, name, holder string, ttl time.Duration) (held bool, err error)
}

// ComparisonConfig is what a Comparison is made of.
type ComparisonConfig struct {
	Controllers *Controllers // needed
	Queue       *Queue       // needed
	Leases      Leases       // needed
	Holder      string       // this replica's name; needed

	// Interval is the time from one comparison to the next, over all replicas.
	// Default 1 h.
	Interval time.Duration
	// GuardShare and GuardCount: a run that would take away more than this
	// share of a kind, and more than this many, takes away nothing of it.
	// Defaults 0.1 and 20.
	GuardShare float64
	GuardCount int

	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Comparison compares all that Muster keeps with all that the cloud has, and
// has the differences worked on as if somebody had hinted them. It finds what
// no notification told.
//
// It decides nothing by itself: what is missing in a list is a suspect, of
// which the key's controller asks the cloud again.
type Comparison struct {
	cfg     ComparisonConfig
	runs    *prometheus.CounterVec
	refused *prometheus.CounterVec
	took    prometheus.Gauge
}

// NewComparison returns a comparison that runs at times while Run runs, and
// when Reconcile is called.
func NewComparison(cfg ComparisonConfig) (*Comparison, error) {
	if cfg.Controllers == nil || cfg.Queue == nil || cfg.Leases == nil || cfg.Holder == "" {
		return nil, errors.New("converge: controllers, queue, leases and the holder's name are needed")
	}
	cfg.Interval = cmp.Or(cfg.Interval, time.Hour)
	cfg.GuardShare = cmp.Or(cfg.GuardShare, 0.1)
	cfg.GuardCount = cmp.Or(cfg.GuardCount, 20)
	if cfg.Interval < 0 || cfg.GuardShare < 0 || cfg.GuardCount < 0 {
		return nil, errors.New("converge: the interval and the guard's limits can't be negative")
	}
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	make := promauto.With(cfg.Registerer)
	return &Comparison{
		cfg: cfg,
		runs: make.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_converge_comparisons_total", Help: "Whole comparisons with the cloud, by outcome.",
		}, []string{"outcome"}),
		refused: make.NewCounterVec(prometheus.CounterOpts{
			Name: "muster_converge_guard_total", Help: "Comparisons that would have taken away too much, and did not, by kind.",
		}, []string{"kind"}),
		took: make.NewGauge(prometheus.GaugeOpts{
			Name: "muster_converge_comparison_seconds", Help: "How long the last whole comparison took.",
		}),
	}, nil
}

// Run compares at once and then at each interval, in one replica at a time.
func (c *Comparison) Run(ctx context.Context) error {
	tick := time.NewTicker(max(c.cfg.Interval/20, time.Millisecond))
	defer tick.Stop()
	var last time.Time
	for {
		if last.IsZero() || c.cfg.Now().Sub(last) >= c.cfg.Interval {
			done, err := c.take(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				c.cfg.Logger.WarnContext(ctx, "The comparison with the cloud was given up; it will be tried again", "error", err)
			}
			if done {
				last = c.cfg.Now()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// take compares if no other replica has done so within the interval. One that
// could not leaves it to whoever tries next.
func (c *Comparison) take(ctx context.Context) (done bool, err error) {
	held, err := c.cfg.Leases.Lease(ctx, "compare", c.cfg.Holder, c.cfg.Interval)
	if err != nil || !held {
		return false, err
	}
	if _, err = c.Reconcile(ctx, Order{}); err == nil {
		return true, nil
	}
	// Another replica may reach what this one does not. If that can't be
	// recorded either, the lease ends by itself.
	_, leaseErr := c.cfg.Leases.Lease(ctx, "compare", c.cfg.Holder, time.Millisecond)
	return false, errors.Join(err, leaseErr)
}

// Order says how to compare.
type Order struct {
	DryRun bool // only say what would be done
	Force  bool // without regard to the guard
}

// Report says what a comparison found.
type Report struct {
	Kinds []KindReport
}

// KindReport is what a comparison found of a kind.
type KindReport struct {
	Kind     Kind
	Total    int       // what Muster keeps of it
	Look     int       // keys to look at that take nothing away
	Remove   int       // keys to look at whose entities seem to be gone
	Suspects []Suspect // the first of those
	Refused  bool      // the guard kept them from being looked at
}

// Suspect is a key whose entity seems to be gone.
type Suspect struct {
	Key    Key
	Reason string
}

const (
	maxSuspects = 1000 // that a report names
	chunk       = 50   // keys that a comparison has in the queue at a time, so that hints find their turn
)

// findings are what one kind's comparison finds.
type findings struct {
	kind   Kind
	total  int
	look   []Key
	remove []Suspect
	// prepare is what can be done at once for all, and returns the keys that are
	// then left to look at, in the place of look. Nil: nothing.
	prepare func(context.Context) (look []Key, err error)
	failure error // nothing was found out, which keeps no other kind waiting
}

func (f *findings) suspect(id, reason string) {
	f.remove = append(f.remove, Suspect{Key{f.kind, id}, reason})
}

// Reconcile compares everything once. If a list cannot be had whole, it
// returns the error, and nothing at all is done; but that Neutron's cannot be
// had keeps only addresses from being compared.
func (c *Comparison) Reconcile(ctx context.Context, order Order) (Report, error) {
	started := c.cfg.Now()
	report, all, err := c.compare(ctx, order)
	if err == nil && !order.DryRun {
		err = c.carryOut(ctx, all)
	}
	for _, found := range all {
		err = errors.Join(err, found.failure)
	}
	outcome := "done"
	if err != nil {
		outcome = "failed"
	}
	c.runs.WithLabelValues(outcome).Inc()
	c.took.Set(c.cfg.Now().Sub(started).Seconds())
	return report, err
}

func (c *Comparison) compare(ctx context.Context, order Order) (report Report, all []*findings, err error) {
	if err := c.cfg.Controllers.checkRights(ctx); err != nil {
		return report, nil, err
	}
	s := &survey{controllers: c.cfg.Controllers, started: c.cfg.Now(), credentials: make(map[store.Credential]bool)}
	for _, look := range []func(context.Context) (*findings, error){s.projects, s.grants, s.instances, s.addresses, s.lent} {
		found, err := look(ctx)
		if err != nil {
			return Report{}, nil, fmt.Errorf("compare with the cloud: %w", err)
		}
		kind := c.judge(ctx, found, order)
		report.Kinds = append(report.Kinds, kind)
		if kind.Refused {
			found.remove = nil
		}
		all = append(all, found)
	}
	return report, all, nil
}

// judge is the guard.
func (c *Comparison) judge(ctx context.Context, found *findings, order Order) KindReport {
	n := len(found.remove)
	report := KindReport{Kind: found.kind, Total: found.total, Look: len(found.look), Remove: n,
		Suspects: found.remove[:min(n, maxSuspects)]}
	report.Refused = !order.Force && n > c.cfg.GuardCount && float64(n) > c.cfg.GuardShare*float64(found.total)
	if report.Refused {
		c.cfg.Logger.ErrorContext(ctx, "The cloud seems to have lost so many that nothing of it is taken away: "+
			"see muster reconcile --dry-run, and if it is right, muster reconcile --yes", "kind", string(found.kind), "gone", n, "of", found.total)
		if !order.DryRun {
			c.refused.WithLabelValues(string(found.kind)).Inc()
		}
	}
	return report
}

// carryOut has the keys worked on, some at a time.
func (c *Comparison) carryOut(ctx context.Context, all []*findings) error {
	// What the controllers ask again must not be answered from before the lists.
	c.cfg.Controllers.cfg.Caches.ForgetAll()
	for _, found := range all {
		keys := found.look
		if found.prepare != nil {
			var err error
			if keys, err = found.prepare(ctx); err != nil {
				return err
			}
		}
		for _, suspect := range found.remove {
			keys = append(keys, suspect.Key)
		}
		for len(keys) > 0 {
			part := keys[:min(chunk, len(keys))]
			keys = keys[len(part):]
			select {
			case err := <-c.cfg.Queue.look(part):
				if err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}
