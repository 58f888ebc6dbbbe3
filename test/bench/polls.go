// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	waitersEach     = 10 // long polls for each project
	pollRevocations = 20 // each in another project
)

// waiter is a long poll.
type waiter struct {
	*connection
	answered chan error // has one value when the answer is there
	at       time.Time  // of the answer
}

// longPolls measures what waiting clients cost, and how soon they know.
func longPolls(ctx context.Context, b *bench) ([]measure, error) {
	return b.on(ctx, "sqlite", func(s *site) ([]measure, error) {
		persons, err := b.pollPersons(max(b.waiters/waitersEach, 1))
		if err != nil {
			return nil, err
		}
		serials, etags, err := s.prepareLists(ctx, persons)
		if err != nil {
			return nil, err
		}
		before, err := s.resident()
		if err != nil {
			return nil, err
		}
		waiters, err := s.wait(ctx, persons, etags)
		defer closeAll(waiters)
		if err != nil {
			return nil, err
		}
		after, err := s.resident()
		if err != nil {
			return nil, err
		}
		latency, err := s.wake(ctx, persons, serials, waiters)
		return []measure{
			atMost(fmt.Sprintf("%d waiters: memory of each", len(waiters)), (after-before)/float64(len(waiters))/kilobyte, "kB", 40),
			atMost("all of a project answered after its revocation was sent", milliseconds(latency), "ms", 100),
		}, err
	})
}

// pollPersons are made once, one in each project.
func (b *bench) pollPersons(n int) ([]person, error) {
	if len(b.pollers) >= n {
		return b.pollers[:n], nil
	}
	for i := len(b.pollers); i < n; i++ {
		p, err := b.newPerson(fmt.Sprintf("poller%d", i), fmt.Sprintf("polled%d", i))
		if err != nil {
			return nil, err
		}
		b.pollers = append(b.pollers, p)
	}
	return b.pollers, nil
}

// prepareLists issues a certificate in each project and reads its list, so
// that what the lists need is no part of the waiters' memory.
func (s *site) prepareLists(ctx context.Context, persons []person) (serials []uint64, etags []string, err error) {
	serials, etags = make([]uint64, len(persons)), make([]string, len(persons))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(clients)
	for i, p := range persons {
		group.Go(func() (err error) {
			if serials[i], err = s.issueOne(ctx, p); err != nil {
				return err
			}
			c, err := dial(ctx, s.address, nil)
			if err != nil {
				return err
			}
			defer c.Close()
			status, err := c.do(s.listRequest(p.project, ""))
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("list: status %d: %.300s", status, c.body)
			}
			etags[i] = c.etag
			return err
		})
	}
	return serials, etags, group.Wait()
}

// wait opens the long polls and returns when all of them wait.
func (s *site) wait(ctx context.Context, persons []person, etags []string) ([]*waiter, error) {
	var waiters []*waiter
	for i, p := range persons {
		request := s.requestWith("GET", "/noauth/revokeduserkeys/"+p.project+"?wait=240",
			map[string]string{"Accept": "application/octet-stream", "If-None-Match": etags[i]}, nil)
		for range waitersEach {
			c, err := dial(ctx, s.address, nil)
			if err != nil {
				return waiters, err
			}
			w := &waiter{connection: c, answered: make(chan error, 1)}
			waiters = append(waiters, w)
			if err := c.send(request); err != nil {
				return waiters, err
			}
			go w.receive()
		}
	}
	for {
		n, err := s.gauge(ctx, "muster_krl_waiters")
		if err != nil || int(n) == len(waiters) {
			return waiters, errors.Join(err, ctx.Err())
		}
		if err := ctx.Err(); err != nil {
			return waiters, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (w *waiter) receive() {
	status, err := w.connection.receive()
	w.at = time.Now()
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("long poll: status %d: %.300s", status, w.body)
	}
	w.answered <- err
}

// wake revokes in some projects, one after the other, and returns the middle
// of the times from sending the revocation until the last of the project's waiters has
// its answer. The commit is part of it.
func (s *site) wake(ctx context.Context, persons []person, serials []uint64, waiters []*waiter) (time.Duration, error) {
	var times []time.Duration
	for i, p := range persons[:min(len(persons), pollRevocations)] {
		started := time.Now()
		_, err := s.call(ctx, s.request("POST", "/v1/revokeduserkeys/"+p.project, p.token, map[string]uint64{"serial": serials[i]}), http.StatusOK)
		if err != nil {
			return 0, err
		}
		last := started
		for _, w := range waiters[i*waitersEach : (i+1)*waitersEach] {
			select {
			case err := <-w.answered:
				if err != nil {
					return 0, err
				}
			case <-ctx.Done():
				return 0, ctx.Err()
			}
			if w.at.After(last) {
				last = w.at
			}
		}
		times = append(times, last.Sub(started))
	}
	return slices.Max(times), nil
}

func closeAll(waiters []*waiter) {
	for _, w := range waiters {
		w.Close()
	}
}
