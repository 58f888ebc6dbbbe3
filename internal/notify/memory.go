// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"errors"
	"sync"
)

// memorySize is how many messages a Memory holds for a listener that is slow or
// not there.
const memorySize = 10_000

// ErrFull: a Memory's listener is too far behind.
var ErrFull = errors.New("too many notifications wait in memory")

// Memory carries messages inside a process: the transport memory://, for muster
// dev and tests. It has one queue for all topics, and keeps what is not
// acknowledged only as long as it lives.
type Memory struct {
	messages chan []byte
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory { return &Memory{messages: make(chan []byte, memorySize)} }

// Publish adds a message. It never waits: ErrFull if there are 10,000 already.
func (m *Memory) Publish(_ context.Context, _, _ string, body []byte) error {
	select {
	case m.messages <- body:
		return nil
	default:
		return ErrFull
	}
}

func (l *Listener) runMemory(ctx context.Context) error {
	l.metrics.connected.Set(1)
	defer l.metrics.connected.Set(0)
	slots := make(chan struct{}, l.cfg.Prefetch)
	var underWay sync.WaitGroup
	defer underWay.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case slots <- struct{}{}:
		}
		select {
		case <-ctx.Done():
			return nil
		case body := <-l.cfg.Memory.messages:
			rest := l.receive(delivery{queue: "memory", body: body, ack: func() error { return nil }})
			if rest == nil {
				<-slots
				continue
			}
			underWay.Go(func() {
				defer func() { <-slots }()
				rest(ctx)
			})
		}
	}
}
