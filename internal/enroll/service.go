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
