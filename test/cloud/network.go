// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"context"
	"net/http"
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
