// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package trouble

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-cloud/muster/test/deployment"
)

// crowd is how many slow clients come at once.
const crowd = 400

// TestSlowClients: those who send a request byte by byte, or begin none, stop
// nobody else, and are sent away.
func TestSlowClients(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it waits for time limits")
	}
	t.Parallel()
	const limit = 10 * time.Second // for a request, as for its header
	w := newWorld(t, deployment.Options{Settings: deployment.Settings{"api": {"request_timeout": limit.String()}}})
	client := deployment.As(w.Start(t).URL, w.alice)
	address := strings.TrimPrefix(client.URL, "http://")
	for name, opening := range map[string]string{
		"headers": "POST /v1/usercerts HTTP/1.1\r\nHost: muster\r\nX-Slow: ",
		"body":    "POST /noauth/hostcerts HTTP/1.1\r\nHost: muster\r\nContent-Length: 1000\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conns := make([]net.Conn, crowd)
			for i := range conns {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conns[i] = conn
				if _, err := io.WriteString(conn, opening); err != nil {
					t.Fatal(err)
				}
			}
			// Whoever had to wait for them to be sent away would wait for so long.
			within(t, limit, "a certificate beside slow clients", func() { w.mustWork(t, client) })
			var ending sync.WaitGroup
			for _, conn := range conns {
				ending.Go(func() {
					if err := conn.SetReadDeadline(time.Now().Add(3 * time.Minute)); err != nil {
						t.Error(err)
					}
					// Whatever is said, and however: the connection must end.
					if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("a slow client was not sent away: %v", err)
					}
				})
			}
			ending.Wait()
		})
	}
}

func TestLargeBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, deployment.Options{Settings: deployment.Settings{"api": {"max_body": "64KiB"}}})
	url := w.Start(t).URL
	alice, nova := deployment.As(url, w.alice), deployment.As(url, w.nova)
	long := strings.Repeat("x", 65<<10)
	for path, c := range map[string]*deployment.Client{
		"/v1/usercerts": alice, "/noauth/hostcerts": deployment.As(url, deployment.Person{}),
		"/v1/novavendordata": nova, "/v1/vendordata": nova, "/v1/hosttokens": nova, "/v1/revocations": alice,
	} {
		var body struct{ Title, Description string }
		answer := c.Want(t, http.StatusRequestEntityTooLarge, "POST", path, deployment.Object{"hostname": long}, &body)
		if body.Description == "" {
			t.Errorf("%s: %s", path, answer.Body)
		}
	}
	// The largest user-data that Nova takes fits.
	nova.Want(t, http.StatusCreated, "POST", "/v1/novavendordata", deployment.Object{
		"project-id": w.alice.ProjectID, "instance-id": deployment.NewID(), "hostname": "vm", "user-data": long[:60<<10],
	}, nil)
	w.mustWork(t, alice)
}

// waiters is how many long polls wait at once.
const waiters = 2500

func TestManyLongPolls(t *testing.T) {
	w := newWorld(t, deployment.Options{})
	client := deployment.As(w.Start(t).URL, w.alice)
	cert := w.mustWork(t, client)
	list := "/noauth/revokeduserkeys/" + w.alice.ProjectID
	etag := client.Want(t, http.StatusOK, "GET", list, nil, nil).Header.Get("Etag")

	type heard struct {
		status int
		etag   string
		at     time.Time
		err    error
	}
	answers := make(chan heard, waiters)
	for range waiters {
		go func() {
			answer, err := client.Call(t.Context(), "GET", list+"?wait=240", nil, "If-None-Match", etag)
			answers <- heard{answer.Status, answer.Header.Get("Etag"), time.Now(), err}
		}()
	}
	if err := client.AwaitWaiters(t.Context(), waiters); err != nil {
		t.Fatal(err)
	}
	// Beside so many, all else goes on; they wait for minutes.
	within(t, time.Minute, "a certificate beside long polls", func() { w.mustWork(t, client) })

	root := deployment.As(client.URL, w.root)
	root.Want(t, http.StatusOK, "POST", "/v1/revokeduserkeys/"+w.alice.ProjectID, deployment.Object{"serial": cert.Serial}, nil)
	committed := time.Now()
	var last time.Duration
	etags := make(map[string]int)
	for range waiters {
		h := <-answers
		if h.err != nil || h.status != http.StatusOK {
			t.Fatalf("a long poll got %d %v", h.status, h.err)
		}
		etags[h.etag]++
		last = max(last, h.at.Sub(committed))
	}
	t.Logf("the last of %d was answered %v after the revocation", waiters, last)
	// Those whom nobody wakes get the list too, at the end of their time.
	if len(etags) != 1 || etags[etag] > 0 || last > time.Minute {
		t.Errorf("lists %v, the last after %v", etags, last)
	}
	if err := client.AwaitWaiters(t.Context(), 0); err != nil {
		t.Error(err)
	}
}

// TestShutdown: requests that run are finished, long polls are answered at
// once, and new requests are no longer taken.
func TestShutdown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, deployment.Options{})
	replica := w.Start(t)
	client := deployment.As(replica.URL, w.alice)
	w.mustWork(t, client)
	list := "/noauth/revokeduserkeys/" + w.alice.ProjectID
	etag := client.Want(t, http.StatusOK, "GET", list, nil, nil).Header.Get("Etag")

	w.Keystone.Hang()
	late := deployment.As(replica.URL, w.Person(t, "late", "alpha", "member"))
	type outcome struct {
		answer deployment.Answer
		err    error
	}
	polls, running := make(chan outcome, crowd), make(chan outcome, 1)
	for range crowd {
		go func() {
			answer, err := client.Call(t.Context(), "GET", list+"?wait=240", nil, "If-None-Match", etag)
			polls <- outcome{answer, err}
		}()
	}
	if err := client.AwaitWaiters(t.Context(), crowd); err != nil {
		t.Fatal(err)
	}
	go func() {
		answer, err := late.Call(t.Context(), "GET", "/v1/usercerts", nil)
		running <- outcome{answer, err}
	}()
	if err := w.Keystone.AwaitHeld(t.Context(), 1); err != nil {
		t.Fatal(err)
	}

	replica.BeginStop()
	within(t, time.Minute, "answering the long polls", func() {
		for range crowd {
			if got := <-polls; got.err != nil || got.answer.Status != http.StatusNotModified {
				t.Fatalf("a long poll got %d %v at the end, want 304", got.answer.Status, got.err)
			}
		}
	})
	if err := deployment.AwaitClosed(t.Context(), replica.URL); err != nil {
		t.Error(err)
	}
	w.Keystone.Open()
	if got := <-running; got.err != nil || got.answer.Status != http.StatusOK {
		t.Errorf("a request that ran was answered with %d %v: %s", got.answer.Status, got.err, got.answer.Body)
	}
	if err := replica.Stop(); err != nil {
		t.Error(fmt.Errorf("the end: %w", err))
	}
}
