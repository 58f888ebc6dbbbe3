// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestSilentCommit: a database that says nothing to a COMMIT, as after a cable was cut, holds nobody up for longer than a call may take.
func TestSilentCommit(t *testing.T) {
	for _, e := range engines[1:] {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			direct := e.make(t)
			must(open(t, Config{URL: direct}).Upgrade(t.Context()))(t)
			loc := must(parseURL(direct))(t)
			network, address := "tcp", net.JoinHostPort(loc.host, loc.port)
			if loc.socket != "" {
				network, address = "unix", loc.socket
			}
			silent := silentAfter(t, network, address, "COMMIT")
			url := string(loc.engine) + "://" + cmp.Or(loc.user, "root") + "@" + silent + "/" + loc.database
			s := open(t, Config{URL: url, PoolTimeout: 5 * time.Second, MaxRetries: 5, RetryInterval: time.Millisecond})
			outcome := make(chan error, 1)
			go func() {
				outcome <- s.transact(t.Context(), func(tx *tx) error {
					_, err := tx.exec("UPDATE serial_block SET next = next WHERE id = 1")
					return err
				})
			}()
			select {
			case err := <-outcome:
				if !errors.Is(err, ErrUnavailable) {
					t.Errorf("%v, want ErrUnavailable", err)
				}
			case <-time.After(time.Minute):
				t.Error("it waits still")
			}
		})
	}
}

// silentAfter returns an address that leads to another one, until a client ends what it says with the word: then nothing of it is passed on any
// more.
func silentAfter(t *testing.T, network, server, word string) string {
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go passUntil(client, network, server, word)
		}
	}()
	return listener.Addr().String()
}

func passUntil(client net.Conn, network, server, word string) {
	conn, err := net.Dial(network, server)
	if err != nil {
		client.Close()
		return
	}
	go func() { _, _ = io.Copy(client, conn) }() // it ends with the connection
	defer conn.Close()
	buffer := make([]byte, 64<<10)
	for silent := false; ; {
		n, err := client.Read(buffer)
		if err != nil {
			return
		}
		silent = silent || strings.HasSuffix(strings.TrimRight(strings.ToUpper(string(buffer[:n])), "\x00"), word)
		if silent {
			continue
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}
