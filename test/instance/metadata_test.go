// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/test/machine"
)

// metadataService is what machines find at 169.254.169.254: Neutron's proxy,
// which knows them by their addresses, before Nova's metadata service. What the
// cloud in the process has no use for, it answers itself.
type metadataService struct {
	cloud *devcloud.Cloud
	proxy *httputil.ReverseProxy

	mu sync.Mutex
	// vendordata is that of Nova's vendordata_jsonfile_path.
	vendordata json.RawMessage
	instances  map[netip.Addr]served
}

// served is an instance as the service knows it.
type served struct {
	id, project, name string
	userData          string
}

func startMetadata(t *testing.T, cloud *devcloud.Cloud) *metadataService {
	t.Helper()
	target, err := url.Parse(cloud.MetadataURL())
	if err != nil {
		t.Fatal(err)
	}
	m := &metadataService{cloud: cloud, instances: map[netip.Addr]served{}, vendordata: json.RawMessage("{}")}
	m.proxy = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		one, from := m.find(r.In)
		r.SetURL(target)
		for name, value := range map[string]string{
			"X-Instance-ID": one.id, "X-Tenant-ID": one.project, "X-Forwarded-For": from.String(),
			"X-Instance-ID-Signature": cloud.Compute.Sign(one.id),
		} {
			r.Out.Header.Set(name, value)
		}
	}}
	listener, err := net.Listen("tcp", netip.AddrPortFrom(machine.Metadata(), 80).String())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return m
}

func (m *metadataService) add(address netip.Addr, one served) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.instances[address] = one
}

// setVendordata replaces what all instances get beside the targets' answers.
func (m *metadataService) setVendordata(text json.RawMessage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vendordata = text
}

func (m *metadataService) find(r *http.Request) (served, netip.Addr) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return served{}, netip.Addr{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.instances[from.Addr()], from.Addr()
}

// ServeHTTP answers as described in Nova's documentation of its metadata API.
func (m *metadataService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	one, _ := m.find(r)
	path, found := strings.CutPrefix(r.URL.Path, "/openstack")
	if one.id == "" || !found {
		http.NotFound(w, r)
		return
	}
	if path == "" || path == "/" {
		_, _ = io.WriteString(w, "2018-08-27\nlatest")
		return
	}
	_, file, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	m.mu.Lock()
	vendordata := m.vendordata
	m.mu.Unlock()
	switch file {
	case "meta_data.json":
		writeJSON(w, map[string]any{"uuid": one.id, "hostname": one.name, "name": one.name, "project_id": one.project})
	case "network_data.json":
		writeJSON(w, map[string]any{})
	case "vendor_data.json":
		writeJSON(w, vendordata)
	case "vendor_data2.json":
		r.URL.Path = "/openstack/latest/vendor_data2.json"
		m.proxy.ServeHTTP(w, r)
	case "user_data":
		if one.userData == "" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, one.userData)
	default:
		http.NotFound(w, r)
	}
}

func writeJSON(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body) // the machine may have been cut off
}
