// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package image is a small Glance: the Image API v2 as far as it is about what
// an image is called, whose it is, and its properties, answering as Debian's
// Glance 25 (Zed) does.
//
// It keeps no data of images. It is for development and tests.
package image

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/identity"
)

// Keystone is what Glance needs of the cloud's Keystone.
type Keystone interface {
	Caller(token string) (identity.Caller, bool)
}

// Config is what a Service starts with.
type Config struct {
	// URL is the address of the API, without version.
	URL      string
	Keystone Keystone
	// Now tells the time. Default time.Now.
	Now func() time.Time
}

// Image is what Add needs to know.
type Image struct {
	Name string
	// Owner is a project's ID (32 hex digits).
	Owner string
	// Visibility is public, community, shared or private. Default shared, as in
	// Glance; without members that is as good as private.
	Visibility string
	// Properties are what the owner says of the image, os_distro for example.
	Properties map[string]string
}

type record struct {
	Image
	id      string
	created time.Time
}

// Service is a Glance. It is an http.Handler for its version document and the
// paths below /v2.
type Service struct {
	cfg Config
	mux *http.ServeMux

	mu     sync.Mutex
	images map[string]record
	order  []string // oldest first
	shown  int
}

// New returns a Service without images.
func New(cfg Config) (*Service, error) {
	if cfg.Keystone == nil {
		return nil, errors.New("image: no Keystone given")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Service{cfg: cfg, images: map[string]record{}}
	s.routes()
	return s, nil
}

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

var visibilities = []string{"public", "community", "shared", "private"}

// Add makes an image and returns its ID, with dashes.
func (s *Service) Add(wanted Image) (string, error) {
	if wanted.Visibility == "" {
		wanted.Visibility = "shared"
	}
	if !slices.Contains(visibilities, wanted.Visibility) {
		return "", errors.New("an image's visibility is public, community, shared or private")
	}
	wanted.Properties = maps.Clone(wanted.Properties)
	made := record{Image: wanted, id: identity.NewDashedID(), created: s.cfg.Now().UTC()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[made.id] = made
	s.order = append(s.order, made.id)
	return made.id, nil
}

// Delete removes an image, and tells whether it was there.
func (s *Service) Delete(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.images[identity.DashedID(id)]; !ok {
		return false
	}
	delete(s.images, identity.DashedID(id))
	s.order = slices.DeleteFunc(s.order, func(other string) bool { return other == identity.DashedID(id) })
	return true
}

// Shown counts the requests for single images so far.
func (s *Service) Shown() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown
}

// visible finds an image that the caller may see.
func (s *Service) visible(id string, caller identity.Caller) (record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown++
	found, ok := s.images[identity.DashedID(id)]
	return found, ok && found.visibleTo(caller)
}

func (r record) visibleTo(caller identity.Caller) bool {
	return r.Visibility == "public" || r.Visibility == "community" || r.ownedBy(caller)
}

func (r record) ownedBy(caller identity.Caller) bool {
	return r.Owner == caller.ProjectID || slices.Contains(caller.Roles, "admin")
}
