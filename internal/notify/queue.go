// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/rabbitmq/amqp091-go"
)

var (
	// errNobody: there is neither the queue nor any service's exchange.
	errNobody = errors.New("nobody has announced anything yet")
	// errCancelled: the broker has ended a subscription.
	errCancelled = errors.New("the queue was deleted, or its node failed")
)

// follow receives from one queue, and subscribes again when that ends, as long
// as the connection holds. It returns when that does not.
func (l *Listener) follow(ctx context.Context, connection *amqp091.Connection, queue string) error {
	pauses := l.pauses()
	waiting := false
	for {
		subscribed, err := l.consume(ctx, connection, queue)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case connection.IsClosed():
			return err
		case subscribed:
			pauses.Reset()
			l.cfg.Logger.Warn("No longer subscribed to a queue; will subscribe again", "queue", queue, "error", err)
		case !errors.Is(err, errNobody):
			l.cfg.Logger.Warn("Cannot subscribe to a queue; will try again", "queue", queue, "error", l.cfg.Rabbit.explain(err))
		case !waiting:
			l.cfg.Logger.Info("Waiting until a service makes the queue, or its exchange", "queue", queue)
		}
		waiting = errors.Is(err, errNobody)
		if !wait(ctx, pauses.NextBackOff()) {
			return ctx.Err()
		}
	}
}

// consume receives until the subscription ends.
func (l *Listener) consume(ctx context.Context, connection *amqp091.Connection, queue string) (subscribed bool, err error) {
	if err := l.prepare(connection, queue); err != nil {
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
	messages, err := channel.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return false, err
	}
	l.cfg.Logger.Info("Subscribed to a queue", "queue", queue)
	ctx, cancel := context.WithCancel(ctx)
	var underWay sync.WaitGroup
	defer underWay.Wait()
	defer cancel()
	for message := range messages {
		rest := l.receive(delivery{queue: queue, body: message.Body, compression: compressionOf(message), redelivered: message.Redelivered,
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
// A queue that is there is taken as it is. One that is missing is made like the
// exchanges of the services, since oslo.messaging gives both the same flags,
// and declares both before it sends: a queue of other flags would make its
// sending fail. Where there is no exchange either, nobody has sent anything
// that could be missed, and who sends first makes the queue.
func (l *Listener) prepare(connection *amqp091.Connection, queue string) error {
	there, err := exists(connection, func(c *amqp091.Channel) error {
		_, err := c.QueueDeclarePassive(queue, false, false, false, false, nil)
		return err
	})
	if err != nil {
		return err
	}
	exchanges, err := l.exchanges(connection)
	if err != nil {
		return err
	}
	if !there {
		if len(exchanges) == 0 {
			return errNobody
		}
		if err := l.declare(connection, queue, exchanges[0]); err != nil {
			return err
		}
	}
	for _, exchange := range exchanges {
		err := onChannel(connection, func(c *amqp091.Channel) error {
			return c.QueueBind(queue, queue, exchange, false, nil)
		})
		if err != nil && hasCode(err, amqp091.AccessRefused) {
			l.cfg.Logger.Debug("Not allowed to bind a queue; the service that sends does so", "queue", queue, "exchange", exchange)
			continue
		}
		if err != nil {
			return fmt.Errorf("bind to exchange %s: %w", exchange, err)
		}
	}
	return nil
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

// declare makes a queue as the sender to the exchange would.
func (l *Listener) declare(connection *amqp091.Connection, queue, exchange string) error {
	rabbit := l.cfg.Rabbit
	durable := rabbit.DurableQueues || rabbit.QuorumQueue
	if !rabbit.QuorumQueue && l.matches(connection, exchange, !durable) {
		durable = !durable
		l.cfg.Logger.Warn("The services' exchanges are declared otherwise than [oslo_messaging_rabbit] says; following them",
			"exchange", exchange, "amqp_durable_queues", durable)
	}
	err := onChannel(connection, func(c *amqp091.Channel) error {
		_, err := c.QueueDeclare(queue, durable, rabbit.AutoDelete, false, false, rabbit.arguments())
		return err
	})
	if hasCode(err, amqp091.PreconditionFailed) {
		return nil // somebody else has made it in between
	}
	if err == nil {
		l.cfg.Logger.Info("Made a queue", "queue", queue, "durable", durable, "quorum", rabbit.QuorumQueue)
	}
	return err
}

// arguments are those that oslo.messaging gives a queue: with others, its
// declaration would fail.
func (r Rabbit) arguments() amqp091.Table {
	if !r.QuorumQueue {
		return nil
	}
	arguments := amqp091.Table{"x-queue-type": "quorum"}
	for name, limit := range map[string]int{"x-delivery-limit": r.DeliveryLimit, "x-max-in-memory-length": r.MemoryLength,
		"x-max-in-memory-bytes": r.MemoryBytes} {
		if limit > 0 {
			arguments[name] = int64(limit)
		}
	}
	return arguments
}

// matches tells whether an exchange that is there is durable or not, as asked:
// to declare it once more changes nothing, and fails if its flags are others.
func (l *Listener) matches(connection *amqp091.Connection, exchange string, durable bool) bool {
	return onChannel(connection, func(c *amqp091.Channel) error {
		return c.ExchangeDeclare(exchange, amqp091.ExchangeTopic, durable, l.cfg.Rabbit.AutoDelete, false, false, nil)
	}) == nil
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
