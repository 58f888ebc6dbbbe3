// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"

	"github.com/muster-cloud/muster/internal/uuid"
)

const (
	// networkPage is how much of a list is asked for at a time. A Neutron that is
	// set to less (pagination_max_limit) gives less.
	networkPage = 1000
	// maxFiltered is how many values a filter holds, so that the URL stays short
	// enough for the proxies before Neutron.
	maxFiltered = 40
)

// Port is what Muster wants to know of an instance's port. IDs are 32 hex digits.
type Port struct {
	ID, NetworkID string
	InstanceID    string
	ProjectID     string // whose port it is, which need not be whose instance
	Addresses     []netip.Addr
	// Names are the full names that Neutron's extension dns-integration gives some of the addresses:
	// lower-case, without the trailing dot.
	Names map[netip.Addr]string
}

// FloatingIP is what Muster wants to know of a floating IP that leads to a
// port. IDs are 32 hex digits.
type FloatingIP struct {
	ID, PortID string
	NetworkID  string // that it is reached from
	Address    netip.Addr
	Name       string // as the names of a port; empty: none
}

// Networks asks Neutron. It caches nothing, and is safe for simultaneous use.
//
// Neutron shows those who may not see everything a part of each list, and does
// not say so: before something that is missing in a list counts as gone, see
// CheckRights.
type Networks struct {
	neutron *service
	names   bool // those of addresses are asked for
}

// NewNetworks checks cfg and returns a Networks. It does not connect: it logs
// in when it is first asked something. With names it also asks under which
// names addresses are in the DNS.
func NewNetworks(cfg Config, names bool) (*Networks, error) {
	neutron, err := newService(cfg, "Neutron", "network", openstack.NewNetworkV2)
	return &Networks{neutron: neutron, names: names}, err
}

// fields is what is asked of each member of a list: Neutron leaves out what it
// does not know, as it does without its extension dns-integration.
func (n *Networks) fields(always []string, ofNames ...string) []string {
	if n.names {
		return append(always, ofNames...)
	}
	return always
}

// CheckRights tells whether Neutron shows this caller what belongs to other
// projects. It asks for what Neutron gives to administrators only, by the same
// rule: all quotas (get_quota).
//
// Errors: ErrForbidden, ErrUnavailable, that of ctx.
func (n *Networks) CheckRights(ctx context.Context) error {
	err := n.neutron.ask(ctx, "list quotas", func(ctx context.Context, client *gophercloud.ServiceClient) error {
		var all any
		_, err := client.Get(ctx, client.ServiceURL("quotas"), &all, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK}})
		return err
	})
	return misplaced("quotas", err)
}

// misplaced turns a 404 for a whole list into what it is: no answer.
func misplaced(collection string, err error) error {
	if errors.Is(err, ErrNotFound) {
		return away("Neutron", fmt.Errorf("%w: the list of %s is not where Neutron has it; check endpoint_override", ErrUnavailable, collection))
	}
	return err
}

// InstancePorts returns the ports of an instance.
//
// Errors: ErrForbidden, ErrUnavailable, that of ctx.
func (n *Networks) InstancePorts(ctx context.Context, instanceID string) ([]Port, error) {
	canonical, err := uuid.Parse(instanceID)
	if err != nil {
		return nil, nil
	}
	var all []Port
	err = n.ports(ctx, url.Values{"device_id": {uuid.Dashed(canonical)}}, func(p Port) error {
		if p.InstanceID == canonical {
			all = append(all, p)
		}
		return nil
	})
	return all, err
}

// PortFloatingIPs returns the floating IPs that lead to one of the ports.
//
// Errors: ErrForbidden, ErrUnavailable, that of ctx.
func (n *Networks) PortFloatingIPs(ctx context.Context, portIDs []string) ([]FloatingIP, error) {
	var all []FloatingIP
	for some := range slices.Chunk(portIDs, maxFiltered) {
		query := url.Values{}
		for _, id := range some {
			query.Add("port_id", uuid.Dashed(id))
		}
		err := n.floatingIPs(ctx, query, func(f FloatingIP) error {
			if slices.Contains(some, f.PortID) {
				all = append(all, f)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// EachPort calls do with every port of an instance, of every project, in
// pages. That the list was whole is known only when it returns nil.
//
// Errors: that of do, ErrForbidden, ErrUnavailable, that of ctx.
func (n *Networks) EachPort(ctx context.Context, do func(Port) error) error {
	return n.ports(ctx, url.Values{}, do)
}

// EachFloatingIP calls do with every floating IP that leads to a port, of every
// project, in pages. That the list was whole is known only when it returns nil.
//
// Errors: that of do, ErrForbidden, ErrUnavailable, that of ctx.
func (n *Networks) EachFloatingIP(ctx context.Context, do func(FloatingIP) error) error {
	return n.floatingIPs(ctx, url.Values{}, do)
}

// ports lists ports of instances: those whose user's kind is compute:ZONE.
func (n *Networks) ports(ctx context.Context, query url.Values, do func(Port) error) error {
	query["fields"] = n.fields([]string{"id", "device_id", "device_owner", "network_id", "project_id", "fixed_ips"}, "dns_assignment")
	return n.pages(ctx, "ports", query, func(raw json.RawMessage) error {
		var one struct {
			ID          string
			DeviceID    string `json:"device_id"`
			DeviceOwner string `json:"device_owner"`
			NetworkID   string `json:"network_id"`
			ProjectID   string `json:"project_id"`
			FixedIPs    []struct {
				IPAddress string `json:"ip_address"`
			} `json:"fixed_ips"`
			DNSAssignment []struct {
				IPAddress string `json:"ip_address"`
				FQDN      string `json:"fqdn"`
			} `json:"dns_assignment"`
		}
		if err := json.Unmarshal(raw, &one); err != nil {
			return away("Neutron", fmt.Errorf("%w: a port is not as Neutron writes it", ErrUnavailable))
		}
		instance, err := uuid.Parse(one.DeviceID)
		if err != nil || !strings.HasPrefix(one.DeviceOwner, "compute:") {
			return nil
		}
		port := Port{InstanceID: instance}
		if port.ID, err = uuid.Parse(one.ID); err != nil {
			return away("Neutron", fmt.Errorf("%w: a port's ID is no UUID", ErrUnavailable))
		}
		if port.NetworkID, err = uuid.Parse(one.NetworkID); err != nil {
			return away("Neutron", fmt.Errorf("%w: the ID of a port's network is no UUID", ErrUnavailable))
		}
		// Nova's projects have UUIDs; a port of any other is none of an instance's.
		port.ProjectID, _ = uuid.Parse(one.ProjectID)
		for _, fixed := range one.FixedIPs {
			if address, err := netip.ParseAddr(fixed.IPAddress); err == nil && address.Zone() == "" {
				port.Addresses = append(port.Addresses, address.Unmap())
			}
		}
		for _, assigned := range one.DNSAssignment {
			address, err := netip.ParseAddr(assigned.IPAddress)
			if name := fullName(assigned.FQDN); err == nil && name != "" {
				if port.Names == nil {
					port.Names = make(map[netip.Addr]string)
				}
				port.Names[address.Unmap()] = name
			}
		}
		return do(port)
	})
}

// fullNames are host names of at least two labels (RFC 1123, 2.1).
var fullNames = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// maxFullName is the longest name in the DNS (RFC 1035, 2.3.4, as text without the trailing dot).
const maxFullName = 253

// fullName returns a name in lower case and without its trailing dot, or "" for what is not the full
// name of a host.
func fullName(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if len(name) > maxFullName || !fullNames.MatchString(name) {
		return ""
	}
	return name
}

// floatingIPs lists floating IPs that lead to a port.
func (n *Networks) floatingIPs(ctx context.Context, query url.Values, do func(FloatingIP) error) error {
	query["fields"] = n.fields([]string{"id", "port_id", "floating_network_id", "floating_ip_address"}, "dns_name", "dns_domain")
	return n.pages(ctx, "floatingips", query, func(raw json.RawMessage) error {
		var one struct {
			ID                string
			PortID            *string `json:"port_id"`
			FloatingNetworkID string  `json:"floating_network_id"`
			FloatingIPAddress string  `json:"floating_ip_address"`
			DNSName           string  `json:"dns_name"`
			DNSDomain         string  `json:"dns_domain"`
		}
		if err := json.Unmarshal(raw, &one); err != nil {
			return away("Neutron", fmt.Errorf("%w: a floating IP is not as Neutron writes it", ErrUnavailable))
		}
		if one.PortID == nil || *one.PortID == "" {
			return nil
		}
		id, err1 := uuid.Parse(one.ID)
		port, err2 := uuid.Parse(*one.PortID)
		network, err3 := uuid.Parse(one.FloatingNetworkID)
		address, err4 := netip.ParseAddr(one.FloatingIPAddress)
		if errors.Join(err1, err2, err3, err4) != nil || address.Zone() != "" {
			return away("Neutron", fmt.Errorf("%w: a floating IP has an ID or an address that is none", ErrUnavailable))
		}
		name := ""
		if one.DNSName != "" && one.DNSDomain != "" {
			name = fullName(one.DNSName + "." + one.DNSDomain)
		}
		return do(FloatingIP{ID: id, PortID: port, NetworkID: network, Address: address.Unmap(), Name: name})
	})
}

// page is a part of a list. Neutron adds a link where there may be more.
type page struct {
	items []json.RawMessage
	ids   []string
	more  bool
}

// end is the ID of the last member, "" if there is none.
func (p page) end() string {
	if len(p.ids) == 0 {
		return ""
	}
	return p.ids[len(p.ids)-1]
}

// pages calls do with each member of a list, in the order of their IDs.
func (n *Networks) pages(ctx context.Context, collection string, query url.Values, do func(json.RawMessage) error) error {
	query.Set("limit", strconv.Itoa(networkPage))
	query.Set("sort_key", "id")
	query.Set("sort_dir", "asc")
	for last := (page{}); ; {
		next, err := n.pageAfter(ctx, collection, query, last)
		if err != nil {
			return err
		}
		for i, item := range next.items {
			// What was there before comes again after a marker from further up.
			if next.ids[i] <= last.end() {
				continue
			}
			if err := do(item); err != nil {
				return err
			}
		}
		if !next.more || len(next.ids) == 0 {
			return nil
		}
		if next.end() <= last.end() {
			return away("Neutron", fmt.Errorf("%w: list %s: the same page again", ErrUnavailable, collection))
		}
		last = next
	}
}

// pageAfter returns the page that follows. Neutron answers 404 if the member
// that is given as marker was removed meanwhile: then the one before it serves.
func (n *Networks) pageAfter(ctx context.Context, collection string, query url.Values, last page) (page, error) {
	if len(last.ids) == 0 {
		first, err := n.page(ctx, collection, query)
		return first, misplaced(collection, err)
	}
	for _, marker := range slices.Backward(last.ids) {
		query.Set("marker", marker)
		next, err := n.page(ctx, collection, query)
		if !errors.Is(err, ErrNotFound) {
			return next, err
		}
	}
	return page{}, away("Neutron", fmt.Errorf("%w: list %s: all that the last page held is gone", ErrUnavailable, collection))
}

func (n *Networks) page(ctx context.Context, collection string, query url.Values) (page, error) {
	var body map[string]json.RawMessage
	err := n.neutron.ask(ctx, "list "+collection, func(ctx context.Context, client *gophercloud.ServiceClient) error {
		_, err := client.Get(ctx, client.ServiceURL(collection)+"?"+query.Encode(), &body, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK}})
		return err
	})
	if err != nil {
		return page{}, err
	}
	var p page
	var links []struct{ Rel string }
	var ids []struct{ ID string }
	list, there := body[collection]
	if !there || json.Unmarshal(list, &p.items) != nil || json.Unmarshal(list, &ids) != nil {
		return page{}, away("Neutron", fmt.Errorf("%w: list %s: the answer holds no list", ErrUnavailable, collection))
	}
	if given, ok := body[collection+"_links"]; ok && json.Unmarshal(given, &links) != nil {
		return page{}, away("Neutron", fmt.Errorf("%w: list %s: the answer does not say whether there is more", ErrUnavailable, collection))
	}
	for _, one := range ids {
		p.ids = append(p.ids, one.ID)
	}
	for _, link := range links {
		p.more = p.more || link.Rel == "next"
	}
	return p, nil
}
