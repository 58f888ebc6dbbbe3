// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// pool is a connection pool with its prepared statements. The texts are the program's own, so that their number is bounded.
type pool struct {
	db     *sql.DB
	engine engine
	idle   int          // connections that are kept
	galera *atomic.Bool // a server was found to be a node of Galera; set for the writer

	mu         sync.RWMutex
	statements map[string]*sql.Stmt
}

func newPool(db *sql.DB, e engine) *pool {
	return &pool{db: db, engine: e, statements: make(map[string]*sql.Stmt)}
}

// statement returns the prepared statement for a text.
func (p *pool) statement(ctx context.Context, text string) (*sql.Stmt, error) {
	p.mu.RLock()
	stmt := p.statements[text]
	p.mu.RUnlock()
	if stmt != nil {
		return stmt, nil
	}
	stmt, err := p.db.PrepareContext(ctx, p.engine.rebind(text))
	if err != nil {
		return nil, err
	}
	return p.settle(text, stmt)
}

// settle makes a prepared statement the text's. If another was faster, it returns that and closes this one.
func (p *pool) settle(text string, stmt *sql.Stmt) (*sql.Stmt, error) {
	p.mu.Lock()
	other := p.statements[text]
	if other == nil {
		p.statements[text] = stmt
	}
	p.mu.Unlock()
	if other == nil {
		return stmt, nil
	}
	// Close waits for the connection on which the statement was prepared. Whoever has that by now may wait for a transaction that
	// needs a statement of ours: under the lock, none of them would go on.
	return other, stmt.Close()
}

// tx is a transaction in which the pool's statements run.
type tx struct {
	ctx     context.Context
	sql     *sql.Tx
	pool    *pool
	missing []string // texts that the pool should prepare for the next time
}

func (t *tx) statement(text string) (*sql.Stmt, error) {
	t.pool.mu.RLock()
	stmt := t.pool.statements[text]
	t.pool.mu.RUnlock()
	if stmt == nil {
		// Preparing for the pool now would wait for a second connection, which SQLite's writer doesn't have.
		t.missing = append(t.missing, text)
		return t.sql.PrepareContext(t.ctx, t.pool.engine.rebind(text))
	}
	return t.sql.StmtContext(t.ctx, stmt), nil
}

// exec runs a statement and returns how many rows it matched.
func (t *tx) exec(text string, args ...any) (int64, error) {
	stmt, err := t.statement(text)
	if err != nil {
		return 0, err
	}
	result, err := stmt.ExecContext(t.ctx, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// query hands each row to scan.
func (t *tx) query(scan func(*sql.Rows) error, text string, args ...any) error {
	stmt, err := t.statement(text)
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(t.ctx, args...)
	return drain(rows, err, scan)
}

// drain hands each row to scan, and closes.
func drain(rows *sql.Rows, err error, scan func(*sql.Rows) error) error {
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := scan(rows); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

const (
	maxAttempts = 10                     // of a transaction that the database rolled back
	maxLost     = 2                      // of those, after a lost connection
	firstPause  = 2 * time.Millisecond   // doubled with each attempt
	lastPause   = 250 * time.Millisecond // the longest pause
)

// patience decides about one more attempt after a failed one.
type patience struct{ attempts, lost int }

// again waits before another attempt, and returns false if there shall be none.
func (p *patience) again(ctx context.Context, err error) bool {
	p.attempts++
	switch judge(err) {
	case faultLost:
		if p.lost++; p.lost > maxLost {
			return false
		}
	case faultRetry:
	default:
		return false
	}
	if p.attempts >= maxAttempts {
		return false
	}
	pause := min(firstPause<<p.attempts, lastPause)
	timer := time.NewTimer(pause/2 + rand.N(pause))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errUncertain: the connection broke during COMMIT. The transaction may or may not be there, so it isn't repeated.
var errUncertain = errors.New("the connection was lost while committing")

// errNothing ends a transaction that has nothing to write.
var errNothing = errors.New("nothing to write")

// transact runs do in a transaction. It runs again when the database rolled it back, so do must set, not add to, what it leaves outside.
//
// What rests on a row that stays as it is must lock that row by the transaction's first statement: MariaDB shows all later
// reads, but for those that lock, what was there at the first of them, and so not what was committed while a lock was waited for.
func (s *Store) transact(ctx context.Context, do func(*tx) error) error {
	bounded, cancel := context.WithTimeout(ctx, s.cfg.PoolTimeout)
	defer cancel()
	var p patience
	for {
		err := s.attempt(bounded, do)
		if err == nil || errors.Is(err, errNothing) {
			return nil
		}
		if isOurs(err) || errors.Is(err, errUncertain) || bounded.Err() != nil || !p.again(bounded, err) {
			return explain(ctx, err)
		}
		s.writer.leaveNode(err)
		s.metrics.retries.Inc()
	}
}

func (s *Store) attempt(ctx context.Context, do func(*tx) error) error {
	begun, err := s.writer.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	t := &tx{ctx: ctx, sql: begun, pool: s.writer}
	if err := do(t); err != nil {
		// A failed rollback closes the connection, which rolls back too.
		_ = begun.Rollback()
		return err
	}
	if err := begun.Commit(); err != nil {
		if judge(err) == faultLost || ctx.Err() != nil {
			return fmt.Errorf("%w: %w: %w", ErrUnavailable, errUncertain, err)
		}
		return err
	}
	for _, text := range t.missing {
		// It is committed: what can't be prepared now is prepared when it's needed again.
		_, _ = s.writer.statement(ctx, text)
	}
	return nil
}

// scanner is a row to read from.
type scanner interface{ Scan(dest ...any) error }

// list runs a query outside of transactions, again if the connection was lost.
func list[T any](ctx context.Context, s *Store, scan func(scanner) (T, error), text string, args ...any) ([]T, error) {
	bounded, cancel := context.WithTimeout(ctx, s.cfg.PoolTimeout)
	defer cancel()
	var p patience
	for {
		var all []T
		stmt, err := s.reader.statement(bounded, text)
		if err == nil {
			rows, queryErr := stmt.QueryContext(bounded, args...)
			err = drain(rows, queryErr, func(r *sql.Rows) error {
				one, err := scan(r)
				all = append(all, one)
				return err
			})
		}
		if err == nil {
			return all, nil
		}
		if isOurs(err) || bounded.Err() != nil || !p.again(bounded, err) {
			return nil, explain(ctx, err)
		}
		s.reader.leaveNode(err)
		s.metrics.retries.Inc()
	}
}

// one returns the only row of a query, or ErrNotFound.
func one[T any](ctx context.Context, s *Store, scan func(scanner) (T, error), text string, args ...any) (T, error) {
	all, err := list(ctx, s, scan, text, args...)
	if err != nil || len(all) == 0 {
		var none T
		if err == nil {
			err = ErrNotFound
		}
		return none, err
	}
	return all[0], nil
}

// listTx is list within a transaction.
func listTx[T any](t *tx, scan func(scanner) (T, error), text string, args ...any) ([]T, error) {
	var all []T
	err := t.query(func(r *sql.Rows) error {
		one, err := scan(r)
		all = append(all, one)
		return err
	}, text, args...)
	return all, err
}

// table is one to insert into. Rows go many at a time, in a few fixed sizes, so that there are few statements to prepare.
type table struct {
	name    string
	columns []string
	texts   map[engine]map[int]string
}

func newTable(name, columns string) *table {
	t := &table{name: name, columns: strings.Fields(columns), texts: make(map[engine]map[int]string)}
	row := "(?" + strings.Repeat(", ?", len(t.columns)-1) + ")"
	for _, e := range []engine{engineSQLite, enginePostgreSQL, engineMariaDB} {
		t.texts[e] = make(map[int]string)
		for _, n := range chunkSizes {
			t.texts[e][n] = e.insertInto() + name + " (" + t.list("") + ") VALUES " + row + strings.Repeat(", "+row, n-1)
		}
	}
	return t
}

// list returns the columns for a SELECT in the order of inserting.
func (t *table) list(alias string) string {
	if alias == "" {
		return strings.Join(t.columns, ", ")
	}
	return alias + "." + strings.Join(t.columns, ", "+alias+".")
}

// update returns the UPDATE of all columns but the first, in the order of inserting.
func (t *table) update(where string) string {
	return "UPDATE " + t.name + " SET " + strings.Join(t.columns[1:], " = ?, ") + " = ? WHERE " + where
}

// chunkSizes are the numbers of rows and of list members for which statements are prepared.
var chunkSizes = [...]int{64, 32, 16, 8, 4, 2, 1}

// insert writes rows. A taken key fails the transaction.
func (t *tx) insert(into *table, rows [][]any) error {
	for _, size := range chunkSizes {
		for len(rows) >= size {
			args := make([]any, 0, size*len(into.columns))
			for _, row := range rows[:size] {
				args = append(args, row...)
			}
			if _, err := t.exec(into.texts[t.pool.engine][size], args...); err != nil {
				return err
			}
			rows = rows[size:]
		}
	}
	return nil
}

// inList is a parenthesised list of n placeholders.
func inList(n int) string { return "(?" + strings.Repeat(", ?", n-1) + ")" }

// inChunks calls do with the values, at most 64 at a time, repeated at the end so that their number is one of a few.
func inChunks(values []any, do func(list string, values []any) error) error {
	for len(values) > 0 {
		part := values[:min(len(values), chunkSizes[0])]
		values = values[len(part):]
		size := chunkSizes[0]
		for _, smaller := range chunkSizes {
			if smaller >= len(part) {
				size = smaller
			}
		}
		padded := append(make([]any, 0, size), part...)
		for len(padded) < size {
			padded = append(padded, part[len(part)-1])
		}
		if err := do(inList(size), padded); err != nil {
			return err
		}
	}
	return nil
}
