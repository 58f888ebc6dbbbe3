// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/muster-cloud/muster/test/cloud"
)

// stormWidth is how many instances come and go at once.
const stormWidth = 8

// stormSize is how many come and go. Whoever has little time plays it smaller in
// the real cloud, where each takes the services seconds of processor time.
func (w *world) stormSize(t testing.TB) int {
	t.Helper()
	wanted := os.Getenv("MUSTER_E2E_STORM")
	if !w.real || wanted == "" {
		return 200
	}
	size, err := strconv.Atoi(wanted)
	must(t, err)
	return size
}

// connectedShare: of so many instances in the storm one has a port. The real
// Neutron, a single process, takes longer for a port than Nova for the instance.
const connectedShare = 10

// Two replicas share a database and a broker. One is killed in the middle of a
// storm of boots and deletes: nothing is left in the end.
func TestStorm(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w *world) {
		s := newSite(t, w)
		s.addForeign(t)
		before := s.directory()
		first := s.start(t, "one")
		s.start(t, "two")
		owner := s.member(t, s.newProject(t, unique("shop"))).session
		guests := make([]*guest, w.stormSize(t))
		var booted atomic.Int64
		began := time.Now()
		group, ctx := errgroup.WithContext(t.Context())
		group.SetLimit(stormWidth)
		for i := range guests {
			group.Go(func() error {
				guests[i] = &guest{site: s, owner: owner, project: owner.ProjectID}
				network := ""
				if i%connectedShare == 0 {
					network = s.network
				}
				err := guests[i].comeAndGo(ctx, network)
				if booted.Add(1) == int64(len(guests)/2) {
					first.kill()
				}
				return err
			})
		}
		must(t, group.Wait())
		t.Logf("%d instances came and went in %v", len(guests), time.Since(began).Round(time.Second))
		ended := time.Now()
		s.awaitNothing(t, before, guests...)
		t.Logf("nothing was left %v after the last one", time.Since(ended).Round(100*time.Millisecond))
	})
}

// comeAndGo boots an instance that is enrolled, and deletes it.
func (g *guest) comeAndGo(ctx context.Context, network string) error {
	var err error
	s := g.site
	g.id, err = g.owner.Boot(ctx, cloud.Server{Name: unique("web"), Image: s.image, Flavor: s.flavor, Network: network, Metadata: enrolling()})
	if err != nil {
		return err
	}
	if err := g.owner.AwaitActive(ctx, g.id, patience); err != nil {
		return err
	}
	// Without the metadata an instance has no identity, and nobody minds. The
	// boot goes on if Muster dies while it answers.
	told, err := g.fetch(ctx)
	if err != nil {
		return err
	}
	g.metadata = told["muster"]
	if err := g.owner.DeleteServer(ctx, g.id); err != nil {
		return err
	}
	return g.owner.AwaitNoServer(ctx, g.id, patience)
}
