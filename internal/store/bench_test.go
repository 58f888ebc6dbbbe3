// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// parallel runs the benchmark with 32 callers.
func parallel(b *testing.B, f func(n int)) {
	b.SetParallelism(max(1, 32/runtime.GOMAXPROCS(0)))
	var n atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f(int(n.Add(1)))
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// onEachB runs a benchmark on every kind of database.
func onEachB(b *testing.B, bench func(b *testing.B, f *fixture)) {
	for _, e := range engines {
		b.Run(e.name, func(b *testing.B) { bench(b, newFixture(b, e.make(b), 1)) })
	}
}

// BenchmarkIssueUserCert: a serial, a certificate's record and its audit entry.
func BenchmarkIssueUserCert(b *testing.B) {
	onEachB(b, func(b *testing.B, f *fixture) {
		f.authority(b, 1)
		parallel(b, func(n int) { f.insert(b, f.userCert(b, 1, 50, n)) })
	})
}

// BenchmarkIssueHostCert: an instance with its token, then its certificate, each with an audit entry.
func BenchmarkIssueHostCert(b *testing.B) {
	onEachB(b, func(b *testing.B, f *fixture) {
		f.authority(b, 1)
		parallel(b, func(n int) {
			i := f.instance(b, 1, n)
			c := f.hostCert(b, 1, n, n)
			if _, _, err := f.store().SpendToken(b.Context(), i.Token.Hash, []HostCert{c}, f.entry("hostcert:create", id(1))); err != nil {
				b.Error(err)
			}
		})
	})
}

// BenchmarkLatestUserCert: the look-up before each issue.
func BenchmarkLatestUserCert(b *testing.B) {
	onEachB(b, func(b *testing.B, f *fixture) {
		f.authority(b, 1)
		for n := range 100 {
			f.insert(b, f.userCert(b, 1, 50, n))
		}
		parallel(b, func(n int) {
			if _, found, _, err := f.store().LatestUserCert(b.Context(), id(1), id(50), fingerprint(n%100), ""); err != nil || !found {
				b.Error(found, err)
			}
		})
	})
}

// BenchmarkCreateInstance: the first vendordata call of an instance.
func BenchmarkCreateInstance(b *testing.B) {
	onEachB(b, func(b *testing.B, f *fixture) {
		parallel(b, func(n int) { f.instance(b, 1, n) })
	})
}

// BenchmarkRevoke: one certificate after another of one project.
func BenchmarkRevoke(b *testing.B) {
	onEachB(b, func(b *testing.B, f *fixture) {
		f.authority(b, 1)
		order := RevocationOrder{ProjectID: id(1), At: time.Unix(1, 0)}
		for n := 0; b.Loop(); n++ {
			b.StopTimer()
			order.Serial = f.insert(b, f.userCert(b, 1, 50, n)).Serial
			b.StartTimer()
			if _, err := f.store().Revoke(b.Context(), order, Audit{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
