// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
)

// Balance starts a load balancer, which sends one request after another to the
// next of the replicas, and returns its URL.
func Balance(t testing.TB, replicas ...*Replica) string {
	t.Helper()
	targets := make([]*url.URL, len(replicas))
	for i, r := range replicas {
		target, err := url.Parse(r.URL)
		if err != nil {
			t.Fatal(err)
		}
		targets[i] = target
	}
	var turn atomic.Int64
	balancer := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(targets[int(turn.Add(1))%len(targets)])
		r.Out.Host = r.In.Host
	}})
	t.Cleanup(balancer.Close)
	return balancer.URL
}
