// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/ipa"
)

// ldap is by which FreeIPA's servers are found.
const ldap = "_ldap.example.test."

// nameServer is a DNS server on loopback that knows one SRV record set.
type nameServer struct {
	address string
	record  string       // its name, without the part that names the protocol
	port    uint16       // of all targets
	targets atomic.Value // []string, in order of priority
	asked   atomic.Int32
}

func newNameServer(t *testing.T, record string, port uint16, targets ...string) *nameServer {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = socket.Close() })
	n := &nameServer{address: socket.LocalAddr().String(), record: record, port: port}
	n.targets.Store(targets)
	go func() {
		buffer := make([]byte, 1500)
		for {
			length, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			if answer := n.answer(buffer[:length]); answer != nil {
				_, _ = socket.WriteTo(answer, from)
			}
		}
	}()
	return n
}

func (n *nameServer) answer(query []byte) []byte {
	var message dnsmessage.Message
	if message.Unpack(query) != nil || len(message.Questions) != 1 {
		return nil
	}
	n.asked.Add(1)
	question := message.Questions[0]
	message.Response, message.Additionals = true, nil
	targets, _ := n.targets.Load().([]string)
	asked := strings.NewReplacer("._tcp.", ".", "._udp.", ".").Replace(strings.ToLower(question.Name.String()))
	if asked != n.record || len(targets) == 0 {
		message.RCode = dnsmessage.RCodeNameError
	} else {
		for i, target := range targets {
			message.Answers = append(message.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: 60},
				Body:   &dnsmessage.SRVResource{Priority: uint16(i), Weight: 100, Port: n.port, Target: dnsmessage.MustNewName(target)},
			})
		}
	}
	packed, err := message.Pack()
	if err != nil {
		return nil
	}
	return packed
}

func (n *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", n.address)
	}}
}

// TestFirst: an enrolled machine asks the server that it was enrolled with, as FreeIPA's own client does, and when that is away those
// that the DNS names. Without any of these it goes on with the first.
func TestFirst(t *testing.T) {
	first, second := newWorld(t, freeipa.Config{}), newWorld(t, freeipa.Config{})
	dns := newNameServer(t, ldap, 389, "localhost.")
	cfg := config(first, second)
	cfg.Servers, cfg.First, cfg.Domain, cfg.Resolver, cfg.Port = nil, first.address, "example.test", dns.resolver(), second.port
	now := time.Now()
	cfg.Now = func() time.Time { return now }
	cfg.BackoffMin, cfg.BackoffMax = time.Minute, time.Minute
	c := newClient(t, cfg)
	must(t, c.Run(t.Context(), ipa.Ping()))
	now = now.Add(time.Hour)
	must(t, c.Run(t.Context(), ipa.Ping()))
	if dns.asked.Load() != 0 || first.Calls()["ping"] != 2 {
		t.Errorf("the DNS was asked %d times while the first server works", dns.asked.Load())
	}

	first.stop()
	c.Close()
	dns.targets.Store([]string{})
	for range 2 {
		if c.Run(t.Context(), ipa.Ping()) == nil {
			t.Fatal("a call succeeds without servers")
		}
	}
	if asked := dns.asked.Load(); asked == 0 {
		t.Error("the DNS is not asked for other servers")
	}
	before := dns.asked.Load()
	_ = c.Run(t.Context(), ipa.Ping())
	if dns.asked.Load() != before {
		t.Error("each failing call asks the DNS")
	}
	dns.targets.Store([]string{"localhost."})
	now = now.Add(40 * time.Second)
	must(t, c.Run(t.Context(), ipa.Ping()))
	if second.Calls()["ping"] != 1 || len(c.Servers()) != 2 {
		t.Errorf("servers: %v", c.Servers())
	}

	second.stop()
	first.start(t)
	c.Close()
	now = now.Add(time.Hour)
	_ = c.Run(t.Context(), ipa.Ping()) // it may be told that the second one is away
	must(t, c.Run(t.Context(), ipa.Ping()))
	if first.Calls()["ping"] < 3 {
		t.Error("the first server is not asked when it is back")
	}
}

// TestDiscovery finds the server by the DNS, keeps the list for a while, and keeps an old list when the DNS is away.
func TestDiscovery(t *testing.T) {
	w := newWorld(t, freeipa.Config{})
	dns := newNameServer(t, ldap, 389, "localhost.")
	cfg := config(w)
	cfg.Servers, cfg.Domain, cfg.Resolver = nil, "example.test", dns.resolver()
	_, port, _ := strings.Cut(w.address, ":")
	cfg.Port, _ = strconv.Atoi(port)
	now := time.Now()
	cfg.Now = func() time.Time { return now }
	cfg.BackoffMin, cfg.BackoffMax = time.Second, 10*time.Minute
	c := newClient(t, cfg)
	for range 3 {
		must(t, c.Run(t.Context(), ipa.Ping()))
	}
	if asked := dns.asked.Load(); asked != 1 {
		t.Errorf("the DNS was asked %d times, want once", asked)
	}
	if names := c.Servers(); !slices.Equal(names, []string{"localhost"}) {
		t.Errorf("servers: %v", names)
	}
	dns.targets.Store([]string{})
	now = now.Add(time.Hour)
	must(t, c.Run(t.Context(), ipa.Ping()))
	if asked := dns.asked.Load(); asked < 2 {
		t.Error("an old list was not renewed")
	}
	if logins := w.Calls()["login_password"]; logins != 1 {
		t.Errorf("%d log-ins: renewing the list lost the session", logins)
	}

	dns.targets.Store([]string{"localhost."})
	now = now.Add(time.Hour)
	must(t, c.Run(t.Context(), ipa.Ping()))
	if logins := w.Calls()["login_password"]; logins != 1 {
		t.Errorf("%d log-ins: a new list with the same server lost the session", logins)
	}

	// With all servers in trouble the DNS is asked again, but not with each call.
	before := dns.asked.Load()
	w.stop()
	c.Close()
	for range 5 {
		if c.Run(t.Context(), ipa.Ping()) == nil {
			t.Fatal("a call succeeds without servers")
		}
	}
	if dns.asked.Load() != before {
		t.Error("each failing call asks the DNS")
	}
	now = now.Add(time.Minute)
	_ = c.Run(t.Context(), ipa.Ping())
	now = now.Add(time.Millisecond)
	_ = c.Run(t.Context(), ipa.Ping())
	if dns.asked.Load() == before {
		t.Error("with all servers in trouble for a minute the DNS is not asked")
	}

	dns.targets.Store([]string{})
	nowhere := newClient(t, cfg)
	err := nowhere.Run(t.Context(), ipa.Ping())
	var away *ipa.UnavailableError
	if !errors.As(err, &away) || !strings.Contains(err.Error(), "_ldap._tcp.example.test") {
		t.Errorf("no server in the DNS: %v", err)
	}
}
