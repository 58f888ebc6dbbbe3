// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rabbitmq/amqp091-go"

	"github.com/muster-cloud/muster/test/services"
)

// patience is how long a test waits for what must come, on a machine that is
// busy.
const patience = 3 * time.Minute

const queueName = "muster_notifications.info"

// broker is the one that the tests share, each on a virtual host of its own.
var broker struct {
	once   sync.Once
	server *services.RabbitMQ
	err    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if broker.server != nil {
		if err := broker.server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop RabbitMQ:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// site is a virtual host, a listener's part and a service's part.
type site struct {
	t        *testing.T
	broker   *services.RabbitMQ
	vhost    string
	queue    *queue
	log      *log
	registry *prometheus.Registry
	listener *Listener
	stop     func()
	// connections are those of the services.
	connections []*amqp091.Connection
}

func sharedBroker(t *testing.T) *services.RabbitMQ {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it needs RabbitMQ")
	}
	broker.once.Do(func() { broker.server, broker.err = services.StartRabbitMQ(context.Background()) })
	services.Need(t, broker.err)
	return broker.server
}

func newSite(t *testing.T, server *services.RabbitMQ) *site {
	return &site{t: t, broker: server, vhost: server.VirtualHost(t), queue: newQueue(), log: &log{}, registry: prometheus.NewRegistry()}
}

// listen runs a listener until the test ends, or stop is called.
func (s *site) listen(change func(*Config)) {
	s.t.Helper()
	cfg := Config{TransportURL: s.broker.URL(s.vhost), Topics: []string{"muster_notifications"}, Offer: s.queue.offer,
		Rabbit: Rabbit{RetryInterval: 20 * time.Millisecond, MaxInterval: 200 * time.Millisecond, Heartbeat: time.Minute},
		Logger: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Registerer: s.registry}
	if change != nil {
		change(&cfg)
	}
	l, err := New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.listener = l
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				s.t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			s.t.Error("Run does not end")
		}
	})
	s.t.Cleanup(func() {
		s.stop()
		if s.t.Failed() {
			s.t.Log(s.log.String())
		}
		if strings.Contains(s.log.String(), "p@ss") {
			s.t.Error("the log holds the password")
		}
	})
}

// expect waits for the first keys of the next offers, in any order.
func (s *site) expect(keys ...string) {
	s.t.Helper()
	missing := map[string]bool{}
	for _, key := range keys {
		missing[key] = true
	}
	timeout := time.After(patience)
	for len(missing) > 0 {
		select {
		case key := <-s.queue.news:
			if !missing[key] {
				s.t.Fatalf("%s came, which was not expected", key)
			}
			delete(missing, key)
		case <-timeout:
			s.t.Fatalf("%d did not come, such as %v", len(missing), keys[0])
		}
	}
}

// channel connects to the broker as a service does.
func (s *site) channel() *amqp091.Channel {
	s.t.Helper()
	url, err := ParseTransportURL(s.broker.URL(s.vhost))
	if err != nil {
		s.t.Fatal(err)
	}
	host := url.Hosts[0]
	uri := amqp091.URI{Scheme: "amqp", Host: host.Name, Port: host.Port, Username: host.Username, Password: host.Password, Vhost: s.vhost}
	connection, err := amqp091.DialConfig(uri.String(), amqp091.Config{Vhost: s.vhost})
	if err != nil {
		s.t.Fatal(err)
	}
	s.connections = append(s.connections, connection)
	// A broker that takes nothing does not answer either.
	s.t.Cleanup(func() { _ = connection.CloseDeadline(time.Now().Add(time.Second)) })
	channel, err := connection.Channel()
	if err != nil {
		s.t.Fatal(err)
	}
	return channel
}

// kind is how a service declares exchange and queue.
type kind struct {
	durable, autoDelete bool
	arguments           amqp091.Table
}

func (s *site) declare(c *amqp091.Channel, k kind) {
	s.t.Helper()
	_, err := c.QueueDeclare(queueName, k.durable, k.autoDelete, false, false, k.arguments)
	err = errors.Join(c.ExchangeDeclare("keystone", "topic", k.durable, k.autoDelete, false, false, nil), err,
		c.QueueBind(queueName, queueName, "keystone", false, nil))
	if err != nil {
		s.t.Fatal(err)
	}
}

// send publishes as oslo.messaging does, and returns when the broker has it.
func (s *site) send(c *amqp091.Channel, bodies ...string) {
	s.t.Helper()
	if err := c.Confirm(false); err != nil {
		s.t.Fatal(err)
	}
	for _, body := range bodies {
		confirmation, err := c.PublishWithDeferredConfirm("keystone", queueName, true, false, amqp091.Publishing{
			ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: 2, Body: []byte(body)})
		if err != nil {
			s.t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(s.t.Context(), patience)
		if ok, err := confirmation.WaitContext(ctx); !ok || err != nil {
			s.t.Fatalf("publish: %v, %v", ok, err)
		}
		cancel()
	}
}

// until waits for what the broker or the listener comes to.
func (s *site) until(what string, isSo func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for !isSo() {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: does not come true", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *site) subscribed() {
	s.t.Helper()
	s.until("subscribed", func() bool { return strings.Contains(s.log.String(), "Subscribed to a queue") })
}

// remaining is how many messages the queue holds for whoever comes next.
func (s *site) remaining(c *amqp091.Channel) int {
	s.t.Helper()
	q, err := c.QueueDeclarePassive(queueName, false, false, false, false, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return q.Messages
}

// log is where the listener's log goes.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// kinds are the ways to declare a queue that operators have, and what Muster calls them.
var kinds = map[string]struct {
	kind
	text string
}{
	"transient":   {kind{}, "classic, not durable"},
	"durable":     {kind{durable: true}, "classic, durable"},
	"auto-delete": {kind{autoDelete: true}, "classic, not durable, deleted with its last listener"},
	"named":       {kind{durable: true, arguments: amqp091.Table{queueType: "classic"}}, "classic, durable"},
	"quorum":      {kind{durable: true, arguments: amqp091.Table{queueType: "quorum"}}, "quorum, durable"},
	"limited": {kind{durable: true, arguments: amqp091.Table{queueType: "quorum", "x-max-in-memory-length": int64(100), "x-max-length": int64(5000),
		"x-overflow": "reject-publish", "x-delivery-limit": int64(7)}}, "quorum, durable, x-delivery-limit 7, x-max-in-memory-length 100, x-max-length 5000, x-overflow reject-publish"},
	"expiring": {kind{durable: true, arguments: amqp091.Table{"x-expires": int64(7200000), "x-message-ttl": int64(3600000)}},
		"classic, durable, x-expires 7200000, x-message-ttl 3600000"},
	"stream": {kind{durable: true, arguments: amqp091.Table{queueType: "stream"}}, "stream, durable"},
}

// TestPublisherFirst: what was sent before there was a listener is received,
// however the service declared its queue. Only a stream keeps what it has, for
// whoever wants to read it all.
func TestPublisherFirst(t *testing.T) {
	for name, k := range kinds {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, sharedBroker(t))
			c := s.channel()
			s.declare(c, k.kind)
			if name != "stream" {
				s.send(c, userDeleted(1))
			}
			s.listen(nil)
			s.subscribed()
			if name != "stream" {
				s.expect(user(1))
			}
			s.send(c, userDeleted(2))
			s.expect(user(2))
			if strings.Contains(s.log.String(), "level=WARN") {
				t.Error("a warning about nothing")
			}
			if want := fmt.Sprintf("kind=%q", k.text); !strings.Contains(s.log.String(), want) {
				t.Errorf("the log does not have %s", want)
			}
		})
	}
}

// TestListenerFirst: the service makes its exchange and queue while we wait. The
// queue is none of ours, and until it is there all is not well.
func TestListenerFirst(t *testing.T) {
	for name, k := range kinds {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, sharedBroker(t))
			c := s.channel()
			// Another topic's, as in a cloud whose services announce to somebody already.
			if err := c.ExchangeDeclare("keystone", "topic", k.durable, k.autoDelete, false, false, nil); err != nil {
				t.Fatal(err)
			}
			s.listen(nil)
			s.waits()
			s.declare(c, k.kind)
			s.send(c, userDeleted(1))
			s.expect(user(1))
			s.well()
		})
	}
}

// waits sees that the listener waits for its queue, says so, and makes none.
func (s *site) waits() {
	s.t.Helper()
	s.until("waiting", func() bool { return strings.Contains(s.log.String(), "Waiting until a service") })
	if err := s.listener.Subscribed(s.t.Context()); err == nil || !strings.Contains(err.Error(), queueName) || !strings.Contains(err.Error(), "topics") {
		s.t.Errorf("how it is: %v", err)
	}
	if n := testutil.ToFloat64(s.listener.metrics.subscribed.WithLabelValues(queueName)); n != 0 {
		s.t.Errorf("subscribed: %v", n)
	}
	if _, err := s.channel().QueueDeclarePassive(queueName, false, false, false, false, nil); !hasCode(err, amqp091.NotFound) {
		s.t.Errorf("there is a queue: %v", err)
	}
}

// well sees that the listener is subscribed, and says so.
func (s *site) well() {
	s.t.Helper()
	s.until("well", func() bool {
		return s.listener.Subscribed(s.t.Context()) == nil && testutil.ToFloat64(s.listener.metrics.subscribed.WithLabelValues(queueName)) == 1
	})
}

// TestQueueDeleted: the broker cancels our subscription. The queue comes back,
// as it was and bound, though the service believes that it is there still.
func TestQueueDeleted(t *testing.T) {
	for name, k := range kinds {
		if name == "auto-delete" {
			continue // its exchange goes with it, and the service notices that
		}
		t.Run(name, func(t *testing.T) {
			s := newSite(t, sharedBroker(t))
			c := s.channel()
			s.declare(c, k.kind)
			s.listen(nil)
			s.subscribed()
			s.send(c, userDeleted(1))
			s.expect(user(1))
			if _, err := c.QueueDelete(queueName, false, false, false); err != nil {
				t.Fatal(err)
			}
			s.until("subscribed again", func() bool { return strings.Count(s.log.String(), "Subscribed to a queue") >= 2 })
			s.send(c, userDeleted(2))
			s.expect(user(2))
			s.declare(s.channel(), k.kind) // refused if it were another kind now
			for _, want := range []string{"No longer subscribed", "Made a queue again that was deleted"} {
				if !strings.Contains(s.log.String(), want) {
					t.Errorf("the log does not have %q", want)
				}
			}
			s.well()
		})
	}
}

// TestQueueReplaced: a queue that was deleted is another kind's now. It is taken as it is.
func TestQueueReplaced(t *testing.T) {
	s := newSite(t, sharedBroker(t))
	c := s.channel()
	s.declare(c, kind{})
	s.listen(func(cfg *Config) { cfg.Rabbit.RetryInterval, cfg.Rabbit.MaxInterval = time.Second, time.Second })
	s.subscribed()
	// Before we look again, or after we have made it again: whoever changes the kind must delete it until it is theirs.
	theirs := kind{durable: true, arguments: amqp091.Table{queueType: "quorum"}}
	s.until("theirs", func() bool {
		c := s.channel()
		_, err := c.QueueDelete(queueName, false, false, false)
		if err == nil {
			_, err = c.QueueDeclare(queueName, theirs.durable, false, false, false, theirs.arguments)
		}
		return err == nil
	})
	if err := c.ExchangeDelete("keystone", false, false); err != nil {
		t.Fatal(err)
	}
	s.declare(c, theirs)
	s.send(c, userDeleted(1))
	s.expect(user(1))
	s.until("its kind is told", func() bool { return strings.Contains(s.log.String(), `kind="quorum, durable"`) })
}

// TestStreamContinues: what a stream has was read before. After a lost connection the listener goes on where it was.
func TestStreamContinues(t *testing.T) {
	s := newSite(t, ownBroker(t))
	c := s.channel()
	s.declare(c, kinds["stream"].kind)
	s.send(c, userDeleted(1))
	s.listen(nil)
	s.subscribed()
	s.send(c, userDeleted(2))
	s.expect(user(2))
	if err := s.broker.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if err := s.broker.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	c = s.channel()
	s.send(c, userDeleted(3))
	s.expect(user(3))
}

// TestQueueRefused: a queue that the user may not read is told of, by health too.
func TestQueueRefused(t *testing.T) {
	s := newSite(t, ownBroker(t))
	s.declare(s.channel(), kind{durable: true})
	if _, err := s.broker.Control(t.Context(), "set_permissions", "-p", s.vhost, "muster", ".*", ".*", "^$"); err != nil {
		t.Fatal(err)
	}
	s.listen(nil)
	s.until("explained", func() bool { return strings.Contains(s.log.String(), "rabbitmqctl set_permissions") })
	s.until("told", func() bool {
		err := s.listener.Subscribed(t.Context())
		return err != nil && strings.Contains(err.Error(), queueName) && strings.Contains(err.Error(), "403")
	})
	_, err := Check(t.Context(), Config{TransportURL: s.broker.URL(s.vhost), Topics: []string{"muster_notifications"}})
	if err == nil || !strings.Contains(err.Error(), queueName) || !strings.Contains(err.Error(), "rabbitmqctl set_permissions") {
		t.Errorf("muster config check: %v", err)
	}
}

// TestUnacknowledged: a message is the broker's until its hints were taken over.
func TestUnacknowledged(t *testing.T) {
	s := newSite(t, sharedBroker(t))
	c := s.channel()
	s.declare(c, kind{durable: true})
	s.send(c, userDeleted(1), "not JSON", bare("identity.h", "identity.authenticate", "{}"), userDeleted(2))
	hold := make(chan struct{})
	s.queue.set(nil, hold)
	s.listen(nil)
	s.expect(user(1), user(2))
	s.stop()
	s.until("both are back", func() bool { return s.remaining(c) == 2 })

	s.queue.set(nil, nil)
	s.registry = prometheus.NewRegistry()
	s.listen(nil)
	s.expect(user(1), user(2))
	s.until("acknowledged", func() bool {
		events := s.listener.Events(10)
		return len(events) == 2 && !events[0].Acknowledged.IsZero() && !events[1].Acknowledged.IsZero()
	})
	s.stop()
	if n := s.remaining(c); n != 0 {
		t.Errorf("%d messages remain", n)
	}
	if n := testutil.ToFloat64(s.listener.metrics.redelivered); n != 2 {
		t.Errorf("%v counted as delivered again", n)
	}
}

// TestPrefetchAtBroker: the rest stays with the broker, for other replicas.
func TestPrefetchAtBroker(t *testing.T) {
	s := newSite(t, sharedBroker(t))
	c := s.channel()
	s.declare(c, kind{})
	var bodies, all []string
	for i := range 20 {
		bodies, all = append(bodies, userDeleted(i)), append(all, user(i))
	}
	s.send(c, bodies...)
	hold := make(chan struct{})
	s.queue.set(nil, hold)
	s.listen(func(cfg *Config) { cfg.Prefetch = 5 })
	s.expect(all[:5]...)
	if n := s.remaining(c); n != 15 {
		t.Errorf("%d messages remain", n)
	}

	other := newQueue()
	second := &site{t: t, broker: s.broker, vhost: s.vhost, queue: other, log: &log{}, registry: prometheus.NewRegistry()}
	second.listen(nil)
	second.expect(all[5:]...)
	close(hold)
	s.until("acknowledged", func() bool { return testutil.ToFloat64(s.listener.metrics.unacknowledged) == 0 })
}

// TestBrokerBlocked: a broker that is short of memory takes nothing from the
// services, and does not tell those who only listen. We stay, and go on.
func TestBrokerBlocked(t *testing.T) {
	s := newSite(t, ownBroker(t))
	c := s.channel()
	s.declare(c, kind{})
	s.listen(nil)
	s.send(c, userDeleted(1))
	s.expect(user(1))
	blocked := make(chan amqp091.Blocking, 2)
	s.connections[0].NotifyBlocked(blocked)
	limit := func(args ...string) {
		if _, err := s.broker.Control(t.Context(), append([]string{"set_vm_memory_high_watermark"}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	limit("absolute", "1000000")
	if err := c.Publish("keystone", queueName, false, false, amqp091.Publishing{Body: []byte(userDeleted(2))}); err != nil {
		t.Fatal(err)
	}
	if b := <-blocked; !b.Active {
		t.Error("the broker takes messages")
	}
	limit("absolute", "1GB")
	s.expect(user(2))
	if strings.Contains(s.log.String(), "level=WARN") {
		t.Error("the listener did not stay connected")
	}
}

// ownBroker is for tests that harm it.
func ownBroker(t *testing.T) *services.RabbitMQ {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it needs RabbitMQ")
	}
	server, err := services.StartRabbitMQ(t.Context())
	services.Need(t, err)
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// TestBrokerRestarts: nothing durable is lost, and there is no spinning.
func TestBrokerRestarts(t *testing.T) {
	s := newSite(t, ownBroker(t))
	c := s.channel()
	s.declare(c, kind{durable: true})
	hold := make(chan struct{})
	s.queue.set(nil, hold)
	s.listen(nil)
	s.send(c, userDeleted(1))
	s.expect(user(1))
	began := time.Now()
	losses := func() int { return strings.Count(s.log.String(), "is lost; will connect again") }
	for _, end := range []func() error{s.broker.Shutdown, s.broker.Kill} {
		before := losses()
		if err := end(); err != nil {
			t.Fatal(err)
		}
		s.until("noticed", func() bool { return losses() > before })
		if err := s.broker.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		s.expect(user(1)) // it was not acknowledged
	}
	s.queue.set(nil, nil)
	close(hold)
	c = s.channel()
	s.send(c, userDeleted(2))
	s.expect(user(2))
	s.until("acknowledged", func() bool {
		q, err := c.QueueDeclarePassive(queueName, true, false, false, false, nil)
		return err == nil && q.Messages == 0 && testutil.ToFloat64(s.listener.metrics.unacknowledged) == 0
	})
	// It tries more and more seldom, five times a second in the end.
	took := time.Since(began)
	if n := strings.Count(s.log.String(), "Cannot connect"); n > 100+20*int(took.Seconds()) {
		t.Errorf("%d tries to connect in %v", n, took)
	}
}

// TestSeveralHosts: those that are not there are passed over.
func TestSeveralHosts(t *testing.T) {
	s := newSite(t, sharedBroker(t))
	c := s.channel()
	s.declare(c, kind{})
	s.send(c, userDeleted(1))
	s.listen(func(cfg *Config) {
		cfg.TransportURL = strings.Replace(cfg.TransportURL, "rabbit://", "rabbit://u:p@127.0.0.1:1,u:p@127.0.0.1:2,", 1)
	})
	s.expect(user(1))
}

// TestClusterFailOver: the node to which Muster is connected dies. The others go
// on with the queue, and so does Muster: with what it had not acknowledged, and
// what came since.
func TestClusterFailOver(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it needs RabbitMQ")
	}
	nodes, err := services.StartRabbitMQCluster(t.Context(), 3)
	services.Need(t, err)
	hosts := make([]string, len(nodes))
	for i, node := range nodes {
		defer func() {
			if err := node.Stop(); err != nil {
				t.Error(err)
			}
		}()
		hosts[i] = strings.TrimSuffix(strings.TrimPrefix(node.URL(""), "rabbit://"), "/")
	}
	s := newSite(t, nodes[0])
	s.declare(s.channel(), kind{durable: true, arguments: amqp091.Table{"x-queue-type": "quorum"}})
	hold := make(chan struct{})
	s.queue.set(nil, hold)
	s.listen(func(cfg *Config) {
		cfg.TransportURL = "rabbit://" + strings.Join(hosts, ",") + "/" + url.PathEscape(s.vhost)
	})
	s.subscribed()
	connected := slices.IndexFunc(nodes, func(n *services.RabbitMQ) bool {
		return strings.Contains(s.log.String(), `msg="Connected to RabbitMQ" host=`+n.Address())
	})
	s.broker = nodes[(connected+1)%len(nodes)] // by which the services send
	s.send(s.channel(), userDeleted(1))
	s.expect(user(1))
	if err := nodes[connected].Kill(); err != nil {
		t.Fatal(err)
	}
	s.expect(user(1)) // it was not acknowledged
	s.queue.set(nil, nil)
	close(hold)
	c := s.channel()
	s.send(c, userDeleted(2))
	s.expect(user(2))
	s.until("acknowledged", func() bool {
		q, err := c.QueueDeclarePassive(queueName, true, false, false, false, nil)
		return err == nil && q.Messages == 0
	})
	if got := s.log.String(); !strings.Contains(got, "is lost; will connect again") || strings.Count(got, "Connected to RabbitMQ") < 2 {
		t.Errorf("the log does not tell of it:\n%s", got)
	}
	s.stop() // before the brokers
}

func TestWrongLogin(t *testing.T) {
	server := sharedBroker(t)
	for name, tt := range map[string]struct{ url, advice string }{
		"password": {fmt.Sprintf("rabbit://muster:hunter2@%s/", server.Address()), "user and password"},
		"vhost":    {server.URL("none"), "virtual host"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, server)
			s.listen(func(cfg *Config) { cfg.TransportURL = tt.url })
			s.until("explained", func() bool { return strings.Contains(s.log.String(), tt.advice) })
			if strings.Contains(s.log.String(), "hunter2") {
				t.Error("the log holds the password")
			}
		})
	}
}

// osloKinds are options of the real library, which make it declare a queue in one way or another.
var osloKinds = map[string]string{
	"defaults": "", "durable": "amqp_durable_queues", "auto-delete": "amqp_auto_delete", "quorum": "rabbit_quorum_queue",
	// Spelled as in the library's first versions, and as an old name in later ones.
	"limited": "rabbit_quorum_queue,rabbit_quorum_delivery_limit=7,rabbit_quroum_max_memory_length=100",
}

// TestOslo: the real library sends, first and then again while we listen.
func TestOslo(t *testing.T) {
	python := debianPython(t)
	all := maps.Clone(osloKinds)
	all["gzip"] = "kombu_compression=gzip" // with bz2, kombu sends nothing: it has it under another name
	delete(all, "auto-delete")             // that is gone when the sender is
	for name, options := range all {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, sharedBroker(t))
			s.oslo(python, options, 1)
			s.listen(nil)
			s.expect(user(1))
			s.oslo(python, options, 2)
			s.expect(user(2))
		})
	}
}

// TestOsloSecond: Muster is there first, and says nothing of the kind of queues
// that the services have: whatever it is, they can send, and nothing is lost.
func TestOsloSecond(t *testing.T) {
	python := debianPython(t)
	for name, options := range osloKinds {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, sharedBroker(t))
			s.listen(nil)
			s.waits()
			s.oslo(python, options, 1)
			s.expect(user(1))
			s.well()
			s.oslo(python, options, 2)
			s.expect(user(2))
		})
	}
}

// TestOsloAfterDeletion: a queue that Muster makes again is as the real library
// declares its own, or the library would not send any more.
func TestOsloAfterDeletion(t *testing.T) {
	python := debianPython(t)
	for name, options := range osloKinds {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, sharedBroker(t))
			s.listen(nil)
			s.waits()
			s.oslo(python, options, 1)
			s.expect(user(1))
			if _, err := s.channel().QueueDelete(queueName, false, false, false); err != nil {
				t.Fatal(err)
			}
			s.until("the queue is made again", func() bool { return strings.Contains(s.log.String(), "Made a queue again") })
			s.oslo(python, options, 2)
			s.expect(user(2))
		})
	}
}

func (s *site) oslo(python, option string, number int) {
	s.t.Helper()
	command := exec.CommandContext(s.t.Context(), python, "testdata/oslo_sends.py", s.broker.URL(s.vhost), option,
		fmt.Sprintf("%032x", number))
	command.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	if out, err := command.CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
}

// TestCheck is what muster config check does: it says of what kind each queue is, and takes nothing from it.
func TestCheck(t *testing.T) {
	server := sharedBroker(t)
	for name, k := range kinds {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, server)
			c := s.channel()
			s.declare(c, k.kind)
			s.send(c, userDeleted(1))
			found, err := Check(t.Context(), Config{TransportURL: server.URL(s.vhost), Topics: []string{"muster_notifications", "other"}})
			if want := []Found{{queueName, k.text}, {"other.info", ""}}; err != nil || !slices.Equal(found, want) {
				t.Errorf("%+v, %v, want %+v", found, err, want)
			}
			s.declare(s.channel(), k.kind)
			if _, err := s.channel().QueueDeclarePassive("other.info", false, false, false, false, nil); !hasCode(err, amqp091.NotFound) {
				t.Errorf("it has made a queue: %v", err)
			}
			if name == "stream" {
				return
			}
			message, ok, err := c.Get(queueName, true)
			if !ok || err != nil || message.Redelivered {
				t.Errorf("the message: %v, %v, redelivered %v", ok, err, message.Redelivered)
			}
		})
	}
	cfg := Config{TransportURL: fmt.Sprintf("rabbit://muster:hunter2@%s/", server.Address()), Topics: []string{"t"}}
	if _, err := Check(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "user and password") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
}

// TestNotAllowedToBind: a login that may only read what the services have set
// up is enough.
func TestNotAllowedToBind(t *testing.T) {
	s := newSite(t, ownBroker(t))
	c := s.channel()
	s.declare(c, kind{durable: true})
	if _, err := s.broker.Control(t.Context(), "set_permissions", "-p", s.vhost, "muster", "^$", "^$", ".*"); err != nil {
		t.Fatal(err)
	}
	s.listen(nil)
	s.subscribed()
	if _, err := s.broker.Control(t.Context(), "set_permissions", "-p", s.vhost, "muster", ".*", ".*", ".*"); err != nil {
		t.Fatal(err)
	}
	s.send(s.channel(), userDeleted(1))
	s.expect(user(1))
}
