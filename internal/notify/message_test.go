// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/converge"
)

// sample is a message as a real service sent it.
type sample struct {
	Exchange   string `json:"exchange"`
	RoutingKey string `json:"routing_key"`
	Body       string `json:"body"`
}

// samples are all that were recorded, by the names of their files.
func samples(t testing.TB) map[string]sample {
	t.Helper()
	paths, err := filepath.Glob("testdata/samples/*.json")
	if err != nil || len(paths) < 90 {
		t.Fatalf("%d samples, %v", len(paths), err)
	}
	all := map[string]sample{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var s sample
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(path, err)
		}
		all[strings.TrimSuffix(filepath.Base(path), ".json")] = s
	}
	return all
}

// keys writes hints as the table below does.
func keys(hints []converge.Hint) []string {
	list := []string{}
	for _, h := range hints {
		text := h.Key.String()
		if h.Rebuilt {
			text += " rebuilt"
		}
		list = append(list, text)
	}
	return list
}

const (
	basicProject = "5cd3fe2a8d8146cea2ef10b0e575657d"
	basicUser    = "2fc1f0ebd54c4a13a70361c21326b701"
	basicGroup   = "64a6223d18a84f30898cb9ca4ad44c8b"
	cadfProject  = "b729e0cb9f05497da5fbc142ce9fb57e"
	cadfUser     = "7b2be7ba739e4ea4b6dc374c182adb10"
	cadfGroup    = "f1d8b62cec4a4c2ca092c057996d2d3a"

	floating      = "24529121152f4886a3f1cdbaad1a3726"
	otherFloating = "272f4285d55e49abacd3129ac76c994d"
	instancePort  = "c9ed9927bd404b8385b460ee0a6842ec"
	loosePort     = "b885710e942d40bda2aaf760bcc7d9ff"
	forwardedPort = "398d97d09a9d4964820b29ecc59517df"

	instance = "fbd8de51d682459fa23bd34c5f72c18e"
)

// TestSamples holds what Muster makes of real messages against what happened
// when they were recorded.
func TestSamples(t *testing.T) {
	tests := map[string][]string{ // beginning of the file's name: hints
		"keystone-basic-00": {"project " + basicProject}, // project created
		"keystone-basic-01": {"project " + basicProject}, // the same on another topic
		"keystone-basic-02": {},                          // user created
		"keystone-basic-03": {},                          // group created
		"keystone-basic-04": {"grant " + basicUser + "/" + basicProject},
		"keystone-basic-05": {"group " + basicGroup},                            // role given to a group
		"keystone-basic-06": {"user " + basicUser},                              // in a domain
		"keystone-basic-07": {"user " + basicUser},                              // inherited
		"keystone-basic-08": {"group " + basicGroup, "user " + basicUser},       // joined
		"keystone-basic-09": {"group " + basicGroup, "user " + basicUser},       // left
		"keystone-basic-10": {"user " + basicUser},                              // inherited role taken
		"keystone-basic-11": {"user " + basicUser},                              // role in a domain taken
		"keystone-basic-12": {"group " + basicGroup, "members " + basicProject}, // role of a group taken
		"keystone-basic-13": {"grant " + basicUser + "/" + basicProject},        // role taken
		"keystone-basic-17": {"user " + basicUser},                              // disabled
		"keystone-basic-19": {"project " + basicProject},                        // disabled
		"keystone-basic-21": {"user " + basicUser},                              // deleted
		"keystone-basic-22": {"group " + basicGroup},                            // deleted
		"keystone-basic-23": {"project " + basicProject},                        // deleted
		"keystone-cadf-01":  {"project " + cadfProject},                         // created
		"keystone-cadf-02":  {},                                                 // user created
		"keystone-cadf-04":  {"grant " + cadfUser + "/" + cadfProject},          // role given
		"keystone-cadf-05":  {"group " + cadfGroup},                             // role given to a group
		"keystone-cadf-06":  {"user " + cadfUser},                               // in a domain
		"keystone-cadf-09":  {"group " + cadfGroup},                             // left: CADF does not say who
		"keystone-cadf-13":  {"grant " + cadfUser + "/" + cadfProject},          // role taken
		"keystone-cadf-21":  {"user " + cadfUser},                               // deleted
		"keystone-cadf-22":  {"group " + cadfGroup},                             // deleted
		"keystone-cadf-23":  {"project " + cadfProject},                         // deleted

		"nova-unversioned-compute.instance.create.end-1":              {"instance " + instance},
		"nova-unversioned-compute.instance.delete.end-1":              {"instance " + instance},
		"nova-unversioned-compute.instance.power_off.end-1":           {},
		"nova-unversioned-compute.instance.shutdown.end-1":            {},
		"nova-unversioned-compute.instance.update-active_None_None-8": {"instance " + instance}, // renamed
		"nova-unversioned-compute.instance.update-active_None_None-9": {"instance " + instance}, // metadata
		"nova-unversioned-compute.instance.update-building":           {},                       // all six
		"nova-unversioned-compute.instance.update-stopped_deleting":   {},
		"nova-unversioned-scheduler.select_destinations.end":          {},
		"nova-versioned-instance.create.end-1":                        {"instance " + instance},
		"nova-versioned-instance.delete.end-1":                        {"instance " + instance},
		"nova-versioned-instance.power_off.end-1":                     {},
		"nova-versioned-instance.update-active_None_None-9":           {"instance " + instance},
		"nova-versioned-instance.update-building":                     {},
		"nova-versioned-instance.update-active_spawning_None-7":       {}, // create.end follows
		"nova-versioned-instance.update-stopped_deleting_deleting-12": {},
		"nova-versioned-scheduler.select_destinations.end":            {},
		"neutron-floatingip.create.end-1":                             {"address " + floating},
		"neutron-floatingip.create.end-2":                             {"address " + otherFloating, "address " + loosePort}, // on a port of nobody
		"neutron-floatingip.create.end-3":                             {"address efc11ddd6af64d8f9802ca9cd8a4d3e4"},
		"neutron-floatingip.update.end-associate-1":                   {"address " + floating, "address " + instancePort, "instance " + instance},
		"neutron-floatingip.update.end-associate-3":                   {"address " + floating, "address " + instancePort, "instance " + instance},
		"neutron-floatingip.update.end-associate-4":                   {"address " + floating, "address " + instancePort, "instance " + instance},
		"neutron-floatingip.update.end-disassociate-2":                {"address " + floating}, // from whom, the records know
		"neutron-floatingip.delete.end-1":                             {"address " + otherFloating, "address " + loosePort},
		"neutron-floatingip.delete.end-2":                             {"address " + floating},
		"neutron-floatingip.delete.end-3":                             {"address efc11ddd6af64d8f9802ca9cd8a4d3e4"},
		"neutron-port.create.end-1":                                   {"address " + loosePort},
		"neutron-port.create.end-2":                                   {"address " + instancePort}, // Nova's, before it says whose
		"neutron-port.create.end-3":                                   {"address " + forwardedPort},
		"neutron-port.update.end-1":                                   {"address " + loosePort},
		"neutron-port.update.end-2":                                   {"address " + instancePort, "instance " + instance},
		"neutron-port.delete.end-1":                                   {"address " + instancePort, "instance " + instance},
		"neutron-port.delete.end-2":                                   {"address " + loosePort},
		"neutron-port.delete.end-3":                                   {"address " + forwardedPort},
		"neutron-port_forwarding.create.end-1":                        {"address " + forwardedPort},
		"neutron-port_forwarding.create.end-2":                        {"address " + forwardedPort},
		"neutron-port_forwarding.update.end-1":                        {"address " + forwardedPort},
		"neutron-port_forwarding.delete.end-1":                        {"address " + forwardedPort},
	}
	all := samples(t)
	for prefix, want := range tests {
		t.Run(prefix, func(t *testing.T) {
			found := false
			for name, s := range all {
				if name != prefix && !strings.HasPrefix(name, prefix+"-") && !strings.HasPrefix(name, prefix+"_") {
					continue
				}
				found = true
				m, err := Parse([]byte(s.Body))
				if err != nil {
					t.Fatal(name, err)
				}
				if diff := cmp.Diff(want, keys(m.Hints())); diff != "" {
					t.Errorf("%s:\n%s", name, diff)
				}
				if m.At.Year() != 2026 || m.ID == "" || m.Publisher == "" {
					t.Errorf("%s: %+v", name, m)
				}
			}
			if !found {
				t.Error("no such sample")
			}
		})
	}
	for name, s := range all {
		if _, err := Parse([]byte(s.Body)); err != nil {
			t.Error(name, err)
		}
	}
}

// bare is a message without envelope.
func bare(publisher, event, payload string) string {
	return `{"message_id": "1", "publisher_id": "` + publisher + `", "event_type": "` + event +
		`", "priority": "INFO", "timestamp": "2026-11-22 01:19:31.086979", "payload": ` + payload + `}`
}

func TestParse(t *testing.T) {
	const (
		a = "c65eb661-4472-402e-ac3a-a112fd82693f"
		b = "c65eb6614472402eac3aa112fd82693f"
		c = "9e1f0c2d4b6a48e7a5d3c1b0f2e4d6a8"
		l = "d5a3b1e0c7f64e2a9b8d0c1f2e3a4b5cd5a3b1e0c7f64e2a9b8d0c1f2e3a4b5c"
	)
	tests := []struct {
		name, body string
		want       []string // nil: unreadable
	}{
		{"bare", bare("identity.h", "identity.user.deleted", `{"resource_info": "`+a+`"}`), []string{"user " + b}},
		{"user from LDAP", bare("identity.h", "identity.user.updated", `{"resource_info": "`+l+`"}`), []string{"user " + l}},
		{"project ID of 64 digits", bare("identity.h", "identity.project.updated", `{"resource_info": "`+l+`"}`), nil},
		{"domain", bare("identity.h", "identity.domain.updated", `{"resource_info": "default"}`), []string{"domain default"}},
		{"domain as project", bare("identity.h", "identity.project.updated", `{"resource_info": "default"}`), []string{"domain default"}},
		{"role", bare("identity.h", "identity.role.deleted", `{"resource_info": "`+b+`"}`), []string{"role " + b}},
		{"application credential", bare("identity.h", "identity.application_credential.deleted", `{"resource_info": "`+a+`"}`), []string{"credential " + b}},
		{"new application credential", bare("identity.h", "identity.application_credential.created", `{"resource_info": "`+a+`"}`), []string{}},
		{"trust", bare("identity.h", "identity.OS-TRUST:trust.deleted", `{"resource_info": "`+b+`"}`), []string{"credential " + b}},
		{"access token", bare("identity.h", "identity.OS-OAUTH1:access_token.deleted", `{"resource_info": "`+b+`"}`), []string{"credential " + b}},
		{"role of a group below a project", bare("identity.h", "identity.role_assignment.deleted",
			`{"group": "`+b+`", "project": "`+a+`", "role": "`+c+`", "inherited_to_projects": true}`), []string{"group " + b, "role " + c}},
		{"role of a group below a domain", bare("identity.h", "identity.role_assignment.deleted",
			`{"group": "`+b+`", "domain": "default", "role": "`+c+`", "inherited_to_projects": true}`), []string{"group " + b, "role " + c}},
		{"role of a group in a domain", bare("identity.h", "identity.role_assignment.deleted",
			`{"group": "`+b+`", "domain": "default", "role": "`+c+`", "inherited_to_projects": false}`), []string{"group " + b}},
		{"new role of a group", bare("identity.h", "identity.role_assignment.created",
			`{"group": "`+b+`", "project": "`+a+`", "role": "`+c+`", "inherited_to_projects": false}`), []string{"group " + b}},
		{"assignment to nobody", bare("identity.h", "identity.role_assignment.deleted", `{"project": "`+b+`"}`), nil},
		{"login", bare("identity.h", "identity.authenticate", `7`), []string{}},
		{"no ID", bare("identity.h", "identity.user.deleted", `{}`), nil},
		{"ID with braces", bare("identity.h", "identity.user.deleted", `{"resource_info": "{`+a+`}"}`), nil},
		{"payload of another type", bare("identity.h", "identity.user.deleted", `["x"]`), nil},
		{"ID of another type", bare("identity.h", "identity.user.deleted", `{"resource_info": {"id": "x"}}`), nil},
		{"payload missing", `{"event_type": "identity.user.deleted"}`, nil},
		{"rebuild", bare("compute.h", "compute.instance.rebuild.end", `{"instance_id": "`+a+`"}`), []string{"instance " + b + " rebuilt"}},
		{"rebuild begins", bare("compute.h", "compute.instance.rebuild.start", `{"instance_id": "`+a+`"}`), []string{"instance " + b + " rebuilt"}},
		{"shelved", bare("compute.h", "compute.instance.shelve.end", `{"instance_id": "`+a+`"}`), []string{}},
		{"unshelved", bare("compute.h", "compute.instance.unshelve.end", `{"instance_id": "`+a+`"}`), []string{}},
		{"resized", bare("compute.h", "compute.instance.finish_resize.end", `{"instance_id": "`+a+`"}`), []string{}},
		{"versioned rebuild", bare("nova-compute:h", "instance.rebuild.end",
			`{"nova_object.version": "1.99", "nova_object.data": {"uuid": "`+a+`"}}`), []string{"instance " + b + " rebuilt"}},
		{"unknown major version", bare("nova-compute:h", "instance.delete.end",
			`{"nova_object.version": "2.0", "nova_object.data": {"uuid": "`+a+`"}}`), nil},
		{"update of version 1", bare("nova-compute:h", "instance.update",
			`{"nova_object.version": "1.8", "nova_object.data": {"uuid": "`+a+`"}}`), []string{"instance " + b}},
		{"update of version 3", bare("nova-compute:h", "instance.update",
			`{"nova_object.version": "3.0", "nova_object.data": {"uuid": "`+a+`"}}`), nil},
		{"another service's instance", bare("trove.h", "instance.delete.end", `{"uuid": 1}`), []string{}},
		{"nova-network", bare("network.h", "network.floating_ip.associate", `{"instance_id": "`+a+`"}`), []string{"instance " + b}},
		{"port of a router", bare("network.h", "port.delete.end",
			`{"port": {"id": "`+a+`", "device_id": "`+a+`", "device_owner": "network:router_interface"}}`), []string{}},
		{"many ports", bare("network.h", "port.create.end", `{"ports": [{"id": "`+a+`"},
			{"id": "`+a+`", "device_owner": "compute:nova", "device_id": "`+a+`"}]}`), []string{"address " + b, "address " + b, "instance " + b}},
		{"too many ports", bare("network.h", "port.create.end", `{"ports": [{}`+strings.Repeat(",{}", 1000)+`]}`), nil},
		{"floating IP without details", bare("network.h", "floatingip.update.end", `{"floatingip": {"id": "`+a+`", "port_id": "`+a+`"}}`),
			[]string{"address " + b, "address " + b}},
		{"floating IP on what is no port", bare("network.h", "floatingip.update.end", `{"floatingip": {"id": "`+a+`", "port_id": "x"}}`), nil},
		{"port deleted, its ID only", bare("network.h", "port.delete.end", `{"port_id": "`+a+`"}`), []string{"address " + b}},
		{"call that failed", bare("network.h", "port.create.start", `{"port": {}}`), []string{}},
		{"envelope of the next version", `{"oslo.version": "3.0", "oslo.message": "{}"}`, nil},
		{"envelope without message", `{"oslo.version": "2.0"}`, nil},
		{"envelope with something else", `{"oslo.version": "2.0", "oslo.message": {"event_type": "x"}}`, nil},
		{"no event type", `{"message_id": "1"}`, nil},
		{"empty", ``, nil},
		{"not JSON", `secret=hunter2`, nil},
		{"not an object", `["hunter2"]`, nil},
		{"not JSON inside", `{"oslo.version": "2.0", "oslo.message": "hunter2"}`, nil},
		{"long event type", bare("h", strings.Repeat("x", 256), `{}`), nil},
		{"too long", `"` + strings.Repeat("x", maxBody) + `"`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Parse([]byte(tt.body))
			if (tt.want == nil) != (err != nil) {
				t.Fatalf("hints %v, error %v", m.Hints(), err)
			}
			if err != nil {
				if !errors.Is(err, ErrUnreadable) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("error %v", err)
				}
				return
			}
			if diff := cmp.Diff(tt.want, keys(m.Hints())); diff != "" {
				t.Error(diff)
			}
			if !m.At.Equal(time.Date(2026, 11, 22, 1, 19, 31, 86979000, time.UTC)) {
				t.Errorf("At = %v", m.At)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range samples(f) {
		f.Add([]byte(s.Body))
	}
	f.Add([]byte(bare("nova-compute:h", "instance.rebuild.end", `{"nova_object.version": "1.0", "nova_object.data": {}}`)))
	kinds := converge.Kinds()
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := Parse(body)
		if err != nil {
			if !errors.Is(err, ErrUnreadable) {
				t.Errorf("error %v", err)
			}
			if len(m.Hints()) > 0 {
				t.Error("hints beside an error")
			}
		}
		for _, h := range m.Hints() {
			if !slices.Contains(kinds, h.Key.Kind) {
				t.Errorf("kind %q", h.Key.Kind)
			}
			for part := range strings.SplitSeq(h.Key.ID, "/") {
				if part != "default" && len(part) != 32 && len(part) != 64 || strings.ToLower(part) != part {
					t.Errorf("ID %q", h.Key.ID)
				}
			}
		}
	})
}
