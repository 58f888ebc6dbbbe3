// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/muster-cloud/muster/internal/outage"
	"github.com/muster-cloud/muster/internal/store"
)

// ErrStopped means that the queue ended before a key was worked on. Nothing is
// lost if the hint is offered again, to whichever replica.
var ErrStopped = errors.New("the queue of keys has stopped")

// errOperator is part of what a Controller returns when repeating alone does not
// help, but somebody must do something elsewhere. Such a key is tried seldom.
var errOperator = errors.New("somebody must act")

// operatorRetry is how many times the longest pause it then is.
const operatorRetry = 6

// A Controller makes what Muster keeps of one entity agree with the cloud. It
// may return further keys that are to be worked on because of this one.
type Controller interface {
	// Converge does the work. It must be harmless to repeat.
	Converge(ctx context.Context, hint Hint) (further []Key, err error)
	// Forget drops what is cached about the entity, so that no answer is older
	// than the hint.
	Forget(key Key)
}

// Pending is where keys are recorded that must be worked on later.
type Pending interface {
	DeferKey(ctx context.Context, key store.PendingKey) error
	DueKeys(ctx context.Context, longest time.Duration, limit int) ([]store.PendingKey, error)
	FailingKey(ctx context.Context, kind, id string) (store.PendingKey, error)
	ClaimKey(ctx context.Context, key store.PendingKey, until time.Time) (bool, error)
	SettleKey(ctx context.Context, key store.PendingKey, until time.Time) error
	FailingKeys(ctx context.Context) (map[string]store.FailingKeys, error)
}

// QueueConfig is what a Queue is made of.
type QueueConfig struct {
	Controller Controller // needed
	Pending    Pending    // needed

	// Workers is how many keys are worked on at once, and at most half of them
	// are of one kind, so that a slow service holds up only what depends on it.
	// Default 16.
	Workers int
	// Timeout bounds the work on one key. Default 1 min.
	Timeout time.Duration
	// FirstRetry and LastRetry are the shortest and longest pause before a key
	// that failed is tried again; it doubles with each failure, and is varied
	// by a half. Defaults 1 s and 10 min.
	FirstRetry, LastRetry time.Duration
	// Recheck is after how long a hint about roles is looked at once more. It
	// must be longer than any replica believes in roles that it read before the
	// hint, for it may have issued a certificate by them. Zero: never.
	Recheck time.Duration
	// PollInterval is how often recorded keys are looked for. Default 1 s.
	PollInterval time.Duration

	Now        func() time.Time
	Jitter     func() float64 // from 0 to 1; default random
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Queue holds the keys that are to be worked on. Each is there once, however
// often it is hinted; one that is hinted while it is worked on is worked on
// once more. What fails is recorded in the database, where every replica finds
// it when its time has come: a failure survives restarts and the death of the
// replica, and keys whose work never ends well hold up no others.
type Queue struct {
	cfg     QueueConfig
	metrics *metrics

	mu      sync.Mutex
	changed *sync.Cond // a key waits, a worker is free, or the queue stopped
	items   map[Key]*item
	waiting map[Kind][]*item // first come, first served
	working map[Kind]int
	turn    int // the kind that is looked at first
	stopped bool

	// failures counts, of keys that failed here, how often in a row: a hint does
	// not make the pauses of a key short again that goes on failing.
	failures *lru.Cache[Key, int]

	recording outage.Outage
}

// item is a key in the queue.
type item struct {
	job
	busy  bool
	again *job // hinted while busy
}

// job is what is known of a key before it is worked on.
type job struct {
	hint   Hint
	since  time.Time     // when it came to the queue
	origin origin        // the most demanding of those who asked
	claim  *claim        // its record, if it came from there
	done   []func(error) // who waits for it
}

// origin says why a key is in the queue.
type origin int

const (
	fromKey    origin = iota // another key named it, or a comparison found it
	fromRecord               // it was recorded to be tried again
	fromHint                 // somebody says that it has changed
)

// claim is a recorded key that this replica works on.
type claim struct {
	key   store.PendingKey
	until time.Time
}

const (
	// claimTime is how long a recorded key is this replica's alone.
	claimTime = 5 * time.Minute
	// maxFailures bounds the keys whose failures are counted in memory.
	maxFailures = 10_000
	// countEvery is how old the numbers of failing keys may be.
	countEvery = 15 * time.Second
	// maxClaims bounds the recorded keys that are taken at a time.
	maxClaims = 100
)

// NewQueue returns a queue in which keys wait until Run works on them.
func NewQueue(cfg QueueConfig) (*Queue, error) {
	if cfg.Controller == nil || cfg.Pending == nil {
		return nil, errors.New("converge: controller and pending keys are needed")
	}
	cfg.Workers = cmp.Or(cfg.Workers, 16)
	cfg.Timeout = cmp.Or(cfg.Timeout, time.Minute)
	cfg.FirstRetry = cmp.Or(cfg.FirstRetry, time.Second)
	cfg.LastRetry = cmp.Or(cfg.LastRetry, 10*time.Minute)
	cfg.PollInterval = cmp.Or(cfg.PollInterval, time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Jitter == nil {
		cfg.Jitter = rand.Float64
	}
	if cfg.Workers < 2 || cfg.Timeout < 0 || cfg.FirstRetry < 0 || cfg.LastRetry < cfg.FirstRetry || cfg.PollInterval < 0 || cfg.Recheck < 0 {
		return nil, errors.New("converge: at least two workers, and times that are not negative, are needed")
	}
	q := &Queue{
		cfg: cfg, items: make(map[Key]*item), waiting: make(map[Kind][]*item), working: make(map[Kind]int),
	}
	q.changed = sync.NewCond(&q.mu)
	q.metrics = newMetrics(cfg.Registerer, q)
	var err error
	q.failures, err = lru.New[Key, int](maxFailures)
	return q, err
}

// Offer takes hints over. The channel gets one value: nil when each key was
// worked on after this call and has converged, or is recorded to be tried
// again; an error when one is neither. The queue grows with what is offered:
// who offers must bound what is unanswered.
func (q *Queue) Offer(_ context.Context, hints []Hint) <-chan error {
	result := make(chan error, 1)
	done := tally(len(hints), func(err error) { result <- err })
	for _, hint := range hints {
		q.cfg.Controller.Forget(hint.Key)
		q.add(job{hint: hint, origin: fromHint, done: []func(error){done}})
	}
	return result
}

// look adds keys that nobody hinted, for a comparison.
func (q *Queue) look(keys []Key) <-chan error {
	result := make(chan error, 1)
	done := tally(len(keys), func(err error) { result <- err })
	for _, key := range keys {
		q.add(job{hint: Hint{Key: key}, done: []func(error){done}})
	}
	return result
}

// tally returns what calls done with the first error, or nil, when it was
// called n times.
func tally(n int, done func(error)) func(error) {
	if n == 0 {
		done(nil)
	}
	var mu sync.Mutex
	var first error
	return func(err error) {
		mu.Lock()
		n--
		first = cmp.Or(first, err)
		last, result := n == 0, first
		mu.Unlock()
		if last {
			done(result)
		}
	}
}

func (q *Queue) add(j job) {
	q.mu.Lock()
	if q.stopped {
		q.mu.Unlock()
		j.finish(ErrStopped)
		return
	}
	defer q.mu.Unlock()
	j.since = q.cfg.Now()
	there := q.items[j.hint.Key]
	switch {
	case there == nil:
		q.enqueue(&item{job: j})
	case !there.busy:
		there.merge(j)
	case there.again == nil:
		there.again = &j
	default:
		there.again.merge(j)
	}
}

// enqueue puts an item at the end of its kind's line; mu is held.
func (q *Queue) enqueue(i *item) {
	kind := i.hint.Key.Kind
	q.items[i.hint.Key] = i
	q.waiting[kind] = append(q.waiting[kind], i)
	q.changed.Signal()
}

func (j *job) merge(other job) {
	j.hint.Rebuilt = j.hint.Rebuilt || other.hint.Rebuilt
	j.hint.Booted = j.hint.Booted && other.hint.Booted
	j.origin = max(j.origin, other.origin)
	j.claim = cmp.Or(other.claim, j.claim)
	j.done = append(j.done, other.done...)
}

func (j *job) finish(err error) {
	for _, done := range j.done {
		done(err)
	}
}

// Run works on keys until the context ends. Those that are still in the queue
// then get ErrStopped.
func (q *Queue) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, q.stop)
	defer stop()
	var group errgroup.Group
	for range q.cfg.Workers {
		group.Go(func() error {
			for i := q.next(); i != nil; i = q.next() {
				q.work(ctx, i)
			}
			return nil
		})
	}
	group.Go(func() error { return q.poll(ctx) })
	return group.Wait()
}

// stop wakes the workers to end, and answers those who wait for what nobody
// works on any more.
func (q *Queue) stop() {
	q.mu.Lock()
	q.stopped = true
	var left []*item
	for _, line := range q.waiting {
		left = append(left, line...)
	}
	clear(q.waiting)
	q.changed.Broadcast()
	q.mu.Unlock()
	for _, i := range left {
		i.finish(ErrStopped)
	}
}

// next waits for a key that may be worked on, the kinds taking turns. It
// returns nil when the queue has stopped.
func (q *Queue) next() *item {
	q.mu.Lock()
	defer q.mu.Unlock()
	kinds := Kinds()
	for !q.stopped {
		for n := range kinds {
			kind := kinds[(q.turn+n)%len(kinds)]
			line := q.waiting[kind]
			if len(line) == 0 || q.working[kind] >= q.cfg.Workers/2 {
				continue
			}
			q.turn = (q.turn + n + 1) % len(kinds)
			i := line[0]
			line[0] = nil
			if q.waiting[kind] = line[1:]; len(line) == 1 {
				delete(q.waiting, kind)
			}
			i.busy = true
			q.working[kind]++
			return i
		}
		q.changed.Wait()
	}
	return nil
}

func (q *Queue) work(ctx context.Context, i *item) {
	j, key := i.job, i.hint.Key
	started := q.cfg.Now()
	bounded, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	q.claimFailed(bounded, &j)
	further, err := q.converge(bounded, j.hint)
	cancel()
	switch {
	case err == nil:
		q.failures.Remove(key)
		q.metrics.worked.WithLabelValues(string(key.Kind), "converged").Inc()
		q.metrics.delay.WithLabelValues(string(key.Kind)).Observe(q.cfg.Now().Sub(j.since).Seconds())
		q.furtherThen(further, func(err error) { q.settle(ctx, j, started, err) })
	case ctx.Err() != nil:
		j.finish(ErrStopped)
	default:
		q.metrics.worked.WithLabelValues(string(key.Kind), "failed").Inc()
		j.finish(q.putOff(ctx, j, err))
	}
	q.release(i)
}

// claimFailed takes the record of a key that failed before and came now for another reason: if it converges, whatever was to be done
// about the failure has been done. A record that cannot be had stays, and is worked on in its turn.
func (q *Queue) claimFailed(ctx context.Context, j *job) {
	if j.claim != nil {
		return
	}
	record, err := q.cfg.Pending.FailingKey(ctx, string(j.hint.Key.Kind), j.hint.Key.ID)
	if err != nil {
		return
	}
	until := q.cfg.Now().Add(claimTime).Truncate(time.Microsecond)
	if claimed, err := q.cfg.Pending.ClaimKey(ctx, record, until); err != nil || !claimed {
		return
	}
	j.hint.Rebuilt = j.hint.Rebuilt || record.Rebuilt
	j.hint.Booted = j.hint.Booted && record.Booted
	j.claim = &claim{record, until}
}

// converge keeps a fault in one entity's data from ending the process.
func (q *Queue) converge(ctx context.Context, hint Hint) (further []Key, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	return q.cfg.Controller.Converge(ctx, hint)
}

// furtherThen has the keys worked on, and then calls done.
func (q *Queue) furtherThen(keys []Key, done func(error)) {
	one := tally(len(keys), done)
	for _, key := range keys {
		q.add(job{hint: Hint{Key: key}, done: []func(error){one}})
	}
}

// release takes a key out of the queue, or back to the end of its line if it
// was hinted again.
func (q *Queue) release(i *item) {
	q.mu.Lock()
	q.working[i.hint.Key.Kind]--
	delete(q.items, i.hint.Key)
	again := i.again
	if again != nil && !q.stopped {
		q.enqueue(&item{job: *again})
		again = nil
	}
	// The worker that is freed may be what another kind's key waited for.
	q.changed.Broadcast()
	q.mu.Unlock()
	if again != nil {
		again.finish(ErrStopped)
	}
}

// settle ends the work on a key that converged, with all keys that it named.
func (q *Queue) settle(ctx context.Context, j job, started time.Time, err error) {
	if err == nil && j.claim != nil {
		err = q.cfg.Pending.SettleKey(ctx, j.claim.key, j.claim.until)
	}
	if err == nil && j.origin == fromHint && q.cfg.Recheck > 0 && j.hint.Key.Kind.aboutRoles() {
		err = q.cfg.Pending.DeferKey(ctx, store.PendingKey{
			Kind: string(j.hint.Key.Kind), ID: j.hint.Key.ID, NextAt: started.Add(q.cfg.Recheck), Since: started,
		})
	}
	j.finish(err)
}

// aboutRoles tells the kinds on which it depends what a user's certificate may hold.
func (k Kind) aboutRoles() bool { return k != Instance && k != Address }

// putOff records a key that failed. It returns nil once that is so.
func (q *Queue) putOff(ctx context.Context, j job, cause error) error {
	key := j.hint.Key
	attempts, _ := q.failures.Get(key)
	if j.claim != nil {
		attempts = max(attempts, j.claim.key.Attempts)
	}
	attempts++
	q.failures.Add(key, attempts)
	pause, level := q.pause(attempts), slog.LevelWarn
	if errors.Is(cause, errOperator) {
		pause = operatorRetry * q.cfg.LastRetry
		if attempts > 1 || j.origin == fromKey {
			level = slog.LevelDebug // it was said when somebody hinted it
		}
	}
	err := q.cfg.Pending.DeferKey(ctx, store.PendingKey{
		Kind: string(key.Kind), ID: key.ID, Rebuilt: j.hint.Rebuilt, Booted: j.hint.Booted, Attempts: attempts, NextAt: q.cfg.Now().Add(pause), LastError: cause.Error(),
	})
	q.recording.Note(ctx, q.cfg.Logger, "record keys that did not converge", err)
	if err != nil {
		return err
	}
	q.cfg.Logger.Log(ctx, level, "A key did not converge; it will be tried again", "key", key.String(), "attempts", attempts, "after", pause, "error", cause)
	return nil
}

// pause is how long to wait after so many failures.
func (q *Queue) pause(attempts int) time.Duration {
	pause := q.cfg.LastRetry
	if doublings := attempts - 1; doublings < 30 {
		pause = min(pause, q.cfg.FirstRetry<<doublings)
	}
	return time.Duration(float64(pause) * (0.75 + q.cfg.Jitter()/2))
}

// poll takes recorded keys whose time has come.
func (q *Queue) poll(ctx context.Context) error {
	tick := time.NewTicker(q.cfg.PollInterval)
	defer tick.Stop()
	var away outage.Outage
	for counted := (time.Time{}); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if now := q.cfg.Now(); now.Sub(counted) >= countEvery {
			counted = now
			q.count(ctx)
		}
		away.Note(ctx, q.cfg.Logger, "look for keys to try again", q.takeDue(ctx))
	}
}

// count keeps the numbers of keys that fail, in the whole database.
func (q *Queue) count(ctx context.Context) {
	failing, err := q.cfg.Pending.FailingKeys(ctx)
	if err != nil {
		return // taking what is due tells of it
	}
	for _, kind := range Kinds() {
		f := failing[string(kind)]
		q.metrics.failing.WithLabelValues(string(kind)).Set(float64(f.Count))
		age := 0.0
		if f.Count > 0 {
			age = q.cfg.Now().Sub(f.Since).Seconds()
		}
		q.metrics.failingAge.WithLabelValues(string(kind)).Set(age)
	}
}

// longest is the longest time for which a key is put off.
func (q *Queue) longest() time.Duration {
	return max(claimTime, q.cfg.Recheck, operatorRetry*q.cfg.LastRetry)
}

func (q *Queue) takeDue(ctx context.Context) error {
	room := maxClaims - q.depth()
	if room <= 0 {
		return nil
	}
	due, err := q.cfg.Pending.DueKeys(ctx, q.longest(), room)
	if err != nil {
		return err
	}
	for _, record := range due {
		if !slices.Contains(Kinds(), Kind(record.Kind)) {
			continue // a replica of a newer version has recorded it, and works on it
		}
		until := q.cfg.Now().Add(claimTime).Truncate(time.Microsecond)
		claimed, err := q.cfg.Pending.ClaimKey(ctx, record, until)
		if err != nil {
			return err
		}
		if !claimed {
			continue
		}
		q.metrics.retries.WithLabelValues(record.Kind).Inc()
		hint := Hint{Key: Key{Kind: Kind(record.Kind), ID: record.ID}, Rebuilt: record.Rebuilt, Booted: record.Booted}
		q.cfg.Controller.Forget(hint.Key)
		q.add(job{hint: hint, origin: fromRecord, claim: &claim{record, until}})
	}
	return nil
}

// depth is how many keys wait.
func (q *Queue) depth() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, line := range q.waiting {
		n += len(line)
	}
	return n
}
