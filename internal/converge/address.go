// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/muster-cloud/muster/internal/dns"
	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/store"
)

// Published says which addresses of instances go to DNS.
type Published struct {
	// Floating are the networks, by ID, whose floating IPs do; Fixed those whose
	// fixed addresses do. AnyNetwork stands for all.
	Floating, Fixed []string
}

// AnyNetwork is every network, in Published.
const AnyNetwork = "*"

// has tells whether an address goes to DNS.
func (p Published) has(a store.Address) bool {
	networks := p.Fixed
	if a.Kind == store.AddressFloating {
		networks = p.Floating
	}
	return slices.Contains(networks, AnyNetwork) || slices.Contains(networks, a.NetworkID)
}

func (p Published) of(addresses []store.Address) (published []netip.Addr) {
	for _, a := range addresses {
		if p.has(a) {
			published = append(published, a.IP)
		}
	}
	return published
}

// looks bounds how often an instance is looked at again because something
// changed meanwhile. Then it is put off.
const looks = 5

var errRestless = errors.New("the addresses of the instance change faster than they can be followed")

// address: the instances that are recorded with a port or floating IP may have
// lost it. Who has it now, the message says too, or the port's record: a
// floating IP's messages name the port.
func (c *Controllers) address(ctx context.Context, id string) (further []Key, err error) {
	holders, err := c.cfg.Records.AddressHolders(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, holder := range holders {
		k, err := c.kept(ctx, holder)
		if err != nil {
			return nil, err
		}
		if !k.since.IsZero() {
			further = append(further, Key{Instance, holder})
			continue
		}
		// Recorded by a replica that did not know yet that the instance was gone.
		if err := c.cfg.Records.SetAddresses(ctx, holder, nil); err != nil {
			return nil, err
		}
	}
	return further, nil
}

// follow has records and DNS agree with what Neutron says of an instance's
// addresses.
func (c *Controllers) follow(ctx context.Context, k kept, projectID string) error {
	if c.cfg.Neutron == nil {
		return nil
	}
	if err := c.recordAddresses(ctx, k.id, projectID); err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	if c.cfg.DNS == nil || k.enrolment.InstanceID == "" {
		return nil
	}
	return dnsFailure(c.publish(ctx, k.id))
}

// dnsFailure tells what somebody must do elsewhere from what may pass.
func dnsFailure(err error) error {
	zone, missing := errors.AsType[*dns.NoZoneError](err)
	switch {
	case err == nil:
		return nil
	case missing:
		return fmt.Errorf("%w: %w", errOperator, zone)
	case errors.Is(err, dns.ErrRefused):
		return fmt.Errorf("%w: DNS records: %w", errOperator, err)
	}
	return fmt.Errorf("DNS records: %w", err)
}

// recordAddresses records what Neutron says, and then asks again: who moved an
// address away before it was recorded here left a hint for those only who were
// recorded with it.
func (c *Controllers) recordAddresses(ctx context.Context, id, projectID string) error {
	for range looks {
		recorded, err := c.cfg.Records.Addresses(ctx, id)
		if err != nil {
			return err
		}
		actual, err := c.askAddresses(ctx, id, projectID)
		if err != nil {
			return err
		}
		if slices.EqualFunc(recorded, actual, sameAddress) {
			return nil
		}
		if loses(recorded, actual) {
			if err := c.checkNeutron(ctx); err != nil {
				return err
			}
		}
		if err := c.cfg.Records.SetAddresses(ctx, id, actual); err != nil {
			return err
		}
		c.cfg.Logger.InfoContext(ctx, "The addresses of an instance changed", "instance", id, "addresses", texts(actual))
	}
	return errRestless
}

// sameAddress compares what an instance's record says, but for its time.
func sameAddress(a, b store.Address) bool {
	return a.SourceID == b.SourceID && a.IP == b.IP && a.Kind == b.Kind && a.NetworkID == b.NetworkID && a.Name == b.Name
}

// loses tells whether one of the addresses is not among those of now.
func loses(recorded, actual []store.Address) bool {
	return slices.ContainsFunc(recorded, func(a store.Address) bool {
		return !slices.ContainsFunc(actual, func(b store.Address) bool { return sameAddress(a, b) })
	})
}

func texts(addresses []store.Address) (all []string) {
	for _, a := range addresses {
		all = append(all, a.IP.String())
	}
	return all
}

// askAddresses returns an instance's addresses, in the order of the records.
func (c *Controllers) askAddresses(ctx context.Context, id, projectID string) ([]store.Address, error) {
	if err := c.pace.Wait(ctx); err != nil {
		return nil, err
	}
	ports, err := c.cfg.Neutron.InstancePorts(ctx, id)
	if err != nil {
		return nil, err
	}
	// Anybody can make a port of their own that names somebody else's instance.
	ports = slices.DeleteFunc(ports, func(p openstack.Port) bool { return p.ProjectID != projectID })
	var all []store.Address
	ids := make([]string, 0, len(ports))
	for _, port := range ports {
		ids = append(ids, port.ID)
		all = append(all, fixedAddresses(port)...)
	}
	if len(ids) > 0 {
		if err := c.pace.Wait(ctx); err != nil {
			return nil, err
		}
		floating, err := c.cfg.Neutron.PortFloatingIPs(ctx, ids)
		if err != nil {
			return nil, err
		}
		for _, f := range floating {
			all = append(all, floatingAddress(f, id))
		}
	}
	slices.SortFunc(all, store.CompareAddresses)
	all = slices.CompactFunc(all, sameAddress)
	if len(all) > store.MaxAddresses {
		c.cfg.Logger.WarnContext(ctx, "An instance has more addresses than are kept", "instance", id, "addresses", len(all), "kept", store.MaxAddresses)
		all = all[:store.MaxAddresses]
	}
	return all, nil
}

// fixedAddresses are those that can be a host's: who makes a subnet chooses
// freely, 127.0.0.0/8 say.
func fixedAddresses(p openstack.Port) (all []store.Address) {
	for _, ip := range p.Addresses {
		if ip.IsGlobalUnicast() {
			all = append(all, store.Address{InstanceID: p.InstanceID, SourceID: p.ID, IP: ip, Kind: store.AddressFixed, NetworkID: p.NetworkID, Name: p.Names[ip]})
		}
	}
	return all
}

func floatingAddress(f openstack.FloatingIP, instanceID string) store.Address {
	return store.Address{InstanceID: instanceID, SourceID: f.ID, IP: f.Address, Kind: store.AddressFloating, NetworkID: f.NetworkID, Name: f.Name}
}

// checkNeutron comes between a list of Neutron's and what is taken away by it.
func (c *Controllers) checkNeutron(ctx context.Context) error {
	if err := c.pace.Wait(ctx); err != nil {
		return err
	}
	if err := c.cfg.Neutron.CheckRights(ctx); err != nil {
		return fmt.Errorf("nothing is taken away: %w", err)
	}
	return nil
}

// aim is what an instance's DNS records should come from.
type aim struct {
	enrolment store.Enrolment
	addresses []netip.Addr
}

func (a aim) equal(b aim) bool {
	return stays(a.enrolment) == stays(b.enrolment) && a.enrolment.HasEntry() == b.enrolment.HasEntry() && a.enrolment.FQDN == b.enrolment.FQDN && slices.Equal(a.addresses, b.addresses)
}

// publish has DNS agree with the records, and then reads them again: another
// replica may have done the same by older or newer ones. Who is last to look
// has it right, and who did the contrary of another at the same time looks again.
func (c *Controllers) publish(ctx context.Context, id string) error {
	now, err := c.aim(ctx, id)
	for range looks {
		if err != nil {
			return err
		}
		done := now
		failure := c.setRecords(ctx, done)
		if now, err = c.aim(ctx, id); err == nil && now.equal(done) && !errors.Is(failure, dns.ErrOvertaken) {
			return failure
		}
	}
	return errRestless
}

func (c *Controllers) aim(ctx context.Context, id string) (aim, error) {
	var a aim
	var err error
	if a.enrolment, err = c.cfg.Records.Enrolment(ctx, id); err != nil {
		return a, err
	}
	addresses, err := c.cfg.Records.Addresses(ctx, id)
	a.addresses = c.cfg.Published.of(addresses)
	return a, err
}

// setRecords makes records under names only that FreeIPA has for the instance.
func (c *Controllers) setRecords(ctx context.Context, a aim) error {
	e := a.enrolment
	if !stays(e) {
		return c.cfg.DNS.RemoveAll(ctx, e.InstanceID)
	}
	if !e.HasEntry() {
		return c.cfg.DNS.Trim(ctx, e.InstanceID, e.FQDN, a.addresses)
	}
	return c.cfg.DNS.Set(ctx, e.InstanceID, e.FQDN, a.addresses)
}

// tidy sees to an instance that is gone: a replica that did not know may have
// made a record for it after its enrolment had ended.
func (c *Controllers) tidy(ctx context.Context, e store.Enrolment) error {
	if c.cfg.DNS == nil || e.State != store.EnrolmentGone {
		return nil
	}
	return dnsFailure(c.cfg.DNS.RemoveAll(ctx, e.InstanceID))
}
