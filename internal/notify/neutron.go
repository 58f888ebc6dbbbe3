// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/uuid"
)

// device is who uses a port.
type device struct {
	ID    string `json:"device_id"`
	Owner string `json:"device_owner"`
}

type port struct {
	ID string `json:"id"`
	device
}

type floatingIP struct {
	ID          string  `json:"id"`
	PortID      string  `json:"port_id"`
	PortDetails *device `json:"port_details"`
}

// addressPayload is Neutron's, of the three kinds of things that carry an
// address. Many ports made by one call come in one message.
type addressPayload struct {
	Port           *port       `json:"port"`
	Ports          []port      `json:"ports"`
	FloatingIP     *floatingIP `json:"floatingip"`
	PortForwarding *struct {
		InternalPortID string `json:"internal_port_id"`
	} `json:"port_forwarding"`
	PortID       string `json:"port_id"`       // of port.delete.end
	FloatingIPID string `json:"floatingip_id"` // of floatingip.delete.end
}

func addressHints(event string, payload json.RawMessage) ([]converge.Hint, error) {
	// A .start without .end is a call that failed.
	if event != "create.end" && event != "update.end" && event != "delete.end" {
		return nil, nil
	}
	var p addressPayload
	if err := decodePayload(payload, &p); err != nil {
		return nil, err
	}
	if len(p.Ports) > maxEntities {
		return nil, fmt.Errorf("%w: it speaks of more than %d ports", ErrUnreadable, maxEntities)
	}
	var hints hintList
	switch {
	case p.FloatingIP != nil:
		hints.address(p.FloatingIP.ID)
		if p.FloatingIP.PortID != "" {
			// It leads to the instance that has the port. A Neutron before
			// Stein does not say which.
			hints.address(p.FloatingIP.PortID)
		}
		if p.FloatingIP.PortDetails != nil {
			hints.user(*p.FloatingIP.PortDetails)
		}
	case p.Port != nil:
		hints.port(*p.Port)
	case len(p.Ports) > 0:
		for _, one := range p.Ports {
			hints.port(one)
		}
	case p.PortForwarding != nil:
		hints.address(p.PortForwarding.InternalPortID)
	case p.FloatingIPID != "":
		hints.address(p.FloatingIPID)
	default:
		hints.address(p.PortID)
	}
	if hints.wrong {
		return nil, wrongID(converge.Address)
	}
	return hints.list, nil
}

// hintList collects the hints of one message.
type hintList struct {
	list  []converge.Hint
	wrong bool // an ID was none
}

func (h *hintList) address(id string) {
	canonical, err := uuid.Parse(id)
	h.wrong = h.wrong || err != nil
	h.list = append(h.list, converge.Hint{Key: converge.Key{Kind: converge.Address, ID: canonical}})
}

// port leaves out those of routers, DHCP servers and the like.
func (h *hintList) port(p port) {
	if strings.HasPrefix(p.Owner, "network:") {
		return
	}
	h.address(p.ID)
	h.user(p.device)
}

// user is the instance that has the address: its names and certificates follow.
func (h *hintList) user(d device) {
	if !strings.HasPrefix(d.Owner, "compute:") {
		return
	}
	if canonical, err := uuid.Parse(d.ID); err == nil {
		h.list = append(h.list, converge.Hint{Key: converge.Key{Kind: converge.Instance, ID: canonical}})
	}
}
