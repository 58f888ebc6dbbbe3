// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openstack

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/muster-cloud/muster/internal/uuid"
)

// Images asks Glance. It is safe for simultaneous use.
type Images struct {
	glance *service
	asking singleflight.Group
	kept   *lru.Cache[string, answer]
}

type answer struct {
	properties map[string]string
	until      time.Time
}

// NewImages checks cfg and returns an Images. It does not connect: it logs in
// when it is first asked something.
func NewImages(cfg Config) (*Images, error) {
	glance, err := newService(cfg, "Glance", "image", openstack.NewImageV2)
	if err != nil {
		return nil, err
	}
	kept, err := lru.New[string, answer](glance.cfg.CacheSize)
	if err != nil {
		return nil, fmt.Errorf("image service: %w", err)
	}
	return &Images{glance: glance, kept: kept}, nil
}

// Check tells whether Glance answers: it asks for an image that is not there.
//
// Errors: ErrForbidden, ErrUnavailable, that of ctx.
func (i *Images) Check(ctx context.Context) error {
	_, err := i.Properties(ctx, "00000000-0000-0000-0000-000000000000")
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Properties returns those properties of an image that are text: os_distro,
// say, and what its owner added. Callers share the map: read only. All who ask
// for one image at one time share one request.
//
// Errors: ErrNotFound, also for what can be no image's ID; ErrForbidden;
// ErrUnavailable; that of ctx.
func (i *Images) Properties(ctx context.Context, imageID string) (map[string]string, error) {
	id, err := uuid.Parse(imageID)
	if err != nil {
		return nil, fmt.Errorf("image: %w", ErrNotFound)
	}
	if found, ok := i.kept.Get(id); ok && i.glance.cfg.Now().Before(found.until) {
		return found.properties, nil
	}
	result := i.asking.DoChan(id, func() (any, error) {
		// It goes on for the others when the first of them gives up.
		return i.fetch(context.WithoutCancel(ctx), id)
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(map[string]string), nil
	}
}

func (i *Images) fetch(ctx context.Context, id string) (map[string]string, error) {
	var found *images.Image
	err := i.glance.ask(ctx, "show image "+id, func(ctx context.Context, client *gophercloud.ServiceClient) (err error) {
		found, err = images.Get(ctx, client, uuid.Dashed(id)).Extract()
		return err
	})
	if err != nil {
		return nil, err
	}
	properties := make(map[string]string)
	for name, value := range found.Properties {
		if text, ok := value.(string); ok {
			properties[name] = text
		}
	}
	i.kept.Add(id, answer{properties, i.glance.cfg.Now().Add(i.glance.cfg.CacheTime)})
	return properties, nil
}
