// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"github.com/muster-cloud/muster/test/cloud"
)

type object = map[string]any

// seedIdentity makes the services' users and the catalog.
func (o *OpenStack) seedIdentity(ctx context.Context) error {
	admin, err := o.login(ctx)
	if err != nil {
		return err
	}
	project, err := admin.Create(ctx, "project", object{"name": "service"})
	if err != nil {
		return err
	}
	roles := map[string]string{"admin": "", "service": ""}
	for name := range roles {
		found, err := admin.Find(ctx, "role", name)
		if err == nil && found == "" {
			found, err = admin.Create(ctx, "role", object{"name": name})
		}
		if err != nil {
			return err
		}
		roles[name] = found
	}
	for _, name := range []string{"glance", "placement", "neutron", "nova", "muster"} {
		user, err := admin.Create(ctx, "user", object{"name": name, "password": o.Password})
		if err != nil {
			return err
		}
		for _, role := range roles {
			if err := admin.Give(ctx, cloud.Assignment("users", user, "projects", project, role)); err != nil {
				return err
			}
		}
	}
	for _, service := range []struct{ kind, name, url string }{
		{"placement", "placement", local(o.ports.placement)}, {"image", "glance", local(o.ports.glance)},
		{"compute", "nova", local(o.ports.nova) + "/v2.1"}, {"network", "neutron", local(o.ports.neutron)},
		{"ssh", "tatu", "http://" + o.Vendordata},
	} {
		if err := addService(ctx, admin, service.kind, service.name, service.url); err != nil {
			return err
		}
	}
	return nil
}

func addService(ctx context.Context, admin *cloud.Session, kind, name, url string) error {
	var made struct{ Service struct{ ID string } }
	body := object{"service": object{"type": kind, "name": name}}
	if err := admin.Call(ctx, "identity", http.MethodPost, "/services", body, &made); err != nil {
		return err
	}
	for _, face := range []string{"public", "internal"} {
		body := object{"endpoint": object{"service_id": made.Service.ID, "interface": face, "url": url, "region_id": region}}
		if err := admin.Call(ctx, "identity", http.MethodPost, "/endpoints", body, nil); err != nil {
			return err
		}
	}
	return nil
}

func (o *OpenStack) login(ctx context.Context) (*cloud.Session, error) {
	return cloud.Login(ctx, o.AuthURL, "admin", o.Password, "admin")
}

// seedCloud makes what instances are made of, and waits for the compute host.
func (o *OpenStack) seedCloud(ctx context.Context) error {
	admin, err := o.login(ctx)
	if err != nil {
		return err
	}
	var flavor struct{ Flavor struct{ ID string } }
	body := object{"flavor": object{"name": "tiny", "ram": 64, "vcpus": 1, "disk": 1}}
	err = admin.Call(ctx, "compute", http.MethodPost, "/flavors", body, &flavor)
	o.Flavor = flavor.Flavor.ID
	if err := cmp.Or(err, o.seedImages(ctx, admin), o.seedNetworks(ctx, admin)); err != nil {
		return err
	}
	return cloud.Await(ctx, daemonTimeout, func(ctx context.Context) error {
		var found struct{ Hypervisors []object }
		err := admin.Call(ctx, "compute", http.MethodGet, "/os-hypervisors", nil, &found)
		if err == nil && len(found.Hypervisors) == 0 {
			err = errors.New("Nova has no compute host:\n" + string(o.log("nova-compute")))
		}
		return err
	})
}

func (o *OpenStack) seedImages(ctx context.Context, admin *cloud.Session) error {
	for id, enroll := range map[*string]string{&o.Image: "False", &o.AskingImage: "True"} {
		var made struct{ ID string }
		err := admin.Call(ctx, "image", http.MethodPost, "/images", object{"name": "tiny", "disk_format": "raw", "container_format": "bare",
			"visibility": "public", "os_distro": "debian", "os_version": "12", "ipa_enroll": enroll}, &made)
		if err != nil {
			return err
		}
		*id = made.ID
		if err := admin.Upload(ctx, made.ID, make([]byte, 512)); err != nil {
			return err
		}
	}
	return nil
}

// seedNetworks makes a network for instances, and one outside, with a router
// between them.
func (o *OpenStack) seedNetworks(ctx context.Context, admin *cloud.Session) error {
	inside, subnet, err := admin.CreateNetwork(ctx, object{"name": "inside", "shared": true}, "10.42.0.0/16")
	if err != nil {
		return err
	}
	outside, _, err := admin.CreateNetwork(ctx, object{"name": "outside", "router:external": true, "provider:network_type": "flat",
		"provider:physical_network": "outside"}, "203.0.113.0/24")
	if err != nil {
		return err
	}
	o.Network, o.PublicNetwork = inside, outside
	return admin.CreateRouter(ctx, outside, subnet)
}
