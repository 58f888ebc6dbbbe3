// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"errors"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/store"
)

// lookedAtOnce is how many entries FreeIPA is asked for in one call. The server does nothing else for a caller meanwhile.
const lookedAtOnce = 100

// Astray returns which of the enrolments FreeIPA has otherwise than Muster left them, by instance: a host or service that Muster made is not there,
// or another one is there under its name. It changes nothing. Those that are being worked on, or have failed, are left out.
func (s *Service) Astray(ctx context.Context, enrolments []store.Enrolment) (instances []string, err error) {
	settled := make(map[string]bool)
	ids := make([]string, 0, len(enrolments))
	for _, e := range enrolments {
		if (e.State == store.EnrolmentCreated || e.State == store.EnrolmentEnrolled) && !s.claimed(e) {
			settled[e.InstanceID], ids = true, append(ids, e.InstanceID)
		}
	}
	var made []store.Object
	for _, kind := range []store.ObjectKind{store.ObjectHost, store.ObjectServiceHost, store.ObjectService} {
		objects, err := s.cfg.Store.ObjectsOf(ctx, kind, ids)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			for _, o := range objects[id] {
				if o.State == store.ObjectMade && !o.Leaving {
					made = append(made, o)
				}
			}
		}
	}
	for len(made) > 0 {
		part := made[:min(lookedAtOnce, len(made))]
		made = made[len(part):]
		astray, err := s.changedEntries(ctx, part)
		if err != nil {
			return nil, err
		}
		for _, o := range astray {
			if settled[o.InstanceID] {
				settled[o.InstanceID], instances = false, append(instances, o.InstanceID)
			}
		}
	}
	return instances, nil
}

// changedEntries are those of the objects that FreeIPA does not have, or has anew.
func (s *Service) changedEntries(ctx context.Context, objects []store.Object) (changed []store.Object, err error) {
	commands := make([]ipa.Command, 0, len(objects))
	for _, o := range objects {
		if o.Kind == store.ObjectService {
			commands = append(commands, ipa.ServiceShow(o.Name))
		} else {
			commands = append(commands, ipa.HostShow(o.Name))
		}
	}
	results, err := s.cfg.Directory.Batch(ctx, commands...)
	if err != nil {
		return nil, err
	}
	for i, o := range objects {
		var shown ipa.Host
		if o.Kind == store.ObjectService {
			service, serviceErr := results[i].Service()
			shown.ID, err = service.ID, serviceErr
		} else {
			shown, err = results[i].Host()
		}
		switch {
		case errors.Is(err, ipa.NotFound):
			changed = append(changed, o)
		case err != nil:
			return nil, err
		case !same(o.Identity, shown.ID) && !madeFor(o.InstanceID, shown):
			changed = append(changed, o)
		}
	}
	return changed, nil
}

// Mend sees to an instance that Astray has named. What carries the instance's services is made again; an own entry that is gone, or is
// somebody else's now, is an operator's matter. An instance that has left meanwhile is no error.
func (s *Service) Mend(ctx context.Context, by Actor, instanceID string) error {
	e, err := s.cfg.Store.Enrolment(ctx, instanceID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if e.State == store.EnrolmentCreated || e.State == store.EnrolmentEnrolled {
		s.compare(ctx, e, false)
	}
	_, err = s.order(ctx, by, "enrolment.mend", instanceID, func(e *store.Enrolment, _ *store.EnrolmentChange) (bool, error) {
		if e.State != store.EnrolmentCreated && e.State != store.EnrolmentEnrolled {
			return false, nil
		}
		e.State, e.Attempts = store.EnrolmentWanted, 0
		return true, nil
	})
	return known(err)
}
