// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openstack_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/devcloudtest"
	"github.com/muster-cloud/muster/internal/devcloud/image"
	"github.com/muster-cloud/muster/internal/openstack"
)

// cloudConfig is the log-in of a user of the cloud, in project service.
func cloudConfig(cloud *devcloud.Cloud, user string) openstack.Config {
	return openstack.Config{
		Auth: gophercloud.AuthOptions{
			IdentityEndpoint: cloud.AuthURL(), Username: user, Password: cloud.Identity.Password(user), DomainName: "Default",
			Scope: &gophercloud.AuthScope{ProjectName: "service", DomainName: "Default"},
		},
		Transport: http.DefaultTransport, Interface: "internal",
	}
}

func newImages(t *testing.T, cfg openstack.Config) *openstack.Images {
	t.Helper()
	images, err := openstack.NewImages(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return images
}

func addImage(t *testing.T, cloud *devcloud.Cloud, visibility string) string {
	t.Helper()
	id, err := cloud.Images.Add(image.Image{Name: "web", Owner: cloud.Identity.ProjectID("demo"), Visibility: visibility,
		Properties: map[string]string{"ipa_enroll": "True", "os_distro": "debian", "os_version": "12"}})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestProperties(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	id := addImage(t, cloud, "private")
	images := newImages(t, cloudConfig(cloud, "muster"))
	for _, spelling := range []string{id, strings.ToUpper(id), strings.ReplaceAll(id, "-", "")} {
		properties, err := images.Properties(t.Context(), spelling)
		if err != nil {
			t.Fatal(err)
		}
		if properties["ipa_enroll"] != "True" || properties["os_distro"] != "debian" || properties["os_version"] != "12" {
			t.Errorf("%s: %v", spelling, properties)
		}
	}
	if n := cloud.Images.Shown(); n != 1 {
		t.Errorf("Glance was asked %d times, want once", n)
	}
}

func TestPropertiesOfWhatIsNotThere(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	nova, err := cloud.Identity.CreateUser("outsider", "secret")
	if err != nil {
		t.Fatal(err)
	}
	if err := cloud.Identity.Grant(nova, cloud.Identity.ProjectID("service"), "member"); err != nil {
		t.Fatal(err)
	}
	images := newImages(t, cloudConfig(cloud, "outsider"))
	for _, id := range []string{addImage(t, cloud, "private"), "4787d9c3-9dbe-4704-a3c9-3fad9c9a0a1d", "../v2/images", ""} {
		if _, err := images.Properties(t.Context(), id); !errors.Is(err, openstack.ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if _, err := images.Properties(t.Context(), addImage(t, cloud, "community")); err != nil {
		t.Error(err)
	}
}

// A token that Keystone no longer knows costs one more log-in, not an answer.
func TestPropertiesAfterTheTokenEnded(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	images := newImages(t, cloudConfig(cloud, "muster"))
	if _, err := images.Properties(t.Context(), addImage(t, cloud, "public")); err != nil {
		t.Fatal(err)
	}
	cloud.Identity.RevokeToken(images.Token())
	if _, err := images.Properties(t.Context(), addImage(t, cloud, "public")); err != nil {
		t.Error(err)
	}
}

func TestPropertiesAreBelievedForAWhile(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	id := addImage(t, cloud, "public")
	now := time.Now()
	cfg := cloudConfig(cloud, "muster")
	cfg.Now, cfg.CacheTime = func() time.Time { return now }, time.Minute
	images := newImages(t, cfg)
	if _, err := images.Properties(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	cloud.Images.Delete(id)
	now = now.Add(time.Minute - time.Second)
	if _, err := images.Properties(t.Context(), id); err != nil {
		t.Errorf("still cached: %v", err)
	}
	now = now.Add(2 * time.Second)
	if _, err := images.Properties(t.Context(), id); !errors.Is(err, openstack.ErrNotFound) {
		t.Errorf("no longer cached: %v", err)
	}
}

// glance answers requests for images by itself, behind the cloud's Keystone.
func glance(t *testing.T, cfg openstack.Config, answer http.HandlerFunc) openstack.Config {
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	cfg.Endpoint = server.URL
	return cfg
}

const anImage = "4787d9c3-9dbe-4704-a3c9-3fad9c9a0a1d"

func TestFailuresOfGlance(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	reply := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   error
	}{
		{"not found", reply(404, "<html>"), openstack.ErrNotFound},
		{"forbidden", reply(403, "<html>"), openstack.ErrForbidden},
		{"ill", reply(503, ""), openstack.ErrUnavailable},
		{"always unauthorized", reply(401, ""), openstack.ErrUnavailable},
		{"moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, openstack.ErrUnavailable},
		{"no JSON", reply(200, "<html>"), openstack.ErrUnavailable},
		{"a list", reply(200, "[1]"), openstack.ErrUnavailable},
		{"nothing", reply(200, ""), openstack.ErrUnavailable},
		{"silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, openstack.ErrUnavailable},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"id":`)
			panic(http.ErrAbortHandler)
		}, openstack.ErrUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := glance(t, cloudConfig(cloud, "muster"), test.answer)
			if test.name == "silent" {
				cfg.Timeout = 300 * time.Millisecond
			}
			_, err := newImages(t, cfg).Properties(t.Context(), anImage)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestFailuresOfKeystone(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	wrong := cloudConfig(cloud, "muster")
	wrong.Auth.Password = "wrong-and-secret"
	elsewhere := cloudConfig(cloud, "muster")
	elsewhere.Region = "Atlantis"
	for name, cfg := range map[string]openstack.Config{"password": wrong, "region": elsewhere} {
		_, err := newImages(t, cfg).Properties(t.Context(), anImage)
		if !errors.Is(err, openstack.ErrUnavailable) || strings.Contains(err.Error(), "wrong-and-secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A refused log-in is not repeated at once: Keystone locks accounts for that.
func TestRefusedLoginsPause(t *testing.T) {
	var logins atomic.Int32
	keystone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		logins.Add(1)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer keystone.Close()
	now := time.Now()
	images := newImages(t, openstack.Config{
		Auth:      gophercloud.AuthOptions{IdentityEndpoint: keystone.URL + "/v3", UserID: "u", Password: "p"},
		Transport: http.DefaultTransport, Now: func() time.Time { return now },
	})
	for range 3 {
		if _, err := images.Properties(t.Context(), anImage); !errors.Is(err, openstack.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if n := logins.Load(); n != 1 {
		t.Errorf("%d log-ins, want 1", n)
	}
	now = now.Add(openstack.LoginPause)
	_, _ = images.Properties(t.Context(), anImage)
	if n := logins.Load(); n != 2 {
		t.Errorf("%d log-ins after the pause, want 2", n)
	}
}

// All who wait for one image share a request, which outlives the first of them.
func TestOneRequestForAll(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	var asked atomic.Int32
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	images := newImages(t, glance(t, cloudConfig(cloud, "muster"), func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		arrived <- struct{}{}
		<-release
		fmt.Fprint(w, `{"id": "x", "size": null, "os_distro": "debian", "locations": [], "min_ram": 0}`)
	}))
	first, giveUp := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := images.Properties(first, anImage)
		gone <- err
	}()
	<-arrived
	giveUp()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got %v", err)
	}
	var waiting sync.WaitGroup
	for range 20 {
		waiting.Go(func() {
			properties, err := images.Properties(t.Context(), anImage)
			if diff := cmp.Diff(map[string]string{"os_distro": "debian"}, properties); err != nil || diff != "" {
				t.Errorf("%v %s", err, diff)
			}
		})
	}
	close(release)
	waiting.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("Glance was asked %d times, want once", n)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	cfg := glance(t, cloudConfig(cloud, "muster"), func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		fmt.Fprint(w, `{"id": "x", "size": 1}`)
	})
	cfg.MaxInFlight, cfg.Timeout = 1, 3*time.Second // in which a busy machine gets as far as Glance
	images := newImages(t, cfg)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = images.Properties(t.Context(), anImage)
	}()
	select {
	case <-arrived:
	case <-done:
		t.Fatal("Glance was not asked")
	}
	if _, err := images.Properties(t.Context(), "00000000-9dbe-4704-a3c9-3fad9c9a0a1d"); !errors.Is(err, openstack.ErrUnavailable) {
		t.Errorf("more than the limit: %v", err)
	}
	close(release)
	<-done
}

func TestNewImagesRefuses(t *testing.T) {
	good := openstack.Config{Auth: gophercloud.AuthOptions{IdentityEndpoint: "http://k/v3"}, Transport: http.DefaultTransport}
	for name, change := range map[string]func(*openstack.Config){
		"no Keystone":      func(c *openstack.Config) { c.Auth.IdentityEndpoint = "" },
		"no transport":     func(c *openstack.Config) { c.Transport = nil },
		"negative timeout": func(c *openstack.Config) { c.Timeout = -1 },
		"negative cache":   func(c *openstack.Config) { c.CacheSize = -1 },
	} {
		cfg := good
		change(&cfg)
		if _, err := openstack.NewImages(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	cfg := good
	cfg.Registerer = prometheus.NewRegistry()
	newImages(t, cfg)
	if _, err := openstack.NewImages(cfg); err == nil {
		t.Error("the same metrics twice: accepted")
	}
}
