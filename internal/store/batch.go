// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	maxBatch   = 256  // writes that share a transaction
	maxPatient = 64   // patient ones of those, as many as one statement inserts
	maxQueue   = 1024 // writes of each lane that wait for one committer
	committers = 2    // at the same time; SQLite allows one. More make smaller batches, which cost the database more
)

// write is an operation that shares a transaction with others. A batch goes in three steps, so that the number of round
// trips does not depend on the number of writes: each says what it must know (need), all of that is read, each decides
// in its turn (decide), and all that is to be written is written.
type write struct {
	project string
	patient bool // it comes in crowds, and waits for slower things than its turn: see lanes
	need    func(*batch)
	// decide returns the write's own refusal, which harms nobody else. It runs again when the transaction does, and so must not
	// add to what it leaves outside.
	decide func(*batch) error
	err    error
	done   chan struct{}
}

// batch is what the writes of one transaction know and want.
type batch struct {
	tx  *tx
	now time.Time

	projects  map[string]bool      // live authorities, held against revocations until the commit
	keys      map[string]KeyState  // of authorities, by key ID
	revoked   map[revokedName]bool // names in projects' revocation logs
	instances map[string]*Instance // by ID
	tokens    map[string]*Instance // by hash
	newHosts  map[hostKey]HostCert // inserted by this batch

	enrolments map[string]*Enrolment            // by instance ID
	owners     map[string]string                // of host names: instance IDs
	objects    map[string]map[objectKey]bool    // that instances have, by instance ID
	made       map[ObjectKind]map[string]string // identities, as far as they are known, of objects that turned out to be Muster's, by name

	rows     map[*table][][]any
	refusals map[string][]any // audit entries that may be there already, by ID
	updates  []update
}

// hostKey is an instance's key.
type hostKey struct{ instance, fingerprint string }

// objectKey is an object outside of Muster.
type objectKey struct {
	kind ObjectKind
	name string
}

// update is a statement that must match one row, or may match any number.
type update struct {
	text string
	args []any
	any  bool
}

// lanes are what waits for a committer. When two thousand instances boot at once, each writes what it wants of FreeIPA before it waits
// for FreeIPA. Those writes have a lane of their own, of which each transaction takes a few, so that whoever writes anything else
// meanwhile is in the next one.
type lanes struct{ brisk, patient chan *write }

func newLanes(e engine) []lanes {
	n := committers
	if e == engineSQLite {
		n = 1
	}
	all := make([]lanes, n)
	for i := range all {
		all[i] = lanes{brisk: make(chan *write, maxQueue), patient: make(chan *write, maxQueue)}
	}
	return all
}

// lane returns where a write waits. One project's writes always have the same committer, so that committers don't wait for each other.
func (s *Store) lane(w *write) chan<- *write {
	l := s.lanes[maphash.String(s.seed, w.project)%uint64(len(s.lanes))]
	if w.patient {
		return l.patient
	}
	return l.brisk
}

// group waits until a write is committed or refused.
func (s *Store) group(ctx context.Context, w *write) error {
	w.done = make(chan struct{})
	select {
	case s.lane(w) <- w:
	case <-ctx.Done():
		return fmt.Errorf("%w: too many writes are waiting: %w", ErrUnavailable, ctx.Err())
	}
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run commits the writes of all callers until ctx ends, then those that are queued, and returns nil. Before Run, and after it,
// a grouped write waits until its own context ends. It can run once.
func (s *Store) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("the store runs already")
	}
	var wg sync.WaitGroup
	for _, l := range s.lanes {
		wg.Go(func() { s.commitAll(ctx, l) })
	}
	if s.location.engine == engineSQLite {
		wg.Go(func() { s.checkpointAll(ctx) })
	}
	wg.Wait()
	return nil
}

// commitAll commits whatever has queued while it committed the last.
func (s *Store) commitAll(ctx context.Context, l lanes) {
	// Writes that were taken on are finished.
	finish := context.WithoutCancel(ctx)
	writes := make([]*write, 0, maxBatch)
	for {
		writes = writes[:0]
		select {
		case w := <-l.brisk:
			writes = append(writes, w)
		case w := <-l.patient:
			writes = append(writes, w)
		case <-ctx.Done():
		}
		writes = l.collect(writes)
		if len(writes) == 0 {
			return
		}
		s.commit(finish, writes)
		for i, w := range writes {
			close(w.done)
			writes[i] = nil
		}
	}
}

// yields is how often a batch lets others run while nothing queues.
const yields = 3

// collect adds what has queued. Who is about to queue, because the same event woke it, gets the processor first: a
// commit costs much more than a write in it. Where nobody else wants to run, no time is lost.
func (l lanes) collect(writes []*write) []*write {
	patient := l.patient
	var taken int // of the patient ones
	for _, w := range writes {
		if w.patient {
			taken++
		}
	}
	for yielded := 0; len(writes) < maxBatch; {
		if taken == maxPatient {
			patient = nil
		}
		select {
		case w := <-l.brisk:
			writes, yielded = append(writes, w), 0
		case w := <-patient:
			writes, yielded, taken = append(writes, w), 0, taken+1
		default:
			if yielded == yields || taken == maxPatient { // such a batch is large enough
				return writes
			}
			yielded++
			runtime.Gosched()
		}
	}
	return writes
}

// commit runs the writes in one transaction. If that fails by one of them, each has its own.
func (s *Store) commit(ctx context.Context, writes []*write) {
	begin := time.Now()
	s.metrics.batch.Observe(float64(len(writes)))
	err := s.transact(ctx, func(t *tx) error { return s.runBatch(t, writes) })
	s.metrics.commit.Observe(time.Since(begin).Seconds())
	s.committed.Add(1)
	if err == nil {
		return
	}
	rolledBack := s.location.engine != engineSQLite && judge(err) == faultRetry && !errors.Is(err, errUncertain)
	if len(writes) == 1 || (errors.Is(err, ErrUnavailable) && !rolledBack) {
		for _, w := range writes {
			w.err = err
		}
		return
	}
	for i := range writes {
		s.commit(ctx, writes[i:i+1])
	}
}

func (s *Store) runBatch(t *tx, writes []*write) error {
	b := &batch{
		tx: t, now: s.now(),
		projects: make(map[string]bool), keys: make(map[string]KeyState), revoked: make(map[revokedName]bool),
		instances: make(map[string]*Instance), tokens: make(map[string]*Instance), newHosts: make(map[hostKey]HostCert),
		enrolments: make(map[string]*Enrolment), owners: make(map[string]string),
		objects: make(map[string]map[objectKey]bool), made: make(map[ObjectKind]map[string]string),
		rows: make(map[*table][][]any), refusals: make(map[string][]any),
	}
	for _, w := range writes {
		if w.need != nil {
			w.need(b)
		}
	}
	if err := b.read(); err != nil {
		return err
	}
	for _, w := range writes {
		w.err = w.decide(b)
		if w.err != nil && !isOurs(w.err) {
			return w.err
		}
	}
	return b.write()
}

// read fetches what the writes need. The authorities come first and stay locked: a revocation in one of these projects has either
// committed before, and is seen here, or waits and sees what this batch wrote.
func (b *batch) read() error {
	if err := b.guard(); err != nil {
		return err
	}
	e := b.tx.pool.engine
	err := readSet(b.projects, b.tx, scanString, func(id string) { b.projects[id] = true },
		"SELECT project_id FROM authority WHERE retired_at = 0 AND project_id IN ", " ORDER BY project_id"+e.shareLock())
	if err != nil {
		return err
	}
	err = readSet(b.keys, b.tx, scanKeyState, func(k AuthorityKey) { b.keys[k.ID] = k.State },
		"SELECT id, state FROM authority_key WHERE id IN ", "")
	if err != nil {
		return err
	}
	if err := b.readRevoked(); err != nil {
		return err
	}
	err = readSet(b.instances, b.tx, scanInstance, func(i Instance) { b.instances[i.ID] = &i },
		"SELECT "+instanceTable.list("")+" FROM instance WHERE id IN ", "")
	if err != nil {
		return err
	}
	err = readSet(b.tokens, b.tx, scanInstance, func(i Instance) { b.tokens[i.Token.Hash] = &i },
		"SELECT "+instanceTable.list("")+" FROM instance WHERE token_hash IN ", "")
	if err != nil {
		return err
	}
	return b.readEnrolments()
}

// guard changes the authorities' rows where the database is Galera, whose nodes know nothing of each other's locks: of two transactions
// that run on two nodes at once, only one commits if both change the same row (https://galeracluster.com/library/documentation/certification-based-replication.html).
// The other one runs again. It also stands for the lock on a node, which two replicas that share it first could not both change into
// one for writing.
func (b *batch) guard() error {
	if !b.tx.pool.galera.Load() {
		return nil
	}
	ids := make([]any, 0, len(b.projects))
	for _, id := range slices.Sorted(maps.Keys(b.projects)) {
		ids = append(ids, id)
	}
	return inChunks(ids, func(list string, values []any) error {
		_, err := b.tx.exec("UPDATE authority SET guard = guard + 1 WHERE retired_at = 0 AND project_id IN "+list, values...)
		return err
	})
}

// readEnrolments fetches enrolments, the owners of names, and what instances have.
func (b *batch) readEnrolments() error {
	err := readSet(b.enrolments, b.tx, scanEnrolment, func(e Enrolment) { b.enrolments[e.InstanceID] = &e },
		selectEnrolment+" WHERE instance_id IN ", "")
	if err != nil {
		return err
	}
	type owned struct{ name, owner string }
	scan := func(r scanner) (o owned, err error) { err = r.Scan(&o.name, &o.owner); return }
	err = readSet(b.owners, b.tx, scan, func(o owned) { b.owners[o.name] = o.owner },
		"SELECT fqdn, instance_id FROM fqdn_owner WHERE fqdn IN ", "")
	if err != nil {
		return err
	}
	return readSet(b.objects, b.tx, scanObject, func(o Object) {
		if b.objects[o.InstanceID] == nil {
			b.objects[o.InstanceID] = make(map[objectKey]bool)
		}
		b.objects[o.InstanceID][objectKey{o.Kind, o.Name}] = true
	}, selectObject+" WHERE instance_id IN ", "")
}

// readSet reads the records of which the keys of a map are the keys.
func readSet[V, T any](wanted map[string]V, t *tx, scan func(scanner) (T, error), found func(T), head, tail string) error {
	ids := make([]any, 0, len(wanted))
	for _, id := range slices.Sorted(maps.Keys(wanted)) {
		ids = append(ids, id)
	}
	return inChunks(ids, func(list string, values []any) error {
		rows, err := listTx(t, scan, head+list+tail, values...)
		for _, row := range rows {
			found(row)
		}
		return err
	})
}

// readRevoked finds which of the names are revoked. A fingerprint found in another project doesn't count.
func (b *batch) readRevoked() error {
	values := make([]any, 0, len(b.revoked))
	for name := range b.revoked {
		values = append(values, name.value)
	}
	return inChunks(values, func(list string, values []any) error {
		names, err := listTx(b.tx, scanRevokedName, "SELECT project_id, kind, value FROM revoked_name WHERE value IN "+list, values...)
		for _, name := range names {
			if _, wanted := b.revoked[name]; wanted {
				b.revoked[name] = true
			}
		}
		return err
	})
}

// insert adds a row to be written.
func (b *batch) insert(into *table, row []any) { b.rows[into] = append(b.rows[into], row) }

// update adds a statement that must match one row.
func (b *batch) update(text string, args ...any) {
	b.updates = append(b.updates, update{text: text, args: args})
}

// updateAny adds a statement that may match any number of rows.
func (b *batch) updateAny(text string, args ...any) {
	b.updates = append(b.updates, update{text: text, args: args, any: true})
}

// write writes everything. Updates come first: one that doesn't match means that the batch has read what is no longer so.
func (b *batch) write() error {
	for _, u := range b.updates {
		n, err := b.tx.exec(u.text, u.args...)
		if err != nil {
			return err
		}
		if n != 1 && !u.any {
			return errStale
		}
	}
	if err := b.writeMade(); err != nil {
		return err
	}
	for _, into := range []*table{instanceTable, userCertTable, hostCertTable, enrolmentTable, ownerTable, objectTable, auditTable} {
		if err := b.tx.insert(into, b.rows[into]); err != nil {
			return err
		}
	}
	return b.writeRefusals()
}

// writeMade marks objects, for all instances that have them, many at a time and in one order.
func (b *batch) writeMade() error {
	for _, kind := range slices.Sorted(maps.Keys(b.made)) {
		names := make([]any, 0, len(b.made[kind]))
		for _, name := range slices.Sorted(maps.Keys(b.made[kind])) {
			names = append(names, name)
			if identity := b.made[kind][name]; identity != "" {
				_, err := b.tx.exec("UPDATE external_object SET identity = ? WHERE kind = ? AND name = ?", identity, string(kind), name)
				if err != nil {
					return err
				}
			}
		}
		err := inChunks(names, func(list string, values []any) error {
			_, err := b.tx.exec("UPDATE external_object SET state = 'made' WHERE kind = ? AND name IN "+list,
				append([]any{string(kind)}, values...)...)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
