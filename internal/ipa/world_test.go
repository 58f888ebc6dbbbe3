// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa_test

import (
	"context"
	"crypto/x509"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/test/services"
)

const nova = "nova/undercloud.example.test"

// world is one FreeIPA server for a test.
type world struct {
	*freeipa.Server
	address string
	port    int
	stop    func()
}

// newWorld starts a FreeIPA server in process, at which nova may do what enrolment needs.
func newWorld(t testing.TB, cfg freeipa.Config) *world {
	t.Helper()
	cfg.Domain = "example.test"
	if cfg.Passwords == nil {
		cfg.Passwords = map[string]string{"admin": "admin-password", nova: "nova-password"}
	}
	s, err := freeipa.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.GrantHostManagement(nova); err != nil {
		t.Fatal(err)
	}
	port, err := services.Port()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Server: s, address: net.JoinHostPort("localhost", strconv.Itoa(port)), port: port}
	w.start(t)
	return w
}

// start lets the server listen, again after a stop.
func (w *world) start(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(w.port)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Serve(ctx, listener) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("FreeIPA server: %v", err)
		}
	}
	t.Cleanup(w.stop)
}

// config is a client's configuration with password log-in to the given servers.
func config(worlds ...*world) ipa.Config {
	cfg := ipa.Config{
		RootCAs:    x509.NewCertPool(),
		Password:   &ipa.Password{User: nova, Password: "nova-password"},
		BackoffMin: time.Millisecond,
		BackoffMax: 20 * time.Millisecond,
		// So long that nobody gives up on a machine that is busy.
		Timeout: time.Minute, DialTimeout: time.Minute, LoginTimeout: time.Minute,
	}
	for _, w := range worlds {
		cfg.Servers = append(cfg.Servers, w.address)
		cfg.RootCAs.AppendCertsFromPEM(w.CA())
	}
	return cfg
}

func newClient(t testing.TB, cfg ipa.Config) *ipa.Client {
	t.Helper()
	c, err := ipa.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
