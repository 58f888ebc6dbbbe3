// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge

import (
	"context"
	"errors"
	"time"

	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

// kept is what Muster keeps of an instance.
type kept struct {
	id        string
	instance  store.Instance  // zero: it has no SSH identity
	enrolment store.Enrolment // zero: it has none, and had none lately
	enrolled  bool
	joined    time.Time // when it was known to have joined FreeIPA, at the latest; zero: not known
	since     time.Time // when Muster first heard of it
}

// instance: one that Nova no longer has loses its identity; one that was
// rebuilt gets a new one-time token, and a new password in FreeIPA; one whose
// metadata names other services than before gets those; its addresses are
// followed. Whatever else happens to an instance, it stays who it is: when it
// is stopped, shelved, resized, moved, or its display name changed. Most hints
// concern instances that Muster has nothing of, and cost a look-up.
func (c *Controllers) instance(ctx context.Context, hint Hint) error {
	k, err := c.kept(ctx, hint.Key.ID)
	if err != nil {
		return err
	}
	if k.since.IsZero() {
		return c.tidy(ctx, k.enrolment)
	}
	if err := c.pace.Wait(ctx); err != nil {
		return err
	}
	server, err := c.cfg.Nova.Server(ctx, k.id)
	if errors.Is(err, openstack.ErrNotFound) && hint.Booted {
		// One of Nova's servers may know of it later than another. If it is gone
		// already, Nova tells, and if not, the next comparison finds out.
		return nil
	}
	if errors.Is(err, openstack.ErrNotFound) {
		return c.remove(ctx, k)
	}
	if err != nil {
		return err
	}
	// What waits for DNS must not keep the rest waiting, nor the other way round.
	return errors.Join(c.update(ctx, k, server, hint.Rebuilt), c.follow(ctx, k, server.ProjectID))
}

// update sees to what Nova says of an instance that is there.
func (c *Controllers) update(ctx context.Context, k kept, server openstack.Server, rebuilt bool) error {
	if err := c.rebuilt(ctx, k, server, rebuilt); err != nil || !k.enrolled {
		return err
	}
	return c.cfg.Enrolments.Update(ctx, k.id, server.Metadata)
}

func (c *Controllers) kept(ctx context.Context, id string) (kept, error) {
	k := kept{id: id}
	var err error
	k.instance, err = c.cfg.Records.Instance(ctx, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return k, err
	}
	k.since = k.instance.CreatedAt
	if c.cfg.Enrolments == nil {
		return k, nil
	}
	k.enrolment, err = c.cfg.Records.Enrolment(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return k, nil
	}
	if err == nil && stays(k.enrolment) {
		k.enrolled, k.joined = true, joinedAt(k.enrolment)
		if k.since.IsZero() || k.enrolment.CreatedAt.Before(k.since) {
			k.since = k.enrolment.CreatedAt
		}
	}
	return k, err
}

// stays tells that nobody has ordered yet that the enrolment ends.
func stays(e store.Enrolment) bool {
	return e.State != store.EnrolmentLeaving && e.State != store.EnrolmentGone
}

// remove ends the enrolment, and then the identity, after all else: what is
// left after a failure is found again as long as either is there.
func (c *Controllers) remove(ctx context.Context, k kept) error {
	if err := c.cfg.Records.ForgetRebuild(ctx, k.id); err != nil {
		return err
	}
	if err := c.cfg.Records.SetAddresses(ctx, k.id, nil); err != nil {
		return err
	}
	if k.enrolled {
		if err := c.cfg.Enrolments.Leave(ctx, k.id); err != nil {
			return err
		}
	}
	if k.instance.ID == "" {
		return nil
	}
	err := c.cfg.Authority.DeleteInstance(ctx, actor, k.id, "Nova has no such instance any more")
	if refusal, ok := errors.AsType[*problem.Problem](err); ok && refusal.Kind == problem.NotFound {
		return nil
	}
	if err == nil {
		c.cfg.Logger.InfoContext(ctx, "Ended the identity of an instance that Nova has no more", "instance", k.id, "project", k.instance.ProjectID)
	}
	return err
}

// rebuilt sees to a rebuild once. That there was one, and when, is asked of
// Nova: to do this to an instance that was not rebuilt, or twice, would cut a
// living host off. Nova's times are compared with Nova's only, but for the
// first rebuild, which must be later than what Muster keeps.
func (c *Controllers) rebuilt(ctx context.Context, k kept, server openstack.Server, hinted bool) error {
	if !hinted && !maybeRebuilt(k, server) {
		return nil
	}
	seen, err := c.cfg.Records.RebuildSeen(ctx, k.id)
	if err != nil || !hinted && !server.LaunchedAt.After(seen) {
		return err
	}
	if err := c.pace.Wait(ctx); err != nil {
		return err
	}
	at, err := c.cfg.Nova.RebuiltAt(ctx, k.id)
	if err != nil {
		return err
	}
	if at.After(seen) && until(at).After(k.since) {
		if err := c.renew(ctx, k, at, server); err != nil {
			return err
		}
	}
	latest := server.LaunchedAt
	if at.After(latest) {
		latest = at
	}
	return c.cfg.Records.SeeRebuild(ctx, k.id, latest)
}

// until is the latest that a time of Nova's can mean beside Muster's own: its
// database usually keeps whole seconds. What Muster saw of an instance within
// the second of its rebuild was before it, for none boots as fast.
func until(at time.Time) time.Time {
	if at.IsZero() || at.Nanosecond() != 0 {
		return at
	}
	return at.Add(time.Second)
}

// maybeRebuilt tells, of an instance that nobody hinted as rebuilt, whether it
// got a new disk (or was only moved) after it had used what Muster gave it.
func maybeRebuilt(k kept, server openstack.Server) bool {
	launched := until(server.LaunchedAt)
	return relaunched(launched, k.instance.Token.UsedAt) || relaunched(launched, k.joined)
}

func relaunched(launched, used time.Time) bool { return !used.IsZero() && launched.After(used) }

// joinedAt is when an enrolled instance was last known to have joined.
func joinedAt(e store.Enrolment) time.Time {
	if e.State != store.EnrolmentEnrolled {
		return time.Time{}
	}
	return e.UpdatedAt
}

func (c *Controllers) renew(ctx context.Context, k kept, at time.Time, server openstack.Server) error {
	if k.enrolled {
		if err := c.cfg.Enrolments.Rebuild(ctx, k.id, until(at)); err != nil {
			return err
		}
	}
	if k.instance.ID != "" {
		rebuild := sshca.Rebuild{At: until(at), Finished: server.LaunchedAt.After(at)}
		if err := c.cfg.Authority.RenewForRebuild(ctx, actor, k.id, rebuild); err != nil {
			return err
		}
	}
	c.cfg.Logger.InfoContext(ctx, "An instance was rebuilt and gets a new identity", "instance", k.id, "enrolled", k.enrolled)
	return nil
}
