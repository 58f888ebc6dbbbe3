// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"context"
	"errors"
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

// dying is a DNS server whose answer to a removal nobody is left to hear.
type dying struct{ dns.Provider }

func (p dying) Remove(ctx context.Context, r dns.Record) error {
	return errors.Join(p.Provider.Remove(ctx, r), errBroken)
}

// TestRemovedByDying: a replica that did not know of a floating IP yet removes
// the record that another one is just making, and dies. The one that made it
// sees that, and makes it again.
func TestRemovedByDying(t *testing.T) {
	t.Parallel()
	s := newSite(t, reverse4)
	web := s.boot("web")
	f := s.floating(web)
	s.news()
	stale, err := dns.New(dns.Config{Objects: s.store, Provider: dying{dns.NewFreeIPA(s.directory)}})
	must(t, err)
	s.cfg.DNS, err = dns.New(dns.Config{Objects: s.store, Provider: overtaken{dns.NewFreeIPA(s.directory), sync.OnceFunc(func() {
		if err := stale.RemoveAll(t.Context(), web.id); !errors.Is(err, errBroken) {
			t.Error(err)
		}
	})}})
	must(t, err)
	s.restart()
	s.hint(converge.Key{Kind: converge.Instance, ID: web.id})
	s.expect(wants(web, f))
}

// overtaken is a DNS server on which something happens right after a record was added.
type overtaken struct {
	dns.Provider
	after func()
}

func (p overtaken) Add(ctx context.Context, r dns.Record) error {
	err := p.Provider.Add(ctx, r)
	p.after()
	return err
}
