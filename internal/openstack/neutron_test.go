// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openstack_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/devcloud/devcloudtest"
	"github.com/muster-cloud/muster/internal/devcloud/network"
	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/uuid"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func canonical(t testing.TB, id string) string {
	t.Helper()
	return must(uuid.Parse(id))(t)
}

// bootIn starts a server of project demo.
func bootIn(t testing.TB, cloud *devcloud.Cloud) string {
	t.Helper()
	return must(cloud.Compute.Boot(t.Context(), compute.Server{Name: "web", ProjectID: cloud.Identity.ProjectID("demo"), UserID: cloud.Identity.UserID("demo")}))(t)
}

func TestInstanceAddresses(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	networks := must(openstack.NewNetworks(cloudConfig(cloud, "muster"), false))(t)
	ctx, project := t.Context(), cloud.Identity.ProjectID("demo")
	id, other := bootIn(t, cloud), bootIn(t, cloud)
	port := cloud.Network.PortOf(id)
	elsewhere := cloud.Network.AddNetwork(network.Network{Name: "storage", Subnets: []netip.Prefix{netip.MustParsePrefix("172.20.0.0/24")}})
	second := must(cloud.Network.AddPort(network.Port{ProjectID: project, NetworkID: elsewhere, DeviceID: id, DeviceOwner: "compute:az1"}))(t)
	// Neither is a port of the instance, though both name it.
	for _, owner := range []string{"", "network:dhcp"} {
		must(cloud.Network.AddPort(network.Port{ProjectID: project, DeviceID: id, DeviceOwner: owner}))(t)
	}
	got := must(networks.InstancePorts(ctx, strings.ToUpper(id)))(t)
	want := []openstack.Port{
		{ID: canonical(t, port), NetworkID: canonical(t, cloud.Network.NetworkID(network.Private)), InstanceID: canonical(t, id), ProjectID: project,
			Addresses: cloud.Network.Fixed(id)},
		{ID: canonical(t, second), NetworkID: canonical(t, elsewhere), InstanceID: canonical(t, id), ProjectID: project,
			Addresses: []netip.Addr{netip.MustParseAddr("172.20.0.2")}},
	}
	slices.SortFunc(want, func(a, b openstack.Port) int { return strings.Compare(a.ID, b.ID) })
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || len(want[0].Addresses)+len(want[1].Addresses) != 3 {
		t.Error(diff)
	}

	floating := must(cloud.Network.CreateFloatingIP(project, port))(t)
	must(cloud.Network.CreateFloatingIP(project, cloud.Network.PortOf(other)))(t)
	must(cloud.Network.CreateFloatingIP(project, ""))(t)
	many := []string{canonical(t, second), canonical(t, port)}
	for n := range 100 {
		many = append(many, fmt.Sprintf("%032x", n))
	}
	found := must(networks.PortFloatingIPs(ctx, many))(t)
	wanted := []openstack.FloatingIP{{ID: canonical(t, floating.ID), PortID: canonical(t, port), Address: floating.Address,
		NetworkID: canonical(t, cloud.Network.NetworkID(network.Public))}}
	if diff := cmp.Diff(wanted, found, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	for _, id := range []string{"00000000-0000-4000-8000-000000000000", "x", ""} {
		if ports := must(networks.InstancePorts(ctx, id))(t); len(ports) > 0 {
			t.Error(id, ports)
		}
	}
}

// TestNames: what Neutron writes of names is asked for only where somebody wants it.
func TestNames(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	id := bootIn(t, cloud)
	port := cloud.Network.PortOf(id)
	floating := must(cloud.Network.CreateFloatingIP(cloud.Identity.ProjectID("demo"), port))(t)
	for _, err := range []error{cloud.Network.NamePort(port, "Web.example.com"), cloud.Network.NameFloatingIP(floating.ID, "www", "example.com")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for names, want := range map[bool][2]string{true: {"web.example.com", "www.example.com"}, false: {}} {
		networks := must(openstack.NewNetworks(cloudConfig(cloud, "muster"), names))(t)
		ports := must(networks.InstancePorts(t.Context(), id))(t)
		found := must(networks.PortFloatingIPs(t.Context(), []string{canonical(t, port)}))(t)
		if len(ports) != 1 || len(found) != 1 || found[0].Name != want[1] {
			t.Fatalf("asked for names %t: %+v %+v", names, ports, found)
		}
		for _, address := range ports[0].Addresses {
			if got := ports[0].Names[address]; got != want[0] {
				t.Errorf("asked for names %t: %s is called %q, want %q", names, address, got, want[0])
			}
		}
	}
}

// TestWholeLists goes through lists in pages, also where members vanish
// between two of them.
func TestWholeLists(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	networks := must(openstack.NewNetworks(cloudConfig(cloud, "muster"), false))(t)
	want := map[string]bool{}
	for range 7 {
		id := bootIn(t, cloud)
		want[canonical(t, cloud.Network.PortOf(id))] = true
		must(cloud.Network.CreateFloatingIP(cloud.Identity.ProjectID("demo"), cloud.Network.PortOf(id)))(t)
	}
	for _, size := range []int{0, 1, 2, 3, 7, 8} {
		cloud.Network.LimitPages(size)
		for name, each := range map[string]func(func(string)) error{
			"ports": func(do func(string)) error {
				return networks.EachPort(t.Context(), func(p openstack.Port) error { do(p.ID); return nil })
			},
			"floating IPs": func(do func(string)) error {
				return networks.EachFloatingIP(t.Context(), func(f openstack.FloatingIP) error { do(f.PortID); return nil })
			},
		} {
			got := map[string]bool{}
			n := 0
			if err := each(func(id string) { got[id] = true; n++ }); err != nil {
				t.Fatal(name, size, err)
			}
			if diff := cmp.Diff(want, got); diff != "" || n != len(want) {
				t.Errorf("%s in pages of %d: %d, %s", name, size, n, diff)
			}
		}
	}
	cloud.Network.LimitPages(3)
	n := 0
	err := networks.EachPort(t.Context(), func(p openstack.Port) error {
		if n++; n == 3 {
			return cloud.Network.DeletePort(p.ID)
		}
		return nil
	})
	if err != nil || n != 7 {
		t.Errorf("%d of 7 ports after the marker was deleted, %v", n, err)
	}
	stop := errors.New("stop")
	if err := networks.EachPort(t.Context(), func(openstack.Port) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}

func TestRightsInNeutron(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	id := bootIn(t, cloud)
	networks := must(openstack.NewNetworks(cloudConfig(cloud, "muster"), false))(t)
	if err := networks.CheckRights(t.Context()); err != nil {
		t.Error(err)
	}
	outsider := must(cloud.Identity.CreateUser("outsider", "secret"))(t)
	if err := cloud.Identity.Grant(outsider, cloud.Identity.ProjectID("service"), "service"); err != nil {
		t.Fatal(err)
	}
	networks = must(openstack.NewNetworks(cloudConfig(cloud, "outsider"), false))(t)
	// The list is empty, and nothing in it says why.
	if ports := must(networks.InstancePorts(t.Context(), id))(t); len(ports) > 0 {
		t.Error(ports)
	}
	if err := networks.CheckRights(t.Context()); !errors.Is(err, openstack.ErrForbidden) || !strings.Contains(err.Error(), "give it the role admin") {
		t.Error(err)
	}
}

// TestOddNeutron: what is not Neutron's answer is none.
func TestOddNeutron(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	id := bootIn(t, cloud)
	port := fmt.Sprintf(`{"id": %q, "device_id": %[1]q, "device_owner": "compute:x", "network_id": %[1]q}`, id)
	for name, tt := range map[string]struct {
		status int
		body   string
	}{
		"not there":       {404, `{"NeutronError": {}}`},
		"failed":          {500, `{}`},
		"page":            {200, `<html>`},
		"no list":         {200, `{}`},
		"another list":    {200, `{"ports": 7}`},
		"null":            {200, `{"ports": [null]}`},
		"port of a kind":  {200, `{"ports": [7]}`},
		"odd port":        {200, `{"ports": [{"id": 7}]}`},
		"odd ID":          {200, strings.Replace(`{"ports": [`+port+`]}`, id, "x", 1)},
		"no network":      {200, `{"ports": [` + strings.Replace(port, "network_id", "net", 1) + `]}`},
		"links of a kind": {200, `{"ports": [], "ports_links": 7}`},
		"the same again":  {200, `{"ports": [` + port + `], "ports_links": [{"rel": "next"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			}))
			defer odd.Close()
			cfg := cloudConfig(cloud, "muster")
			cfg.Endpoint = odd.URL
			networks := must(openstack.NewNetworks(cfg, false))(t)
			ports, err := networks.InstancePorts(t.Context(), id)
			if name == "null" && err == nil && len(ports) == 0 {
				return
			}
			if !errors.Is(err, openstack.ErrUnavailable) {
				t.Errorf("%v, %v", ports, err)
			}
		})
	}
}

func TestNeutronIsAskedInTime(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer silent.Close()
	cfg := cloudConfig(cloud, "muster")
	cfg.Endpoint, cfg.Timeout = silent.URL, 50_000_000
	networks := must(openstack.NewNetworks(cfg, false))(t)
	if err := networks.CheckRights(t.Context()); !errors.Is(err, openstack.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
