// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/internal/uuid"
)

// convergence is what follows the cloud.
type convergence struct {
	queue      *converge.Queue
	comparison *converge.Comparison
	nova       *openstack.Servers
	neutron    *openstack.Networks // nil: addresses are not followed
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
	c := &convergence{}
	var err error
	c.nova, err = s.servers(s.registry)
	if err != nil {
		return fmt.Errorf("[nova]: %w", err)
	}
	settings := converge.Config{
		Keystone: s.directory, Caches: caches{sessions{s}}, Nova: c.nova, Authority: s.authority, Records: s.store,
		CreateAuthorities: cfg.CreateAuthorities, Grace: cfg.Grace, CallsPerSecond: cfg.CallsPerSecond, Logger: s.logger,
	}
	if s.enrolment != nil {
		settings.Enrolments = enrolments{s.enrolment.service, s.directory}
	}
	if s.cfg.Neutron.Enabled {
		if c.neutron, err = s.networks(s.registry); err != nil {
			return fmt.Errorf("[neutron]: %w", err)
		}
		settings.Neutron = c.neutron
		if s.enrolment != nil && s.cfg.DNS.Enabled {
			settings.DNS, settings.Published = s.enrolment.records, published(s.cfg.DNS)
		}
	}
	controllers, err := converge.New(settings)
	if err != nil {
		return fmt.Errorf("[converge]: %w", err)
	}
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

// servers asks Nova.
func (s *Server) servers(registerer prometheus.Registerer) (*openstack.Servers, error) {
	asking, err := s.asking(s.cfg.Nova.Interface, s.cfg.Nova.EndpointOverride, registerer)
	if err != nil {
		return nil, err
	}
	asking.Timeout = s.cfg.Nova.Timeout
	return openstack.NewServers(asking)
}

// networks asks Neutron.
func (s *Server) networks(registerer prometheus.Registerer) (*openstack.Networks, error) {
	asking, err := s.asking(s.cfg.Neutron.Interface, s.cfg.Neutron.EndpointOverride, registerer)
	if err != nil {
		return nil, err
	}
	asking.Timeout = s.cfg.Neutron.Timeout
	return openstack.NewNetworks(asking, len(s.cfg.Neutron.TrustedDomains) > 0)
}

// asking is how a service is asked in the name of [service_credentials], but for the time that it gets.
func (s *Server) asking(iface string, endpoint *url.URL, registerer prometheus.Registerer) (openstack.Config, error) {
	auth := s.cfg.ServiceCredentials
	transport, err := keystone.NewTransport(auth.CAFile, auth.Insecure)
	return openstack.Config{
		Auth: logIn(auth), Transport: transport, Region: auth.RegionName, Interface: iface, Endpoint: text(endpoint), Registerer: registerer,
	}, err
}

// published reads which networks' addresses go to DNS.
func published(cfg config.DNS) converge.Published {
	canonical := func(networks []string) (all []string) {
		for _, network := range networks {
			if id, err := uuid.Parse(network); err == nil {
				network = id
			}
			all = append(all, network)
		}
		return all
	}
	return converge.Published{Floating: canonical(cfg.FloatingNetworks), Fixed: canonical(cfg.FixedNetworks)}
}

// changed has an instance looked at of which Muster itself knows something new:
// it booted, or FreeIPA has its name now. Its addresses may be followed from now
// on; where none are, there is nothing new to see. A hint that is lost with the
// process is made up for by the next comparison.
func (s *Server) changed(instanceID string) {
	if s.convergence != nil && s.cfg.Neutron.Enabled {
		s.convergence.queue.Offer(context.Background(), []converge.Hint{{
			Key: converge.Key{Kind: converge.Instance, ID: instanceID}, Booted: true,
		}})
	}
}

// caches forgets in every cache of every replica.
type caches struct{ sessions }

// ForgetProject implements converge.Caches.
func (c caches) ForgetProject(id string) {
	c.server.forgetting.forget(forgetProject, id)
}

// ForgetCredential implements converge.Caches.
func (c caches) ForgetCredential(id string) { c.server.forgetting.forget(forgetCredential, id) }

// ForgetAll implements converge.Caches.
func (c caches) ForgetAll() {
	c.server.forgetting.forget(forgetAll, "")
}

// enrolments are ordered in the name of convergence.
type enrolments struct {
	service  *enroll.Service
	projects *keystone.Client
}

var convergeActor = enroll.Actor{UserName: "converge"}

// Leave implements converge.Enrolments.
func (e enrolments) Leave(ctx context.Context, id string) error {
	return e.service.Leave(ctx, convergeActor, id)
}

// Rebuild implements converge.Enrolments.
func (e enrolments) Rebuild(ctx context.Context, id string, at time.Time) error {
	return e.service.Rebuild(ctx, convergeActor, id, at)
}

// Update implements converge.Enrolments. The rules of a project may depend on
// its domain, which Keystone is asked for when there is anything to judge.
func (e enrolments) Update(ctx context.Context, id string, metadata map[string]string) error {
	return e.service.Update(ctx, convergeActor, enroll.Update{InstanceID: id, Metadata: metadata,
		ProjectDomain: func(ctx context.Context, projectID string) (string, error) {
			project, err := e.projects.Project(ctx, projectID)
			return project.DomainID, err
		}})
}

// Differs implements converge.Enrolments.
func (e enrolments) Differs(enrolled store.Enrolment, metadata map[string]string) bool {
	return e.service.Differs(enrolled, metadata)
}

// Astray implements converge.Enrolments.
func (e enrolments) Astray(ctx context.Context, all []store.Enrolment) ([]string, error) {
	return e.service.Astray(ctx, all)
}

// Mend implements converge.Enrolments.
func (e enrolments) Mend(ctx context.Context, id string) error {
	return e.service.Mend(ctx, convergeActor, id)
}
