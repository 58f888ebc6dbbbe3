// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package krl

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func benchmarkSets(n int) map[string][]uint64 {
	r := rand.New(rand.NewPCG(9, 10))
	odd := make([]uint64, n)
	for i := range odd {
		odd[i] = uint64(2*i + 1)
	}
	third := make([]uint64, 0, n)
	for serial := uint64(1); len(third) < n; serial++ {
		if r.IntN(3) == 0 {
			third = append(third, serial)
		}
	}
	return map[string][]uint64{
		"random":      pick(n, r.Uint64),
		"half":        pick(n, func() uint64 { return 1 + r.Uint64N(uint64(n)) }),
		"odd":         odd,
		"third":       third,
		"consecutive": runs(1, uint64(n)),
	}
}

func BenchmarkMarshal(b *testing.B) {
	key := newSigner(b).PublicKey()
	for _, n := range []int{100_000, 1_000_000} {
		sets := benchmarkSets(n)
		shuffled := slices.Clone(sets["random"])
		rand.New(rand.NewPCG(1, 1)).Shuffle(n, func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		sets["unsorted"] = shuffled
		for name, serials := range sets {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				list := List{Authorities: []Authority{{Key: key, Serials: serials}}}
				b.ReportAllocs()
				size := 0
				for b.Loop() {
					out, err := list.Marshal()
					if err != nil {
						b.Fatal(err)
					}
					size = len(out)
				}
				b.ReportMetric(float64(size), "bytes")
			})
		}
	}
}

func BenchmarkParse(b *testing.B) {
	list := List{Authorities: []Authority{{Serials: benchmarkSets(1_000_000)["random"]}}}
	out, err := list.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Parse(out); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSetInsertOne(b *testing.B) {
	r := rand.New(rand.NewPCG(11, 12))
	entries := make([]Entry, 1_000_000)
	for i := range entries {
		entries[i] = Entry{r.Uint64(), Never}
	}
	var set Set
	set.Insert(entries...)
	b.ReportAllocs()
	for b.Loop() {
		set.Insert(Entry{r.Uint64(), Never})
	}
}

func BenchmarkSetLoad(b *testing.B) {
	r := rand.New(rand.NewPCG(13, 14))
	entries := make([]Entry, 1_000_000)
	for i := range entries {
		entries[i] = Entry{r.Uint64(), Never}
	}
	b.ReportAllocs()
	for b.Loop() {
		var set Set
		set.Insert(entries...)
	}
}
