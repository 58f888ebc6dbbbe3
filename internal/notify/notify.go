// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package notify listens to what Keystone, Nova and Neutron announce by
// oslo.messaging, over RabbitMQ or inside the process, and turns it into hints:
// which entities may have changed.
//
// A message is acknowledged only when its hints have been worked on or are
// safely recorded, so none is lost with a process, and several replicas share
// the queues. What a message says beyond that is never acted on: anybody with a
// login to the broker can send one. Its payload is not logged, and not kept
// either, but for the form of one that cannot be read.
//
// The package publishes nothing, and makes neither exchanges nor queues: those
// are the services'. It makes a queue again that was there, if it is deleted.
package notify

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/outage"
)

// Config is what a Listener is made of.
type Config struct {
	// TransportURL is oslo.messaging's; see ParseTransportURL. It holds a
	// password.
	TransportURL string
	// Memory is where messages come from when TransportURL is memory://.
	Memory *Memory
	// Topics that the services send to, such as muster_notifications. The
	// queues are TOPIC.PRIORITY.
	Topics     []string
	Priorities []string // default: info
	// Exchanges of the services (control_exchange). Default: keystone, nova,
	// neutron.
	Exchanges []string
	Rabbit    Rabbit
	// Prefetch is how many messages of each queue may be unacknowledged.
	// Default 100.
	Prefetch int
	// Name is what the broker shows for the connection. Default: muster.
	Name string
	// Offer takes hints over. The channel that it returns gets one value, or is
	// closed, when each key has converged or is safely recorded; an error means
	// that neither is so, and the hints are offered again.
	Offer      func(context.Context, []converge.Hint) <-chan error
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Rabbit holds the options of [oslo_messaging_rabbit], which should be set as
// the services have them.
type Rabbit struct {
	External bool // rabbit_login_method EXTERNAL: by the TLS certificate

	TLS            bool // ssl
	CAFile         string
	CertFile       string
	KeyFile        string
	VerifyHostname bool // ssl_enforce_hostname_verification

	Heartbeat     time.Duration // heartbeat_timeout_threshold; default 60 s
	RetryInterval time.Duration // rabbit_retry_interval: the first pause; default 1 s
	MaxInterval   time.Duration // rabbit_interval_max: the longest; default 30 s
}

// Listener receives notifications while Run runs.
type Listener struct {
	cfg       Config
	transport TransportURL
	queues    []string
	// subscriptions outlive connections. Each is used by one goroutine at a time.
	subscriptions []*subscription
	state         *state
	metrics       *metrics
	journal       journal
	handing       outage.Outage
}

// New checks the configuration. It connects to nothing.
func New(cfg Config) (*Listener, error) {
	if cfg.Offer == nil {
		return nil, errors.New("notify: nobody takes the hints over (Offer is nil)")
	}
	transport, err := ParseTransportURL(cfg.TransportURL)
	if err != nil {
		return nil, err
	}
	if transport.Transport == "memory" && cfg.Memory == nil {
		return nil, fmt.Errorf("%w: memory:// is only for muster dev, which has a cloud inside", ErrTransportURL)
	}
	if cfg.Rabbit, err = cfg.Rabbit.override(transport.Query); err != nil {
		return nil, err
	}
	if len(cfg.Topics) == 0 {
		return nil, errors.New("notify: no topics are given")
	}
	cfg.fillIn()
	l := &Listener{cfg: cfg, transport: transport, metrics: newMetrics(cfg.Registerer)}
	l.journal.replica = rand.Text()[:8]
	for _, topic := range cfg.Topics {
		for _, priority := range cfg.Priorities {
			queue := topic + "." + priority
			l.queues = append(l.queues, queue)
			l.subscriptions = append(l.subscriptions, &subscription{queue: queue})
		}
	}
	l.state = newState(l.queues, l.metrics)
	return l, nil
}

func (c *Config) fillIn() {
	if len(c.Priorities) == 0 {
		c.Priorities = []string{"info"}
	}
	if len(c.Exchanges) == 0 {
		c.Exchanges = []string{"keystone", "nova", "neutron"}
	}
	c.Prefetch = cmp.Or(c.Prefetch, 100)
	c.Name = cmp.Or(c.Name, "muster")
	c.Rabbit.Heartbeat = cmp.Or(c.Rabbit.Heartbeat, time.Minute)
	c.Rabbit.RetryInterval = cmp.Or(c.Rabbit.RetryInterval, time.Second)
	c.Rabbit.MaxInterval = max(cmp.Or(c.Rabbit.MaxInterval, 30*time.Second), c.Rabbit.RetryInterval)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Found is what Check found of a queue.
type Found struct {
	Queue string
	// Kind says for operators how the queue was declared; "unknown" where the broker does not tell.
	// Empty: the queue is not there.
	Kind string
}

// Check connects to the broker, to one host of a cluster at least, looks at the queues, and hangs up.
// It changes nothing, and takes no message. It fails if no host lets Muster in, or if Muster may not
// read a queue that is there; one that is missing is no failure, since services make it when they
// first send.
// It needs only the transport_url and topics of the configuration and what [oslo_messaging_rabbit] has.
func Check(ctx context.Context, cfg Config) ([]Found, error) {
	cfg.Offer = func(context.Context, []converge.Hint) <-chan error { return nil }
	cfg.Memory = NewMemory()
	l, err := New(cfg)
	if err != nil {
		return nil, err
	}
	var problems []error
	for _, host := range l.transport.Hosts {
		connection, err := l.connect(ctx, host)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", host.Address(), l.cfg.Rabbit.explain(err)))
			continue
		}
		stop := context.AfterFunc(ctx, func() { l.close(connection) })
		found, err := l.look(connection)
		stop()
		l.close(connection)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", host.Address(), l.cfg.Rabbit.explain(err))
		}
		return found, nil
	}
	return nil, errors.Join(problems...)
}

// Subscribed tells whether each queue is followed: nil, or what is missing. It asks nobody.
func (l *Listener) Subscribed(context.Context) error {
	if l.transport.Transport == "memory" {
		return nil
	}
	return l.state.err()
}

// Events are the last messages that came to this replica, newest first, at most
// limit: up to 100 of each outcome are remembered.
func (l *Listener) Events(limit int) []Event { return l.journal.events(limit) }

// Run receives until the context ends, and then returns nil. It connects again
// for ever. What is not acknowledged then is delivered again, to whoever
// listens.
func (l *Listener) Run(ctx context.Context) error {
	if l.transport.Transport == "memory" {
		return l.runMemory(ctx)
	}
	return l.runRabbit(ctx)
}

// delivery is a message on its way.
type delivery struct {
	queue       string
	body        []byte
	compression string // as the sender calls it; "" or an encoding of characters: none
	redelivered bool
	// ack tells the sender's side that the message is done with.
	ack func() error
}

// receive reads a message, and returns what remains to be done until it is
// acknowledged; nil if that is so already.
func (l *Listener) receive(d delivery) func(context.Context) {
	now := l.cfg.Now()
	body, err := decompress(d.body, d.compression)
	var m Message
	if err == nil {
		m, err = Parse(body)
	}
	hints := m.Hints()
	event := &Event{ID: l.journal.next(), At: now, Queue: d.queue, MessageID: m.ID, Publisher: m.Publisher, Type: m.EventType, Sent: m.At,
		Hints: hints, Size: len(d.body), Outcome: Hinted}
	switch {
	case err != nil:
		event.Outcome, event.Problem, event.Body = Unreadable, err.Error(), masked(inspectable(body, d))
		l.cfg.Logger.Warn("A notification cannot be read and is left out; muster events tail shows it",
			"queue", d.queue, "event", m.EventType, "message", m.ID, "error", err)
	case len(hints) == 0:
		event.Outcome = Ignored
	}
	l.journal.add(event)
	l.metrics.received(event, d.redelivered)
	if event.Outcome != Hinted {
		l.acknowledge(d, event)
		return nil
	}
	return func(ctx context.Context) { l.handOver(ctx, d, event, hints) }
}

// inspectable is what can be seen of a message: decompressed if that succeeded.
func inspectable(body []byte, d delivery) []byte {
	if body == nil {
		return d.body
	}
	return body
}

// handOver offers hints until they are taken over, and acknowledges. The
// message stays with us meanwhile: to give it back would only have it come
// again at once, and quorum queues drop what comes back too often.
func (l *Listener) handOver(ctx context.Context, d delivery, event *Event, hints []converge.Hint) {
	l.metrics.unacknowledged.Inc()
	defer l.metrics.unacknowledged.Dec()
	pause := l.pauses()
	for {
		var err error
		select {
		case err = <-l.cfg.Offer(ctx, hints):
		case <-ctx.Done():
			return
		}
		l.handing.Note(ctx, l.cfg.Logger, "have notifications worked on or recorded", err)
		if err == nil {
			l.acknowledge(d, event)
			l.metrics.seconds.Observe(l.cfg.Now().Sub(event.At).Seconds())
			return
		}
		l.journal.update(func() { event.Problem = "not taken over yet; the log has more" })
		l.metrics.refused.Inc()
		if !wait(ctx, pause.NextBackOff()) {
			return
		}
	}
}

func (l *Listener) acknowledge(d delivery, event *Event) {
	if err := d.ack(); err != nil {
		// The connection is gone, which is reported where it is noticed.
		l.cfg.Logger.Debug("A notification is done, but the broker was not told and will deliver it again",
			"event", event.Type, "message", event.MessageID, "error", err)
		return
	}
	now := l.cfg.Now()
	l.journal.update(func() {
		event.Acknowledged = now
		if event.Outcome == Hinted {
			event.Problem = ""
		}
	})
}

// pauses grow from the first to the longest that are configured, each a bit
// longer or shorter so that replicas do not come back in step.
func (l *Listener) pauses() *backoff.ExponentialBackOff {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = l.cfg.Rabbit.RetryInterval, l.cfg.Rabbit.MaxInterval
	pauses.Multiplier, pauses.RandomizationFactor = 2, 0.3
	return pauses
}

// wait returns false if the context ends first.
func wait(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
