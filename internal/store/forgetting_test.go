// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"strconv"
	"sync"
	"testing"

	"github.com/go-sql-driver/mysql"
)

func TestForgettings(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		ctx := t.Context()
		equal(t, must(f.store().NewestForgetting(ctx))(t), uint64(0))
		want := []Forgotten{{"user", id(1), "a"}, {"all", "", "b"}}
		if err := f.store().Forget(ctx, want); err != nil {
			t.Fatal(err)
		}
		all, newest, missed, err := f.store().Forgettings(ctx, 0)
		isError(t, err, nil)
		equal(t, all, want)
		equal(t, newest, uint64(2))
		equal(t, missed, false)
		all, newest, missed, err = f.store().Forgettings(ctx, 2)
		isError(t, err, nil)
		equal(t, len(all), 0)
		equal(t, newest, uint64(2))
		equal(t, missed, false)
		for _, wrong := range [][]Forgotten{nil, make([]Forgotten, MaxForgotten+1), {{"", "x", "a"}}} {
			isError(t, f.store().Forget(ctx, wrong), ErrInvalid)
		}

		// Whoever reads between two of them misses none, whichever commits first.
		const writers, rounds = 4, 10
		var running sync.WaitGroup
		for w := range writers {
			running.Go(func() {
				for r := range rounds {
					if err := f.store().Forget(ctx, []Forgotten{{"user", strconv.Itoa(w), strconv.Itoa(r + 1)}}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		done := make(chan struct{})
		go func() { running.Wait(); close(done) }()
		seen, last := 0, false
		for !last {
			select {
			case <-done:
				last = true
			default:
			}
			all, newest, missed, err = f.store().Forgettings(ctx, newest)
			if err != nil || missed {
				t.Fatal(err, missed)
			}
			seen += len(all)
		}
		equal(t, seen, writers*rounds)

		// More than are told at once: all is to be forgotten, and reading goes on behind them.
		for range forgettingPage/MaxForgotten + 1 {
			many := make([]Forgotten, MaxForgotten)
			for i := range many {
				many[i] = Forgotten{"user", strconv.Itoa(i), "a"}
			}
			if err := f.store().Forget(ctx, many); err != nil {
				t.Fatal(err)
			}
		}
		_, behind, missed, err := f.store().Forgettings(ctx, newest)
		isError(t, err, nil)
		equal(t, missed, true)
		equal(t, behind, must(f.store().NewestForgetting(ctx))(t))
	})
}

// TestGaleraNodeWithoutOthers: the error of a node that has lost its cluster (https://mariadb.com/kb/en/e1047/).
func TestGaleraNodeWithoutOthers(t *testing.T) {
	err := &mysql.MySQLError{Number: 1047, SQLState: [5]byte{'0', '8', 'S', '0', '1'}, Message: "WSREP has not yet prepared node for application use"}
	equal(t, judge(err), faultLost)
}
