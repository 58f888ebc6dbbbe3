// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Metric reads a metric without labels from the replica.
func (c *Client) Metric(ctx context.Context, name string) (float64, error) {
	answer, err := c.Call(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(answer.Body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}

// awaitTime bounds a wait for something that is sure to happen, on a machine
// that is busy or whose disk stalls.
const awaitTime = 3 * time.Minute

// AwaitWaiters returns when exactly so many long polls wait at the replica.
func (c *Client) AwaitWaiters(ctx context.Context, count int) error {
	return Await(ctx, func(ctx context.Context) error {
		waiting, err := c.Metric(ctx, "muster_krl_waiters")
		if err == nil && int(waiting) != count {
			err = fmt.Errorf("%v long polls wait, want %d", waiting, count)
		}
		return err
	})
}

// Await asks until the answer is nil, or for some minutes.
func Await(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, awaitTime)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("waited in vain: %w", err)
		}
	}
}

// AwaitClosed returns when nobody listens at a replica's URL any more.
func AwaitClosed(ctx context.Context, url string) error {
	return Await(ctx, func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			return nil
		}
		conn.Close()
		return errors.New("somebody still listens")
	})
}
