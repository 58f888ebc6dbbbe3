// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestStatementOfTooMany: a statement that another was faster to prepare is
// closed on a connection that by now waits for the row that a transaction has
// locked. The transaction finds its next statement all the same.
func TestStatementOfTooMany(t *testing.T) {
	s := open(t, Config{URL: databases.PostgreSQL(t), MaxPoolSize: 2, PoolTimeout: 20 * time.Second})
	must(s.Upgrade(t.Context()))(t)
	watch := open(t, Config{URL: s.cfg.URL})
	o := Object{Kind: ObjectRecord, Name: "a.test A 10.0.0.1", InstanceID: id(1)}
	must(s.BeginChange(t.Context(), o, false, late))(t)
	const lock, text = "UPDATE external_object SET leaving = leaving WHERE name = ?", "SELECT 1"
	must(s.writer.statement(t.Context(), lock))(t)
	must(s.writer.statement(t.Context(), text))(t)

	results := make(chan error, 3)
	locked, settling := make(chan bool), make(chan bool)
	go func() {
		results <- s.transact(t.Context(), func(tx *tx) error {
			if _, err := tx.exec(lock, o.Name); err != nil {
				return err
			}
			locked <- true
			<-settling
			_, err := tx.exec(text)
			return err
		})
	}()
	<-locked
	// The transaction has one of the two connections, so that it is the other one.
	second := must(s.writer.db.PrepareContext(t.Context(), text))(t)
	go func() {
		results <- s.transact(t.Context(), func(tx *tx) error {
			_, err := tx.exec(lock, o.Name)
			return err
		})
	}()
	waiting := "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
	for n := 0; n != 1; {
		must(0, watch.reader.db.QueryRowContext(t.Context(), waiting).Scan(&n))(t)
	}
	go func() {
		_, err := s.writer.settle(text, second)
		results <- err
	}()
	stacks := make([]byte, 1<<20)
	for !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "database/sql.(*Stmt).Close") {
		runtime.Gosched()
	}
	close(settling)
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}
