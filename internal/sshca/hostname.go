// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"context"
	"fmt"
	"strings"

	"github.com/muster-cloud/muster/internal/store"
)

// Names tells under which names and addresses an instance is reached.
// *address.Book is one.
type Names interface {
	// Names returns them in an order that stays while nothing changes.
	Names(ctx context.Context, instance store.Instance) ([]string, error)
}

// HostNames returns the principals that an instance's host certificates should
// have: its host name, its full name, and its addresses.
func (s *Service) HostNames(ctx context.Context, instance store.Instance) ([]string, error) {
	if s.cfg.Names == nil {
		return []string{strings.ToLower(instance.Hostname)}, nil
	}
	names, err := s.cfg.Names.Names(ctx, instance)
	if err == nil && len(names) == 0 {
		// A certificate without principals would serve for every host.
		err = fmt.Errorf("instance %s has no name", instance.ID)
	}
	return names, err
}

// namesForTatu are the principals of what is asked for through Tatu's call.
func (s *Service) namesForTatu(ctx context.Context, instance store.Instance) ([]string, error) {
	if s.cfg.Host.Unnamed {
		return nil, nil
	}
	return s.HostNames(ctx, instance)
}
