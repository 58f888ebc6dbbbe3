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

// remove takes away all that was made for the instance. An object that is gone already is no error; one that Muster did not make is not
// touched. What other instances use stays.
func (a *attempt) remove(ctx context.Context) error {
	var all problems
	if a.service.cfg.DNS != nil {
		if err := a.service.cfg.DNS.RemoveAll(ctx, a.e.InstanceID); err != nil {
			all.add(fmt.Errorf("DNS records: %w", err))
		}
	}
	objects, err := a.service.cfg.Store.ReleaseObjects(ctx, a.e.InstanceID)
	if err != nil {
		return err
	}
	if err := a.settleAbsent(ctx, objects); err != nil {
		return err
	}
	byKind := make(map[store.ObjectKind][]store.Object)
	for _, o := range objects {
		byKind[o.Kind] = append(byKind[o.Kind], o)
	}
	all.add(a.removeHosts(ctx, byKind[store.ObjectHost]))
	all.add(a.removeShared(ctx, byKind[store.ObjectService], byKind[store.ObjectServiceHost]))
	if all.worst != nil {
		return all.worst
	}
	a.e.State, a.e.GoneAt = store.EnrolmentGone, a.service.cfg.Now()
	a.e.OTPState, a.e.OTPSealed = store.OTPUsed, nil
	return nil
}

// removeHosts deletes the host entries under the instance's own names.
func (a *attempt) removeHosts(ctx context.Context, hosts []store.Object) error {
	hosts, err := a.certain(ctx, hosts)
	if err != nil {
		return err
	}
	commands := make([]ipa.Command, 0, len(hosts))
	for _, o := range hosts {
		commands = append(commands, ipa.HostDel(o.Name, a.service.cfg.RemoveHostRecords))
	}
	return a.carryOut(ctx, commands)
}

// certain leaves those hosts that Muster made, and that nobody replaced since: FreeIPA shows the entry that was recorded. Where it was never
// recorded that Muster made it, the entry's description tells.
func (a *attempt) certain(ctx context.Context, hosts []store.Object) ([]store.Object, error) {
	var made, unsure []store.Object
	var shows []ipa.Command
	for _, o := range hosts {
		switch {
		case o.State == store.ObjectMade && o.Identity == "":
			made = append(made, o)
		case o.State == store.ObjectMade || o.State == store.ObjectIntended:
			unsure = append(unsure, o)
			shows = append(shows, ipa.HostShow(o.Name))
		}
	}
	results, err := a.service.cfg.Directory.Batch(ctx, shows...)
	if err != nil {
		return nil, err
	}
	var all problems
	for i, o := range unsure {
		host, err := results[i].Host()
		switch {
		case errors.Is(err, ipa.NotFound):
		case err != nil:
			all.add(err)
		case a.ours(o, host):
			made = append(made, o)
		case o.State == store.ObjectMade:
			a.replaced(ctx, o)
		}
	}
	return made, all.worst
}

// carryOut runs deletions. What is not there need not be deleted.
func (a *attempt) carryOut(ctx context.Context, commands []ipa.Command) error {
	results, err := a.service.cfg.Directory.Batch(ctx, commands...)
	if err != nil {
		return err
	}
	var all problems
	for _, r := range results {
		if !errors.Is(r.Err, ipa.NotFound) {
			all.add(r.Err)
		}
	}
	return all.worst
}

// removeShared deletes services on hosts that are nobody's own, and then such hosts. Services on the instance's own hosts have gone
// with them.
func (a *attempt) removeShared(ctx context.Context, services, hosts []store.Object) error {
	made, err := a.certain(ctx, hosts)
	if err != nil {
		return err
	}
	shared, ours := make(map[string]bool), make(map[string]bool)
	for _, o := range hosts {
		shared[o.Name] = true
	}
	for _, o := range made {
		ours[o.Name] = true
	}
	var removable []store.Object
	for _, o := range services {
		_, host, _ := strings.Cut(o.Name, "/")
		if shared[host] && (o.State == store.ObjectMade || o.State == store.ObjectIntended && ours[host]) {
			removable = append(removable, o)
		}
	}
	if err := a.removeServices(ctx, removable); err != nil {
		return err
	}
	return a.removeServiceHosts(ctx, made)
}

// removeServices deletes those services that no other instance has, that no other host manages, and that nobody has replaced.
func (a *attempt) removeServices(ctx context.Context, services []store.Object) error {
	services, err := a.unused(ctx, store.ObjectService, services)
	if err != nil || len(services) == 0 {
		return err
	}
	shows := make([]ipa.Command, 0, len(services))
	for _, o := range services {
		shows = append(shows, ipa.ServiceShow(o.Name))
	}
	results, err := a.service.cfg.Directory.Batch(ctx, shows...)
	if err != nil {
		return err
	}
	var all problems
	var deletions []ipa.Command
	for i, o := range services {
		entry, err := results[i].Service()
		switch {
		case errors.Is(err, ipa.NotFound):
		case err != nil:
			all.add(err)
		case !same(o.Identity, entry.ID):
			a.replaced(ctx, o)
		case len(a.managers(o.Name, entry.ManagedBy)) == 0:
			deletions = append(deletions, ipa.ServiceDel(o.Name))
		}
	}
	all.add(a.carryOut(ctx, deletions))
	return all.worst
}

// unused leaves those objects, of one kind, that no other instance has. Those that are leaving too count no more: the last one to go removes
// the object.
func (a *attempt) unused(ctx context.Context, kind store.ObjectKind, objects []store.Object) ([]store.Object, error) {
	if len(objects) == 0 {
		return nil, nil
	}
	names := make([]string, 0, len(objects))
	for _, o := range objects {
		names = append(names, o.Name)
	}
	users, err := a.users(ctx, kind, names)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(objects), func(o store.Object) bool { return users[o.Name].staying }), nil
}

// removeServiceHosts deletes shared hosts that no other instance has, and that carry no other service.
func (a *attempt) removeServiceHosts(ctx context.Context, hosts []store.Object) error {
	hosts, err := a.unused(ctx, store.ObjectServiceHost, hosts)
	if err != nil {
		return err
	}
	var deletions []ipa.Command
	for _, o := range hosts {
		others, err := a.service.cfg.Directory.ServiceFind(ctx, ipa.ServiceFilter{ManagedBy: o.Name, Limit: 1})
		if err != nil && !errors.Is(err, ipa.NotFound) {
			return err
		}
		if len(others.Entries) == 0 {
			deletions = append(deletions, ipa.HostDel(o.Name, a.service.cfg.RemoveHostRecords))
		}
	}
	return a.carryOut(ctx, deletions)
}
