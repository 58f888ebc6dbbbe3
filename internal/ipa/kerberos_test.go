// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/test/services"
)

// kerberosWorld is a FreeIPA server behind real SPNEGO, with a real KDC, and a client's configuration for it.
type kerberosWorld struct {
	*world
	kdc *services.KDC
	cfg ipa.Config
}

func newKerberosWorld(t testing.TB, maxLife time.Duration) *kerberosWorld {
	t.Helper()
	kdc := services.StartKDC(t, services.KDCOptions{MaxLife: maxLife, Principals: []string{nova, "HTTP/localhost"}})
	serviceKeys := kdc.Keytab("HTTP/localhost")
	w := newWorld(t, freeipa.Config{
		Realm:  kdc.Realm,
		Keytab: func() (*keytab.Keytab, error) { return keytab.Load(serviceKeys) },
	})
	krb5, err := ipa.ReadKrb5Conf(kdc.Conf)
	must(t, err)
	cfg := config(w)
	cfg.Password = nil
	cfg.Kerberos = &ipa.Kerberos{Principal: nova, Keytab: kdc.Keytab(nova), Config: krb5}
	return &kerberosWorld{world: w, kdc: kdc, cfg: cfg}
}

func (w *kerberosWorld) logins() int { return w.Calls()["login_kerberos"] }

// TestPrincipals names the principal in each possible way.
func TestPrincipals(t *testing.T) {
	w := newKerberosWorld(t, 0)
	for principal, good := range map[string]bool{
		"": true, nova: true, nova + "@EXAMPLE.TEST": true, nova + "@OTHER.TEST": false, "nova/other": false, "@EXAMPLE.TEST": true,
	} {
		cfg := w.cfg
		kerberos := *cfg.Kerberos
		kerberos.Principal = principal
		cfg.Kerberos = &kerberos
		err := newClient(t, cfg).Run(t.Context(), ipa.Ping())
		if (err == nil) != good {
			t.Errorf("principal %q: %v", principal, err)
		}
		if err != nil && ipa.ClassOf(err) != ipa.Operator {
			t.Errorf("principal %q: %v is not the operator's business", principal, err)
		}
	}
}

func TestKerberosLogin(t *testing.T) {
	w := newKerberosWorld(t, 0)
	c := newClient(t, w.cfg)
	_, err := c.HostAdd(t.Context(), "vm1.example.test", ipa.HostAttributes{Password: "otp"})
	must(t, err)
	// What needs no right is allowed to anyone: the principal must have been understood.
	_, err = c.HostMod(t.Context(), "vm1.example.test", ipa.HostAttributes{Description: "x"})
	wantCode(t, err, ipa.ACIError, ipa.Operator)

	w.EndSessions()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := c.Run(t.Context(), ipa.HostShow("vm1.example.test")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if w.logins() != 2 {
		t.Errorf("%d log-ins, want 2", w.logins())
	}
}

// TestForwardable: whatever the machine's krb5.conf says, the ticket is one with which the server can act for the caller. With
// another one a real FreeIPA lets the caller in and answers 401 to every call after that, and so does the one of the devcloud.
func TestForwardable(t *testing.T) {
	w := newKerberosWorld(t, 0)
	conf, err := os.ReadFile(w.kdc.Conf)
	must(t, err)
	for name, line := range map[string]string{"silent": "", "yes": " forwardable = true\n", "no": " forwardable = false\n"} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir() + "/krb5.conf"
			must(t, os.WriteFile(path, []byte(strings.Replace(string(conf), "[libdefaults]\n", "[libdefaults]\n"+line, 1)), 0o600))
			krb5, err := ipa.ReadKrb5Conf(path)
			must(t, err)
			cfg, kerberos := w.cfg, *w.cfg.Kerberos
			kerberos.Config = krb5
			cfg.Kerberos = &kerberos
			must(t, newClient(t, cfg).Run(t.Context(), ipa.Ping()))
		})
	}
}

// processDNS is the DNS server that the process's own resolver asks; nil: the machine's.
var processDNS atomic.Pointer[string]

func TestMain(m *testing.M) {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if server := processDNS.Load(); server != nil {
			network, address = "udp", *server
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	os.Exit(services.Isolate(m.Run))
}

// TestKDCByDNS finds the KDC by its SRV record, where krb5.conf names none. The library asks the process's own resolver, so
// this test runs beside no other.
func TestKDCByDNS(t *testing.T) {
	w := newKerberosWorld(t, 0)
	realm := &w.cfg.Kerberos.Config.Realms[0]
	_, port, err := net.SplitHostPort(realm.KDC[0])
	must(t, err)
	number, err := strconv.ParseUint(port, 10, 16)
	must(t, err)
	dns := newNameServer(t, "_kerberos."+strings.ToLower(realm.Realm)+".", uint16(number), "localhost.")
	realm.KDC, w.cfg.Kerberos.Config.LibDefaults.DNSLookupKDC = nil, true
	processDNS.Store(&dns.address)
	defer processDNS.Store(nil)
	must(t, newClient(t, w.cfg).Run(t.Context(), ipa.Ping()))
	if w.logins() != 1 || dns.asked.Load() == 0 {
		t.Errorf("%d log-ins, the DNS was asked %d times", w.logins(), dns.asked.Load())
	}
	dns.targets.Store([]string{})
	err = newClient(t, w.cfg).Run(t.Context(), ipa.Ping())
	if err == nil {
		t.Error("a log-in without a KDC")
	}
}

// TestShortTickets has tickets of a few seconds, with the KDC, the server and the client on real time: calls go on
// through their ends, with a new log-in for each ticket and never a failure.
func TestShortTickets(t *testing.T) {
	t.Parallel()
	const life = 2 * time.Second
	w := newKerberosWorld(t, life)
	c := newClient(t, w.cfg)
	began := time.Now()
	calls := 0
	for tick := time.NewTicker(50 * time.Millisecond); w.logins() < 3; <-tick.C {
		must(t, c.Run(t.Context(), ipa.Ping()))
		calls++
	}
	took := time.Since(began)
	if most := 1 + int(took/(life/4)); w.logins() > most {
		t.Errorf("%d log-ins for %d calls in %v with tickets of %v", w.logins(), calls, took, life)
	}
}

// TestMinuteTickets has tickets of a minute and steps the client's clock: it logs in anew before a ticket's end.
func TestMinuteTickets(t *testing.T) {
	w := newKerberosWorld(t, time.Minute)
	now := time.Now()
	w.cfg.Now = func() time.Time { return now }
	c := newClient(t, w.cfg)
	for _, step := range []struct {
		after  time.Duration
		logins int
	}{{0, 1}, {40 * time.Second, 1}, {10 * time.Second, 2}, {10 * time.Second, 2}, {time.Hour, 3}} {
		now = now.Add(step.after)
		must(t, c.Run(t.Context(), ipa.Ping()))
		if w.logins() != step.logins {
			t.Fatalf("%d log-ins %v later, want %d", w.logins(), step.after, step.logins)
		}
	}
}

// TestRotatedKeytab gives the principal new keys: the old file is refused, as the operator's business, and the new file
// put in its place serves without a restart.
func TestRotatedKeytab(t *testing.T) {
	w := newKerberosWorld(t, 0)
	now := time.Now()
	w.cfg.Now = func() time.Time { return now }
	c := newClient(t, w.cfg)
	must(t, c.Run(t.Context(), ipa.Ping()))

	fresh := w.kdc.Keytab(nova)
	must(t, c.Run(t.Context(), ipa.Ping()))
	w.EndSessions()
	err := c.Run(t.Context(), ipa.Ping())
	var login *ipa.LoginError
	if !errors.As(err, &login) || !login.Rejected || ipa.ClassOf(err) != ipa.Operator {
		t.Fatalf("with the old keytab: %v", err)
	}
	must(t, os.Rename(fresh, w.cfg.Kerberos.Keytab))
	now = now.Add(2 * time.Second)
	must(t, c.Run(t.Context(), ipa.Ping()))
}

// TestServerRefusesTicket gives the service of one server new keys that it does not have: calls go to the other server.
func TestServerRefusesTicket(t *testing.T) {
	w := newKerberosWorld(t, 0)
	w.kdc.AddPrincipal("HTTP/127.0.0.1")
	keys := w.kdc.Keytab("HTTP/127.0.0.1")
	second := newWorld(t, freeipa.Config{Keytab: func() (*keytab.Keytab, error) { return keytab.Load(keys) }})
	w.cfg.RootCAs.AppendCertsFromPEM(second.CA())
	w.kdc.Keytab("HTTP/localhost") // the first server keeps its old file

	alone := newClient(t, w.cfg)
	err := alone.Run(t.Context(), ipa.Ping())
	var login *ipa.LoginError
	if !errors.As(err, &login) || login.Rejected || !strings.Contains(err.Error(), "HTTP/localhost") {
		t.Errorf("the server can't read the ticket: %v", err)
	}
	w.cfg.Servers = append(w.cfg.Servers, strings.Replace(second.address, "localhost", "127.0.0.1", 1))
	c := newClient(t, w.cfg)
	must(t, c.Run(t.Context(), ipa.Ping()))
	if second.Calls()["ping"] != 1 {
		t.Error("the call did not go to the second server")
	}
}

// TestKDCAway stops the KDC: a session goes on, a new log-in fails as repeatable, and works when the KDC is back.
func TestKDCAway(t *testing.T) {
	w := newKerberosWorld(t, 0)
	c := newClient(t, w.cfg)
	must(t, c.Run(t.Context(), ipa.Ping()))
	w.kdc.Stop()
	must(t, c.Run(t.Context(), ipa.Ping()))
	w.EndSessions()
	err := c.Run(t.Context(), ipa.Ping())
	var login *ipa.LoginError
	if !errors.As(err, &login) || login.Rejected || ipa.ClassOf(err) != ipa.Repeatable {
		t.Fatalf("without a KDC: %v", err)
	}
	w.kdc.Start()
	waitReady(t, c)
}

// TestBadKeytab has files that are no keytab, or not this principal's.
func TestBadKeytab(t *testing.T) {
	w := newKerberosWorld(t, 0)
	good, err := os.ReadFile(w.cfg.Kerberos.Keytab)
	must(t, err)
	for _, test := range []struct {
		name    string
		content []byte
	}{
		{"text", []byte("this is SECRET-TEXT, no keytab")},
		{"empty", nil},
		{"cut short", good[:len(good)-7]},
		{"other principal", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := w.cfg
			kerberos := *w.cfg.Kerberos
			kerberos.Keytab = t.TempDir() + "/keytab"
			must(t, os.WriteFile(kerberos.Keytab, test.content, 0o600))
			if test.name == "other principal" {
				w.kdc.AddPrincipal("other/host")
				kerberos.Keytab = w.kdc.Keytab("other/host")
			}
			cfg.Kerberos = &kerberos
			err := newClient(t, cfg).Run(t.Context(), ipa.Ping())
			var login *ipa.LoginError
			if !errors.As(err, &login) || ipa.ClassOf(err) != ipa.Operator {
				t.Errorf("got %v", err)
			}
			if strings.Contains(err.Error(), "SECRET-TEXT") {
				t.Errorf("the error shows the file's content: %v", err)
			}
		})
	}
}
