// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/devcloud/messaging"
	"github.com/muster-cloud/muster/internal/uuid"
	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

// follower is a deployment that follows its cloud over RabbitMQ, and a process
// of it that is killed now and then.
type follower struct {
	*deployment.Deployment
	t       *testing.T
	process *deployment.Process
	project string
}

// guest is an instance that has joined FreeIPA, and someone with a certificate.
type guest struct {
	id, fqdn string
	person   deployment.Person
	serial   uint64
}

// TestKilledWhileFollowing kills a process at random moments while it removes,
// rebuilds and updates instances and revokes certificates. The next process
// brings everything to its end, and touches nothing of those that nothing
// happened to.
func TestKilledWhileFollowing(t *testing.T) {
	t.Parallel()
	broker, err := services.StartRabbitMQ(t.Context())
	services.Need(t, err)
	t.Cleanup(func() {
		if err := broker.Stop(); err != nil {
			t.Error(err)
		}
	})
	url := broker.URL("/")
	d := deployment.New(t, deployment.Options{FreeIPA: true, Settings: deployment.Settings{
		"DEFAULT": {"transport_url": url}, "converge": {"enabled": "true"},
	}})
	to, err := messaging.NewRabbit(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(to.Close)
	d.Cloud.Notifier.To(to)
	f := &follower{Deployment: d, t: t, project: d.Project(t, "shop"), process: d.StartProcess(t)}
	if err := d.Cloud.FreeIPA.AddHost("foreign."+deployment.IPADomain, ""); err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range 4 {
		f.round(round, random)
		if t.Failed() {
			t.Fatalf("round %d\n%s", round, f.process.Log())
		}
	}
}

func (f *follower) round(round int, random *rand.Rand) {
	f.t.Helper()
	f.setTarget()
	var guests []guest
	for n := range 4 {
		guests = append(guests, f.newGuest(fmt.Sprintf("r%dn%d", round, n)))
	}
	deleted, rebuilt, updated, left := guests[0], guests[1], guests[2], guests[3]
	err := errors.Join(
		f.Cloud.Compute.Delete(deleted.id), f.Cloud.Compute.Rebuild(rebuilt.id),
		f.Cloud.Compute.SetMetadata(updated.id, map[string]string{"ipa_enroll": "True", "compact_service_mysql": `["y"]`}),
		f.Cloud.Identity.Ungrant(deleted.person.ID, f.project, "member"), f.Cloud.Identity.Ungrant(updated.person.ID, f.project, "member"),
	)
	if err != nil {
		f.t.Fatal(err)
	}
	time.Sleep(time.Duration(random.Int64N(int64(200 * time.Millisecond)))) // the moment of death
	f.process.Kill()
	f.process = f.StartProcess(f.t)
	f.setTarget()
	f.await("the deleted instance to leave", func() bool { return !f.hasHost(deleted.fqdn) && !f.hasHost(subHost(deleted)) })
	f.await("a new password for the rebuilt instance", func() bool {
		host, _ := f.Cloud.FreeIPA.Host(rebuilt.fqdn)
		return host.HasPassword && !host.HasKeytab
	})
	f.await("the updated instance's service", func() bool { return f.hasHost("r" + fmt.Sprint(round) + "n2.y." + deployment.IPADomain) })
	for _, g := range []guest{deleted, updated} {
		f.await("the revocation of a certificate", func() bool { return f.revoked(g) })
	}
	// The rebuilt instance comes up, and can join.
	if err := f.Cloud.FreeIPA.Join(rebuilt.fqdn, f.password(rebuilt)); err != nil {
		f.t.Errorf("the rebuilt instance: %v", err)
	}
	if host, there := f.Cloud.FreeIPA.Host(left.fqdn); !there || !host.HasKeytab || !f.hasHost(subHost(left)) || !f.hasHost("foreign."+deployment.IPADomain) {
		f.t.Error("what nothing happened to has changed in FreeIPA")
	}
	if f.revoked(left) || f.revoked(rebuilt) {
		f.t.Error("a certificate of someone who lost nothing is revoked")
	}
}

func (f *follower) setTarget() {
	f.t.Helper()
	if err := f.Cloud.Compute.SetVendordataTargets("muster@" + f.process.URL + "/v1/vendordata"); err != nil {
		f.t.Fatal(err)
	}
}

// newGuest boots an instance that joins, and lets someone have a certificate.
func (f *follower) newGuest(name string) guest {
	f.t.Helper()
	g := guest{person: f.Person(f.t, name, "shop", "member")}
	var err error
	g.id, err = f.Cloud.Compute.Boot(f.t.Context(), compute.Server{Name: name, ProjectID: f.project, UserID: g.person.ID,
		Metadata: map[string]string{"ipa_enroll": "True", "compact_service_HTTP": `["x"]`}})
	if err != nil {
		f.t.Fatal(err)
	}
	if g.id, err = uuid.Parse(g.id); err != nil {
		f.t.Fatal(err)
	}
	g.fqdn = name + "." + deployment.IPADomain
	if err := f.Cloud.FreeIPA.Join(g.fqdn, f.password(g)); err != nil {
		f.t.Fatal(err)
	}
	var cert struct{ Serial uint64 }
	deployment.As(f.process.URL, g.person).Want(f.t, http.StatusCreated, "POST", "/v1/usercerts",
		deployment.Object{"user_id": g.person.ID, "auth_id": f.project, "pub_key": deployment.NewKey(f.t)}, &cert)
	g.serial = cert.Serial
	return g
}

// password is the one in the instance's metadata, once it is there.
func (f *follower) password(g guest) (password string) {
	f.t.Helper()
	f.await("a password in the metadata", func() bool {
		answers, err := f.Cloud.Compute.Vendordata(f.t.Context(), g.id)
		if err != nil {
			f.t.Fatal(err)
		}
		var vendordata struct {
			OTP string `json:"ipaotp"`
		}
		if raw, ok := answers["muster"]; ok && json.Unmarshal(raw, &vendordata) != nil {
			f.t.Fatalf("vendordata: %s", raw)
		}
		password = vendordata.OTP
		return password != ""
	})
	return password
}

func subHost(g guest) string {
	name, _, _ := strings.Cut(g.fqdn, ".")
	return name + ".x." + deployment.IPADomain
}

func (f *follower) hasHost(fqdn string) bool {
	_, there := f.Cloud.FreeIPA.Host(fqdn)
	return there
}

func (f *follower) revoked(g guest) bool {
	f.t.Helper()
	var cert struct{ Revoked bool }
	deployment.As(f.process.URL, f.Operator(f.t)).Want(f.t, http.StatusOK, "GET", fmt.Sprint("/v1/usercerts/", g.serial), nil, &cert)
	return cert.Revoked
}

func (f *follower) await(what string, isSo func() bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	for !isSo() {
		select {
		case <-ctx.Done():
			f.t.Fatalf("%s: does not come\n%s", what, f.process.Log())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
