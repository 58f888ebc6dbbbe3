// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

const (
	megabyte = 1e6
	kilobyte = 1e3
)

// memory measures what Muster holds when it has just started, and after it has
// issued many certificates.
func memory(ctx context.Context, b *bench) ([]measure, error) {
	return b.on(ctx, "sqlite", func(s *site) ([]measure, error) {
		if _, err := s.call(ctx, s.request("GET", "/readyz", "", nil), http.StatusOK); err != nil {
			return nil, err
		}
		idle, err := s.resident()
		if err != nil {
			return nil, err
		}
		const portion = 50_000 // what this program keeps ready
		for left := b.issued; left > 0; left -= portion {
			requests, err := s.userRequests(min(left, portion))
			if err != nil {
				return nil, err
			}
			l := load{address: s.address, clients: clients, requests: requests, status: http.StatusCreated}
			if _, err := l.run(ctx, s.process); err != nil {
				return nil, err
			}
		}
		after, err := s.resident()
		return []measure{
			atMost("idle", idle/megabyte, "MB", 60),
			atMost(fmt.Sprintf("after %d certificates", b.issued), after/megabyte, "MB", 150),
		}, err
	})
}

// startTime measures from the start of the process to /readyz saying yes.
func startTime(ctx context.Context, b *bench) (measured []measure, err error) {
	s, err := b.withRecords(ctx, b.records)
	if err != nil {
		return nil, err
	}
	if err := s.stop(); err != nil {
		return nil, err
	}
	started := time.Now()
	if err := s.start(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	_, err = s.call(ctx, s.request("GET", "/readyz", "", nil), http.StatusOK)
	return []measure{atMost(fmt.Sprintf("with %d certificates", b.records), milliseconds(time.Since(started)), "ms", 1000)}, err
}

// growthClients measures user certificates for ten times the clients.
func growthClients(ctx context.Context, b *bench) ([]measure, error) {
	return b.on(ctx, "sqlite", func(s *site) ([]measure, error) {
		var measured []measure
		for _, n := range []int{clients, 10 * clients} {
			t, err := s.issueUsers(ctx, fmt.Sprintf("growth-clients-%d", n), n, b.requests)
			if err != nil {
				return nil, err
			}
			measured = append(measured, loadMeasures(fmt.Sprintf("%d clients", n), t, 0, 0)...)
		}
		return measured, nil
	})
}

// growthRecords measures user certificates with ten times the records.
func growthRecords(ctx context.Context, b *bench) ([]measure, error) {
	var measured []measure
	for _, n := range []int{max(b.records/10, people+1), b.records} {
		s, err := b.withRecords(ctx, n)
		if err != nil {
			return nil, err
		}
		t, err := s.issueUsers(ctx, fmt.Sprintf("growth-records-%d", n), clients, b.requests)
		if err = errors.Join(err, s.stop()); err != nil {
			return nil, err
		}
		measured = append(measured, loadMeasures(fmt.Sprintf("%d certificates", n), t, 0, 0)...)
	}
	return measured, nil
}

// gauge reads a metric without labels.
func (s *site) gauge(ctx context.Context, name string) (float64, error) {
	response, err := http.Get("http://" + s.address + "/metrics")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(response.Body); err != nil {
		return 0, err
	}
	_, after, found := bytes.Cut(text.Bytes(), []byte("\n"+name+" "))
	if !found {
		return 0, fmt.Errorf("there is no metric %s", name)
	}
	value, _, _ := bytes.Cut(after, []byte("\n"))
	return strconv.ParseFloat(string(value), 64)
}
