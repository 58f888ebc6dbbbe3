// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/demo/openssh"
)

// An instance that boots finds its identity in Nova's metadata service, by
// Muster's call and by both that it replaces. Its agent gets a certificate for
// each host key and joins FreeIPA, and members of its project get in.
func TestInstanceBoots(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w *world) {
		s := newSite(t, w)
		s.start(t, "one")
		project := s.newProject(t, unique("shop"))
		p := s.member(t, project)
		name := unique("web")
		fqdn := name + "." + ipaDomain
		g := s.boot(t, p.session, name, map[string]string{"ipa_enroll": "True", "compact_service_HTTP": `["internalapi", "ctlplane"]`,
			"managed_service_imap": "imap/" + fqdn})
		told := g.read(t, hasPasswords)
		both := told["muster"]
		if both.FQDN != fqdn || both.Realm != s.ipa.Realm() || len(both.OTP) != 32 || both.Token == "" || both.Refusal != "" {
			t.Errorf("Muster's own call: %+v", both)
		}
		if tatu := told["tatu"]; tatu != (identity{Token: both.Token, UserCA: both.UserCA, Endpoint: both.Endpoint}) {
			t.Errorf("Tatu's call: %+v, Muster's: %+v", tatu, both)
		}
		if join := told["join"]; join != (identity{FQDN: both.FQDN, Realm: both.Realm, OTP: both.OTP}) {
			t.Errorf("novajoin's call: %+v, Muster's: %+v", join, both)
		}
		s.wantHost(t, name)
		g.setUp(t)
		g.awaitJoined(t)
		p.certify(t, g.programs)
		for _, kind := range []string{ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoRSASHA512v01} {
			must(t, g.loginBy(t.Context(), p, kind))
		}
		// A member of another project has a good certificate, and no business here.
		stranger := s.member(t, s.newProject(t, unique("other")))
		stranger.certify(t, g.programs)
		if err := g.login(t.Context(), stranger); !errors.Is(err, openssh.ErrRefused) {
			t.Errorf("the stranger's login: %v", err)
		}
	})
}

func isRefused(told map[string]identity) bool { return told["muster"].Refusal != "" }

// join does in FreeIPA what ipa-client-install does on an instance without the
// agent.
func (g *guest) join(t testing.TB) {
	t.Helper()
	must(t, g.site.ipa.Join(g.metadata.FQDN, g.metadata.OTP))
	g.awaitJoined(t)
}

// awaitJoined returns when Muster has seen that the instance has joined FreeIPA:
// the metadata have no password any more.
func (g *guest) awaitJoined(t testing.TB) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		later, err := g.fetch(ctx)
		if err == nil && (later["muster"].OTP != "" || later["join"].OTP != "" || later["join"].FQDN != g.metadata.FQDN) {
			err = errors.New("the instance has joined, and still gets a password")
		}
		return err
	})
}

// wantHost expects FreeIPA's entries of an instance that asked for services.
func (s *site) wantHost(t *testing.T, name string) {
	t.Helper()
	fqdn := name + "." + ipaDomain
	host, ok := s.ipa.Host(fqdn)
	if !ok || !host.HasPassword {
		t.Errorf("FreeIPA's host: %+v", host)
	}
	var principals []string
	for _, service := range s.ipa.Services() {
		if slices.Contains(service.ManagedBy, fqdn) {
			principal, _, _ := strings.Cut(service.Principal, "@")
			principals = append(principals, principal)
		}
	}
	slices.Sort(principals)
	want := []string{fmt.Sprintf("HTTP/%s.ctlplane.%s", name, ipaDomain), fmt.Sprintf("HTTP/%s.internalapi.%s", name, ipaDomain), "imap/" + fqdn}
	if !slices.Equal(principals, want) {
		t.Errorf("services %v, want %v", principals, want)
	}
}

// An image may ask in place of its instances. An instance that does not ask, nor its image, is left out of FreeIPA, and one that takes the
// name of another is told so; both get their SSH identity.
func TestWhoIsEnrolled(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w *world) {
		s := newSite(t, w)
		s.start(t, "one")
		owner := s.member(t, s.newProject(t, unique("shop")))
		name := unique("web")
		s.boot(t, owner.session, name, map[string]string{"ipa_enroll": "true"}).read(t, hasPasswords)
		asking := s.bootOf(t, owner.session, s.asking, unique("app"), nil).read(t, hasPasswords)["muster"]
		if host, ok := s.ipa.Host(asking.FQDN); !ok || !slices.Equal(host.Attributes["nsosversion"], []string{"debian 12"}) {
			t.Errorf("an instance whose image asks: %+v, in FreeIPA %+v", asking, host)
		}
		silent := s.boot(t, owner.session, unique("db"), nil).read(t)
		if one := silent["muster"]; one.Token == "" || one.FQDN != "" || silent["join"] != (identity{}) {
			t.Errorf("an instance that does not ask: %+v", silent)
		}
		mallory := s.member(t, s.newProject(t, unique("other")))
		second := s.boot(t, mallory.session, name, map[string]string{"ipa_enroll": "true"})
		// Nova makes {} of a refusal.
		if told := second.read(t, isRefused); told["muster"].OTP != "" || told["join"] != (identity{}) {
			t.Errorf("an instance that takes a name: %+v", told)
		}
	})
}
