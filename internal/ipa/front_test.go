// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/spnego"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/test/services"
)

// frontWorld is a FreeIPA server behind the web server that stands before a real one, and a client's configuration for it.
type frontWorld struct {
	*world
	front *services.Front
	cfg   ipa.Config
}

func newFrontWorld(t testing.TB) *frontWorld {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it needs Apache, OpenLDAP and a KDC")
	}
	front := services.StartFront(t, services.KDCOptions{Principals: []string{nova}})
	s, err := freeipa.New(freeipa.Config{Domain: services.FrontDomain, Realm: front.KDC.Realm, Host: front.Host, Caller: front.Caller})
	must(t, err)
	must(t, s.GrantHostManagement(nova))
	front.Serve(s.TLS().Certificates[0], s.Handler())
	w := &frontWorld{world: &world{Server: s, address: front.Host}, front: front}
	krb5, err := ipa.ReadKrb5Conf(front.KDC.Conf)
	must(t, err)
	w.cfg = config(w.world)
	w.cfg.Password = nil
	w.cfg.Kerberos = &ipa.Kerberos{Principal: nova, Keytab: front.KDC.Keytab(nova), Config: krb5}
	return w
}

// everyDoor runs a test on a server that is reached directly, with a password, and on one behind the front, with Kerberos.
func everyDoor(t *testing.T, test func(t *testing.T, w *world, c *ipa.Client)) {
	t.Run("directly", func(t *testing.T) {
		w := newWorld(t, freeipa.Config{})
		test(t, w, newClient(t, config(w)))
	})
	t.Run("front", func(t *testing.T) {
		w := newFrontWorld(t)
		test(t, w.world, newClient(t, w.cfg))
		if t.Failed() {
			t.Log(w.front.Log())
		}
	})
}

// TestFrontRefuses asks the front for what a real one refuses, and so proves that it is one: each answer is that of a FreeIPA 4.9.11
// with its own Apache configuration.
func TestFrontRefuses(t *testing.T) {
	w := newFrontWorld(t)
	browser := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.cfg.RootCAs}, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	const ping = `{"method": "ping", "params": [[], {}], "id": 0}`
	home := "https://" + w.front.Host + "/ipa"
	ask := func(path string, change func(*http.Request)) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, home+path, strings.NewReader(ping))
		must(t, err)
		r.Header.Set("Referer", home)
		r.Header.Set("Content-Type", "application/json")
		change(r)
		response, err := browser.Do(r)
		must(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		must(t, err)
		return response, string(body)
	}
	login := func(forwardable bool) string {
		t.Helper()
		krb5 := *w.cfg.Kerberos.Config
		krb5.LibDefaults.Forwardable = forwardable
		keys, err := keytab.Load(w.cfg.Kerberos.Keytab)
		must(t, err)
		response, _ := ask("/session/login_kerberos", func(r *http.Request) {
			must(t, spnego.SetSPNEGOHeader(client.NewWithKeytab(nova, w.front.KDC.Realm, keys, &krb5), r, "HTTP/"+w.front.Host))
		})
		if response.StatusCode != http.StatusOK || len(response.Cookies()) != 1 || response.Cookies()[0].Name != "ipa_session" {
			t.Fatalf("log-in: %d %v\n%s", response.StatusCode, response.Header, w.front.Log())
		}
		return "ipa_session=" + response.Cookies()[0].Value
	}
	good, unforwardable := login(true), login(false)

	for _, test := range []struct {
		name     string
		cookie   string
		change   func(*http.Request)
		status   int
		location string
		says     string // in the body
	}{
		{"all as it should be", good, func(*http.Request) {}, 200, "", `"IPA server version`},
		{"name in capitals", good, func(r *http.Request) { r.Host = strings.ToUpper(w.front.Host) }, 200, "", `"IPA server version`},
		{"name with the port", good, func(r *http.Request) { r.Host = w.front.Host + ":443" }, 301, "http://" + w.front.Host + "/ipa/session/json", ""},
		{"another name", good, func(r *http.Request) { r.Host = "ipa.example.test" }, 301, "http://" + w.front.Host + "/ipa/session/json", ""},
		{"plain HTTP", good, func(r *http.Request) { r.URL.Scheme = "http" }, 301, "https://" + w.front.Host + "/ipa/session/json", ""},
		{"no Referer", good, func(r *http.Request) { r.Header.Del("Referer") }, 200, "", `"code":911`},
		{"no JSON", good, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 200, "", `"code":905`},
		{"nobody", "", func(*http.Request) {}, 401, "", "Kerberos Authentication Failed"},
		{"a ticket that is not forwardable", unforwardable, func(*http.Request) {}, 401, "", "401"},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, body := ask("/session/json", func(r *http.Request) {
				if test.cookie != "" {
					r.Header.Set("Cookie", test.cookie)
				}
				test.change(r)
			})
			if response.StatusCode != test.status || response.Header.Get("Location") != test.location || !strings.Contains(body, test.says) {
				t.Errorf("%d, Location %q: %s", response.StatusCode, response.Header.Get("Location"), body)
			}
			if anew := response.Header.Get("WWW-Authenticate") != ""; anew != (test.status == 401 && test.cookie != unforwardable) {
				t.Errorf("WWW-Authenticate: %v", response.Header)
			}
		})
	}
	w.front.DropCaches()
	response, body := ask("/session/json", func(r *http.Request) { r.Header.Set("Cookie", good) })
	if response.StatusCode != 401 || response.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("a cookie whose credentials are gone: %d %v: %s", response.StatusCode, response.Header, body)
	}
}

// TestFrontComesBack takes something away from a server that works, for 20 s of the client's clock. Meanwhile calls fail in a way
// that is worth repeating, and within 6 s of its return they succeed, as was seen at a real FreeIPA.
func TestFrontComesBack(t *testing.T) {
	const outage, patience, step = 20 * time.Second, 6 * time.Second, 100 * time.Millisecond
	for _, test := range []struct {
		name       string
		away, back func(*frontWorld)
		restarted  bool // Muster, so that it has no session
		says       string
	}{
		{"web server", func(w *frontWorld) { w.front.StopWeb() }, func(w *frontWorld) { w.front.StartWeb() }, false, "connection re"},
		{"directory", func(w *frontWorld) { w.front.LDAP.Stop() }, func(w *frontWorld) { w.front.LDAP.Start() }, false, "status 500"},
		{"directory, which the KDC needs", func(w *frontWorld) { w.front.LDAP.Stop() }, func(w *frontWorld) { w.front.LDAP.Start() },
			true, "log-in to FreeIPA"},
		{"KDC, and credentials", func(w *frontWorld) { w.front.KDC.Stop(); w.front.DropCaches() },
			func(w *frontWorld) { w.front.KDC.Start() }, false, "log-in to FreeIPA"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newFrontWorld(t)
			now := time.Now()
			var log bytes.Buffer
			w.cfg.Now = func() time.Time { return now }
			w.cfg.BackoffMin, w.cfg.BackoffMax = 0, 0 // the usual ones
			w.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
			c := newClient(t, w.cfg)
			must(t, c.Run(t.Context(), ipa.Ping()))

			test.away(w)
			c.Close()
			if test.restarted {
				c = newClient(t, w.cfg)
			}
			for range outage / step {
				err := c.Run(t.Context(), ipa.Ping())
				if err == nil || !strings.Contains(err.Error(), test.says) || ipa.ClassOf(err) != ipa.Repeatable {
					t.Fatalf("away: %v (%v), want %q", err, ipa.ClassOf(err), test.says)
				}
				now = now.Add(step)
			}
			test.back(w)
			back := now
			for err := c.Run(t.Context(), ipa.Ping()); err != nil; err = c.Run(t.Context(), ipa.Ping()) {
				if now.Sub(back) > patience {
					t.Fatalf("%v after its return: %v\n%s", patience, err, w.front.Log())
				}
				now = now.Add(step)
			}
			use := "use FreeIPA server " + w.front.Host
			for text, want := range map[string]int{"\n": 2, "Cannot " + use + "; will go on trying": 1, "Can " + use + " again": 1} {
				if got := strings.Count(log.String(), text); got != want {
					t.Errorf("the log has %q %d times, want %d:\n%s", text, got, want, log.String())
				}
			}
		})
	}
}
