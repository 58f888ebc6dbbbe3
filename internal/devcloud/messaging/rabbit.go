// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package messaging

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/muster-cloud/muster/internal/notify"
)

const (
	dialTimeout = 10 * time.Second
	sendTimeout = 10 * time.Second
	// tries is how often a message is sent before it is lost, each over a new
	// connection.
	tries = 2
)

// Rabbit publishes over RabbitMQ. Like oslo.messaging it declares exchange,
// queue and binding before it sends to them for the first time. It is not for
// use by several goroutines.
type Rabbit struct {
	host        notify.Host
	virtualHost string
	connection  *amqp091.Connection
	channel     *amqp091.Channel
	declared    map[[2]string]bool
}

// NewRabbit returns a publisher to the first host of a transport_url. It
// connects when it first sends.
func NewRabbit(transportURL string) (*Rabbit, error) {
	parsed, err := notify.ParseTransportURL(transportURL)
	if err != nil {
		return nil, err
	}
	if parsed.Transport != "rabbit" {
		return nil, errors.New("messaging: want a rabbit:// URL")
	}
	return &Rabbit{host: parsed.Hosts[0], virtualHost: parsed.VirtualHost}, nil
}

// Publish implements Publisher. It returns when the broker has the message.
func (r *Rabbit) Publish(ctx context.Context, exchange, routingKey string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	var err error
	for range tries {
		if err = r.try(ctx, exchange, routingKey, body); err == nil {
			return nil
		}
		r.Close()
	}
	return err
}

func (r *Rabbit) try(ctx context.Context, exchange, routingKey string, body []byte) error {
	if r.connection == nil {
		if err := r.connect(ctx); err != nil {
			return err
		}
	}
	if name := [2]string{exchange, routingKey}; !r.declared[name] {
		_, err := r.channel.QueueDeclare(routingKey, false, false, false, false, nil)
		if err == nil {
			err = r.channel.ExchangeDeclare(exchange, amqp091.ExchangeTopic, false, false, false, false, nil)
		}
		if err == nil {
			err = r.channel.QueueBind(routingKey, routingKey, exchange, false, nil)
		}
		if err != nil {
			return fmt.Errorf("declare %s on %s: %w", routingKey, exchange, err)
		}
		r.declared[name] = true
	}
	confirmation, err := r.channel.PublishWithDeferredConfirm(exchange, routingKey, false, false, amqp091.Publishing{
		ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: amqp091.Persistent, Body: body})
	if err != nil {
		return err
	}
	taken, err := confirmation.WaitContext(ctx)
	if err == nil && !taken {
		err = errors.New("the broker does not take the message")
	}
	return err
}

func (r *Rabbit) connect(ctx context.Context) error {
	socket, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", r.host.Address())
	if err != nil {
		return err
	}
	r.connection, err = amqp091.Open(socket, amqp091.Config{
		SASL:  []amqp091.Authentication{&amqp091.PlainAuth{Username: r.host.Username, Password: r.host.Password}},
		Vhost: r.virtualHost, Heartbeat: 10 * time.Second, Locale: "en_US",
	})
	if err != nil {
		r.connection = nil
		return errors.Join(err, socket.Close())
	}
	r.declared = map[[2]string]bool{}
	if r.channel, err = r.connection.Channel(); err != nil {
		return err
	}
	return r.channel.Confirm(false)
}

// Close ends the connection. Publish opens a new one.
func (r *Rabbit) Close() {
	if r.connection == nil {
		return
	}
	// It may be broken already.
	_ = r.connection.CloseDeadline(time.Now().Add(time.Second))
	r.connection = nil
}
