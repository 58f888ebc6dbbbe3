// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/store"
)

// TestLeaveBeforeItWasMade: an instance goes before FreeIPA was ever reached for it. What is there under its names then is somebody else's.
func TestLeaveBeforeItWasMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, w.ipa.AddHost("a.example.test", "theirs"))
	must(t, w.ipa.AddHost("vip-1.example.test", ""))
	must(t, w.ipa.AddService("HTTP/vip-1.example.test"))
	w.ipa.Inject(func(string) freeipa.Fault { return freeipa.Fault{Status: 503} })
	r := w.replica(t, func(c *Config) { c.AnswerWithin = 10 * time.Second })
	_, err := r.Enrol(t.Context(), operator, request(1, "web", "a", "managed_service_x", "HTTP/vip-1.example.test"))
	must(t, err)
	must(t, r.Leave(t.Context(), operator, id(1)))
	w.ipa.Inject(nil)
	r.reach(t, 1, store.EnrolmentGone)
	hosts, services := w.entries()
	equal(t, hosts, []string{"a.example.test", "vip-1.example.test"})
	equal(t, services, []string{"HTTP/vip-1.example.test"})
	must(t, w.ipa.Join("a.example.test", "theirs"))
}

// TestLeaveWhatOthersUse: a service that somebody let another host manage, and a host on which somebody made another service, stay when the
// instance goes for which they were made.
func TestLeaveWhatOthersUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, w.ipa.AddHost("theirs.example.test", ""))
	r := w.replica(t)
	r.enrol(t, request(1, "web", "a", "managed_service_x", "HTTP/vip-1.example.test", "managed_service_y", "HTTP/vip-2.example.test",
		"managed_service_z", "HTTP/vip-3.example.test"))
	must(t, r.ipa.ServiceAddHost(t.Context(), "HTTP/vip-1.example.test", "theirs.example.test"))
	must(t, w.ipa.AddService("ldap/vip-2.example.test"))
	r.leave(t, 1)
	hosts, services := w.entries()
	equal(t, hosts, []string{"theirs.example.test", "vip-1.example.test", "vip-2.example.test"})
	equal(t, services, []string{"HTTP/vip-1.example.test", "ldap/vip-2.example.test"})
}
