// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// front is a load balancer: it brings connections to the replicas in turn, and
// to the next one where nobody answers.
type front struct {
	listener net.Listener

	mu       sync.Mutex
	replicas []string
	turn     int
	open     map[net.Conn]bool
	closed   bool
}

// newFront serves on a listener until the test ends.
func newFront(t testing.TB, listener net.Listener) *front {
	t.Helper()
	f := &front{listener: listener, open: map[net.Conn]bool{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { f.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		f.mu.Lock()
		f.closed = true
		for conn := range f.open {
			_ = conn.Close()
		}
		f.mu.Unlock()
		running.Wait()
	})
	return f
}

// url is where the front answers.
func (f *front) url() string { return "http://" + f.listener.Addr().String() }

// add brings connections to a replica, too.
func (f *front) add(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replicas = append(f.replicas, address)
}

// remove brings no more connections to a replica.
func (f *front) remove(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replicas = slices.DeleteFunc(f.replicas, func(other string) bool { return other == address })
}

// dial reaches the next replica that answers.
func (f *front) dial() net.Conn {
	f.mu.Lock()
	f.turn++
	turn, replicas := f.turn, slices.Clone(f.replicas)
	f.mu.Unlock()
	for i := range replicas {
		conn, err := net.DialTimeout("tcp", replicas[(turn+i)%len(replicas)], time.Second)
		if err == nil {
			return conn
		}
	}
	return nil
}

// keep remembers an open connection, unless the test has ended.
func (f *front) keep(conn net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[conn] = true
	return !f.closed
}

func (f *front) forget(conn net.Conn) {
	_ = conn.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, conn)
}

func (f *front) serve(client net.Conn) {
	defer f.forget(client)
	replica := f.dial()
	if replica == nil {
		return
	}
	defer f.forget(replica)
	if !f.keep(client) || !f.keep(replica) {
		return
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, replica}, {replica, client}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0]) // either side may go at any time
			_ = way[0].Close()
			_ = way[1].Close()
		})
	}
	both.Wait()
}
