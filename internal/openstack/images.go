// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/muster-cloud/muster/internal/uuid"
)

// Images asks Glance. It is safe for simultaneous use.
type Images struct {
	cfg     Config
	session *session
	slots   chan struct{}
	asking  singleflight.Group
	kept    *lru.Cache[string, answer]
	seconds *prometheus.HistogramVec
}

type answer struct {
	properties map[string]string
	until      time.Time
}

// NewImages checks cfg and returns an Images. It does not connect: it logs in
// when it is first asked something.
func NewImages(cfg Config) (*Images, error) {
	cfg, err := withDefaults(cfg)
	if err != nil {
		return nil, fmt.Errorf("image service: %w", err)
	}
	kept, err := lru.New[string, answer](cfg.CacheSize)
	if err != nil {
		return nil, fmt.Errorf("image service: %w", err)
	}
	i := &Images{
		cfg: cfg, session: &session{cfg: cfg, service: "image", open: openstack.NewImageV2},
		slots: make(chan struct{}, cfg.MaxInFlight), kept: kept,
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "muster_glance_request_seconds",
			Help:    "Requests to Glance, by HTTP status (error: no answer).",
			Buckets: prometheus.ExponentialBuckets(0.001, 3, 9),
		}, []string{"status"}),
	}
	if cfg.Registerer != nil {
		err = cfg.Registerer.Register(i.seconds)
	}
	return i, err
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
	if found, ok := i.kept.Get(id); ok && i.cfg.Now().Before(found.until) {
		return found.properties, nil
	}
	result := i.asking.DoChan(id, func() (any, error) {
		// It goes on for the others when the first of them gives up.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.cfg.Timeout)
		defer cancel()
		return i.fetch(ctx, id)
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
	release, err := take(ctx, i.slots, "Glance")
	if err != nil {
		return nil, err
	}
	defer release()
	client, err := i.session.use(ctx)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	found, err := images.Get(ctx, client, uuid.Dashed(id)).Extract()
	i.seconds.WithLabelValues(statusOf(err)).Observe(time.Since(start).Seconds())
	switch {
	case gophercloud.ResponseCodeIs(err, http.StatusNotFound):
		return nil, fmt.Errorf("image %s: %w", id, ErrNotFound)
	case gophercloud.ResponseCodeIs(err, http.StatusForbidden):
		return nil, fmt.Errorf("image %s: %w", id, ErrForbidden)
	case err != nil:
		return nil, explain("show an image", err)
	}
	properties := make(map[string]string)
	for name, value := range found.Properties {
		if text, ok := value.(string); ok {
			properties[name] = text
		}
	}
	i.kept.Add(id, answer{properties, i.cfg.Now().Add(i.cfg.CacheTime)})
	return properties, nil
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
