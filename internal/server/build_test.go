// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

// What keeps a server from being built is told with the section and the key
// that are at fault, and what was opened before is closed.
func TestBuildErrorsNameTheOption(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	nonsense := filepath.Join(t.TempDir(), "nonsense")
	if err := os.WriteFile(nonsense, []byte("very: [secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ipa := map[string]string{"domain": "example.test", "username": "u", "password": "p"}
	withCA := map[string]string{"cafile": nonsense, "domain": "example.test", "username": "u", "password": "p"}
	enrolling := map[string]string{"enabled": "true"}
	tests := map[string]struct {
		settings deployment.Settings
		want     string
	}{
		"master key":     {deployment.Settings{"custody": {"master_key_file": nonsense}}, "[custody] master_key: line 1: "},
		"policy":         {deployment.Settings{"oslo_policy": {"policy_file": nonsense}}, "[oslo_policy] policy_file: " + nonsense},
		"Keystone's CA":  {deployment.Settings{"keystone_authtoken": {"cafile": nonsense}}, "[keystone_authtoken]: cafile: "},
		"directory's CA": {deployment.Settings{"service_credentials": {"cafile": nonsense}}, "[service_credentials]: cafile: "},
		"database":       {deployment.Settings{"database": {"connection": "postgresql://127.0.0.1:1/x?sslmode=disable"}}, "[database] connection: open postgresql"},
		"schema":         {deployment.Settings{}, "[database] connection: schema version 0, "},
		"broker":         {deployment.Settings{"DEFAULT": {"transport_url": "kombu+foo://x"}}, "[DEFAULT] transport_url: "},
		"FreeIPA's CA":   {deployment.Settings{"enroll": enrolling, "ipa": withCA}, "[ipa]: cafile: "},
		"Glance": {deployment.Settings{"enroll": enrolling, "ipa": ipa, "service_credentials": {"cafile": nonsense}},
			"[service_credentials]: cafile: "},
		"address":     {deployment.Settings{"listen:main": {"address": taken.Addr().String()}}, "[listen:main] address: "},
		"certificate": {deployment.Settings{"listen:main": {"tls_cert": nonsense, "tls_key": nonsense}}, "[listen:main] tls_cert: "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := deployment.Prepare(t, deployment.Options{Settings: tt.settings})
			if strings.HasPrefix(tt.want, "[listen") || tt.settings["enroll"] != nil || tt.settings["DEFAULT"] != nil {
				if err := d.Upgrade(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			_, err := d.TryStart(t)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s...", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error repeats what is in the file: %v", err)
			}
		})
	}
}

// A listener that cannot be opened leaves no other one open.
func TestNoListenerIsLeftOpen(t *testing.T) {
	port, err := services.Port()
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	d := deployment.New(t, deployment.Options{Settings: deployment.Settings{
		"listen:main": {"address": address}, "listen:second": {"address": taken.Addr().String(), "faces": "health"},
	}})
	if _, err := d.TryStart(t); err == nil || !strings.Contains(err.Error(), "[listen:second] address: ") {
		t.Fatalf("with an address that is taken: %v", err)
	}
	again, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the other listener is still open: %v", err)
	}
	again.Close()
}
