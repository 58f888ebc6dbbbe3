// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package devcloud is a small OpenStack in one process that speaks the real
// wire protocols on loopback: Keystone v3 (room identity), Nova with its dynamic
// vendordata and its metadata service (room compute), Neutron (room network),
// Glance (room image) and, if wanted, a FreeIPA (room freeipa). What happens in
// Keystone, Nova and Neutron is announced by notifications (room messaging). It
// is for `muster dev`, the demo and tests.
//
// It keeps everything in memory, checks no quota, starts no machine, and is
// never used by the production rooms.
package devcloud

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/devcloud/identity"
	"github.com/muster-cloud/muster/internal/devcloud/image"
	"github.com/muster-cloud/muster/internal/devcloud/messaging"
	"github.com/muster-cloud/muster/internal/devcloud/network"
)

// shutdownTime is how long requests under way may take to finish.
const shutdownTime = 2 * time.Second

// Config is what a Cloud starts with.
type Config struct {
	// Listen is the address of all the services. Default 127.0.0.1:0.
	Listen string
	// Passwords of the seeded users, by name: admin, nova, muster, demo. Who is
	// missing gets a random one; Cloud.Identity.Password tells it.
	Passwords map[string]string
	// MetadataSecret signs instance IDs between Neutron's metadata proxy and
	// Nova (metadata_proxy_shared_secret). Default: random.
	MetadataSecret string
	// VendordataTargets are NAME@URL, as in nova.conf. See also
	// Cloud.Compute.SetVendordataTargets.
	VendordataTargets []string
	// VendordataTimeout bounds each call to a target. Default 5 s.
	VendordataTimeout time.Duration
	// FreeIPA adds a FreeIPA server, which listens at an address of its own.
	FreeIPA *freeipa.Config
	// IdentityFormat is Keystone's notification_format: basic (default) or cadf.
	IdentityFormat string
	// ComputeFormat is Nova's: unversioned (default), versioned or both.
	ComputeFormat string
	// NetworkDomain is Neutron's dns_domain. Empty: Neutron gives ports no names.
	NetworkDomain string
	Now           func() time.Time
	Logger        *slog.Logger
}

// Cloud is the whole cloud. Its services are reached by HTTP, or directly for
// what would be clumsy by HTTP.
type Cloud struct {
	Identity *identity.Service
	Compute  *compute.Service
	Network  *network.Service
	Images   *image.Service
	FreeIPA  *freeipa.Server // nil: there is none
	// Notifier carries what the services announce; see its method To.
	Notifier *messaging.Notifier

	root     string
	listener net.Listener
	server   *http.Server
	ipa      net.Listener
}

// New seeds a cloud and opens its sockets, so that its URLs are known. It serves
// nobody before Run.
func New(cfg Config) (*Cloud, error) {
	listener, err := net.Listen("tcp", cmp.Or(cfg.Listen, "127.0.0.1:0"))
	if err != nil {
		return nil, err
	}
	c := &Cloud{listener: listener, root: "http://" + listener.Addr().String()}
	if err := c.addServices(cfg); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	mux := http.NewServeMux()
	mount(mux, "/identity", c.Identity)
	mount(mux, "/compute", c.Compute)
	mount(mux, "/network", c.Network)
	mount(mux, "/image", c.Images)
	mux.Handle("/openstack/", c.Compute)
	c.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	return c, nil
}

// mount has a service answer below a prefix, and at the prefix itself, where
// clients look for its versions and follow no redirect.
func mount(mux *http.ServeMux, prefix string, service http.Handler) {
	mux.Handle(prefix+"/", http.StripPrefix(prefix, service))
	mux.HandleFunc(prefix, func(w http.ResponseWriter, r *http.Request) {
		root := r.Clone(r.Context())
		root.URL.Path, root.URL.RawPath = "/", ""
		service.ServeHTTP(w, root)
	})
}

func (c *Cloud) addServices(cfg Config) error {
	c.Notifier = messaging.New(cfg.Now, cfg.Logger)
	c.Identity = identity.New(identity.Config{URL: c.AuthURL(), Passwords: cfg.Passwords, Now: cfg.Now,
		Notifier: c.Notifier, CADF: cfg.IdentityFormat == "cadf"})
	c.Identity.AddService("compute", "nova", c.ComputeURL())
	c.Identity.AddService("image", "glance", c.ImageURL())
	c.Identity.AddService("network", "neutron", c.NetworkURL())
	var err error
	c.Network, err = network.New(network.Config{URL: c.NetworkURL(), Keystone: c.Identity, Now: cfg.Now, Notifier: c.Notifier,
		DNSDomain: cfg.NetworkDomain})
	if err != nil {
		return err
	}
	c.Compute, err = compute.New(compute.Config{
		URL: c.ComputeURL(), Keystone: c.Identity, Network: c.Network, MetadataSecret: cmp.Or(cfg.MetadataSecret, rand.Text()),
		VendordataTargets: cfg.VendordataTargets, VendordataTimeout: cfg.VendordataTimeout,
		Now: cfg.Now, Logger: cfg.Logger, Notifier: c.Notifier, NotificationFormat: cfg.ComputeFormat,
	})
	if err != nil {
		return err
	}
	c.Images, err = image.New(image.Config{URL: c.ImageURL(), Keystone: c.Identity, Now: cfg.Now})
	if err != nil || cfg.FreeIPA == nil {
		return err
	}
	if c.FreeIPA, err = freeipa.New(*cfg.FreeIPA); err != nil {
		return err
	}
	c.ipa, err = net.Listen("tcp", "127.0.0.1:0")
	return err
}

// Run serves until ctx ends, then finishes the requests under way, and returns nil.
func (c *Cloud) Run(ctx context.Context) error {
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return c.serve(running) })
	if c.FreeIPA != nil {
		group.Go(func() error { return c.FreeIPA.Serve(running, c.ipa) })
	}
	return group.Wait()
}

func (c *Cloud) serve(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- c.server.Serve(c.listener) }()
	notifying := make(chan error, 1)
	untilClosed, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() { notifying <- c.Notifier.Run(untilClosed) }()
	defer func() {
		c.Compute.Close()
		cancel()
		<-notifying
	}()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	finish, cancelFinish := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancelFinish()
	if c.server.Shutdown(finish) != nil {
		_ = c.server.Close() // what is still open has had its time
	}
	<-served
	return nil
}

// Close releases the sockets of a Cloud whose Run was never called.
func (c *Cloud) Close() error {
	err := c.listener.Close()
	if c.ipa != nil {
		err = errors.Join(err, c.ipa.Close())
	}
	return err
}

// AuthURL is Keystone's address, ending in /v3.
func (c *Cloud) AuthURL() string { return c.root + "/identity/v3" }

// ComputeURL is Nova's address, ending in /v2.1.
func (c *Cloud) ComputeURL() string { return c.root + "/compute/v2.1" }

// NetworkURL is Neutron's address, without version.
func (c *Cloud) NetworkURL() string { return c.root + "/network" }

// ImageURL is Glance's address, without version.
func (c *Cloud) ImageURL() string { return c.root + "/image" }

// FreeIPAAddress is HOST:PORT of the FreeIPA server, or nothing without one.
func (c *Cloud) FreeIPAAddress() string {
	if c.ipa == nil {
		return ""
	}
	return c.ipa.Addr().String()
}

// MetadataURL is the root of Nova's metadata service.
func (c *Cloud) MetadataURL() string { return c.root }
