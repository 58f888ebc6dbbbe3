// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"
	"weak"
)

// TestWaitingIsForgotten: what ends long before Muster does must not stay in
// memory until then.
func TestWaitingIsForgotten(t *testing.T) {
	drain, stop := context.WithCancel(t.Context())
	defer stop()
	wait := func() weak.Pointer[Request] {
		base := context.WithValue(context.Background(), drainKey{}, drain)
		r := &Request{Request: httptest.NewRequest("GET", "/", nil), writer: httptest.NewRecorder()}
		r.connection = context.WithValue(base, requestKey{}, r)
		_, cancel := r.Waiting(time.Hour)
		cancel()
		return weak.Make(r)
	}
	var requests []weak.Pointer[Request]
	for range 100 {
		requests = append(requests, wait())
	}
	runtime.GC()
	held := 0
	for _, request := range requests {
		if request.Value() != nil {
			held++
		}
	}
	// Go's runtime keeps a few timers that were stopped, and what they hold.
	if held > len(requests)/2 {
		t.Errorf("of %d requests that waited and are over, %d are still held", len(requests), held)
	}
}

func TestWaitingEndsWithMuster(t *testing.T) {
	drain, stop := context.WithCancel(t.Context())
	r := &Request{writer: httptest.NewRecorder(), connection: context.WithValue(t.Context(), drainKey{}, drain)}
	ctx, cancel := r.Waiting(time.Hour)
	defer cancel()
	stop()
	select {
	case <-ctx.Done():
	case <-time.After(time.Minute):
		t.Error("a long poll goes on after Muster was told to end")
	}
}
