// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"errors"
	"fmt"
	"sync"

	"github.com/rabbitmq/amqp091-go"
)

// errNotConnected: there was no connection yet.
var errNotConnected = errors.New("not connected to RabbitMQ yet")

// errPreparing: a connection was just made.
var errPreparing = errors.New("not subscribed yet")

// state is what keeps Muster from receiving, for whoever asks how it is.
type state struct {
	metrics *metrics

	mu      sync.Mutex
	away    error // nil: connected
	queues  []string
	missing map[string]error // by queue, why it is not received from; nil: it is
}

func newState(queues []string, m *metrics) *state {
	s := &state{metrics: m, away: errNotConnected, queues: queues, missing: make(map[string]error, len(queues))}
	s.connected()
	s.away = errNotConnected
	return s
}

func (s *state) connected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = nil
	for _, queue := range s.queues {
		s.missing[queue] = errPreparing
		s.metrics.subscribed.WithLabelValues(queue).Set(0)
	}
}

func (s *state) disconnected(host string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = fmt.Errorf("not connected to RabbitMQ at %s: %w", host, err)
	for _, queue := range s.queues {
		s.metrics.subscribed.WithLabelValues(queue).Set(0)
	}
}

func (s *state) set(queue string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing[queue] = err
	is := 1.0
	if err != nil {
		is = 0
	}
	s.metrics.subscribed.WithLabelValues(queue).Set(is)
}

// err is the first thing that is amiss.
func (s *state) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return s.away
	}
	var problems []error
	for _, queue := range s.queues {
		if err := s.missing[queue]; err != nil {
			problems = append(problems, fmt.Errorf("queue %s: %w", queue, err))
		}
	}
	return errors.Join(problems...)
}

// look finds out of what kind the queues are, and whether Muster may read them.
func (l *Listener) look(connection *amqp091.Connection) ([]Found, error) {
	var all []Found
	for _, queue := range l.queues {
		found := Found{Queue: queue}
		there, err := exists(connection, func(c *amqp091.Channel) error {
			_, err := c.QueueDeclarePassive(queue, false, false, false, false, nil)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("queue %s: %w", queue, err)
		}
		if there {
			found.Kind = "unknown"
			if declared, err := inspect(connection, queue); err == nil {
				found.Kind = declared.String()
			}
			if err := mayRead(connection, queue); err != nil {
				return nil, fmt.Errorf("queue %s: %w", queue, err)
			}
		}
		all = append(all, found)
	}
	return all, nil
}

// mayRead asks for messages in a way that the broker refuses after it has seen that the user may read:
// no message leaves the queue, which might otherwise count as delivered once too often.
func mayRead(connection *amqp091.Connection, queue string) error {
	err := onChannel(connection, func(c *amqp091.Channel) error {
		if err := c.Qos(1, 0, false); err != nil {
			return err
		}
		_, err := c.Consume(queue, "", false, false, false, false, amqp091.Table{"x-priority": "none", streamOffset: false})
		return err
	})
	if hasCode(err, amqp091.PreconditionFailed) {
		return nil
	}
	return err
}
