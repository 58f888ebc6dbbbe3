// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
)

// deaths are the moments at which Muster is killed: its first calls of FreeIPA
// for an instance, just before each and just after.
var deaths = []struct {
	call   int
	moment freeipa.Cut
}{{1, freeipa.CutBefore}, {1, freeipa.CutAfter}, {2, freeipa.CutBefore}, {2, freeipa.CutAfter}, {3, freeipa.CutBefore}, {3, freeipa.CutAfter}}

// Muster is killed again and again while it prepares instances that were
// rebuilt, and while it takes them out. Whoever lives goes on where the dead one
// stopped, as soon as it may believe in the death.
func TestMusterIsKilled(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w *world) {
		p := newPassing(t, w)
		s, r, owner := p.site, p.r, p.owner
		guests := make([]*guest, len(deaths))
		old := make([]identity, len(deaths))
		for i := range deaths {
			guests[i] = s.enrolled(t, owner)
			old[i] = guests[i].metadata
		}
		for i, death := range deaths {
			g := guests[i]
			killed := s.killAt(r.kill, death.call, death.moment)
			must(t, owner.Rebuild(t.Context(), g.id, s.image))
			must(t, owner.AwaitActive(t.Context(), g.id, patience))
			r = s.afterKill(t, r, killed, func(ctx context.Context) error { return g.fresh(ctx, old[i]) })
		}
		for i, g := range guests {
			s.awaitFresh(t, g, old[i])
		}
		for i, death := range deaths {
			killed := s.killAt(r.kill, death.call, death.moment)
			guests[i].goes(t)
			r = s.afterKill(t, r, killed, guests[i].left)
		}
		s.awaitNothing(t, p.before, guests...)
	})
}

// killAt kills at the n-th call of FreeIPA from now on, of which no answer comes.
// The channel is closed when that is done.
func (s *site) killAt(kill func(), n int, moment freeipa.Cut) <-chan struct{} {
	dead := make(chan struct{})
	var mu sync.Mutex
	calls := 0
	s.ipa.Inject(func(string) freeipa.Fault {
		mu.Lock()
		defer mu.Unlock()
		calls++
		if calls < n {
			return freeipa.Fault{}
		}
		if calls == n {
			go func() {
				kill()
				close(dead)
			}()
		}
		return freeipa.Fault{Cut: moment}
	})
	return dead
}

// afterKill waits for the replica's death and starts it again. What takes fewer
// calls than it was to die at ends without.
func (s *site) afterKill(t testing.TB, r *replica, killed <-chan struct{}, done func(context.Context) error) *replica {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		select {
		case <-killed:
			return nil
		default:
			return done(ctx)
		}
	})
	s.ipa.Inject(nil)
	select {
	case <-killed:
		return s.start(t, "one")
	default:
		t.Log("it takes fewer calls: nobody was killed")
		return r
	}
}

// Something else is down while an instance goes, and Muster is killed, too: while
// it does not know yet, while it does something about it, and when it has noted
// that it could not.
func TestMusterIsKilledInTrouble(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w *world) {
		p := newPassing(t, w)
		p.play(t, "Muster was down, and is killed when it sees what it missed", func(g *guest) {
			p.r.kill()
			g.goes(t)
			next := make(chan *replica, 1)
			killed := p.killAt(func() { (<-next).kill() }, 1, freeipa.CutBefore)
			p.restart(t)
			next <- p.r
			p.awaitKilled(t, killed)
			p.restart(t)
		})
		p.play(t, "FreeIPA does not answer, and Muster is killed while it waits", func(g *guest) {
			p.toIPA.Hang()
			g.goes(t)
			must(t, p.toIPA.AwaitHeld(t.Context(), 1))
			p.r.kill()
			p.toIPA.Shut()
			p.restart(t)
			p.awaitTried(t, g)
			p.toIPA.Open()
		})
		p.play(t, "FreeIPA is down, and Muster is killed when it has noted so", func(g *guest) {
			p.toIPA.Shut()
			g.goes(t)
			p.awaitTried(t, g)
			p.r.kill()
			p.toIPA.Open()
			p.restart(t)
		})
		p.play(t, "the broker is out of reach, and Muster is killed when it hears of it at last", func(g *guest) {
			p.toBroker.Shut()
			g.goes(t)
			killed := p.killAt(p.r.kill, 1, freeipa.CutBefore)
			p.toBroker.Open()
			p.awaitKilled(t, killed)
			p.restart(t)
		})
		p.play(t, "the broker is out of reach, and Muster is killed before it hears of it", func(g *guest) {
			p.toBroker.Shut()
			g.goes(t)
			p.r.kill()
			p.restart(t) // and sees it by itself
			p.awaitLeft(t, g)
			p.toBroker.Open()
		})
		if w.broker != nil {
			p.play(t, "the broker loses its messages, and Muster is killed meanwhile", func(g *guest) {
				p.crashBroker(t, g)
				p.r.kill()
				p.toBroker.Open()
				p.restart(t)
			})
		}
	})
}

// awaitKilled returns when killAt has killed.
func (s *site) awaitKilled(t testing.TB, killed <-chan struct{}) {
	t.Helper()
	select {
	case <-killed:
	case <-time.After(patience):
		t.Fatal("Muster does not come to where it is to be killed")
	}
	s.ipa.Inject(nil)
}

// awaitLeft returns when nothing is left of an instance in Muster.
func (s *site) awaitLeft(t testing.TB, g *guest) {
	t.Helper()
	eventually(t, g.left)
}
