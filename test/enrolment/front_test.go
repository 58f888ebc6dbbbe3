// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enrolment

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

// Instances come and go where FreeIPA has its own web server before it, which is let down by all that it needs: whoever boots
// meanwhile is answered without a password, and gets it when all is back.
func TestFront(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it needs Apache, OpenLDAP and a KDC")
	}
	const principal = "muster/controller." + services.FrontDomain
	front := services.StartFront(t, services.KDCOptions{Principals: []string{principal}})
	ipa, err := freeipa.New(freeipa.Config{
		Domain: services.FrontDomain, Realm: front.KDC.Realm, Host: front.Host, Caller: front.Caller,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := ipa.GrantHostManagement(principal); err != nil {
		t.Fatal(err)
	}
	front.Serve(ipa.TLS().Certificates[0], ipa.Handler())
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, ipa.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, deployment.Options{Settings: deployment.Settings{
		"ipa": {
			"servers": front.Host, "domain": services.FrontDomain, "username": "", "password": "", "principal": principal,
			"keytab": front.KDC.Keytab(principal), "kerberos_conf": front.KDC.Conf, "cafile": ca,
		},
		// Long enough for each that meets no trouble, or it is asked again.
		"enroll": {"answer_within": "2s"},
	}})
	s.ipa = ipa

	instance := deployment.NewID()
	web := s.enrol(t, instance, s.project, "web1", "managed_service_api", "HTTP/web1.example.test")
	if err := ipa.Join(web.Hostname, web.OTP); err != nil {
		t.Fatalf("%+v cannot join: %v\n%s", web, err, front.Log())
	}
	if services := s.services(web.Hostname); len(services) != 1 || services[0] != "HTTP/web1.example.test" {
		t.Errorf("it manages %v", services)
	}
	for _, trouble := range []struct {
		name       string
		away, back func()
	}{
		{"web", front.StopWeb, front.StartWeb},
		{"ldap", front.LDAP.Stop, front.LDAP.Start},
		{"restart", func() { front.StopWeb(); front.DropCaches() }, front.StartWeb},
		{"kdc", func() { front.KDC.Stop(); front.DropCaches() }, front.KDC.Start},
	} {
		t.Run(trouble.name, func(t *testing.T) {
			trouble.away()
			id := deployment.NewID()
			order := body(id, s.project, trouble.name)
			var meanwhile joining
			s.nova.Want(t, http.StatusOK, "POST", "/v1/", order, &meanwhile)
			if meanwhile.OTP != "" || s.hasHost(trouble.name+".example.test") {
				t.Errorf("it got %+v while FreeIPA was away", meanwhile)
			}
			trouble.back()
			got := s.awaitPassword(t, s.nova, order)
			if err := ipa.Join(got.Hostname, got.OTP); err != nil {
				t.Errorf("%+v cannot join: %v", got, err)
			}
			s.leave(t, id)
		})
	}
	s.leave(t, instance)
	if s.hasHost(web.Hostname) {
		t.Error("its host is still there")
	}
}
