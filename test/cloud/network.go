// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
)

// CreateNetwork makes a network of the fields with one subnet, without DHCP.
func (s *Session) CreateNetwork(ctx context.Context, fields map[string]any, cidr string) (network, subnet string, err error) {
	var net, sub identified
	if err := s.Call(ctx, "network", http.MethodPost, "/networks", object{"network": fields}, &net); err != nil {
		return "", "", err
	}
	network = net["network"].ID
	err = s.Call(ctx, "network", http.MethodPost, "/subnets",
		object{"subnet": object{"network_id": network, "ip_version": 4, "cidr": cidr, "enable_dhcp": false}}, &sub)
	return network, sub["subnet"].ID, err
}

// CreateRouter makes a router from a subnet to a network outside.
func (s *Session) CreateRouter(ctx context.Context, outside, subnet string) error {
	var made identified
	err := s.Call(ctx, "network", http.MethodPost, "/routers",
		object{"router": object{"name": "out", "external_gateway_info": object{"network_id": outside}}}, &made)
	if err != nil {
		return err
	}
	return s.Call(ctx, "network", http.MethodPut, "/routers/"+made["router"].ID+"/add_router_interface", object{"subnet_id": subnet}, nil)
}

// FloatingIP is one of Neutron's.
type FloatingIP struct {
	ID      string
	Address string `json:"floating_ip_address"`
}

// CreateFloatingIP makes a floating IP of a network outside, on a port unless
// that is empty.
func (s *Session) CreateFloatingIP(ctx context.Context, network, port string) (FloatingIP, error) {
	fields := object{"floating_network_id": network}
	if port != "" {
		fields["port_id"] = port
	}
	var made struct{ FloatingIP FloatingIP }
	err := s.Call(ctx, "network", http.MethodPost, "/floatingips", object{"floatingip": fields}, &made)
	return made.FloatingIP, err
}

// MoveFloatingIP associates a floating IP with a port; empty: with none.
func (s *Session) MoveFloatingIP(ctx context.Context, id, port string) error {
	fields := object{"port_id": nil}
	if port != "" {
		fields["port_id"] = port
	}
	return s.Call(ctx, "network", http.MethodPut, "/floatingips/"+id, object{"floatingip": fields}, nil)
}

// DeleteFloatingIP gives a floating IP back.
func (s *Session) DeleteFloatingIP(ctx context.Context, id string) error {
	return s.Call(ctx, "network", http.MethodDelete, "/floatingips/"+id, nil, nil)
}

// PortOf returns the ID of an instance's only port.
func (s *Session) PortOf(ctx context.Context, server string) (string, error) {
	var found struct{ Ports []struct{ ID string } }
	if err := s.Call(ctx, "network", http.MethodGet, "/ports?device_id="+server, nil, &found); err != nil {
		return "", err
	}
	if len(found.Ports) != 1 {
		return "", fmt.Errorf("the instance %s has %d ports", server, len(found.Ports))
	}
	return found.Ports[0].ID, nil
}

// FindNetwork returns the ID of the network of that name.
func (s *Session) FindNetwork(ctx context.Context, name string) (string, error) {
	var found struct{ Networks []struct{ ID string } }
	if err := s.Call(ctx, "network", http.MethodGet, "/networks?name="+url.QueryEscape(name), nil, &found); err != nil {
		return "", err
	}
	if len(found.Networks) != 1 {
		return "", fmt.Errorf("there are %d networks %s", len(found.Networks), name)
	}
	return found.Networks[0].ID, nil
}
