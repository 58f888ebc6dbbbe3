// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
)

// slow adds a time to each call to FreeIPA but log-ins.
func (w *world) slow(delay time.Duration) {
	if delay == 0 {
		return
	}
	w.ipa.Inject(func(command string) freeipa.Fault {
		if strings.HasPrefix(command, "login") {
			return freeipa.Fault{}
		}
		return freeipa.Fault{Delay: delay}
	})
}

func benchRequest(n, services int) Request {
	req := request(n, "web", fmt.Sprint("vm", n))
	if services > 0 {
		req.Metadata["compact_services"] = `{"s0": ["a"]` + func() (more string) {
			for i := 1; i < services; i++ {
				more += fmt.Sprintf(`, "s%d": ["net%c"]`, i, 'a'+i%3)
			}
			return more
		}() + "}"
	}
	return req
}

// BenchmarkEnrol measures first calls of instances: with and without services, against a FreeIPA that takes its time or does not, one
// at a time and many at once.
func BenchmarkEnrol(b *testing.B) {
	for _, delay := range []time.Duration{0, 50 * time.Millisecond} {
		for _, services := range []int{0, 20} {
			for _, atOnce := range []int{1, 200} {
				b.Run(fmt.Sprintf("delay=%v/services=%d/at_once=%d", delay, services, atOnce), func(b *testing.B) {
					benchmarkEnrol(b, delay, services, atOnce)
				})
			}
		}
	}
}

func benchmarkEnrol(b *testing.B, delay time.Duration, services, atOnce int) {
	w := newWorld(b)
	w.slow(delay)
	r := w.replica(b, func(c *Config) { c.AnswerWithin, c.PollEvery, c.BackoffMin, c.BackoffMax = 4*time.Second, 0, 0, 0 })
	var mu sync.Mutex
	var times []time.Duration
	var next, pending atomic.Int64
	b.ResetTimer()
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				began := time.Now()
				answer, err := r.Enrol(b.Context(), operator, benchRequest(int(n), services))
				if err != nil {
					b.Error(err)
				}
				if answer.OTP == "" {
					pending.Add(1)
				}
				mu.Lock()
				times = append(times, time.Since(began))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	report(b, times, pending.Load())
}

func report(b *testing.B, times []time.Duration, pending int64) {
	slices.Sort(times)
	b.ReportMetric(float64(len(times))/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(pending), "pending")
}

// BenchmarkRepeatedCall measures later calls of an instance that has not joined yet.
func BenchmarkRepeatedCall(b *testing.B) {
	w := newWorld(b)
	w.slow(50 * time.Millisecond)
	r := w.replica(b)
	req := benchRequest(1, 20)
	r.enrol(b, req)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if answer, err := r.Enrol(b.Context(), operator, req); err != nil || answer.OTP == "" {
				b.Error(answer, err)
			}
		}
	})
}

// BenchmarkStorm boots 2,000 instances at once against a FreeIPA of 50 ms per call with 8 calls in flight, and waits until all are
// enrolled.
func BenchmarkStorm(b *testing.B) {
	const boots = 2000
	for b.Loop() {
		b.StopTimer()
		w := newWorld(b)
		w.slow(50 * time.Millisecond)
		r := w.replica(b, func(c *Config) { c.AnswerWithin, c.PollEvery, c.BackoffMin, c.BackoffMax = 4*time.Second, 0, 0, 0 })
		b.StartTimer()
		var mu sync.Mutex
		var times []time.Duration
		var pending atomic.Int64
		var wg sync.WaitGroup
		for n := range boots {
			wg.Go(func() {
				began := time.Now()
				answer, err := r.Enrol(b.Context(), operator, benchRequest(n, 0))
				took := time.Since(began)
				if err != nil {
					b.Error(err)
				}
				if answer.OTP == "" {
					pending.Add(1)
				}
				mu.Lock()
				times = append(times, took)
				mu.Unlock()
			})
		}
		wg.Wait()
		for {
			counts, err := r.store.CountEnrolments(b.Context())
			must(b, err)
			if counts["created"] == boots {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		report(b, times, pending.Load())
		b.ReportMetric(float64(slices.Max(times).Milliseconds()), "slowest-ms")
		hosts, _ := w.entries()
		equal(b, len(hosts), boots)
	}
}
