// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"context"
	"sync"
	"testing"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/dns"
)

// stopping is a DNS server that one replica reaches late.
type stopping struct {
	dns.Provider
	before func()
}

func (p stopping) Add(ctx context.Context, r dns.Record) error {
	p.before()
	return p.Provider.Add(ctx, r)
}

// TestAddedAfterRemoval: the floating IP goes while a replica is about to make
// its records. What another one sees intended, it removes, and finds nothing
// yet; what the first then makes must not stay.
func TestAddedAfterRemoval(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web := s.boot("web")
	f := s.floating(web)
	s.news()
	fast := s.queue
	key := converge.Hint{Key: converge.Key{Kind: converge.Instance, ID: web.id}}
	overtaken := sync.OnceFunc(func() {
		s.move(f, "")
		must(t, <-fast.Offer(t.Context(), []converge.Hint{key}))
	})
	slow, err := dns.New(dns.Config{Objects: s.store, Provider: stopping{dns.NewFreeIPA(s.directory), overtaken}})
	must(t, err)
	s.cfg.DNS = slow
	s.rebuildControllers()
	s.offer(key)
	s.expect()
}
