// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/store"
)

// services makes the services and lets the instance manage them, in one batch. All are done again, for a service that another
// instance has made does not have this one as its manager.
func (a *attempt) services(ctx context.Context) error {
	var commands []ipa.Command
	for _, v := range a.want.Services {
		commands = append(commands, ipa.ServiceAdd(v.principal()))
		if v.Host != a.e.FQDN {
			commands = append(commands, ipa.ServiceAddHost(v.principal(), a.e.FQDN))
		}
	}
	results, err := a.service.cfg.Directory.Batch(ctx, commands...)
	if err != nil {
		return err
	}
	var all problems
	var shared []service
	for _, v := range a.want.Services {
		err := results[0].Err
		entry, _ := results[0].Service() // what it is known by can do without
		results = results[1:]
		switch {
		case errors.Is(err, ipa.DuplicateEntry) && v.Shared:
			shared = append(shared, v)
		case err == nil || errors.Is(err, ipa.DuplicateEntry):
			a.made(store.ObjectService, v.principal(), entry.ID)
		default:
			all.add(err)
		}
		if v.Host != a.e.FQDN {
			if err == nil || errors.Is(err, ipa.DuplicateEntry) {
				all.add(results[0].Err) // else it failed for want of the service
			}
			results = results[1:]
		}
	}
	if len(shared) > 0 {
		all.add(a.shareServices(ctx, shared))
	}
	return all.worst
}

// beforeService judges a service on a foreign host before service_add. Seen not to be there, and recorded so before it is made, it is
// Muster's if it is there in a later attempt and the instance manages it: then nobody heard that service_add was done.
func (a *attempt) beforeService(v service, shown ipa.Result) error {
	entry, err := shown.Service()
	switch {
	case errors.Is(err, ipa.NotFound):
		a.change.Absent = append(a.change.Absent, store.Object{Kind: store.ObjectService, Name: v.principal()})
		return nil
	case err != nil:
		return err
	}
	if a.objects[objectKey{store.ObjectService, v.principal()}].State == store.ObjectAbsent && slices.Contains(entry.ManagedBy, a.e.FQDN) {
		a.made(store.ObjectService, v.principal(), entry.ID)
	}
	return nil
}

// settleAbsent finds out, before anything of the instance is removed, which services on foreign hosts were made after all.
func (a *attempt) settleAbsent(ctx context.Context, objects []store.Object) error {
	var unsure []int
	var shows []ipa.Command
	for i, o := range objects {
		if o.State == store.ObjectAbsent {
			unsure = append(unsure, i)
			shows = append(shows, ipa.ServiceShow(o.Name))
		}
	}
	results, err := a.service.cfg.Directory.Batch(ctx, shows...)
	if err != nil {
		return err
	}
	for n, i := range unsure {
		entry, err := results[n].Service()
		switch {
		case err == nil && slices.Contains(entry.ManagedBy, a.e.FQDN):
			objects[i].State, objects[i].Identity = store.ObjectMade, entry.ID
			a.made(store.ObjectService, objects[i].Name, entry.ID)
		case err != nil && !errors.Is(err, ipa.NotFound):
			return err
		}
	}
	return a.record(ctx)
}

// shareServices decides whose the services are that were there before, on hosts that nobody owns alone. On a host that Muster made
// for services, they are Muster's too. They are looked at once more after the records are read: who removed one meanwhile, having seen no
// other user before this attempt was recorded, does not say so any more.
func (a *attempt) shareServices(ctx context.Context, services []service) error {
	principals, hosts := make([]string, 0, len(services)), make([]string, 0, len(services))
	for _, v := range services {
		principals, hosts = append(principals, v.principal()), append(hosts, v.Host)
	}
	serviceUsers, err := a.users(ctx, store.ObjectService, principals)
	if err != nil {
		return err
	}
	hostUsers, err := a.users(ctx, store.ObjectServiceHost, hosts)
	if err != nil {
		return err
	}
	shows := make([]ipa.Command, 0, len(services))
	for _, principal := range principals {
		shows = append(shows, ipa.ServiceShow(principal))
	}
	results, err := a.service.cfg.Directory.Batch(ctx, shows...)
	if err != nil {
		return err
	}
	var all problems
	for i, v := range services {
		principal := v.principal()
		users := serviceUsers[principal]
		entry, err := results[i].Service()
		switch {
		case err != nil:
			all.add(fmt.Errorf("service %s: %w", principal, err))
		case users.leaving:
			all.add(fmt.Errorf("service %s: %w", principal, errLater))
		case (users.made || hostUsers[v.Host].made) && same(users.id, entry.ID):
			a.made(store.ObjectService, principal, entry.ID)
		default:
			a.found(store.ObjectService, principal, users.id)
		}
	}
	return all.worst
}

// managers are the hosts that manage a service, but for its own host and the instance's.
func (a *attempt) managers(principal string, managedBy []string) []string {
	_, own, _ := strings.Cut(principal, "/")
	return slices.DeleteFunc(slices.Clone(managedBy), func(name string) bool { return name == own || name == a.e.FQDN })
}
