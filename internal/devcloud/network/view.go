// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"net/netip"
	"strings"
	"time"
)

type object = map[string]any

// record is a member of one of Neutron's lists.
type record interface {
	attribute(name string) (value string, known bool) // what lists are filtered by
	visibleTo(projectID string) bool
	show(admin bool) object
}

func (n *network) attribute(name string) (string, bool) {
	switch name {
	case "id":
		return n.id, true
	case "name":
		return n.Name, true
	case "router:external":
		return yes(n.External), true
	case "project_id", "tenant_id":
		return n.project, true
	}
	return "", false
}

func (n *network) visibleTo(string) bool { return true }

func (n *network) show(bool) object {
	subnets := []string{}
	for _, one := range n.subnets {
		subnets = append(subnets, one.id)
	}
	return object{"id": n.id, "name": n.Name, "tenant_id": n.project, "project_id": n.project, "admin_state_up": true, "mtu": 1450, "status": "ACTIVE",
		"subnets": subnets, "shared": !n.External, "router:external": n.External, "availability_zone_hints": []any{}, "availability_zones": []any{},
		"ipv4_address_scope": nil, "ipv6_address_scope": nil, "description": "", "port_security_enabled": true, "tags": []any{},
		"created_at": n.created.Format(time.RFC3339), "updated_at": n.created.Format(time.RFC3339), "revision_number": 1}
}

func (p *port) attribute(name string) (string, bool) {
	switch name {
	case "id":
		return p.id, true
	case "name":
		return p.Name, true
	case "network_id":
		return p.NetworkID, true
	case "device_id":
		return p.DeviceID, true
	case "device_owner":
		return p.DeviceOwner, true
	case "mac_address":
		return p.mac, true
	case "project_id", "tenant_id":
		return p.ProjectID, true
	}
	return "", false
}

func (p *port) visibleTo(projectID string) bool { return p.ProjectID == projectID }

func (p *port) show(admin bool) object { return p.view(admin) }

// view is a port on the wire. What it is bound to, only administrators see.
func (p *port) view(admin bool) object {
	fixed := []object{}
	for _, one := range p.fixed {
		fixed = append(fixed, object{"subnet_id": one.subnet.id, "ip_address": one.address.String()})
	}
	view := object{"id": p.id, "name": p.Name, "network_id": p.NetworkID, "tenant_id": p.ProjectID, "project_id": p.ProjectID,
		"mac_address": p.mac, "admin_state_up": true, "status": "DOWN", "device_id": p.DeviceID, "device_owner": p.DeviceOwner,
		"fixed_ips": fixed, "allowed_address_pairs": []any{}, "extra_dhcp_opts": []any{}, "security_groups": []any{}, "description": "",
		"binding:vnic_type": "normal", "port_security_enabled": true, "tags": []any{},
		"created_at": p.created.Format(time.RFC3339), "updated_at": p.updated.Format(time.RFC3339), "revision_number": p.revision}
	if p.fqdn != "" {
		assigned := []object{}
		host, _, _ := strings.Cut(p.fqdn, ".")
		for _, one := range p.fixed {
			assigned = append(assigned, object{"hostname": host, "ip_address": one.address.String(), "fqdn": p.fqdn})
		}
		view["dns_name"], view["dns_domain"], view["dns_assignment"] = host, "", assigned
	}
	if admin {
		view["binding:host_id"], view["binding:profile"], view["binding:vif_details"] = p.host, object{}, object{}
		view["binding:vif_type"] = "unbound"
		if p.host != "" {
			view["binding:vif_type"] = "ovs"
		}
	}
	return view
}

func (f *floatingIP) attribute(name string) (string, bool) {
	switch name {
	case "id":
		return f.ID, true
	case "floating_ip_address":
		return f.Address.String(), true
	case "floating_network_id":
		return f.network.id, true
	case "port_id":
		if f.port == nil {
			return "", true
		}
		return f.port.id, true
	case "project_id", "tenant_id":
		return f.project, true
	}
	return "", false
}

func (f *floatingIP) visibleTo(projectID string) bool { return f.project == projectID }

func (f *floatingIP) show(bool) object { return f.view() }

func (f *floatingIP) view() object {
	view := object{"id": f.ID, "tenant_id": f.project, "project_id": f.project, "floating_ip_address": f.Address.String(),
		"floating_network_id": f.network.id, "router_id": nil, "port_id": nil, "fixed_ip_address": nil, "port_details": nil,
		"status": "DOWN", "description": "", "port_forwardings": []any{}, "tags": []any{},
		"created_at": f.created.Format(time.RFC3339), "updated_at": f.updated.Format(time.RFC3339), "revision_number": f.revision}
	if f.dns != [2]string{} {
		view["dns_name"], view["dns_domain"] = f.dns[0], f.dns[1]
	}
	if p := f.port; p != nil {
		view["port_id"], view["fixed_ip_address"], view["router_id"] = p.id, f.fixed.String(), f.network.id
		view["port_details"] = object{"name": p.Name, "network_id": p.NetworkID, "mac_address": p.mac, "admin_state_up": true,
			"status": "DOWN", "device_id": p.DeviceID, "device_owner": p.DeviceOwner}
	}
	return view
}

func yes(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// parseAddresses reads the fixed_ips of a request.
func parseAddresses(given []struct {
	IPAddress string `json:"ip_address"`
}) (all []netip.Addr, err error) {
	for _, one := range given {
		if one.IPAddress == "" {
			continue
		}
		address, err := netip.ParseAddr(one.IPAddress)
		if err != nil {
			return nil, badRequest("Invalid input for fixed_ips. Reason: '" + one.IPAddress + "' is not a valid IP address.")
		}
		all = append(all, address)
	}
	return all, nil
}
