// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rabbitmq/amqp091-go"
)

// errCancelled: the broker has ended a subscription.
var errCancelled = errors.New("the queue was deleted, or its node failed")

// errMissing: there is no queue, and how it should be is not known.
var errMissing = errors.New("the queue is not there: no service has sent to its topic yet; " +
	"see that [oslo_messaging_notifications] topics of Keystone, Nova and Neutron names the topic")

// longestWait is the longest pause before looking again for a queue that is missing.
const longestWait = 3 * time.Second

// subscription is one queue, as the listener knows it.
type subscription struct {
	queue string
	// declared is how the queue was declared, once that is known.
	declared *declaration
	// missing: it was not there when this process looked first.
	missing bool
	// next is where to go on in a stream; 0: nothing was read of it.
	next int64
}

// follow receives from one queue, and subscribes again when that ends, as long
// as the connection holds. It returns when that does not.
func (l *Listener) follow(ctx context.Context, connection *amqp091.Connection, s *subscription) error {
	pauses := l.pauses()
	waiting := false
	for {
		subscribed, err := l.consume(ctx, connection, s)
		l.state.set(s.queue, err)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case connection.IsClosed():
			return err
		case subscribed:
			pauses.Reset()
			l.cfg.Logger.Warn("No longer subscribed to a queue; will subscribe again", "queue", s.queue, "error", err)
		case !errors.Is(err, errMissing):
			l.cfg.Logger.Warn("Cannot subscribe to a queue; will try again", "queue", s.queue, "error", l.cfg.Rabbit.explain(err))
		case !waiting:
			l.cfg.Logger.Warn("Waiting until a service makes the queue", "queue", s.queue, "error", err)
		}
		waiting = errors.Is(err, errMissing)
		pause := pauses.NextBackOff()
		if waiting {
			pause = min(pause, longestWait)
		}
		if !wait(ctx, pause) {
			return ctx.Err()
		}
	}
}

// consume receives until the subscription ends.
func (l *Listener) consume(ctx context.Context, connection *amqp091.Connection, s *subscription) (subscribed bool, err error) {
	if err := l.prepare(connection, s); err != nil {
		return false, err
	}
	channel, err := connection.Channel()
	if err != nil {
		return false, err
	}
	defer func() { _ = channel.Close() }() // it may be closed already
	closed := channel.NotifyClose(make(chan *amqp091.Error, 1))
	if err := channel.Qos(l.cfg.Prefetch, 0, false); err != nil {
		return false, err
	}
	messages, err := channel.Consume(s.queue, "", false, false, false, false, s.from())
	if err != nil {
		return false, err
	}
	l.state.set(s.queue, nil)
	l.cfg.Logger.Info("Subscribed to a queue", "queue", s.queue, "kind", s.kind())
	ctx, cancel := context.WithCancel(ctx)
	var underWay sync.WaitGroup
	defer underWay.Wait()
	defer cancel()
	for message := range messages {
		if offset, ok := message.Headers[streamOffset].(int64); ok {
			s.next = offset + 1
		}
		rest := l.receive(delivery{queue: s.queue, body: message.Body, compression: compressionOf(message), redelivered: message.Redelivered,
			ack: func() error { return message.Ack(false) }})
		if rest != nil {
			underWay.Go(func() { rest(ctx) })
		}
	}
	select {
	case err := <-closed:
		if err != nil {
			return true, err
		}
		return true, amqp091.ErrClosed
	default:
		return true, errCancelled
	}
}

// streamOffset is where a message stands in a stream, and where to begin to read one.
const streamOffset = "x-stream-offset"

// from says where in a stream to begin. A stream keeps what was read: it goes on where this process
// was. At first it passes over what is there, which the comparison at start sees the outcome of;
// unless the stream was made later than that.
func (s *subscription) from() amqp091.Table {
	switch {
	case s.declared == nil || s.declared.kind() != "stream":
		return nil
	case s.next > 0:
		return amqp091.Table{streamOffset: s.next}
	case s.missing:
		return amqp091.Table{streamOffset: "first"}
	}
	return amqp091.Table{streamOffset: "next"}
}

func (s *subscription) kind() string {
	if s.declared == nil {
		return "unknown"
	}
	return s.declared.String()
}

// compressionOf says how a body is compressed: kombu has a header for it, others
// use the property.
func compressionOf(message amqp091.Delivery) string {
	if name, ok := message.Headers["compression"].(string); ok && name != "" {
		return name
	}
	return message.ContentEncoding
}

// prepare sees that the queue is there and gets what the services send.
//
// A queue that is there is taken as it is. One that is missing is not made: of another kind than the
// services declare, it would make their sending fail, and only they know the kind. Nothing is missed
// by that, for oslo.messaging declares a queue before it sends. But a service does so once for each
// connection, and does not notice when its queue is deleted later; so a queue that was there is made
// again as it was.
func (l *Listener) prepare(connection *amqp091.Connection, s *subscription) error {
	there, err := exists(connection, func(c *amqp091.Channel) error {
		_, err := c.QueueDeclarePassive(s.queue, false, false, false, false, nil)
		return err
	})
	switch {
	case err != nil:
		return err
	case there:
		err = l.inspect(connection, s)
	case s.declared == nil:
		s.missing = true
		return errMissing
	default:
		err = l.remake(connection, s)
	}
	if err != nil {
		return err
	}
	exchanges, err := l.exchanges(connection)
	if err != nil {
		return err
	}
	for _, exchange := range exchanges {
		err := onChannel(connection, func(c *amqp091.Channel) error {
			return c.QueueBind(s.queue, s.queue, exchange, false, nil)
		})
		if err != nil && hasCode(err, amqp091.AccessRefused) {
			l.cfg.Logger.Debug("Not allowed to bind a queue; the service that sends does so", "queue", s.queue, "exchange", exchange)
			continue
		}
		if err != nil {
			return fmt.Errorf("bind to exchange %s: %w", exchange, err)
		}
	}
	return nil
}

// inspect remembers how a queue is declared, if the broker tells. It fails only with the connection.
func (l *Listener) inspect(connection *amqp091.Connection, s *subscription) error {
	declared, err := inspect(connection, s.queue)
	if err == nil {
		s.declared = &declared
		return nil
	}
	if connection.IsClosed() {
		return err
	}
	s.declared = nil
	l.cfg.Logger.Debug("Cannot tell of what kind a queue is; should it be deleted, a service has to make it", "queue", s.queue, "error", err)
	return nil
}

// remake makes a queue again that was deleted.
func (l *Listener) remake(connection *amqp091.Connection, s *subscription) error {
	err := onChannel(connection, func(c *amqp091.Channel) error {
		_, err := c.QueueDeclare(s.queue, s.declared.durable, s.declared.autoDelete, false, false, s.declared.arguments)
		return err
	})
	if hasCode(err, amqp091.PreconditionFailed) {
		// A service was faster, with another kind; or the broker takes it no longer. We look once more.
		s.declared, s.missing = nil, true
		return err
	}
	if err == nil {
		s.next, s.missing = 0, true
		l.cfg.Logger.Warn("Made a queue again that was deleted", "queue", s.queue, "kind", s.kind())
	}
	return err
}

// exchanges returns which of the services' exchanges are there.
func (l *Listener) exchanges(connection *amqp091.Connection) ([]string, error) {
	var found []string
	for _, name := range l.cfg.Exchanges {
		there, err := exists(connection, func(c *amqp091.Channel) error {
			return c.ExchangeDeclarePassive(name, amqp091.ExchangeTopic, false, false, false, false, nil)
		})
		if err != nil {
			return nil, err
		}
		if there {
			found = append(found, name)
		}
	}
	return found, nil
}

// exists tells whether a passive declaration finds its object. One whose type
// differs, or that is locked, is there too.
func exists(connection *amqp091.Connection, look func(*amqp091.Channel) error) (bool, error) {
	err := onChannel(connection, look)
	switch {
	case err == nil, hasCode(err, amqp091.PreconditionFailed):
		return true, nil
	case hasCode(err, amqp091.NotFound):
		return false, nil
	}
	return false, err
}

// onChannel works on a channel of its own: the broker closes a channel on which
// something fails.
func onChannel(connection *amqp091.Connection, work func(*amqp091.Channel) error) error {
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	defer func() { _ = channel.Close() }() // it may be closed already
	return work(channel)
}

func hasCode(err error, code int) bool {
	var refused *amqp091.Error
	return errors.As(err, &refused) && refused.Code == code
}
