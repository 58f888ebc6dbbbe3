// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// connection is an HTTP/1.1 client that costs little: it writes requests that
// are complete already and reads no more of an answer than it must. It needs
// answers with a Content-Length.
type connection struct {
	net.Conn
	reader *bufio.Reader
	body   []byte // of the last answer
	etag   string // of the last answer
}

// answerTime is how long any answer may take, long polls included.
const answerTime = 5 * time.Minute

func dial(ctx context.Context, address string, secure *tls.Config) (*connection, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if secure != nil {
		c = tls.Client(c, secure)
	}
	return &connection{Conn: c, reader: bufio.NewReaderSize(c, 4096)}, nil
}

// do sends a request and returns the answer's status. The body and ETag are
// valid until the next call.
func (c *connection) do(request []byte) (status int, err error) {
	if err := c.send(request); err != nil {
		return 0, err
	}
	return c.receive()
}

func (c *connection) send(request []byte) error {
	if err := c.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	_, err := c.Write(request)
	return err
}

func (c *connection) receive() (status int, err error) {
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, fmt.Errorf("answer begins with %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, err
	}
	length := -1
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			length, err = strconv.Atoi(string(value))
		case bytes.EqualFold(name, []byte("Etag")) && string(value) != c.etag:
			c.etag = string(value)
		}
		if err != nil {
			return 0, err
		}
	}
	return status, c.readBody(status, length)
}

func (c *connection) readBody(status, length int) error {
	if status == 304 || status == 204 {
		length = 0
	}
	if length < 0 {
		return errors.New("the answer has no Content-Length")
	}
	c.body = slices.Grow(c.body[:0], length)[:length]
	_, err := io.ReadFull(c.reader, c.body)
	return err
}

// encodeRequest writes a request as it goes over the wire.
func encodeRequest(method, path, host string, header map[string]string, body []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: muster-bench\r\n", method, path, host)
	for name, value := range header {
		fmt.Fprintf(&b, "%s: %s\r\n", name, value)
	}
	if body != nil {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// load is a closed loop: each client has a connection, and sends the next
// request as soon as it has the answer to its last. With a pace, request n is
// not sent before its time, and its latency counts from then, whether a client was
// free to send it or not.
type load struct {
	address  string
	secure   *tls.Config
	clients  int
	pace     float64 // requests a second of all clients together; 0 is as fast as they can
	requests [][]byte
	repeat   int // how often all requests are sent; 0 is once
	status   int // that every answer must have
	// seen gets each answer's body and which request it answers. It may be
	// called by several clients at once.
	seen func(request int, body []byte)
}

// timing is what a load took.
type timing struct {
	requests  int
	elapsed   time.Duration
	cpu       time.Duration   // of the server
	latencies []time.Duration // from the shortest
	p50, p99  time.Duration
	slowest   time.Duration
}

// rank sorts the latencies and picks those that are told.
func (t *timing) rank() {
	slices.Sort(t.latencies)
	n := len(t.latencies)
	t.p50, t.p99, t.slowest = t.latencies[n/2], t.latencies[n*99/100], t.latencies[n-1]
}

func (t timing) rate() float64 { return float64(t.requests) / t.elapsed.Seconds() }

// perRequest is the server's CPU time for one request, in milliseconds.
func (t timing) perRequest() float64 {
	return t.cpu.Seconds() * 1000 / float64(t.requests)
}

// run sends everything and waits for all answers.
func (l load) run(ctx context.Context, server process) (timing, error) {
	connections, err := l.connect(ctx)
	defer func() {
		for _, c := range connections {
			c.Close()
		}
	}()
	if err != nil {
		return timing{}, err
	}
	total := len(l.requests) * max(l.repeat, 1)
	latencies := make([][]time.Duration, l.clients)
	failures := make([]error, l.clients)
	var next atomic.Int64
	var wait sync.WaitGroup
	before, err := server.cpu()
	if err != nil {
		return timing{}, err
	}
	started := time.Now()
	for i, c := range connections {
		latencies[i] = make([]time.Duration, 0, 2*total/l.clients)
		wait.Go(func() {
			for failures[i] == nil && ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= total {
					return
				}
				begun := l.await(started, n)
				failures[i] = l.one(c, n%len(l.requests))
				latencies[i] = append(latencies[i], time.Since(begun))
			}
		})
	}
	wait.Wait()
	elapsed := time.Since(started)
	after, err := server.cpu()
	if err = errors.Join(append(failures, err, ctx.Err())...); err != nil {
		return timing{}, err
	}
	t := timing{requests: total, elapsed: elapsed, cpu: after - before, latencies: slices.Concat(latencies...)}
	t.rank()
	return t, nil
}

// await returns when request n is to be sent, and when that should have been.
func (l load) await(started time.Time, n int) time.Time {
	if l.pace == 0 {
		return time.Now()
	}
	due := started.Add(time.Duration(float64(n) / l.pace * float64(time.Second)))
	time.Sleep(time.Until(due))
	return due
}

func (l load) connect(ctx context.Context) ([]*connection, error) {
	var connections []*connection
	for range l.clients {
		c, err := dial(ctx, l.address, l.secure)
		if err != nil {
			return connections, err
		}
		connections = append(connections, c)
	}
	return connections, nil
}

func (l load) one(c *connection, request int) error {
	status, err := c.do(l.requests[request])
	if err != nil {
		return err
	}
	if status != l.status {
		return fmt.Errorf("status %d, want %d: %.300s", status, l.status, c.body)
	}
	if l.seen != nil {
		l.seen(request, c.body)
	}
	return nil
}
