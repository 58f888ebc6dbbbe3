// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/openstack"
)

// convergence is what follows the cloud.
type convergence struct {
	queue      *converge.Queue
	comparison *converge.Comparison
}

// recheckAfter is how much longer than a replica believes in roles a change is
// looked at again: the time that issuing by them may take.
const recheckAfter = 2 * time.Second

// buildConvergence leaves s.convergence nil where it is not enabled.
func (s *Server) buildConvergence() error {
	cfg := s.cfg.Converge
	if !cfg.Enabled {
		return nil
	}
	nova, err := s.servers()
	if err != nil {
		return fmt.Errorf("[nova]: %w", err)
	}
	settings := converge.Config{
		Keystone: s.directory, Caches: caches{sessions{s}}, Nova: nova, Authority: s.authority, Records: s.store,
		CreateAuthorities: cfg.CreateAuthorities, Grace: cfg.Grace, CallsPerSecond: cfg.CallsPerSecond, Logger: s.logger,
	}
	if s.enrolment != nil {
		settings.Enrolments = leaving{s.enrolment.service}
	}
	controllers, err := converge.New(settings)
	if err != nil {
		return fmt.Errorf("[converge]: %w", err)
	}
	c := &convergence{}
	c.queue, err = converge.NewQueue(converge.QueueConfig{
		Controller: controllers, Pending: s.store, Workers: cfg.Workers,
		Recheck: s.cfg.KeystoneAuthToken.RoleCacheTime + recheckAfter, Logger: s.logger, Registerer: s.registry,
	})
	if err != nil {
		return fmt.Errorf("[converge]: %w", err)
	}
	c.comparison, err = converge.NewComparison(converge.ComparisonConfig{
		Controllers: controllers, Queue: c.queue, Leases: s.store, Holder: s.cfg.Host, Interval: cfg.Interval,
		GuardShare: float64(cfg.GuardPercent) / 100, GuardCount: cfg.GuardCount, Logger: s.logger, Registerer: s.registry,
	})
	if err != nil {
		return fmt.Errorf("[converge]: %w", err)
	}
	s.convergence = c
	return nil
}

// run adds what runs to a group.
func (c *convergence) run(ctx context.Context, group *errgroup.Group) {
	group.Go(func() error { return c.queue.Run(ctx) })
	group.Go(func() error { return c.comparison.Run(ctx) })
}

// servers asks Nova in the name of [service_credentials].
func (s *Server) servers() (*openstack.Servers, error) {
	auth, cfg := s.cfg.ServiceCredentials, s.cfg.Nova
	transport, err := keystone.NewTransport(auth.CAFile, auth.Insecure)
	if err != nil {
		return nil, err
	}
	return openstack.NewServers(openstack.Config{
		Auth: logIn(auth), Transport: transport, Region: auth.RegionName, Interface: cfg.Interface,
		Endpoint: text(cfg.EndpointOverride), Timeout: cfg.Timeout, Registerer: s.registry,
	})
}

// caches forgets in every cache.
type caches struct{ sessions }

// ForgetProject implements converge.Caches.
func (c caches) ForgetProject(id string) {
	c.server.tokens.ForgetProject(id)
	c.server.directory.ForgetProject(id)
}

// ForgetAll implements converge.Caches.
func (c caches) ForgetAll() {
	c.server.tokens.ForgetAll()
	c.server.directory.ForgetAll()
}

// leaving orders enrolments to end in the name of convergence.
type leaving struct{ service *enroll.Service }

var convergeActor = enroll.Actor{UserName: "converge"}

// Leave implements converge.Enrolments.
func (l leaving) Leave(ctx context.Context, id string) error {
	return l.service.Leave(ctx, convergeActor, id)
}

// Rebuild implements converge.Enrolments.
func (l leaving) Rebuild(ctx context.Context, id string) error {
	return l.service.Rebuild(ctx, convergeActor, id)
}
