// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/muster-cloud/muster/internal/problem"
)

// limitedAddresses bounds the memory of a RateLimiter. An address that was
// forgotten starts with a full bucket.
const limitedAddresses = 65_536

// RateLimiter allows each address so many requests a second. A nil
// RateLimiter allows everything.
type RateLimiter struct {
	perSecond rate.Limit
	burst     int

	mu      sync.Mutex
	buckets *simplelru.LRU[string, *rate.Limiter]
}

// NewRateLimiter returns nil for a rate of zero: no limit.
func NewRateLimiter(perSecond float64, burst int) *RateLimiter {
	if perSecond <= 0 {
		return nil
	}
	buckets, err := simplelru.NewLRU[string, *rate.Limiter](limitedAddresses, nil)
	if err != nil {
		panic(err) // the size is a constant above zero
	}
	return &RateLimiter{perSecond: rate.Limit(perSecond), burst: max(burst, 1), buckets: buckets}
}

// Limited wraps an endpoint so that each address may ask only so often.
func (l *RateLimiter) Limited(endpoint Endpoint) Endpoint {
	if l == nil {
		return endpoint
	}
	return func(r *Request) (Response, error) {
		if !l.allow(r.Remote) {
			return Response{}, problem.New(problem.TooMany, "too many requests from %s", r.Remote)
		}
		return endpoint(r)
	}
}

// allow takes one request from the address's bucket.
func (l *RateLimiter) allow(address string) bool {
	l.mu.Lock()
	bucket, ok := l.buckets.Get(address)
	if !ok {
		bucket = rate.NewLimiter(l.perSecond, l.burst)
		l.buckets.Add(address, bucket)
	}
	l.mu.Unlock()
	return bucket.Allow()
}
