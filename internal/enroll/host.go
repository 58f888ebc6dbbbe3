// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/store"
)

// hosts makes the host entries: the instance's own with the one-time password, and those of further names and of services. They all
// are there, and known to be ours or allowed, before any service is made: a service on a foreign host would give that host away.
func (a *attempt) hosts(ctx context.Context) error {
	if err := a.readObjects(ctx); err != nil {
		return err
	}
	otp, err := a.pendingOTP()
	if err != nil {
		return err
	}
	if a.e.OTPState == store.OTPRebuild {
		if err := a.rebuild(ctx, otp); err != nil {
			return err
		}
	}
	hosts, commands := a.hostCommands(otp)
	results, err := a.service.cfg.Directory.Batch(ctx, commands...)
	if err != nil {
		return err
	}
	return a.judgeHosts(ctx, hosts, results, otp)
}

// hostCommands are the commands that add host entries, and which. The instance's own is not added again when it has its one-time password.
func (a *attempt) hostCommands(otp ipa.Secret) (hosts []objectKey, commands []ipa.Command) {
	mark := a.service.cfg.Rules.description(a.e.InstanceID)
	if a.e.OTPState == store.OTPNew {
		hosts = append(hosts, objectKey{store.ObjectHost, a.e.FQDN})
		commands = append(commands, ipa.HostAdd(a.e.FQDN, ipa.HostAttributes{
			Description: mark, UserClass: a.want.Class, Location: a.want.Location, OSVersion: a.want.OS, Password: otp,
		}))
	}
	for _, host := range a.want.hosts(a.e.FQDN) {
		hosts = append(hosts, objectKey{host.hostKind(), host.Host})
		commands = append(commands, ipa.HostAdd(host.Host, ipa.HostAttributes{Description: mark}))
	}
	return hosts, commands
}

// pendingOTP is the one-time password that FreeIPA does not have yet.
func (a *attempt) pendingOTP() (ipa.Secret, error) {
	if a.e.OTPState != store.OTPNew && a.e.OTPState != store.OTPRebuild {
		return "", nil
	}
	return a.service.otp(a.e)
}

// judgeHosts goes through the answers to host_add, and looks at what was there before.
func (a *attempt) judgeHosts(ctx context.Context, hosts []objectKey, results []ipa.Result, otp ipa.Secret) error {
	var all problems
	var own, shared []string
	for i, r := range results {
		host := hosts[i]
		switch {
		case r.Err == nil:
			entry, _ := r.Host() // what it is known by can do without
			a.made(host.kind, host.name, entry.ID)
			if host.name == a.e.FQDN {
				a.e.OTPState = store.OTPSet
			}
		case !errors.Is(r.Err, ipa.DuplicateEntry):
			all.add(r.Err)
		case host.kind == store.ObjectHost:
			own = append(own, host.name)
		default:
			shared = append(shared, host.name)
		}
	}
	if len(own) > 0 {
		all.add(a.claimHosts(ctx, own, otp))
	}
	if len(shared) > 0 {
		all.add(a.shareHosts(ctx, shared))
	}
	return all.worst
}

// claimHosts looks at entries that are there under names that the instance owns: its own, from an attempt that did not hear the
// answer, or adopted; or foreign.
func (a *attempt) claimHosts(ctx context.Context, names []string, otp ipa.Secret) error {
	shows := make([]ipa.Command, 0, len(names))
	for _, name := range names {
		shows = append(shows, ipa.HostShow(name))
	}
	results, err := a.service.cfg.Directory.Batch(ctx, shows...)
	if err != nil {
		return err
	}
	var all problems
	for i, name := range names {
		host, err := results[i].Host()
		switch {
		case err != nil:
			all.add(err)
		case !a.ours(a.objects[objectKey{store.ObjectHost, name}], host):
			a.found(store.ObjectHost, name, a.objects[objectKey{store.ObjectHost, name}].Identity)
			all.add(&foreignError{name, a.e.InstanceID})
		default:
			a.made(store.ObjectHost, name, host.ID)
			if name == a.e.FQDN {
				all.add(a.setOTP(ctx, host, otp))
			}
		}
	}
	return all.worst
}

// setOTP gives a host entry that is there the one-time password, unless it has enrolled.
func (a *attempt) setOTP(ctx context.Context, host ipa.Host, otp ipa.Secret) error {
	if host.HasKeytab {
		a.e = joined(a.e)
		return nil
	}
	results, err := a.service.cfg.Directory.Batch(ctx, ipa.HostMod(a.e.FQDN, ipa.HostAttributes{Password: otp}))
	if err != nil {
		return err
	}
	if err := results[0].Err; err != nil && !errors.Is(err, ipa.EmptyModlist) {
		return err
	}
	a.e.OTPState = store.OTPSet
	return nil
}

// rebuild makes the old keytabs invalid and sets the new one-time password. A host entry that is not there is made anew; one that somebody
// else has made is left alone.
func (a *attempt) rebuild(ctx context.Context, otp ipa.Secret) error {
	shown, err := a.service.cfg.Directory.Batch(ctx, ipa.HostShow(a.e.FQDN))
	if err != nil {
		return err
	}
	own := a.objects[objectKey{store.ObjectHost, a.e.FQDN}]
	host, err := shown[0].Host()
	there := !errors.Is(err, ipa.NotFound)
	switch {
	case there && err != nil:
		return err
	case there && !a.ours(own, host):
		a.found(store.ObjectHost, a.e.FQDN, own.Identity)
		return &foreignError{a.e.FQDN, a.e.InstanceID}
	}
	commands, err := a.disabling(ctx)
	if err != nil {
		return err
	}
	if there {
		commands = append(commands, ipa.HostDisable(a.e.FQDN), ipa.HostMod(a.e.FQDN, ipa.HostAttributes{Password: otp}))
	}
	results, err := a.service.cfg.Directory.Batch(ctx, commands...)
	if err != nil {
		return err
	}
	var all problems
	for _, r := range results {
		if !errors.Is(r.Err, ipa.AlreadyInactive) && !errors.Is(r.Err, ipa.NotFound) && !errors.Is(r.Err, ipa.EmptyModlist) {
			all.add(r.Err)
		}
	}
	if all.worst != nil {
		return all.worst
	}
	if !there || errors.Is(results[len(results)-1].Err, ipa.NotFound) {
		a.e.OTPState = store.OTPNew
		return nil
	}
	a.made(store.ObjectHost, a.e.FQDN, host.ID)
	a.e.OTPState = store.OTPSet
	return nil
}

// disabling are the commands that make the keytabs of services on other host names invalid: host_disable leaves them, and what ran before the
// rebuild may have had them. Names of the instance's own are disabled whole. On names that instances share, so are services that Muster made and
// no other instance has.
func (a *attempt) disabling(ctx context.Context) (commands []ipa.Command, err error) {
	var shared []store.Object
	for _, v := range a.want.Services {
		if o := a.objects[objectKey{store.ObjectService, v.principal()}]; v.Shared && o.State == store.ObjectMade {
			shared = append(shared, o)
		}
	}
	if shared, err = a.unused(ctx, store.ObjectService, shared); err != nil {
		return nil, err
	}
	for _, o := range shared {
		commands = append(commands, ipa.ServiceDisable(o.Name))
	}
	for _, host := range a.want.hosts(a.e.FQDN) {
		if !host.Shared && a.objects[objectKey{store.ObjectHost, host.Host}].State == store.ObjectMade {
			commands = append(commands, ipa.HostDisable(host.Host))
		}
	}
	return commands, nil
}

// shareHosts looks at entries that are there for services, and that several instances may share; and, on those that are foreign, at the
// services that are to be made there.
func (a *attempt) shareHosts(ctx context.Context, names []string) error {
	users, err := a.users(ctx, store.ObjectServiceHost, names)
	if err != nil {
		return err
	}
	var shows []ipa.Command
	for _, name := range names {
		shows = append(shows, ipa.HostShow(name))
		for _, v := range a.servicesOn(name) {
			shows = append(shows, ipa.ServiceShow(v.principal()))
		}
	}
	results, err := a.service.cfg.Directory.Batch(ctx, shows...)
	if err != nil {
		return err
	}
	var all problems
	for _, name := range names {
		services := a.servicesOn(name)
		host, err := results[0].Host()
		there := results[1 : 1+len(services)]
		results = results[1+len(services):]
		switch {
		case err != nil:
			all.add(err)
		case users[name].leaving:
			all.add(fmt.Errorf("host %s: %w", name, errLater))
		case users[name].made && same(users[name].id, host.ID) || slices.ContainsFunc(users[name].all, func(id string) bool { return madeFor(id, host) }):
			a.made(store.ObjectServiceHost, name, host.ID)
		default:
			a.found(store.ObjectServiceHost, name, users[name].id)
			for i, v := range services {
				all.add(a.beforeService(v, there[i]))
			}
		}
	}
	return all.worst
}

// servicesOn are the services that the instance wants on a host.
func (a *attempt) servicesOn(host string) (services []service) {
	for _, v := range a.want.Services {
		if v.Host == host {
			services = append(services, v)
		}
	}
	return services
}
