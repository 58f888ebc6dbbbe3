// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package devcloud is a small OpenStack in one process that speaks the real
// wire protocols on loopback: Keystone v3 (room identity) and Nova with its
// dynamic vendordata and its metadata service (room compute). It is for
// `muster dev`, the demo and tests.
//
// It keeps everything in memory, checks no quota, starts no machine, and is
// never used by the production rooms.
package devcloud

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/devcloud/identity"
)

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
	Now               func() time.Time
	Logger            *slog.Logger
}

// Cloud is the whole cloud. Its services are reached by HTTP, or directly for
// what would be clumsy by HTTP.
type Cloud struct {
	Identity *identity.Service
	Compute  *compute.Service
	listener net.Listener
	server   *http.Server
}

// New seeds a cloud and opens its socket, so that its URLs are known. It serves
// nobody before Run.
func New(cfg Config) (*Cloud, error) { return nil, nil }

// Run serves until ctx ends, then finishes the requests under way, and returns nil.
func (c *Cloud) Run(ctx context.Context) error { return nil }

// Close releases the socket of a Cloud whose Run was never called.
func (c *Cloud) Close() error { return nil }

// AuthURL is Keystone's address, ending in /v3.
func (c *Cloud) AuthURL() string { return "" }

// ComputeURL is Nova's address, ending in /v2.1.
func (c *Cloud) ComputeURL() string { return "" }

// MetadataURL is the root of Nova's metadata service.
func (c *Cloud) MetadataURL() string { return "" }
