// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package messaging sends notifications as the services of a cloud do by
// oslo.messaging (driver messagingv2): in an envelope, once for each topic,
// over RabbitMQ or to whatever else carries them.
//
// It is for development and tests: messages that can't be sent for a while are
// dropped.
package messaging

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/muster-cloud/muster/internal/uuid"
)

// waiting is how many messages may wait to be sent.
const waiting = 10_000

// Publisher carries messages.
type Publisher interface {
	// Publish sends a body to the exchange of a service; the routing key is
	// TOPIC.PRIORITY.
	Publish(ctx context.Context, exchange, routingKey string, body []byte) error
}

// Notifier sends notifications in the order in which they happened. A nil
// Notifier sends none.
type Notifier struct {
	now    func() time.Time
	logger *slog.Logger
	queue  chan message

	mu        sync.Mutex
	publisher Publisher
	topics    []string
}

// message is a notification for the topics that were set when it happened.
type message struct {
	publisher            Publisher
	exchange, routingKey string
	body                 []byte
	sent                 chan<- struct{} // of Flush; nil for others
}

// New returns a Notifier that sends nothing before To and Run are called. The
// arguments may be nil.
func New(now func() time.Time, logger *slog.Logger) *Notifier {
	if now == nil {
		now = time.Now
	}
	return &Notifier{now: now, logger: cmp.Or(logger, slog.New(slog.DiscardHandler)), queue: make(chan message, waiting)}
}

// To sets who carries messages from now on, nil for nobody, and the topics.
// Default: muster_notifications.
func (n *Notifier) To(p Publisher, topics ...string) {
	if len(topics) == 0 {
		topics = []string{"muster_notifications"}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.publisher, n.topics = p, topics
}

// Notify queues a notification of priority INFO. It never waits.
func (n *Notifier) Notify(exchange, publisherID, eventType string, payload any) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.publisher == nil {
		return
	}
	id := uuid.Dashed(NewID())
	for _, topic := range n.topics {
		inner, err := json.Marshal(map[string]any{"message_id": id, "publisher_id": publisherID, "event_type": eventType,
			"priority": "INFO", "payload": payload, "timestamp": n.now().UTC().Format("2006-01-02 15:04:05.000000"),
			"_unique_id": NewID()})
		if err == nil {
			inner, err = json.Marshal(map[string]string{"oslo.version": "2.0", "oslo.message": string(inner)})
		}
		if err != nil {
			n.logger.Error("cannot write a notification", "event", eventType, "error", err)
			return
		}
		select {
		case n.queue <- message{publisher: n.publisher, exchange: exchange, routingKey: topic + ".info", body: inner}:
		default:
			n.logger.Warn("too many notifications wait; one is dropped", "event", eventType)
		}
	}
}

// Flush waits until everything queued so far was sent or dropped.
func (n *Notifier) Flush(ctx context.Context) error {
	sent := make(chan struct{})
	select {
	case n.queue <- message{sent: sent}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-sent:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run sends until ctx ends, and returns nil.
func (n *Notifier) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-n.queue:
			if m.sent != nil {
				close(m.sent)
				continue
			}
			if err := m.publisher.Publish(ctx, m.exchange, m.routingKey, m.body); err != nil && ctx.Err() == nil {
				n.logger.Warn("a notification is lost", "exchange", m.exchange, "error", err)
			}
		}
	}
}

// NewID returns 32 random hexadecimal digits.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
