// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/test/machine"
)

// metadataService is what machines find at 169.254.169.254: Neutron's proxy,
// which knows them by their addresses, before Nova's metadata service. What the
// cloud in the process has no use for, it answers itself.
type metadataService struct {
	mu        sync.Mutex
	instances map[netip.Addr]served
}

// served is an instance as the service knows it.
type served struct {
	id, project, name string
	cloud             *devcloud.Cloud
	vendordata        json.RawMessage // of Nova's vendordata_jsonfile_path
	userData          string
	// change, if there is one, alters what the cloud says in vendor_data2.json.
	change func([]byte) ([]byte, error)
}

// metadata is the service of all tests.
var metadata = sync.OnceValues(startMetadata)

func startMetadata() (*metadataService, error) {
	listener, err := net.Listen("tcp", netip.AddrPortFrom(machine.Metadata(), 80).String())
	if err != nil {
		return nil, err
	}
	m := &metadataService{instances: map[netip.Addr]served{}}
	server := &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // until the process ends
	return m, nil
}

// set says which instance the machine with the address is, from now on.
func (m *metadataService) set(address netip.Addr, one served) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.instances[address] = one
}

func (m *metadataService) find(r *http.Request) (served, bool) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return served{}, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	one, found := m.instances[from.Addr()]
	return one, found
}

// ServeHTTP answers as described in Nova's documentation of its metadata API.
func (m *metadataService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	one, known := m.find(r)
	if known && r.URL.Path == "/latest/meta-data/" {
		return // cloud-init asks for Amazon's metadata, too, and waits for it
	}
	path, found := strings.CutPrefix(r.URL.Path, "/openstack")
	if !known || !found || one.id == "" {
		http.NotFound(w, r)
		return
	}
	if path == "" || path == "/" {
		_, _ = io.WriteString(w, "2018-08-27\nlatest")
		return
	}
	switch _, file, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/"); file {
	case "meta_data.json":
		writeJSON(w, one.metaData())
	case "network_data.json":
		writeJSON(w, map[string]any{})
	case "vendor_data.json":
		writeJSON(w, one.vendordata)
	case "vendor_data2.json":
		answer, err := one.vendordata2(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = w.Write(answer)
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

func (one served) metaData() map[string]any {
	return map[string]any{"uuid": one.id, "hostname": one.name, "name": one.name, "project_id": one.project}
}

// vendordata2 is what Nova's own metadata service answers to the proxy.
func (one served) vendordata2(ctx context.Context) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, one.cloud.MetadataURL()+"/openstack/latest/vendor_data2.json", nil)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{
		"X-Instance-ID": one.id, "X-Tenant-ID": one.project, "X-Forwarded-For": "192.0.2.10",
		"X-Instance-ID-Signature": one.cloud.Compute.Sign(one.id),
	} {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("the cloud answered %s", response.Status)
	}
	if err == nil && one.change != nil {
		return one.change(answer)
	}
	return answer, err
}

func writeJSON(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body) // the machine may have been cut off
}
