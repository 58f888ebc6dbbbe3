// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/devcloud/devcloudtest"
	"github.com/muster-cloud/muster/internal/devcloud/image"
	"github.com/muster-cloud/muster/internal/devcloud/messaging"
	"github.com/muster-cloud/muster/internal/devcloud/network"
	"github.com/muster-cloud/muster/test/cloud"
	"github.com/muster-cloud/muster/test/services"
)

// world is a cloud to play in: where it is, and what it has.
type world struct {
	authURL, metadataURL, metadataSecret string
	password                             string // of admin, muster and nova
	transport                            string // Muster's transport_url
	topic                                string // of Nova's notifications, for Muster
	image, flavor, network, public       string
	asking                               string             // an image with ipa_enroll
	broker                               *services.RabbitMQ // nil: not ours to stop
	// real: what takes the real services minutes is played smaller.
	real bool
	// listen opens the addresses at which Nova calls Muster: for its own and
	// Tatu's calls, and for novajoin's.
	listen func(t testing.TB) (main, join net.Listener)
	// speaking returns a world in which Nova's notifications have only one form.
	speaking func(t testing.TB, format string) *world
}

// inEachWorld plays a scenario in the cloud in a process and, if that is
// wanted, in the real one.
func inEachWorld(t *testing.T, scenario func(t *testing.T, w *world)) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it needs services")
	}
	t.Run("devcloud", func(t *testing.T) { scenario(t, newDevWorld(t, compute.Both)) })
	if wantsReal() {
		t.Run("openstack", func(t *testing.T) { scenario(t, newRealWorld(t)) })
	}
}

func newRealWorld(t testing.TB) *world {
	t.Helper()
	o := real.get(t)
	w := &world{authURL: o.AuthURL, metadataURL: o.MetadataURL, metadataSecret: o.MetadataSecret, password: o.Password,
		transport: o.TransportURL, topic: o.Topic, image: o.Image, asking: o.AskingImage, flavor: o.Flavor, network: o.Network, public: o.PublicNetwork,
		broker: o.Broker, real: true}
	w.listen = func(t testing.TB) (main, join net.Listener) { return listen(t, o.Vendordata), listen(t, o.Join) }
	w.speaking = func(_ testing.TB, format string) *world {
		other := *w
		if format == compute.Versioned {
			other.topic = o.VersionedTopic
		}
		return &other
	}
	t.Cleanup(func() {
		if t.Failed() && o.Broker != nil {
			t.Logf("what the services said last:\n%s", o.Logs())
		}
	})
	return w
}

func newDevWorld(t testing.TB, format string) *world {
	t.Helper()
	const password = "secret"
	b := broker.get(t)
	w := &world{password: password, metadataSecret: "shared", broker: b, transport: b.URL(b.VirtualHost(t)),
		topic: "muster_notifications", flavor: "tiny"}
	c := devcloudtest.Start(t, devcloud.Config{ComputeFormat: format, MetadataSecret: w.metadataSecret, NetworkDomain: networkDomain,
		Passwords: map[string]string{"admin": password, "muster": password, "nova": password}})
	publisher, err := messaging.NewRabbit(w.transport)
	if err != nil {
		t.Fatal(err)
	}
	c.Notifier.To(publisher)
	w.authURL, w.metadataURL = c.AuthURL(), c.MetadataURL()
	properties := map[string]string{"os_distro": "debian", "os_version": "12"}
	w.image, err = c.Images.Add(image.Image{Name: "tiny", Visibility: "public", Properties: properties})
	must(t, err)
	properties = map[string]string{"os_distro": "debian", "os_version": "12", "ipa_enroll": "True"}
	w.asking, err = c.Images.Add(image.Image{Name: "asking", Visibility: "public", Properties: properties})
	must(t, err)
	admin := w.admin(t)
	w.network, err = admin.FindNetwork(t.Context(), network.Private)
	must(t, err)
	w.public, err = admin.FindNetwork(t.Context(), network.Public)
	must(t, err)
	w.listen = func(t testing.TB) (main, join net.Listener) {
		main, join = listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
		base := "http://" + main.Addr().String() + "/v1"
		err := c.Compute.SetVendordataTargets("muster@"+base+"/vendordata", "tatu@"+base+"/novavendordata", "join@http://"+join.Addr().String()+"/v1/")
		if err != nil {
			t.Fatal(err)
		}
		return main, join
	}
	w.speaking = newDevWorld
	return w
}

func listen(t testing.TB, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// admin logs in as the cloud's administrator.
func (w *world) admin(t testing.TB) *cloud.Session {
	t.Helper()
	session, err := cloud.Login(t.Context(), w.authURL, "admin", w.password, "admin")
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// patience is how long something may take that is sure to happen. Machines that
// run tests are busy.
const patience = 3 * time.Minute

// eventually asks until the answer is nil.
func eventually(t testing.TB, ask func(context.Context) error) {
	t.Helper()
	if err := cloud.Await(t.Context(), patience, ask); err != nil {
		t.Fatal(err)
	}
}

// must fails the test for an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
