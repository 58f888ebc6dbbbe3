// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/test/cloud"
	"github.com/muster-cloud/muster/test/deployment"
)

// directory is what FreeIPA holds.
type directory struct {
	Hosts    []freeipa.Host
	Services []freeipa.Service
	Records  map[string]map[string][]string
}

func (s *site) directory() directory {
	return directory{s.ipa.Hosts(), s.ipa.Services(), s.ipa.Records(ipaDomain)}
}

// addForeign puts entries into FreeIPA that are none of Muster's business.
func (s *site) addForeign(t testing.TB) {
	t.Helper()
	must(t, s.ipa.AddHost("mail."+ipaDomain, "its-own"))
	must(t, s.ipa.AddService("imap/mail."+ipaDomain))
}

// enrolling is the metadata of an instance that leaves much in FreeIPA.
func enrolling() map[string]string {
	return map[string]string{"ipa_enroll": "true", "compact_service_HTTP": `["internalapi", "ctlplane"]`}
}

// left tells what is left of an instance that is gone, in Muster.
func (g *guest) left(ctx context.Context) error {
	answer, err := g.site.operator.Call(ctx, http.MethodGet, "/v1/hosts/"+g.canonical(), nil)
	if err != nil {
		return err
	}
	if answer.Status != http.StatusNotFound {
		return fmt.Errorf("Muster still has the instance: status %d", answer.Status)
	}
	if answer, err = g.site.operator.Call(ctx, http.MethodGet, "/v1/enrolments/"+g.canonical(), nil); err != nil || answer.Status == http.StatusNotFound {
		return err
	}
	var enrolment struct{ State, Error string }
	if err := answer.Decode(&enrolment); err != nil {
		return err
	}
	if enrolment.State != "gone" {
		return fmt.Errorf("the enrolment is %q (%s)", enrolment.State, enrolment.Error)
	}
	return nil
}

// awaitNothing returns when nothing is left of instances, and FreeIPA is as it
// was before them.
func (s *site) awaitNothing(t testing.TB, before directory, guests ...*guest) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		for _, g := range guests {
			if err := g.left(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if diff := cmp.Diff(before, s.directory()); diff != "" {
		t.Fatalf("FreeIPA before (-) and after (+):\n%s", diff)
	}
	for _, g := range guests {
		g.wantWorthless(t)
	}
}

// wantWorthless expects that an instance's token buys nothing any more, and that
// its certificate is revoked.
func (g *guest) wantWorthless(t testing.TB) {
	t.Helper()
	answer, err := deployment.As(g.site.main.url(), deployment.Person{}).Call(t.Context(), http.MethodPost, "/noauth/hostcerts",
		deployment.Object{"token_id": g.metadata.Token, "host_id": g.id, "pub_key": deployment.NewKey(t)})
	must(t, err)
	if answer.Status < 400 || answer.Status >= 500 {
		t.Errorf("the token of an instance that is gone: status %d", answer.Status)
	}
	if g.cert.Fingerprint == "" {
		return
	}
	var cert deployment.HostCert
	g.site.operator.Want(t, http.StatusOK, "GET", "/v1/hostcerts/"+g.canonical()+"/"+g.cert.Fingerprint, nil, &cert)
	if !cert.Revoked {
		t.Error("the host certificate of an instance that is gone is not revoked")
	}
}

// enrolled boots an instance that is in FreeIPA and has a certificate.
func (s *site) enrolled(t testing.TB, owner *cloud.Session) *guest {
	t.Helper()
	g := s.boot(t, owner, unique("web"), enrolling())
	g.metadata = g.read(t, hasPasswords)["muster"]
	deployment.As(g.metadata.Endpoint, deployment.Person{}).Want(t, http.StatusOK, "POST", "/noauth/hostcerts",
		deployment.Object{"token_id": g.metadata.Token, "host_id": g.id, "pub_key": deployment.NewKey(t)}, &g.cert)
	return g
}

// goes deletes the instance in Nova, and returns when Nova has it no more.
func (g *guest) goes(t testing.TB) {
	t.Helper()
	must(t, g.owner.DeleteServer(t.Context(), g.id))
	must(t, g.owner.AwaitNoServer(t.Context(), g.id, patience))
}

// An instance that is built anew is somebody else: its old host key, token and
// keytab are worth nothing, and it joins again.
func TestInstanceIsRebuilt(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w *world) {
		s := newSite(t, w)
		s.start(t, "one")
		owner := s.member(t, s.newProject(t, unique("shop"))).session
		g := s.enrolled(t, owner)
		used := g.metadata.OTP
		g.join(t)
		s.rebuild(t, g)
		if host, _ := s.ipa.Host(g.metadata.FQDN); host.HasKeytab || g.metadata.OTP == used {
			t.Error("the old keytab, or the old password, is still good")
		}
		g.setUp(t)
		g.awaitJoined(t)
	})
}

// rebuild rebuilds an instance, and returns when its metadata have a new token
// and password.
func (s *site) rebuild(t testing.TB, g *guest) {
	t.Helper()
	before := g.metadata
	must(t, g.owner.Rebuild(t.Context(), g.id, s.image))
	s.awaitFresh(t, g, before)
}

func (s *site) awaitFresh(t testing.TB, g *guest, before identity) {
	t.Helper()
	must(t, g.owner.AwaitActive(t.Context(), g.id, patience))
	eventually(t, func(ctx context.Context) error { return g.fresh(ctx, before) })
}

// fresh reads the metadata, in which the token may not be as before the rebuild.
// The password may, if Muster has not seen it used: FreeIPA takes it anew.
func (g *guest) fresh(ctx context.Context, before identity) error {
	told, err := g.fetch(ctx)
	if err != nil {
		return err
	}
	now := told["muster"]
	if now.Token == "" || now.Token == before.Token || now.OTP == "" {
		return errors.New("the rebuilt instance finds its old identity")
	}
	g.metadata = now
	return nil
}

// passing is a site from which instances go, one after the other.
type passing struct {
	*site
	before directory // what FreeIPA had before them
	owner  *cloud.Session
	r      *replica // the one that runs
}

// newPassing starts a Muster beside entries of FreeIPA that are not its own.
func newPassing(t *testing.T, w *world) *passing {
	t.Helper()
	p := &passing{site: newSite(t, w)}
	p.addForeign(t)
	p.before = p.directory()
	p.r = p.start(t, "one")
	p.owner = p.member(t, p.newProject(t, unique("shop"))).session
	return p
}

// play lets an instance go in a way. In the end nothing is left of it.
func (p *passing) play(t *testing.T, name string, away func(g *guest)) {
	t.Helper()
	t.Logf("an instance goes; %s", name)
	g := p.enrolled(t, p.owner)
	away(g)
	p.awaitNothing(t, p.before, g)
}

// restart starts the replica that was killed.
func (p *passing) restart(t *testing.T) { p.r = p.start(t, "one") }

// Whatever is down while an instance goes: in the end nothing is left of it,
// and what Muster did not make is as it was.
func TestInstanceGoes(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w *world) {
		p := newPassing(t, w)
		p.play(t, "all is well", func(g *guest) { g.goes(t) })
		p.play(t, "Muster is down", func(g *guest) {
			p.r.kill()
			g.goes(t)
			p.restart(t)
		})
		p.play(t, "FreeIPA is down", func(g *guest) {
			p.toIPA.Shut()
			g.goes(t)
			p.awaitTried(t, g)
			p.toIPA.Open()
		})
		p.play(t, "the broker is out of reach", func(g *guest) {
			p.toBroker.Shut()
			g.goes(t)
			p.toBroker.Open()
		})
		if w.broker != nil {
			p.play(t, "the broker loses its messages", func(g *guest) {
				p.crashBroker(t, g)
				p.toBroker.Open()
				p.operator.Want(t, http.StatusOK, "POST", "/v1/reconcile", deployment.Object{"dry_run": false}, nil)
			})
		}
	})
}

// awaitTried returns when Muster has tried in vain to take an instance out of
// FreeIPA.
func (s *site) awaitTried(t testing.TB, g *guest) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		answer, err := s.operator.Call(ctx, http.MethodGet, "/v1/enrolments/"+g.canonical(), nil)
		if err != nil {
			return err
		}
		var enrolment struct {
			State, Error string
		}
		if err := answer.Decode(&enrolment); err != nil {
			return err
		}
		if enrolment.State != "leaving" || enrolment.Error == "" {
			return fmt.Errorf("the enrolment is %q (%s)", enrolment.State, enrolment.Error)
		}
		return nil
	})
}

// crashBroker crashes the broker, out of Muster's reach, while it holds the only
// news of an instance's end: its queues are not durable. The next comparison
// finds out.
func (s *site) crashBroker(t *testing.T, g *guest) {
	t.Helper()
	s.toBroker.Shut()
	g.goes(t)
	must(t, s.broker.Kill())
	must(t, s.broker.Start(t.Context()))
	if s.real {
		s.awaitNova(t)
	}
}

// awaitNova returns when Nova's services listen to the broker again. What they
// are asked before that is lost.
func (s *site) awaitNova(t testing.TB) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		listed, err := s.broker.Control(ctx, "list_queues", "--no-table-headers", "name", "consumers")
		if err != nil {
			return err
		}
		for _, queue := range []string{"conductor", "scheduler", "compute.one", "q-plugin"} {
			if !hasConsumer(listed, queue) {
				return fmt.Errorf("nobody listens to %s", queue)
			}
		}
		return nil
	})
}

// hasConsumer reads rabbitmqctl's list of queues and their consumers.
func hasConsumer(listed, queue string) bool {
	for line := range strings.Lines(listed) {
		name, count, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if name == queue {
			return count != "0"
		}
	}
	return false
}
