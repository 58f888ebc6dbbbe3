// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openstack_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/devcloudtest"
	"github.com/muster-cloud/muster/internal/openstack"
)

// gate is a Keystone before which log-ins can be held up.
type gate struct {
	cloud  *devcloud.Cloud
	cfg    openstack.Config
	logins atomic.Int32
	hold   atomic.Pointer[func(http.ResponseWriter, *http.Request) (answered bool)]
}

func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{cloud: devcloudtest.Start(t, devcloud.Config{})}
	target, err := url.Parse(g.cloud.AuthURL())
	if err != nil {
		t.Fatal(err)
	}
	keystone := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: target.Host})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			g.logins.Add(1)
			if hold := g.hold.Load(); hold != nil && (*hold)(w, r) {
				return
			}
		}
		keystone.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	g.cfg = cloudConfig(g.cloud, "muster")
	g.cfg.Auth.IdentityEndpoint = front.URL + target.Path
	return g
}

func (g *gate) onLogin(do func(http.ResponseWriter, *http.Request) (answered bool)) {
	g.hold.Store(&do)
}

// TestLogInOutlivesWhoBeganIt: those who wait with it, or come later, must not
// notice that the first caller gave up.
func TestLogInOutlivesWhoBeganIt(t *testing.T) {
	g := newGate(t)
	arrived, release := make(chan struct{}, 9), make(chan struct{})
	g.onLogin(func(http.ResponseWriter, *http.Request) bool {
		arrived <- struct{}{}
		<-release
		return false
	})
	networks := must(openstack.NewNetworks(g.cfg, false))(t)
	ctx, giveUp := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- networks.CheckRights(ctx) }()
	<-arrived
	giveUp()
	if err := <-first; !errors.Is(err, openstack.ErrUnavailable) {
		t.Errorf("who gave up got %v", err)
	}
	close(release)
	if err := networks.CheckRights(t.Context()); err != nil {
		t.Errorf("who came later: %v", err)
	}
	if n := g.logins.Load(); n != 1 {
		t.Errorf("%d log-ins, want one", n)
	}
}

// TestWaitForALogInIsBounded: whoever waits for somebody else's log-in gives up
// when its own caller does.
func TestWaitForALogInIsBounded(t *testing.T) {
	g := newGate(t)
	arrived, release := make(chan struct{}, 9), make(chan struct{})
	g.onLogin(func(http.ResponseWriter, *http.Request) bool {
		arrived <- struct{}{}
		<-release
		return false
	})
	g.cfg.Timeout = time.Hour
	networks := must(openstack.NewNetworks(g.cfg, false))(t)
	var group sync.WaitGroup
	group.Go(func() {
		if err := networks.CheckRights(t.Context()); err != nil {
			t.Error(err)
		}
	})
	<-arrived
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	second := make(chan error, 1)
	go func() { second <- networks.CheckRights(ctx) }()
	select {
	case err := <-second:
		if !errors.Is(err, openstack.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it still waits for the other's log-in")
	}
	close(release)
	group.Wait()
}

// TestRefusedRenewals: a log-in that Keystone no longer accepts is not repeated
// with each request, and what Keystone says of it is not passed on.
func TestRefusedRenewals(t *testing.T) {
	g := newGate(t)
	now := time.Now()
	g.cfg.Now = func() time.Time { return now }
	images := must(openstack.NewImages(g.cfg))(t)
	if _, err := images.Properties(t.Context(), addImage(t, g.cloud, "public")); err != nil {
		t.Fatal(err)
	}
	g.cloud.Identity.RevokeToken(images.Token())
	g.onLogin(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, "what Keystone says")
		return true
	})
	for range 3 {
		_, err := images.Properties(t.Context(), addImage(t, g.cloud, "public"))
		if !errors.Is(err, openstack.ErrUnavailable) || strings.Contains(err.Error(), "what Keystone says") {
			t.Errorf("got %v", err)
		}
	}
	if n := g.logins.Load(); n != 2 {
		t.Errorf("%d log-ins, want one more than the first", n)
	}
	g.hold.Store(nil)
	now = now.Add(openstack.LoginPause)
	if _, err := images.Properties(t.Context(), addImage(t, g.cloud, "public")); err != nil {
		t.Errorf("after the pause: %v", err)
	}
}
