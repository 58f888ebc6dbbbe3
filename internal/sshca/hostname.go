// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/muster-cloud/muster/internal/store"
)

// Names tells by what else than its host name an instance is reached.
type Names interface {
	// InstanceNames returns the instance's full name and its addresses, in
	// any order. None is no error.
	InstanceNames(ctx context.Context, instanceID string) ([]string, error)
}

// maxHostNames bounds the principals of a host certificate.
const maxHostNames = 64

// HostNames returns the principals that an instance's host certificates should
// have: its host name, its full name, and its addresses, in a fixed order. What
// is neither name nor address is left out.
func (s *Service) HostNames(ctx context.Context, instance store.Instance) ([]string, error) {
	names := []string{strings.ToLower(instance.Hostname)}
	if s.cfg.Names == nil {
		return names, nil
	}
	others, err := s.cfg.Names.InstanceNames(ctx, instance.ID)
	if err != nil {
		return nil, err
	}
	var full, addresses []string
	for _, name := range others {
		if address, err := netip.ParseAddr(name); err == nil {
			addresses = append(addresses, address.Unmap().WithZone("").String())
		} else if checkHostname(name) == nil {
			full = append(full, strings.ToLower(name))
		}
	}
	slices.Sort(full)
	slices.Sort(addresses)
	for _, name := range slices.Concat(full, addresses) {
		if !slices.Contains(names, name) && len(names) < maxHostNames {
			names = append(names, name)
		}
	}
	return names, nil
}

// namesForTatu are the principals of what is asked for through Tatu's call.
func (s *Service) namesForTatu(_ context.Context, instance store.Instance) ([]string, error) {
	if !s.cfg.Host.NamePrincipals {
		return nil, nil
	}
	return []string{strings.ToLower(instance.Hostname)}, nil
}
