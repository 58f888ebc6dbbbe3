// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// Gate forwards TCP connections until it is told to be trouble: a service that
// is gone, or one that takes connections and never answers.
type Gate struct {
	target   string
	listener net.Listener

	mu    sync.Mutex
	state gateState
	turn  *sync.Cond // when the state changes
	conns map[net.Conn]bool
	held  int // that wait for the gate to open
}

type gateState int

const (
	open   gateState = iota
	hung             // nothing passes
	gone             // connections are closed
	ending           // of the test
)

// NewGate opens a gate to the target, host:port.
func NewGate(t testing.TB, target string) *Gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &Gate{target: target, listener: listener, conns: make(map[net.Conn]bool)}
	g.turn = sync.NewCond(&g.mu)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { g.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		g.set(ending)
		running.Wait()
	})
	return g
}

// Through puts a gate before a database, and returns the URL that leads through it.
func Through(t testing.TB, database string) (string, *Gate) {
	t.Helper()
	address, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	gate := NewGate(t, address.Host)
	address.Host = gate.Address()
	return address.String(), gate
}

// Address is where the gate listens.
func (g *Gate) Address() string { return g.listener.Addr().String() }

// Open lets everything pass. Connections that hung go on.
func (g *Gate) Open() { g.set(open) }

// Hang lets nothing pass, on old connections and new.
func (g *Gate) Hang() { g.set(hung) }

// Shut ends all connections, and closes new ones at once.
func (g *Gate) Shut() { g.set(gone) }

func (g *Gate) set(s gateState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state = s
	if s == gone || s == ending {
		for conn := range g.conns {
			_ = conn.Close()
		}
	}
	g.turn.Broadcast()
}

// pass waits while the gate hangs and tells whether to go on.
func (g *Gate) pass() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.state == hung {
		g.held++
		g.turn.Wait()
		g.held--
	}
	return g.state == open
}

// AwaitHeld returns when at least so many wait for the gate to open.
func (g *Gate) AwaitHeld(ctx context.Context, count int) error {
	return Await(ctx, func(context.Context) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.held < count {
			return fmt.Errorf("%d wait at the gate, want %d", g.held, count)
		}
		return nil
	})
}

func (g *Gate) keep(conn net.Conn, kept bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if kept {
		g.conns[conn] = true
	} else {
		delete(g.conns, conn)
	}
}

func (g *Gate) serve(client net.Conn) {
	defer client.Close()
	g.keep(client, true)
	defer g.keep(client, false)
	if !g.pass() {
		return
	}
	target, err := net.DialTimeout("tcp", g.target, 5*time.Second)
	if err != nil {
		return
	}
	defer target.Close()
	g.keep(target, true)
	defer g.keep(target, false)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, target}, {target, client}} {
		both.Go(func() {
			_, err := io.Copy(watched{way[1], g}, way[0])
			if err != nil && !errors.Is(err, net.ErrClosed) {
				_ = client.Close()
			}
			_ = way[1].Close()
		})
	}
	both.Wait()
}

// watched passes bytes on while its gate is open.
type watched struct {
	net.Conn
	gate *Gate
}

// Write implements io.Writer.
func (w watched) Write(b []byte) (int, error) {
	if !w.gate.pass() {
		return 0, net.ErrClosed
	}
	return w.Conn.Write(b)
}

// ReadFrom keeps io.Copy from going around Write.
func (w watched) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{w}, r)
}
