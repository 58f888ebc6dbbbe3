// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package krl

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestSetAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var set Set
	model := map[uint64]int64{}
	for range 2000 {
		if r.IntN(20) == 0 {
			limit := r.Int64N(1000)
			want := 0
			for serial, expires := range model {
				if expires < limit {
					delete(model, serial)
					want++
				}
			}
			if got := set.Expire(time.Unix(limit, 0)); got != want {
				t.Fatalf("Expire removed %d, want %d", got, want)
			}
		} else {
			batch := make([]Entry, r.IntN(9))
			want := 0
			for i := range batch {
				batch[i] = Entry{r.Uint64N(3000), r.Int64N(1000)}
				if batch[i].Serial == 0 {
					continue
				}
				if _, known := model[batch[i].Serial]; !known {
					want++
				}
				model[batch[i].Serial] = max(model[batch[i].Serial], batch[i].Expires)
			}
			if got := set.Insert(batch...); got != want {
				t.Fatalf("Insert added %d, want %d", got, want)
			}
		}
		if !slices.Equal(set.Serials(), slices.Sorted(maps.Keys(model))) {
			t.Fatal("the serials differ")
		}
		for i, serial := range set.serials {
			if set.expires[i] != model[serial] {
				t.Fatalf("serial %d expires %d, want %d", serial, set.expires[i], model[serial])
			}
		}
	}
	if set.Len() == 0 || !set.Has(set.Serials()[0]) || set.Has(5000) {
		t.Error("Len or Has is wrong")
	}
}

func TestSetKeepsNever(t *testing.T) {
	var set Set
	set.Insert(Entry{Serial: 1, Expires: Never}, Entry{Serial: 2, Expires: 100})
	if set.Expire(time.Unix(1<<40, 0)); set.Len() != 1 || !set.Has(1) {
		t.Errorf("left are %v, want serial 1", set.Serials())
	}
}
