// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/test/services"
)

// transportURLs are read by Muster and by oslo.messaging, which must agree.
var transportURLs = []string{
	"rabbit://", "rabbit:///", "rabbit://h", "rabbit://h:5673/", "rabbit://h//", "rabbit://h/%2F", "rabbit://h/cloud",
	"rabbit://h/a/b", "rabbit://u:p@h:5672/v", "rabbit://u:p@h1:1,u:p@h2:2,u:p@h3:3/v", "rabbit://u:p@h1,h2/v",
	"rabbit://u%40x:p%2Fw%3A%25@h/v", "rabbit://u:p:q@h/", "rabbit://u:p@q@h/", "rabbit://u:@h/", "rabbit://u@h/", "rabbit://@h/",
	"rabbit://u:p@[::1]:5672/v", "rabbit://u:p@[fe80::1]/v", "rabbit://u:p@h/v?ssl=1&ssl_ca_file=/etc/ca.pem",
	"rabbit://u:p@h/v?ssl=1&ssl=0", "rabbit://u:p@,,h/v", "kombu://u:p@h/v", "amqp://u:p@h/v", "rabbit://u:p@h/v%20w?#x",
	"RABBIT://u:p+q@h/v+w",
}

// reader prints what oslo.messaging makes of each URL. For a host without a
// login it would put an empty one, and for no host guest's.
const reader = `
import json, sys
from oslo_config import cfg
from oslo_messaging import transport
out = []
for url in json.load(sys.stdin):
    t = transport.TransportURL.parse(cfg.ConfigOpts(), url)
    out.append({'hosts': [[h.hostname or 'localhost', h.port or 5672, h.username or '', h.password or ''] for h in t.hosts],
                'vhost': t.virtual_host or '/', 'query': t.query})
json.dump(out, sys.stdout)
`

// TestTransportURLAgrees compares with oslo.messaging itself.
func TestTransportURLAgrees(t *testing.T) {
	python := debianPython(t)
	input, err := json.Marshal(transportURLs)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), python, "-c", reader)
	command.Stdin, command.Env = bytes.NewReader(input), []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []struct {
		Hosts [][]any
		VHost string
		Query map[string]string
	}
	if err := json.Unmarshal(output, &want); err != nil {
		t.Fatal(err)
	}
	for i, text := range transportURLs {
		got, err := ParseTransportURL(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		hosts := [][]any{}
		for _, h := range got.Hosts {
			hosts = append(hosts, []any{h.Name, float64(h.Port), h.Username, h.Password})
		}
		for j, host := range want[i].Hosts {
			// Of who is nobody RabbitMQ's own default user is made, on either side.
			if host[2] == "" && host[3] == "" {
				want[i].Hosts[j][2], want[i].Hosts[j][3] = "guest", "guest"
			}
		}
		if len(want[i].Hosts) == 0 {
			want[i].Hosts = [][]any{{"localhost", 5672.0, "guest", "guest"}}
		}
		if diff := cmp.Diff(want[i].Hosts, hosts); diff != "" {
			t.Errorf("%s: hosts (-oslo +Muster)\n%s", text, diff)
		}
		if got.VirtualHost != want[i].VHost {
			t.Errorf("%s: virtual host %q, oslo has %q", text, got.VirtualHost, want[i].VHost)
		}
		if diff := cmp.Diff(want[i].Query, got.Query); diff != "" {
			t.Errorf("%s: query (-oslo +Muster)\n%s", text, diff)
		}
	}
}

// debianPython is the Python that Debian's oslo.messaging belongs to.
func debianPython(t testing.TB) string {
	t.Helper()
	if _, err := os.Stat("/usr/lib/python3/dist-packages/oslo_messaging"); err != nil {
		services.Need(t, services.ErrMissing)
	}
	return "/usr/bin/python3"
}

func TestTransportURLRefused(t *testing.T) {
	for _, text := range []string{
		"", "hunter2", "rabbit:hunter2", "http://u:hunter2@h/", "rabbit://u:hunter2%zz@h/", "rabbit://u:hunter2@h/%z",
		"rabbit://u:hunter2@h:port/", "rabbit://u:hunter2@h:0/", "rabbit://u:hunter2@h:65536/", "rabbit://u:hunter2@[::1/",
		"rabbit://u:hunter2@h/?a=%zz", "rabbit://" + strings.Repeat("h,", 101),
	} {
		_, err := ParseTransportURL(text)
		if !errors.Is(err, ErrTransportURL) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error %v", text, err)
		}
	}
}

func TestOverride(t *testing.T) {
	got, err := Rabbit{Heartbeat: 1}.override(map[string]string{"ssl": "True", "ssl_ca_file": "/ca.pem",
		"heartbeat_timeout_threshold": "20", "rabbit_quorum_queue": "off", "kombu_compression": "gzip"})
	want := Rabbit{TLS: true, CAFile: "/ca.pem", Heartbeat: 20e9}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, query := range []map[string]string{{"ssl": "maybe"}, {"rabbit_interval_max": "-1"}, {"heartbeat_timeout_threshold": "0"}} {
		if _, err := (Rabbit{}).override(query); !errors.Is(err, ErrTransportURL) {
			t.Errorf("%v: %v", query, err)
		}
	}
}

func FuzzParseTransportURL(f *testing.F) {
	for _, text := range transportURLs {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseTransportURL(text)
		if err != nil {
			if !errors.Is(err, ErrTransportURL) {
				t.Errorf("error %v", err)
			}
			return
		}
		if got.Transport == "rabbit" && (len(got.Hosts) == 0 || got.VirtualHost == "") {
			t.Errorf("%+v", got)
		}
		for _, h := range got.Hosts {
			if h.Name == "" || h.Port < 1 || h.Port > 65535 {
				t.Errorf("%+v", h)
			}
		}
	})
}
