// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/muster-cloud/muster/internal/config"
)

// TestReverseZones: the option names the network of a zone; the service looks up by network.
func TestReverseZones(t *testing.T) {
	got := reverseZones(config.DNS{ReverseZones: map[string]string{
		"64/26.113.0.203.in-addr.arpa": "203.0.113.64/26", "e.example.com": "2001:db8::/64"}})
	want := map[netip.Prefix]string{
		netip.MustParsePrefix("203.0.113.64/26"): "64/26.113.0.203.in-addr.arpa",
		netip.MustParsePrefix("2001:db8::/64"):   "e.example.com",
	}
	if !maps.Equal(got, want) {
		t.Error(got)
	}
}
