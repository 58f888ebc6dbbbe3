// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/muster-cloud/muster/internal/uuid"
)

// addFloatingIP leads a floating IP to the instance, in Neutron alone, and
// looks for it in FreeIPA's DNS.
func (s *story) addFloatingIP(ctx context.Context) (string, error) {
	neutron := s.env.NeutronURL + "/v2.0"
	network, err := s.findOne(ctx, neutron, "networks", url.Values{"router:external": {"True"}})
	if err != nil {
		return "", err
	}
	port, err := s.findOne(ctx, neutron, "ports", url.Values{"device_id": {uuid.Dashed(s.instance.id)}})
	if err != nil {
		return "", err
	}
	var made struct {
		FloatingIP struct {
			Address netip.Addr `json:"floating_ip_address"`
		}
	}
	_, err = s.call(ctx, request{method: "POST", url: neutron + "/floatingips", token: s.alice.token, want: http.StatusCreated,
		body: map[string]any{"floatingip": map[string]any{"floating_network_id": network, "port_id": port}}}, &made)
	if err != nil {
		return "", err
	}
	// Neutron announces it, and that is all that Muster gets to know.
	if err := s.await(ctx, func() error {
		if found := s.addressRecords(); found != 2 {
			return fmt.Errorf("FreeIPA's DNS has %d of the instance's two records, A and PTR", found)
		}
		return nil
	}); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s A %s, and a PTR record back", s.instance.metadata.FQDN, made.FloatingIP.Address), nil
}

// findOne asks Neutron for the ID of the one object that fits.
func (s *story) findOne(ctx context.Context, neutron, collection string, query url.Values) (string, error) {
	var found map[string][]struct{ ID string }
	_, err := s.call(ctx, request{method: "GET", url: neutron + "/" + collection + "?" + query.Encode(), token: s.alice.token, want: http.StatusOK}, &found)
	if err == nil && len(found[collection]) != 1 {
		err = fmt.Errorf("%d %s of Neutron fit, not one", len(found[collection]), collection)
	}
	if err != nil {
		return "", err
	}
	return found[collection][0].ID, nil
}

// addressRecords counts what FreeIPA's DNS has of the instance's name.
func (s *story) addressRecords() int {
	directory, fqdn := s.env.Cloud.FreeIPA, s.instance.metadata.FQDN
	host, zone, _ := strings.Cut(fqdn, ".")
	n := len(directory.Records(zone)[host]["arecord"])
	for label, records := range directory.Records(s.env.ReverseZone) {
		if _, err := strconv.Atoi(label); err == nil && len(records["ptrrecord"]) == 1 && records["ptrrecord"][0] == fqdn+"." {
			n++
		}
	}
	return n
}
