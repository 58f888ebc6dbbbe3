// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package openstack asks OpenStack's services, Keystone apart, the few things
// that Muster needs to know: of Glance, the properties of an image; of Nova,
// which servers there are; of Neutron, which addresses they have.
//
// It changes nothing there, decides nothing, and never logs a token.
package openstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"
)

var (
	// ErrNotFound means that the service answered that there is no such object.
	ErrNotFound = errors.New("not found")
	// ErrForbidden means that the service does not show the object to Muster's
	// service user.
	ErrForbidden = errors.New("the service user of Muster may not see it")
	// ErrUnavailable means that the service, or Keystone before it, could not be asked.
	ErrUnavailable = errors.New("cannot ask OpenStack")
)

// AwayError tells which service could not be asked. It is an [ErrUnavailable].
type AwayError struct {
	Service string // as people call it: Nova
	Err     error
}

// Error implements error.
func (e *AwayError) Error() string { return e.Service + ": " + e.Err.Error() }

// Unwrap implements errors.
func (e *AwayError) Unwrap() error { return e.Err }

// Away is the service's name.
func (e *AwayError) Away() string { return e.Service }

// away names the service in an error that means that it could not be asked,
// unless another one is named in it.
func away(service string, err error) error {
	var named *AwayError
	if !errors.Is(err, ErrUnavailable) || errors.As(err, &named) {
		return err
	}
	return &AwayError{Service: service, Err: err}
}

// loginPause is for how long a log-in that failed is not repeated, so that
// Keystone does not lock the account for it.
const loginPause = 5 * time.Second

// Config is how to reach the services, and who Muster is there.
type Config struct {
	// Auth is the log-in to Keystone (v3), scoped to a project. Needed.
	Auth gophercloud.AuthOptions
	// Transport makes the connections. Needed: it bounds answers and verifies peers.
	Transport http.RoundTripper
	// Region and Interface ("public", "internal" or "admin") choose the endpoint
	// from Keystone's catalog. Default: the first region, public.
	Region, Interface string
	// Endpoint is the service's address, without version, in place of the catalog's.
	Endpoint string

	// Timeout bounds each request. Default 4 s.
	Timeout time.Duration
	// MaxInFlight is how many requests run at once; more wait. Default 16.
	MaxInFlight int
	// CacheTime is how long an answer is believed. Default 1 min.
	CacheTime time.Duration
	// CacheSize is how many answers are kept. Default 4,096.
	CacheSize int

	// Now tells the time. Default time.Now.
	Now func() time.Time
	// Registerer gets the metrics. Nil: none are registered.
	Registerer prometheus.Registerer
}

func withDefaults(cfg Config) (Config, error) {
	cfg.Interface = cmp.Or(cfg.Interface, string(gophercloud.AvailabilityPublic))
	cfg.Timeout = cmp.Or(cfg.Timeout, 4*time.Second)
	cfg.MaxInFlight = cmp.Or(cfg.MaxInFlight, 16)
	cfg.CacheTime = cmp.Or(cfg.CacheTime, time.Minute)
	cfg.CacheSize = cmp.Or(cfg.CacheSize, 4096)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	switch {
	case cfg.Auth.IdentityEndpoint == "":
		return cfg, errors.New("no address of Keystone to log in at")
	case cfg.Transport == nil:
		return cfg, errors.New("no transport")
	case cfg.Timeout < 0 || cfg.MaxInFlight < 0 || cfg.CacheTime < 0 || cfg.CacheSize < 0:
		return cfg, errors.New("a limit or time-out is negative")
	}
	cfg.Auth.AllowReauth = false // see session
	return cfg, nil
}

// session is a log-in, made when first needed, kept, and made anew when a
// service no longer accepts it. When, is decided here: gophercloud would let one
// caller's cancelled context fail the log-in of all who wait, and would repeat
// one that is refused with each request.
type session struct {
	cfg     Config
	service string // for messages
	open    func(*gophercloud.ProviderClient, gophercloud.EndpointOpts) (*gophercloud.ServiceClient, error)
	logins  singleflight.Group

	mu       sync.Mutex
	client   *gophercloud.ServiceClient
	failure  error
	failedAt time.Time
}

// ask makes a request, and makes it once more, with a new log-in, if the
// service no longer accepts the one at hand.
func (s *session) ask(ctx context.Context, request func(context.Context, *gophercloud.ServiceClient) error) error {
	client, err := s.use(ctx, nil)
	if err != nil {
		return err
	}
	err = request(ctx, client)
	if gophercloud.ResponseCodeIs(err, http.StatusUnauthorized) {
		if client, err = s.use(ctx, client); err != nil {
			return err
		}
		err = request(ctx, client)
	}
	return err
}

// use returns the client of the service: the one at hand unless that is the
// spent one. All who wait share one log-in, which goes on when the first of them
// gives up.
func (s *session) use(ctx context.Context, spent *gophercloud.ServiceClient) (*gophercloud.ServiceClient, error) {
	if client, err := s.known(spent); client != nil || err != nil {
		return client, err
	}
	result := s.logins.DoChan("", func() (any, error) {
		if client, err := s.known(spent); client != nil || err != nil {
			return client, err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Timeout)
		defer cancel()
		client, err := s.login(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.client, s.failure, s.failedAt = client, err, s.cfg.Now()
		return client, err
	})
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: log in to Keystone: %w", ErrUnavailable, ctx.Err())
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*gophercloud.ServiceClient), nil
	}
}

// known returns the client at hand, or why there was none a moment ago, or
// neither.
func (s *session) known(spent *gophercloud.ServiceClient) (*gophercloud.ServiceClient, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil && s.client != spent {
		return s.client, nil
	}
	if s.failure != nil && s.cfg.Now().Sub(s.failedAt) < loginPause {
		return nil, s.failure
	}
	return nil, nil
}

func (s *session) login(ctx context.Context) (*gophercloud.ServiceClient, error) {
	provider, err := openstack.NewClient(s.cfg.Auth.IdentityEndpoint)
	if err != nil {
		return nil, fmt.Errorf("%w: auth_url: %w", ErrUnavailable, err)
	}
	provider.UserAgent.Prepend("muster")
	provider.HTTPClient = http.Client{
		Transport: s.cfg.Transport,
		// gophercloud gives its look at a service's versions no deadline.
		Timeout: s.cfg.Timeout,
		// A redirect would take the token in the headers to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if err := openstack.AuthenticateV3(ctx, provider, &s.cfg.Auth, gophercloud.EndpointOpts{}); err != nil {
		return nil, away("Keystone", explain("log in to Keystone", err))
	}
	if s.cfg.Endpoint != "" {
		// The catalog is passed over.
		endpoint := gophercloud.NormalizeURL(s.cfg.Endpoint)
		provider.EndpointLocator = func(gophercloud.EndpointOpts) (string, error) { return endpoint, nil }
	}
	client, err := s.open(provider, gophercloud.EndpointOpts{
		Region: s.cfg.Region, Availability: gophercloud.Availability(s.cfg.Interface),
	})
	var missing *gophercloud.ErrEndpointNotFound
	if errors.As(err, &missing) {
		return nil, fmt.Errorf("%w: Keystone's catalog has no %s endpoint of the %s service in region %q; "+
			"check region_name, interface and endpoint_override", ErrUnavailable, s.cfg.Interface, s.service, s.cfg.Region)
	}
	return client, explain("find the "+s.service+" service", err)
}

// explain turns an error of gophercloud into one of ours. The peer's own text
// is left out, since it may repeat a token.
func explain(call string, err error) error {
	if err == nil {
		return nil
	}
	var status gophercloud.ErrUnexpectedResponseCode
	if !errors.As(err, &status) {
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, call, err)
	}
	return fmt.Errorf("%w: %s: answered %d", ErrUnavailable, call, status.Actual)
}
