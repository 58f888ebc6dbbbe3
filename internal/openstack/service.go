// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// service is one of OpenStack's, with what bounds and counts the requests to it.
type service struct {
	name    string // as people call it
	cfg     Config
	session *session
	slots   chan struct{}
	seconds *prometheus.HistogramVec
}

// newService checks cfg. kind is the service's in Keystone's catalog, for messages.
func newService(cfg Config, name, kind string, open func(*gophercloud.ProviderClient, gophercloud.EndpointOpts) (*gophercloud.ServiceClient, error)) (
	*service, error) {
	cfg, err := withDefaults(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s service: %w", kind, err)
	}
	s := &service{
		name: name, cfg: cfg, session: &session{cfg: cfg, service: kind, open: open}, slots: make(chan struct{}, cfg.MaxInFlight),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "muster_" + strings.ToLower(name) + "_request_seconds",
			Help:    "Requests to " + name + ", by HTTP status (error: no answer).",
			Buckets: prometheus.ExponentialBuckets(0.001, 3, 9),
		}, []string{"status"}),
	}
	if cfg.Registerer != nil {
		err = cfg.Registerer.Register(s.seconds)
	}
	return s, err
}

// ask makes one request, with a deadline, in one of the slots. If the service
// cannot be asked, the error is an *AwayError.
func (s *service) ask(ctx context.Context, call string, request func(context.Context, *gophercloud.ServiceClient) error) error {
	return away(s.name, s.try(ctx, call, request))
}

func (s *service) try(ctx context.Context, call string, request func(context.Context, *gophercloud.ServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %d requests to %s are waiting already", ErrUnavailable, cap(s.slots), s.name)
	}
	err := s.session.ask(ctx, func(ctx context.Context, client *gophercloud.ServiceClient) error {
		start := time.Now()
		err := request(ctx, client)
		s.seconds.WithLabelValues(statusOf(err)).Observe(time.Since(start).Seconds())
		return err
	})
	switch {
	case errors.Is(err, ErrUnavailable): // it was not asked
		return err
	case gophercloud.ResponseCodeIs(err, http.StatusNotFound):
		return fmt.Errorf("%s: %w", call, ErrNotFound)
	case gophercloud.ResponseCodeIs(err, http.StatusForbidden):
		return fmt.Errorf("%s: %w: give it the role admin", call, ErrForbidden)
	default:
		return explain(call, err)
	}
}

func statusOf(err error) string {
	var unexpected gophercloud.ErrUnexpectedResponseCode
	switch {
	case err == nil:
		return "200"
	case errors.As(err, &unexpected):
		return strconv.Itoa(unexpected.Actual)
	default:
		return "error"
	}
}
