// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package network is a small Neutron: networks, ports and floating IPs that are
// records only, with the API v2.0 and the notifications of the real one
// (Debian's Neutron 21, Zed) as far as they are about which address is whose.
//
// It forwards nothing, checks no quota, and knows neither routers nor security
// groups. It is for development and tests.
package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/identity"
	"github.com/muster-cloud/muster/internal/devcloud/messaging"
)

// The networks that are there from the start.
const (
	Private = "private" // every project's: 10.42.0.0/16 and fd42::/64
	Public  = "public"  // external, where floating IPs come from: 203.0.113.0/24
)

// computeOwner is what Nova writes into the ports of its servers.
const computeOwner = "compute:nova"

// Keystone is what Neutron needs of the cloud's Keystone.
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
	// Notifier announces what happens; nil: nothing is announced.
	Notifier *messaging.Notifier
	// DNSDomain is dns_domain, without a trailing dot: the extension dns-integration is there, and servers' ports
	// have names. Empty: it is not.
	DNSDomain string
}

// Service is a Neutron. It is an http.Handler for its version document and the
// paths below /v2.0.
type Service struct {
	cfg Config
	mux *http.ServeMux

	mu       sync.Mutex
	networks map[string]*network
	ports    map[string]*port
	devices  map[string]map[*port]bool // the ports that each device uses
	floating map[string]*floatingIP
	pageSize int // pagination_max_limit
}

// Network is what AddNetwork needs to know.
type Network struct {
	Name     string
	External bool
	Subnets  []netip.Prefix // a port gets an address of each
}

type network struct {
	Network
	id, project string
	subnets     []*subnet
	created     time.Time
}

// subnet hands out addresses.
type subnet struct {
	id     string
	prefix netip.Prefix
	used   map[netip.Addr]bool
	last   netip.Addr
}

// Port is what AddPort needs to know.
type Port struct {
	Name, ProjectID string
	NetworkID       string // empty: of the network Private
	// DeviceID and DeviceOwner say who uses it: a server's ID, and compute:ZONE.
	DeviceID, DeviceOwner string
	// Addresses are of the network's subnets. Empty: a free one of each.
	Addresses []netip.Addr
}

type fixedIP struct {
	subnet  *subnet
	address netip.Addr
}

type port struct {
	Port
	id, mac          string
	fixed            []fixedIP
	host             string
	fqdn             string // with the trailing dot; empty: the extension dns-integration is not there
	revision         int
	created, updated time.Time
}

// FloatingIP is what CreateFloatingIP returns. The ID is written with dashes.
type FloatingIP struct {
	ID      string
	Address netip.Addr
}

type floatingIP struct {
	FloatingIP
	project          string
	network          *network
	port             *port // nil: it leads nowhere
	fixed            netip.Addr
	dns              [2]string // dns_name and dns_domain
	revision         int
	created, updated time.Time
}

// New returns a Service with the networks Private and Public.
func New(cfg Config) (*Service, error) {
	if cfg.Keystone == nil {
		return nil, errors.New("network: no Keystone given")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Service{cfg: cfg, networks: map[string]*network{}, ports: map[string]*port{}, devices: map[string]map[*port]bool{}, floating: map[string]*floatingIP{}}
	s.AddNetwork(Network{Name: Private, Subnets: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/64")}})
	s.AddNetwork(Network{Name: Public, External: true, Subnets: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}})
	s.routes()
	return s, nil
}

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// LimitPages sets how long a page of a list is at most (pagination_max_limit).
// 0: as long as is asked for.
func (s *Service) LimitPages(size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pageSize = size
}

// AddNetwork makes a network that every project may use, and returns its ID.
func (s *Service) AddNetwork(wanted Network) string {
	made := &network{Network: wanted, id: identity.NewDashedID(), created: s.cfg.Now().UTC()}
	for _, prefix := range wanted.Subnets {
		// The first addresses are the network's and its router's.
		made.subnets = append(made.subnets, &subnet{id: identity.NewDashedID(), prefix: prefix, used: map[netip.Addr]bool{}, last: prefix.Masked().Addr().Next()})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.networks[made.id] = made
	return made.id
}

// NetworkID returns the ID of a network, or nothing.
func (s *Service) NetworkID(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.networkID(name)
}

func (s *Service) networkID(name string) string {
	for id, one := range s.networks {
		if one.Name == name {
			return id
		}
	}
	return ""
}

// take returns a free address.
func (n *subnet) take() (netip.Addr, error) {
	for range 1 << 17 {
		if n.last = n.last.Next(); !n.prefix.Contains(n.last.Next()) {
			n.last = n.prefix.Masked().Addr().Next().Next() // the last one is for broadcasts
		}
		if !n.used[n.last] {
			n.used[n.last] = true
			return n.last, nil
		}
	}
	return netip.Addr{}, conflict("IpAddressGenerationFailure", "No more IP addresses available on network.")
}

// AddPort makes a port and returns its ID.
func (s *Service) AddPort(wanted Port) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	made, err := s.addPort(wanted)
	if err != nil {
		return "", err
	}
	return made.id, nil
}

func (s *Service) addPort(wanted Port) (*port, error) {
	if wanted.NetworkID == "" {
		wanted.NetworkID = s.networkID(Private)
	}
	on, ok := s.networks[identity.DashedID(wanted.NetworkID)]
	if !ok {
		return nil, notFound("Network", wanted.NetworkID)
	}
	now := s.cfg.Now().UTC()
	made := &port{Port: wanted, id: identity.NewDashedID(), mac: newMAC(), created: now, updated: now, revision: 1}
	made.NetworkID = on.id
	if err := made.addresses(on); err != nil {
		made.release()
		return nil, err
	}
	s.ports[made.id] = made
	s.assign(made, made.DeviceID)
	s.announce("port.create.end", object{"port": made.view(false)})
	return made, nil
}

// addresses gives a port those that it wants, or one of each subnet.
func (p *port) addresses(on *network) error {
	for _, one := range on.subnets {
		var wanted []netip.Addr
		for _, address := range p.Addresses {
			if one.prefix.Contains(address) {
				wanted = append(wanted, address)
			}
		}
		if len(p.Addresses) == 0 {
			address, err := one.take()
			if err != nil {
				return err
			}
			p.fixed = append(p.fixed, fixedIP{one, address})
		}
		for _, address := range wanted {
			if one.used[address] {
				return conflict("IpAddressAlreadyAllocated", fmt.Sprintf("IP address %s already allocated in subnet %s", address, one.id))
			}
			one.used[address] = true
			p.fixed = append(p.fixed, fixedIP{one, address})
		}
	}
	return nil
}

func (p *port) release() {
	for _, fixed := range p.fixed {
		delete(fixed.subnet.used, fixed.address)
	}
}

// DeletePort removes a port. Floating IPs that lead to it lead nowhere then,
// which nobody is told.
func (s *Service) DeletePort(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone, ok := s.ports[identity.DashedID(id)]
	if !ok {
		return notFound("Port", id)
	}
	s.deletePort(gone)
	return nil
}

func (s *Service) deletePort(gone *port) {
	delete(s.ports, gone.id)
	delete(s.devices[gone.DeviceID], gone)
	gone.release()
	for _, one := range s.floating {
		if one.port == gone {
			one.lead(nil, netip.Addr{}, s.cfg.Now().UTC())
		}
	}
	s.announce("port.delete.end", object{"port": gone.view(true), "port_id": gone.id})
}

// Plug gives a server a port in the network Private, as Nova does when it
// builds one, and its host name where ports have names.
func (s *Service) Plug(serverID, projectID, hostname string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	made, err := s.addPort(Port{ProjectID: projectID, DeviceID: identity.DashedID(serverID)})
	if err == nil {
		if s.cfg.DNSDomain != "" {
			made.fqdn = hostname + "." + s.cfg.DNSDomain + "."
		}
		s.use(made, made.DeviceID, computeOwner)
	}
	return err
}

// assign keeps in mind which device uses a port.
func (s *Service) assign(one *port, device string) {
	if delete(s.devices[one.DeviceID], one); len(s.devices[one.DeviceID]) == 0 {
		delete(s.devices, one.DeviceID)
	}
	one.DeviceID = device
	if s.devices[device] == nil {
		s.devices[device] = map[*port]bool{}
	}
	s.devices[device][one] = true
}

// use says who uses a port from now on.
func (s *Service) use(one *port, device, owner string) {
	s.assign(one, device)
	one.DeviceOwner, one.host = owner, ""
	if owner == computeOwner {
		one.host = "devcloud"
	}
	one.updated = s.cfg.Now().UTC()
	one.revision++
	s.announce("port.update.end", object{"port": one.view(true)})
}

// NamePort gives the addresses of a port a full name, as the extension dns-integration does for one's
// dns_name and its network's dns_domain.
func (s *Service) NamePort(portID, fqdn string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.ports[portID]
	if !ok {
		return notFound("Port", portID)
	}
	one.fqdn, one.updated = fqdn+".", s.cfg.Now().UTC()
	one.revision++
	s.announce("port.update.end", object{"port": one.view(true)})
	return nil
}

// NameFloatingIP sets dns_name and dns_domain of a floating IP, which has a network with the extension
// dns-integration do so once, when it is made.
func (s *Service) NameFloatingIP(id, name, domain string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.floating[id]
	if !ok {
		return notFound("Floating IP", id)
	}
	one.dns = [2]string{name, domain + "."}
	one.updated = s.cfg.Now().UTC()
	one.revision++
	s.announce("floatingip.update.end", object{"floatingip": one.view()})
	return nil
}

// Unplug removes the ports of a server, as Nova does when it deletes one.
func (s *Service) Unplug(serverID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.portsOf(serverID) {
		s.deletePort(one)
	}
}

// portsOf are the ports that Nova made for a server, oldest first.
func (s *Service) portsOf(serverID string) (all []*port) {
	for one := range s.devices[identity.DashedID(serverID)] {
		if one.DeviceOwner == computeOwner {
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b *port) int { return a.created.Compare(b.created) })
	return all
}

// PortOf returns the ID of a server's first port, or nothing.
func (s *Service) PortOf(serverID string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.portsOf(serverID) {
		return one.id
	}
	return ""
}

// Fixed returns the fixed addresses of a server's ports.
func (s *Service) Fixed(serverID string) (all []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.portsOf(serverID) {
		for _, fixed := range one.fixed {
			all = append(all, fixed.address)
		}
	}
	return all
}

// CreateFloatingIP takes a floating IP of the network Public for a project, and
// leads it to a port unless portID is empty.
func (s *Service) CreateFloatingIP(projectID, portID string) (FloatingIP, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	made, err := s.addFloatingIP(projectID, s.networkID(Public), portID)
	if err != nil {
		return FloatingIP{}, err
	}
	return made.FloatingIP, nil
}

func (s *Service) addFloatingIP(projectID, networkID, portID string) (*floatingIP, error) {
	from, ok := s.networks[identity.DashedID(networkID)]
	if !ok {
		return nil, notFound("Network", networkID)
	}
	if !from.External || len(from.subnets) == 0 {
		return nil, badRequest("Bad floatingip request: Network " + from.id + " is not a valid external network.")
	}
	now := s.cfg.Now().UTC()
	made := &floatingIP{FloatingIP: FloatingIP{ID: identity.NewDashedID()}, project: projectID, network: from, created: now, updated: now}
	to, fixed, err := s.target(made, portID)
	if err != nil {
		return nil, err
	}
	if made.Address, err = from.subnets[0].take(); err != nil {
		return nil, err
	}
	made.port, made.fixed = to, fixed
	s.floating[made.ID] = made
	s.announce("floatingip.create.end", object{"floatingip": made.view()})
	return made, nil
}

// target is the port and the fixed address that a floating IP is to lead to.
func (s *Service) target(one *floatingIP, portID string) (to *port, fixed netip.Addr, err error) {
	if portID == "" {
		return nil, netip.Addr{}, nil
	}
	to, ok := s.ports[identity.DashedID(portID)]
	if !ok {
		return nil, netip.Addr{}, notFound("Port", portID)
	}
	for _, f := range to.fixed {
		if f.address.Is4() {
			fixed = f.address
			break
		}
	}
	if !fixed.IsValid() {
		return nil, netip.Addr{}, badRequest("Bad floatingip request: Cannot add floating IP to port " + to.id + " that has no fixed IPv4 addresses.")
	}
	for _, other := range s.floating {
		if other != one && other.port == to && other.fixed == fixed && other.network == one.network {
			return nil, netip.Addr{}, conflict("FloatingIPPortAlreadyAssociated", fmt.Sprintf(
				"Cannot associate floating IP %s (%s) with port %s using fixed IP %s, as that fixed IP already has a floating IP on external network %s.",
				one.Address, one.ID, to.id, fixed, one.network.id))
		}
	}
	return to, fixed, nil
}

// Associate leads a floating IP to a port, wherever it led before; with an empty
// portID it leads nowhere then.
func (s *Service) Associate(floatingIPID, portID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.floating[identity.DashedID(floatingIPID)]
	if !ok {
		return notFound("FloatingIP", floatingIPID)
	}
	return s.associate(one, portID)
}

func (s *Service) associate(one *floatingIP, portID string) error {
	to, fixed, err := s.target(one, portID)
	if err != nil {
		return err
	}
	one.lead(to, fixed, s.cfg.Now().UTC())
	s.announce("floatingip.update.end", object{"floatingip": one.view()})
	return nil
}

func (f *floatingIP) lead(to *port, fixed netip.Addr, at time.Time) {
	f.port, f.fixed, f.updated = to, fixed, at
	f.revision++
}

// DeleteFloatingIP gives a floating IP back.
func (s *Service) DeleteFloatingIP(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone, ok := s.floating[identity.DashedID(id)]
	if !ok {
		return notFound("FloatingIP", id)
	}
	s.deleteFloatingIP(gone)
	return nil
}

func (s *Service) deleteFloatingIP(gone *floatingIP) {
	delete(s.floating, gone.ID)
	delete(gone.network.subnets[0].used, gone.Address)
	s.announce("floatingip.delete.end", object{"floatingip_id": gone.ID, "floatingip": gone.view()})
}

// announce sends a notification; mu is held, so that they come in order.
func (s *Service) announce(event string, payload object) {
	s.cfg.Notifier.Notify("neutron", "network.devcloud", event, payload)
}

func newMAC() string {
	var b [3]byte
	rand.Read(b[:])
	return fmt.Sprintf("fa:16:3e:%02x:%02x:%02x", b[0], b[1], b[2])
}
