// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// hangingUp is a broker that lets everybody log in and then ends the
// connection, as one does whose policy forbids what the listener asks for (541).
// It tells of each.
func hangingUp(t *testing.T, came chan<- struct{}) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			if err := logIn(client); err != nil {
				t.Error(err)
			}
			_ = client.Close()
			came <- struct{}{}
		}
	}()
	return listener.Addr().String()
}

// logIn speaks AMQP 0-9-1 until the connection is open: Start, Start-Ok, Tune,
// Tune-Ok, Open, Open-Ok.
func logIn(client net.Conn) error {
	from := bufio.NewReader(client)
	if _, err := io.CopyN(io.Discard, from, int64(len("AMQP\x00\x00\x09\x01"))); err != nil {
		return err
	}
	text := func(s string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s }
	for _, step := range []struct {
		method  uint16
		rest    string
		answers int
	}{
		{10, "\x00\x09" + text("") + text("PLAIN") + text("en_US"), 1},
		{30, "\x00\x00" + "\x00\x02\x00\x00" + "\x00\x00", 2},
		{41, "\x00", 0},
	} {
		body := binary.BigEndian.AppendUint16([]byte{0, 10}, step.method) // of class connection
		body = append(body, step.rest...)
		frame := binary.BigEndian.AppendUint32([]byte{1, 0, 0}, uint32(len(body))) // a method, on channel 0
		frame = append(append(frame, body...), 0xce)
		if _, err := io.Copy(client, bytes.NewReader(frame)); err != nil {
			return err
		}
		for range step.answers {
			var head [7]byte
			if _, err := io.ReadFull(from, head[:]); err != nil {
				return fmt.Errorf("no answer to method %d: %w", step.method, err)
			}
			if _, err := io.CopyN(io.Discard, from, int64(binary.BigEndian.Uint32(head[3:]))+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestBrokersHangUp: where all hosts end each connection at once, there is a
// pause after each round of them, as where none can be reached.
func TestBrokersHangUp(t *testing.T) {
	came := make(chan struct{}, 10_000)
	hosts := fmt.Sprintf("rabbit://u:p@%s,u:p@%s/", hangingUp(t, came), hangingUp(t, came))
	l, err := New(Config{TransportURL: hosts, Topics: []string{"muster_notifications"}, Offer: newQueue().offer, Rabbit: Rabbit{RetryInterval: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	for range 2 {
		<-came
	}
	select {
	case <-came:
		t.Error("connected to once more, without a pause")
	case <-time.After(300 * time.Millisecond):
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
