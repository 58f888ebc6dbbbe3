// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package devcloud_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/devcloud/devcloudtest"
	"github.com/muster-cloud/muster/internal/devcloud/network"
	"github.com/muster-cloud/muster/internal/notify"
)

// recorder keeps what is published.
type recorder struct {
	mu   sync.Mutex
	sent []sent
}

type sent struct {
	Exchange   string `json:"exchange"`
	RoutingKey string `json:"routing_key"`
	Body       string `json:"body"`
}

func (r *recorder) Publish(_ context.Context, exchange, routingKey string, body []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, sent{exchange, routingKey, string(body)})
	return nil
}

// take returns what was published since the last time.
func (r *recorder) take(t *testing.T, cloud *devcloud.Cloud) []sent {
	t.Helper()
	if err := cloud.Notifier.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.sent
	r.sent = nil
	return all
}

// inner is the message inside the envelope.
func inner(t *testing.T, body string) map[string]any {
	t.Helper()
	var envelope map[string]string
	var message map[string]any
	if err := json.Unmarshal([]byte(body), &envelope); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(envelope["oslo.message"]), &message); err != nil {
		t.Fatal(err)
	}
	return message
}

// differences lists what the message has that the real one has not, or has of
// another type. Fewer fields are fine: nobody reads the rest.
func differences(path string, ours, real any) []string {
	switch ours := ours.(type) {
	case map[string]any:
		realObject, ok := real.(map[string]any)
		if !ok {
			return []string{path + " is no object"}
		}
		var all []string
		for name, value := range ours {
			if strings.HasSuffix(path, ".metadata") {
				break
			}
			realValue, ok := realObject[name]
			if !ok {
				all = append(all, path+"."+name+" is not in the real one")
				continue
			}
			all = append(all, differences(path+"."+name, value, realValue)...)
		}
		return all
	case nil:
		return nil
	default:
		if real != nil && fmt.Sprintf("%T", ours) != fmt.Sprintf("%T", real) {
			return []string{fmt.Sprintf("%s is %T, really %T", path, ours, real)}
		}
		return nil
	}
}

// TestNotificationsLikeTheRealOnes does what was done when the real services'
// messages were recorded.
func TestNotificationsLikeTheRealOnes(t *testing.T) {
	for _, format := range []string{"basic", "cadf"} {
		t.Run(format, func(t *testing.T) {
			cloud := devcloudtest.Start(t, devcloud.Config{IdentityFormat: format})
			r := &recorder{}
			cloud.Notifier.To(r)
			admin, err := cloud.Identity.Token("admin", cloud.Identity.Password("admin"), "admin")
			if err != nil {
				t.Fatal(err)
			}
			call := func(method, path, body string) string { return keystone(t, cloud, admin, method, path, body) }
			role := cloud.Identity.RoleID("member")
			project := call("POST", "/projects", `{"project": {"name": "p"}}`)
			user := call("POST", "/users", `{"user": {"name": "u", "password": "x"}}`)
			group := call("POST", "/groups", `{"group": {"name": "g"}}`)
			inProject, inDomain := "/projects/"+project, "/domains/default"
			for _, change := range [][2]string{
				{"PUT", inProject + "/users/" + user + "/roles/" + role}, {"PUT", inProject + "/groups/" + group + "/roles/" + role},
				{"PUT", inDomain + "/users/" + user + "/roles/" + role},
				{"PUT", "/OS-INHERIT" + inProject + "/users/" + user + "/roles/" + role + "/inherited_to_projects"},
				{"PUT", "/groups/" + group + "/users/" + user}, {"DELETE", "/groups/" + group + "/users/" + user},
				{"DELETE", "/OS-INHERIT" + inProject + "/users/" + user + "/roles/" + role + "/inherited_to_projects"},
				{"DELETE", inDomain + "/users/" + user + "/roles/" + role}, {"DELETE", inProject + "/groups/" + group + "/roles/" + role},
				{"DELETE", inProject + "/users/" + user + "/roles/" + role}, {"PUT", inProject + "/users/" + user + "/roles/" + role},
				{"PUT", inProject + "/groups/" + group + "/roles/" + role},
			} {
				call(change[0], change[1], "")
			}
			call("PATCH", "/users/"+user, `{"user": {"description": "d"}}`)
			call("PATCH", "/users/"+user, `{"user": {"enabled": false}}`)
			call("PATCH", "/users/"+user, `{"user": {"enabled": true}}`)
			call("PATCH", "/projects/"+project, `{"project": {"enabled": false}}`)
			call("PATCH", "/projects/"+project, `{"project": {"enabled": true}}`)
			call("DELETE", "/users/"+user, "")
			call("DELETE", "/groups/"+group, "")
			call("DELETE", "/projects/"+project, "")

			all := r.take(t, cloud)
			if len(all) != 23 {
				t.Fatalf("%d notifications, really 23", len(all))
			}
			for i, ours := range all {
				compare(t, fmt.Sprintf("keystone-%s-%02d-*", format, i+1), ours)
			}
		})
	}
}

func TestInstancesAreAnnounced(t *testing.T) {
	for format, names := range map[string][]string{
		compute.Unversioned: {"nova-unversioned-compute.instance.update-building_scheduling_scheduling-1",
			"nova-unversioned-compute.instance.create.end-1", "nova-unversioned-compute.instance.update-active_None_None-9",
			"nova-unversioned-compute.instance.update-stopped_deleting_deleting-12", "nova-unversioned-compute.instance.delete.end-1"},
		compute.Versioned: {"nova-versioned-instance.update-building_scheduling_scheduling-1", "nova-versioned-instance.create.end-1",
			"nova-versioned-instance.update-active_None_None-9", "nova-versioned-instance.update-stopped_deleting_deleting-12",
			"nova-versioned-instance.delete.end-1"},
	} {
		t.Run(format, func(t *testing.T) {
			cloud := devcloudtest.Start(t, devcloud.Config{ComputeFormat: format})
			r := &recorder{}
			cloud.Notifier.To(r)
			id, err := cloud.Compute.Boot(t.Context(), compute.Server{Name: "web", ProjectID: cloud.Identity.ProjectID("demo"),
				UserID: cloud.Identity.UserID("demo"), ImageID: "4787d9c3-9dbe-4704-a3c9-3fad9c9a0a1d", FlavorID: "1"})
			if err != nil {
				t.Fatal(err)
			}
			if err := cloud.Compute.SetMetadata(id, map[string]string{"ipa_enroll": "True"}); err != nil {
				t.Fatal(err)
			}
			if err := cloud.Compute.Delete(id); err != nil {
				t.Fatal(err)
			}
			all := from("nova", r.take(t, cloud))
			if len(all) != len(names) {
				t.Fatalf("%d notifications, want %d", len(all), len(names))
			}
			for i, name := range names {
				compare(t, name, all[i])
			}
		})
	}
}

// from leaves what one service sent.
func from(exchange string, all []sent) []sent {
	return slices.DeleteFunc(all, func(one sent) bool { return one.Exchange != exchange })
}

// TestAddressesAreAnnounced does what was done when Neutron's messages were
// recorded.
func TestAddressesAreAnnounced(t *testing.T) {
	cloud := devcloudtest.Start(t, devcloud.Config{})
	r := &recorder{}
	cloud.Notifier.To(r)
	project := cloud.Identity.ProjectID("demo")
	loose := must(cloud.Network.AddPort(network.Port{Name: "explicit-port", ProjectID: project}))(t)
	id := must(cloud.Compute.Boot(t.Context(), compute.Server{Name: "web", ProjectID: project, UserID: cloud.Identity.UserID("demo")}))(t)
	first := must(cloud.Network.CreateFloatingIP(project, ""))(t)
	for _, to := range []string{cloud.Network.PortOf(id), "", cloud.Network.PortOf(id)} {
		if err := cloud.Network.Associate(first.ID, to); err != nil {
			t.Fatal(err)
		}
	}
	// Nobody is told that the floating IP leads nowhere now.
	if err := cloud.Compute.Delete(id); err != nil {
		t.Fatal(err)
	}
	second := must(cloud.Network.CreateFloatingIP(project, loose))(t)
	for _, err := range []error{cloud.Network.DeleteFloatingIP(second.ID), cloud.Network.DeleteFloatingIP(first.ID), cloud.Network.DeletePort(loose)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"port.create.end-1", "port.create.end-2", "port.update.end-2", "floatingip.create.end-1", "floatingip.update.end-associate-1",
		"floatingip.update.end-disassociate-2", "floatingip.update.end-associate-3", "port.delete.end-1", "floatingip.create.end-2",
		"floatingip.delete.end-1", "floatingip.delete.end-2", "port.delete.end-2"}
	all := from("neutron", r.take(t, cloud))
	if len(all) != len(names) {
		t.Fatalf("%d notifications, want %d", len(all), len(names))
	}
	for i, name := range names {
		compare(t, "neutron-"+name, all[i])
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// compare holds a message against a recorded one.
func compare(t *testing.T, name string, ours sent) {
	t.Helper()
	paths, err := filepath.Glob("../notify/testdata/samples/" + name + ".json")
	if err != nil || len(paths) != 1 {
		t.Fatal(name, paths, err)
	}
	text, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	var real sent
	if err := json.Unmarshal(text, &real); err != nil {
		t.Fatal(err)
	}
	if ours.Exchange != real.Exchange || ours.RoutingKey != "muster_notifications.info" {
		t.Errorf("%s: sent to %s %s", name, ours.Exchange, ours.RoutingKey)
	}
	message, realMessage := inner(t, ours.Body), inner(t, real.Body)
	if message["event_type"] != realMessage["event_type"] || message["priority"] != realMessage["priority"] {
		t.Errorf("%s: %v", name, message["event_type"])
	}
	if diff := differences("", message, realMessage); len(diff) > 0 {
		t.Errorf("%s:\n%s", name, strings.Join(diff, "\n"))
	}
	got, err := notify.Parse([]byte(ours.Body))
	if err != nil {
		t.Error(name, err)
	}
	want, err := notify.Parse([]byte(real.Body))
	if err != nil {
		t.Error(name, err)
	}
	if diff := cmp.Diff(kinds(want), kinds(got)); diff != "" {
		t.Errorf("%s: hints (-real +ours)\n%s", name, diff)
	}
}

func kinds(m notify.Message) []string {
	var list []string
	for _, h := range m.Hints() {
		list = append(list, string(h.Key.Kind))
	}
	return list
}

// keystone makes a call and returns the ID in the answer, if there is one.
func keystone(t *testing.T, cloud *devcloud.Cloud, token, method, path, body string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, cloud.AuthURL()+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Auth-Token", token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		t.Fatal(method, path, response.Status)
	}
	answer := map[string]struct{ ID string }{}
	if response.StatusCode != http.StatusNoContent {
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
	}
	for _, thing := range answer {
		return thing.ID
	}
	return ""
}
