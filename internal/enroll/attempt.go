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

// attempt brings FreeIPA in line with one enrolment. Each step may have been done before, by an attempt that was cut short.
type attempt struct {
	service *Service
	e       store.Enrolment // as it is to be recorded
	want    want
	change  store.EnrolmentChange // what was learned and is not recorded yet
}

// foreignError tells that FreeIPA has an entry that is not ours.
type foreignError struct{ fqdn, instanceID string }

// Error says what to do.
func (e *foreignError) Error() string {
	return fmt.Sprintf("FreeIPA has a host entry %s that Muster did not make, and leaves it alone; remove it there, then run: "+
		"muster enrolment retry %s; or make it this instance's: muster enrolment adopt %[2]s", e.fqdn, e.instanceID)
}

// errLater tells that an entry is on its way out.
var errLater = errors.New("the entry is being removed for another instance")

// classOf tells what can be done about an attempt's error.
func classOf(err error) ipa.Class {
	var foreign *foreignError
	var members *ipa.MemberError
	switch {
	case errors.As(err, &foreign):
		return ipa.Permanent
	case errors.As(err, &members):
		return ipa.Operator // a right is missing, or the host is gone again
	case errors.Is(err, ipa.NotFound):
		return ipa.Repeatable // an entry went that was there a moment ago
	}
	return ipa.ClassOf(err)
}

// problems collects the errors of several commands and returns the one that decides: what may pass by itself before what an
// operator must do, and that before what stays as it is.
type problems struct{ worst error }

func (p *problems) add(err error) {
	if err == nil {
		return
	}
	rank := func(err error) int {
		return slices.Index([]ipa.Class{ipa.Permanent, ipa.Operator, ipa.Repeatable}, classOf(err))
	}
	if p.worst == nil || rank(err) > rank(p.worst) {
		p.worst = err
	}
}

// run makes the attempt. What it returns as error is recorded with the enrolment.
func (a *attempt) run(ctx context.Context) error {
	if a.e.State == store.EnrolmentLeaving {
		return a.remove(ctx)
	}
	if err := a.hosts(ctx); err != nil {
		return err
	}
	if len(a.want.Services) > 0 {
		if err := a.record(ctx); err != nil {
			return err
		}
		if err := a.services(ctx); err != nil {
			return err
		}
	}
	a.e.State = store.EnrolmentCreated
	if a.e.OTPState == store.OTPUsed {
		a.e.State = store.EnrolmentEnrolled
	}
	return nil
}

// record saves what was learned so far, so that a crash from here on loses none of it.
func (a *attempt) record(ctx context.Context) error {
	if a.e.OTPState == store.OTPUsed && len(a.change.Made) == 0 && len(a.change.Found) == 0 {
		return nil
	}
	saved, err := a.service.cfg.Store.SaveEnrolment(ctx, a.e, a.change)
	if err != nil {
		return err
	}
	a.e, a.change = saved, store.EnrolmentChange{}
	return nil
}

func (a *attempt) made(kind store.ObjectKind, name string) {
	a.change.Made = append(a.change.Made, store.Object{Kind: kind, Name: name})
}

func (a *attempt) found(kind store.ObjectKind, name string) {
	a.service.metrics.found.Inc()
	a.change.Found = append(a.change.Found, store.Object{Kind: kind, Name: name})
}

// hosts makes the host entries: the instance's own with the one-time password, and those of further names and of services. They all
// are there, and known to be ours or allowed, before any service is made: a service on a foreign host would give that host away.
func (a *attempt) hosts(ctx context.Context) error {
	states, err := a.states(ctx)
	if err != nil {
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
	var kinds []store.ObjectKind
	var commands []ipa.Command
	if a.e.OTPState == store.OTPNew {
		kinds = append(kinds, store.ObjectHost)
		commands = append(commands, ipa.HostAdd(a.e.FQDN, ipa.HostAttributes{
			Description: a.mark(), UserClass: a.want.Class, Location: a.want.Location, OSVersion: a.want.OS, Password: otp,
		}))
	}
	var names []string
	if len(commands) > 0 {
		names = append(names, a.e.FQDN)
	}
	for _, host := range a.want.hosts(a.e.FQDN) {
		if states[objectKey{host.hostKind(), host.Host}] != store.ObjectMade {
			kinds, names = append(kinds, host.hostKind()), append(names, host.Host)
			commands = append(commands, ipa.HostAdd(host.Host, ipa.HostAttributes{Description: a.mark()}))
		}
	}
	results, err := a.service.cfg.Directory.Batch(ctx, commands...)
	if err != nil {
		return err
	}
	return a.judgeHosts(ctx, states, kinds, names, results, otp)
}

type objectKey struct {
	kind store.ObjectKind
	name string
}

// states returns what is known of the instance's objects. All is new to an enrolment that was just recorded.
func (a *attempt) states(ctx context.Context) (map[objectKey]store.ObjectState, error) {
	states := make(map[objectKey]store.ObjectState)
	if a.e.Version == 1 {
		return states, nil
	}
	objects, err := a.service.cfg.Store.Objects(ctx, a.e.InstanceID)
	for _, o := range objects {
		states[objectKey{o.Kind, o.Name}] = o.State
	}
	return states, err
}

// mark is the description that tells whose a host entry is.
func (a *attempt) mark() string { return a.service.cfg.Rules.description(a.e.InstanceID) }

// pendingOTP is the one-time password that FreeIPA does not have yet.
func (a *attempt) pendingOTP() (ipa.Secret, error) {
	if a.e.OTPState != store.OTPNew && a.e.OTPState != store.OTPRebuild {
		return "", nil
	}
	return a.service.otp(a.e)
}

// judgeHosts goes through the answers to host_add, and looks at what was there before.
func (a *attempt) judgeHosts(ctx context.Context, states map[objectKey]store.ObjectState, kinds []store.ObjectKind, names []string,
	results []ipa.Result, otp ipa.Secret) error {
	var all problems
	var own, shared []string
	for i, r := range results {
		switch {
		case r.Err == nil:
			a.made(kinds[i], names[i])
			if names[i] == a.e.FQDN {
				a.e.OTPState = store.OTPSet
			}
		case !errors.Is(r.Err, ipa.DuplicateEntry):
			all.add(r.Err)
		case kinds[i] == store.ObjectHost:
			own = append(own, names[i])
		default:
			shared = append(shared, names[i])
		}
	}
	if len(own) > 0 {
		all.add(a.claimHosts(ctx, states, own, otp))
	}
	if len(shared) > 0 {
		all.add(a.shareHosts(ctx, shared))
	}
	return all.worst
}

// claimHosts looks at entries that are there under names that the instance owns: its own, from an attempt that did not hear the
// answer, or adopted; or foreign.
func (a *attempt) claimHosts(ctx context.Context, states map[objectKey]store.ObjectState, names []string, otp ipa.Secret) error {
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
		case host.Description != a.mark() && states[objectKey{store.ObjectHost, name}] != store.ObjectMade:
			a.found(store.ObjectHost, name)
			all.add(&foreignError{name, a.e.InstanceID})
		default:
			a.made(store.ObjectHost, name)
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

// rebuild makes the old keytab invalid and sets the new one-time password. A host entry that is not there is made anew.
func (a *attempt) rebuild(ctx context.Context, otp ipa.Secret) error {
	results, err := a.service.cfg.Directory.Batch(ctx, ipa.HostDisable(a.e.FQDN), ipa.HostMod(a.e.FQDN, ipa.HostAttributes{Password: otp}))
	if err != nil {
		return err
	}
	disabled, set := results[0].Err, results[1].Err
	switch {
	case errors.Is(disabled, ipa.NotFound):
		a.e.OTPState = store.OTPNew
		return nil
	case disabled != nil && !errors.Is(disabled, ipa.AlreadyInactive):
		return disabled
	case set != nil && !errors.Is(set, ipa.EmptyModlist):
		return set
	}
	a.e.OTPState = store.OTPSet
	return nil
}

// shareHosts looks at entries that are there for services, and that several instances may share.
func (a *attempt) shareHosts(ctx context.Context, names []string) error {
	users, err := a.users(ctx, store.ObjectServiceHost, names)
	if err != nil {
		return err
	}
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
		case users[name].leaving:
			all.add(fmt.Errorf("host %s: %w", name, errLater))
		case users[name].made || users[name].marked(a.service.cfg.Rules, host.Description):
			a.made(store.ObjectServiceHost, name)
		default:
			a.found(store.ObjectServiceHost, name)
		}
	}
	return all.worst
}

// users says who has an object.
type users struct {
	made    bool     // Muster made it
	leaving bool     // another instance is about to remove it
	staying bool     // another instance has it
	all     []string // instances
}

// marked tells whether a host entry was made for one of the users.
func (u users) marked(rules Rules, description string) bool {
	return slices.ContainsFunc(u.all, func(id string) bool { return description == rules.description(id) })
}

// users returns who has the objects, by name.
func (a *attempt) users(ctx context.Context, kind store.ObjectKind, names []string) (map[string]users, error) {
	objects, err := a.service.cfg.Store.ObjectUsers(ctx, kind, names)
	byName := make(map[string]users)
	for _, o := range objects {
		u := byName[o.Name]
		u.all = append(u.all, o.InstanceID)
		u.made = u.made || o.State == store.ObjectMade
		if o.InstanceID != a.e.InstanceID {
			u.leaving = u.leaving || o.Leaving
			u.staying = u.staying || !o.Leaving
		}
		byName[o.Name] = u
	}
	return byName, err
}

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
		results = results[1:]
		switch {
		case errors.Is(err, ipa.DuplicateEntry) && v.Shared:
			shared = append(shared, v)
		case err == nil || errors.Is(err, ipa.DuplicateEntry):
			a.made(store.ObjectService, v.principal())
		default:
			all.add(err)
		}
		if v.Host != a.e.FQDN {
			all.add(results[0].Err)
			results = results[1:]
		}
	}
	if len(shared) > 0 {
		all.add(a.shareServices(ctx, shared))
	}
	return all.worst
}

// shareServices decides whose the services are that were there before, on hosts that nobody owns alone. On a host that Muster made
// for services, they are Muster's too.
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
	var all problems
	for _, v := range services {
		principal := v.principal()
		switch {
		case serviceUsers[principal].leaving:
			all.add(fmt.Errorf("service %s: %w", principal, errLater))
		case serviceUsers[principal].made || hostUsers[v.Host].made:
			a.made(store.ObjectService, principal)
		default:
			a.found(store.ObjectService, principal)
		}
	}
	return all.worst
}

// managers are the hosts that manage a service, but for its own host and the instance's.
func (a *attempt) managers(principal string, managedBy []string) []string {
	_, own, _ := strings.Cut(principal, "/")
	return slices.DeleteFunc(slices.Clone(managedBy), func(name string) bool { return name == own || name == a.e.FQDN })
}
