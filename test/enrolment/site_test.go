// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package enrolment enrols instances through a whole Muster, from Nova's call
// to FreeIPA's entries, and looks for what went wrong with novajoin.
package enrolment

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/uuid"
	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

var databases services.Databases

func TestMain(m *testing.M) {
	os.Exit(services.Isolate(func() int { return databases.Main(m) }))
}

// site is a Muster that enrols, and those who ask it.
type site struct {
	*deployment.Deployment
	url      string              // of the replica, or of the load balancer before two
	replica  *deployment.Replica // the first
	replicas int
	nova     *deployment.Client
	operator *deployment.Client
	ipa      *freeipa.Server
	project  string // shop
	other    string
}

func newSite(t *testing.T, o deployment.Options) *site {
	t.Helper()
	o.FreeIPA = true
	d := deployment.New(t, o)
	s := &site{Deployment: d, ipa: d.Cloud.FreeIPA, project: d.Project(t, "shop"), other: d.Project(t, "other")}
	s.replica, s.replicas = d.Start(t), 1
	s.url = s.replica.URL
	s.nova = deployment.As(s.url, d.Nova(t))
	s.operator = deployment.As(s.url, d.Operator(t))
	return s
}

// everywhere runs a test on one replica with SQLite, and on two that share a
// PostgreSQL and are asked in turn: neither Nova nor FreeIPA may see a difference.
func everywhere(t *testing.T, o deployment.Options, test func(*testing.T, *site)) {
	t.Run("one replica", func(t *testing.T) { test(t, newSite(t, o)) })
	t.Run("two replicas", func(t *testing.T) {
		o.Database = databases.PostgreSQL(t)
		s := newSite(t, o)
		s.url, s.replicas = deployment.Balance(t, s.replica, s.Start(t)), 2
		s.nova, s.operator = s.nova.At(s.url), s.operator.At(s.url)
		test(t, s)
	})
}

// joining is novajoin's answer.
type joining struct {
	Hostname string `json:"hostname"`
	Realm    string `json:"krb_realm"`
	OTP      string `json:"ipaotp"`
}

// body is Nova's call for an instance that asks for enrolment. Metadata are
// pairs of key and value.
func body(instance, project, hostname string, metadata ...string) deployment.Object {
	m := map[string]string{"ipa_enroll": "True"}
	for i := 0; i+1 < len(metadata); i += 2 {
		m[metadata[i]] = metadata[i+1]
	}
	return deployment.Object{"instance-id": instance, "project-id": project, "hostname": hostname, "image-id": nil, "metadata": m}
}

// enrol makes the call and returns its answer, which must be good. It makes it
// again if the first attempt to reach FreeIPA failed, as on a machine that stalls.
func (s *site) enrol(t *testing.T, instance, project, hostname string, metadata ...string) joining {
	t.Helper()
	var answer joining
	order := body(instance, project, hostname, metadata...)
	s.nova.Want(t, http.StatusOK, "POST", "/v1/", order, &answer)
	if answer.OTP != "" {
		return answer
	}
	// Who has joined already gets no password.
	made := s.await(t, instance, func(r record) bool { return r.State == "created" || r.State == "enrolled" })
	if made.State == "created" {
		return s.awaitPassword(t, s.nova, order)
	}
	return answer
}

// refused makes the call, which must be refused for a reason that holds the text.
func (s *site) refused(t *testing.T, status int, reason, instance, project, hostname string, metadata ...string) {
	t.Helper()
	var answer map[string]struct{ Message string }
	s.nova.Want(t, status, "POST", "/v1/", body(instance, project, hostname, metadata...), &answer)
	for _, refusal := range answer {
		if strings.Contains(refusal.Message, reason) {
			return
		}
	}
	t.Errorf("%v does not tell %q", answer, reason)
}

// boot boots an instance in the cloud and returns its ID and what is in its
// metadata of Muster's own call.
func (s *site) boot(t *testing.T, server compute.Server) (string, map[string]any) {
	t.Helper()
	if err := s.Cloud.Compute.SetVendordataTargets("muster@" + s.url + "/v1/vendordata"); err != nil {
		t.Fatal(err)
	}
	server.UserID = s.Cloud.Identity.UserID("demo")
	id, err := s.Cloud.Compute.Boot(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	answers, err := s.Cloud.Compute.Vendordata(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var found map[string]any
	if err := json.Unmarshal(answers["muster"], &found); err != nil {
		t.Fatalf("%v in %s", err, answers["muster"])
	}
	canonical, err := uuid.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	return canonical, found
}

// record is an enrolment as operators see it.
type record struct {
	FQDN, State, Error string
}

// awaitPassword makes the call until the answer has a one-time password. It comes
// without where little time was left for it, or an attempt to reach FreeIPA ended
// on a machine that is busy.
func (s *site) awaitPassword(t *testing.T, nova *deployment.Client, order deployment.Object) (got joining) {
	t.Helper()
	err := deployment.Await(t.Context(), func(ctx context.Context) error {
		answer, err := nova.Call(ctx, "POST", "/v1/", order)
		if err != nil {
			return err
		}
		if err := answer.Decode(&got); err != nil || got.OTP == "" {
			return fmt.Errorf("no password: %d %s", answer.Status, answer.Body)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// awaitState returns when an instance's enrolment is in the state.
func (s *site) awaitState(t *testing.T, instance, state string) record {
	t.Helper()
	return s.await(t, instance, func(r record) bool { return r.State == state })
}

// await returns when an instance's enrolment is as wanted.
func (s *site) await(t *testing.T, instance string, wanted func(record) bool) record {
	t.Helper()
	var found record
	err := deployment.Await(t.Context(), func(ctx context.Context) error {
		answer, err := s.operator.Call(ctx, "GET", "/v1/enrolments/"+instance, nil)
		if err != nil {
			return err
		}
		if err := answer.Decode(&found); err != nil {
			return err
		}
		if !wanted(found) {
			return fmt.Errorf("the enrolment is %q (%s)", found.State, found.Error)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// leave deletes an instance in Muster and waits until it has left FreeIPA.
func (s *site) leave(t *testing.T, instance string) {
	t.Helper()
	s.nova.Want(t, http.StatusNoContent, "DELETE", "/v1/hosts/"+instance, nil, nil)
	s.awaitState(t, instance, "gone")
}

func (s *site) hasHost(fqdn string) bool {
	_, ok := s.ipa.Host(fqdn)
	return ok
}

// services are the principals of FreeIPA's services, without realm, that a
// host manages.
func (s *site) services(fqdn string) []string {
	var principals []string
	for _, service := range s.ipa.Services() {
		if slices.Contains(service.ManagedBy, fqdn) {
			principal, _, _ := strings.Cut(service.Principal, "@")
			principals = append(principals, principal)
		}
	}
	slices.Sort(principals)
	return principals
}
