// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/muster-cloud/muster/internal/problem"
)

// limited bounds the memory of a RateLimiter. An address or user that was
// forgotten starts with a full bucket.
const limited = 65_536

// RateLimiter allows each address, or each user, so many requests a second. A
// nil RateLimiter allows everything.
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
	buckets, err := simplelru.NewLRU[string, *rate.Limiter](limited, nil)
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

// allow takes one request from somebody's bucket.
func (l *RateLimiter) allow(name string) bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	bucket, ok := l.buckets.Get(name)
	if !ok {
		bucket = rate.NewLimiter(l.perSecond, l.burst)
		l.buckets.Add(name, bucket)
	}
	l.mu.Unlock()
	return bucket.Allow()
}
