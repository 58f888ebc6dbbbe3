// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// relay brings connections to a broker, until it loses what comes on them.
type relay struct {
	listener net.Listener
	target   string
	loses    atomic.Bool
	running  sync.WaitGroup
}

func newRelay(t *testing.T, target string) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: listener, target: target}
	r.running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			r.running.Go(func() { r.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		r.running.Wait()
	})
	return r
}

func (r *relay) serve(client net.Conn) {
	defer client.Close()
	broker, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	defer broker.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, broker}, {broker, client}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], lossy{way[0], &r.loses}) // either side may go at any time
			_, _ = client.Close(), broker.Close()
		})
	}
	both.Wait()
}

// lossy reads nothing from what is lost.
type lossy struct {
	net.Conn
	loses *atomic.Bool
}

// Read implements io.Reader.
func (l lossy) Read(b []byte) (int, error) {
	for {
		n, err := l.Conn.Read(b)
		if err != nil || !l.loses.Load() {
			return n, err
		}
	}
}

// TestBrokerSilent: a broker of which nothing is heard, with the connection
// open, is given up when its heartbeat stays away. What it kept comes with the
// next connection.
func TestBrokerSilent(t *testing.T) {
	s := newSite(t, sharedBroker(t))
	r := newRelay(t, s.broker.Address())
	t.Cleanup(func() { s.stop() }) // before the relay waits for its connections
	c := s.channel()
	s.declare(c, kind{durable: true})
	s.listen(func(cfg *Config) {
		cfg.TransportURL = strings.Replace(cfg.TransportURL, s.broker.Address(), r.listener.Addr().String(), 1)
		cfg.Rabbit.Heartbeat = time.Second
	})
	s.subscribed()
	r.loses.Store(true)
	s.send(c, userDeleted(1))
	s.until("given up", func() bool { return strings.Contains(s.log.String(), "is lost; will connect again") })
	r.loses.Store(false)
	s.expect(user(1))
}
