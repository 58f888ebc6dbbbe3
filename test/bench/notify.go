// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/notify"
	"github.com/muster-cloud/muster/internal/server"
	"github.com/muster-cloud/muster/test/services"
)

// boots of which each makes the messages of one: see bootEvents.
const boots = 2000

// bootEvents are what Nova and Neutron announce of one boot and its end, as recorded from the real ones, with what Keystone says of
// the tokens that it takes (CADF).
var bootEvents = []struct{ publisher, event, payload string }{
	{"identity.bench", "identity.authenticate", `{"typeURI": "http://schemas.dmtf.org/cloud/audit/1.0/event", "outcome": "success"}`},
	{"scheduler.bench", "scheduler.select_destinations.start", `{}`},
	{"scheduler.bench", "scheduler.select_destinations.end", `{}`},
	{"compute.bench", "compute.instance.update", `{"instance_id": %q, "state": "building", "old_state": null, "new_task_state": "scheduling"}`},
	{"compute.bench", "compute.instance.update", `{"instance_id": %q, "state": "building", "old_state": "building", "new_task_state": "scheduling"}`},
	{"compute.bench", "compute.instance.create.start", `{"instance_id": %q, "state": "building"}`},
	{"compute.bench", "compute.instance.update", `{"instance_id": %q, "state": "building", "old_state": "building", "new_task_state": "networking"}`},
	{"network.bench", "port.create.start", `{"port": {}}`},
	{"network.bench", "port.create.end", `{"port": {"id": %[1]q, "device_id": %[1]q, "device_owner": "compute:nova", "fixed_ips": []}}`},
	{"network.bench", "port.update.start", `{"port": {}}`},
	{"compute.bench", "compute.instance.update", `{"instance_id": %q, "state": "building", "old_state": "building", "new_task_state": "block_device_mapping"}`},
	{"compute.bench", "compute.instance.update", `{"instance_id": %q, "state": "building", "old_state": "building", "new_task_state": "spawning"}`},
	{"compute.bench", "compute.instance.update", `{"instance_id": %q, "state": "active", "old_state": "building", "new_task_state": null}`},
	{"compute.bench", "compute.instance.create.end", `{"instance_id": %q, "state": "active"}`},
	{"compute.bench", "compute.instance.exists", `{"instance_id": %q}`},
	{"compute.bench", "compute.metrics.update", `{}`},
	{"compute.bench", "compute.instance.update", `{"instance_id": %q, "state": "active", "old_state": "active", "new_task_state": "deleting"}`},
	{"compute.bench", "compute.instance.delete.start", `{"instance_id": %q}`},
	{"compute.bench", "compute.instance.shutdown.start", `{"instance_id": %q}`},
	{"compute.bench", "compute.instance.shutdown.end", `{"instance_id": %q}`},
	{"network.bench", "port.delete.start", `{"port_id": %q}`},
	{"compute.bench", "compute.instance.delete.end", `{"instance_id": %q, "state": "deleted"}`},
}

// filling brings a message to the size of the recorded ones, 4 kB in the middle.
var filling = strings.Repeat("x", 3500)

// messageOf writes a notification as oslo.messaging sends it.
func messageOf(publisher, event, payload string) []byte {
	inner := fmt.Sprintf(`{"message_id": %q, "publisher_id": %q, "event_type": %q, "priority": "INFO", "payload": %s, "timestamp": %q, "_filling": %q}`,
		newID(), publisher, event, payload, time.Now().UTC().Format("2006-01-02 15:04:05.000000"), filling)
	body, err := json.Marshal(map[string]string{"oslo.version": "2.0", "oslo.message": inner})
	if err != nil {
		panic(err) // two strings can be written
	}
	return body
}

func noise(boots int) [][]byte {
	messages := make([][]byte, 0, boots*len(bootEvents))
	for range boots {
		id := newID()
		for _, e := range bootEvents {
			payload := e.payload
			if strings.Contains(payload, "%") {
				payload = fmt.Sprintf(payload, id)
			}
			messages = append(messages, messageOf(e.publisher, e.event, payload))
		}
	}
	return messages
}

// publisher sends messages to the site.
type publisher interface {
	publish(ctx context.Context, body []byte) error
}

// listening has a site listen to notifications and follow the cloud.
func listening(transport, topic string) func(*site) {
	return func(s *site) {
		s.transport = transport
		s.sections = "[converge]\ncalls_per_second = 1000\n[notifications]\ntopics = " + topic + "\n"
	}
}

// onRabbit runs work on a site that listens to a real broker.
func (b *bench) onRabbit(ctx context.Context, work func(*site, publisher) ([]measure, error)) (measured []measure, err error) {
	if b.rabbit == nil {
		if b.rabbit, err = services.StartRabbitMQ(ctx); err != nil {
			b.rabbit = nil
			return nil, err
		}
	}
	topic := fmt.Sprintf("bench%d", b.sites)
	to, err := newBroker(b.rabbit.URL("/"), topic+".info")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, to.connection.Close()) }()
	return b.on(ctx, "sqlite", func(s *site) ([]measure, error) { return work(s, to) }, listening(b.rabbit.URL("/"), topic))
}

// broker publishes over RabbitMQ.
type broker struct {
	connection *amqp091.Connection
	channel    *amqp091.Channel
	queue      string
}

const exchange = "nova"

// newBroker makes exchange and queue as oslo.messaging does, before Muster is there.
func newBroker(transport, queue string) (*broker, error) {
	parsed, err := notify.ParseTransportURL(transport)
	if err != nil {
		return nil, err
	}
	host := parsed.Hosts[0]
	connection, err := amqp091.DialConfig("amqp://"+host.Address(), amqp091.Config{Vhost: parsed.VirtualHost,
		SASL: []amqp091.Authentication{&amqp091.PlainAuth{Username: host.Username, Password: host.Password}}})
	if err != nil {
		return nil, err
	}
	channel, err := connection.Channel()
	if err == nil {
		err = channel.ExchangeDeclare(exchange, amqp091.ExchangeTopic, false, false, false, false, nil)
	}
	if err == nil {
		_, err = channel.QueueDeclare(queue, false, false, false, false, nil)
	}
	if err == nil {
		err = channel.QueueBind(queue, queue, exchange, false, nil)
	}
	return &broker{connection, channel, queue}, err
}

func (b *broker) publish(ctx context.Context, body []byte) error {
	return b.channel.PublishWithContext(ctx, exchange, b.queue, false, false, amqp091.Publishing{
		ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: amqp091.Persistent, Body: body})
}

// onMemory runs work on a Muster in this process, for memory:// does not leave one.
func (b *bench) onMemory(ctx context.Context, work func(*site, publisher) ([]measure, error)) (measured []measure, err error) {
	connection, err := b.newDatabase(ctx, "sqlite")
	if err != nil {
		return nil, err
	}
	s := &site{bench: b, connection: connection, cloud: b.cloud, child: &child{}}
	listening("memory://", "bench")(s)
	if err := s.configure(ctx); err != nil {
		return nil, err
	}
	cfg, err := config.Load(config.Options{Path: s.configuration})
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(cfg.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	running, cancel := context.WithCancel(ctx)
	muster, err := server.New(running, cfg, slog.New(slog.NewTextHandler(log, nil)), "bench")
	if err != nil {
		cancel()
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- muster.Run(running) }()
	defer func() { cancel(); err = errors.Join(err, <-done) }()
	s.address = strings.TrimPrefix(muster.URL("tatu"), "http://")
	return work(s, memoryTransport{muster.Memory()})
}

// memoryTransport publishes over memory://, and waits where that is full.
type memoryTransport struct{ memory *notify.Memory }

func (m memoryTransport) publish(ctx context.Context, body []byte) error {
	for {
		err := m.memory.Publish(ctx, exchange, "bench.info", body)
		if !errors.Is(err, notify.ErrFull) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func notifyRabbitMQ(ctx context.Context, b *bench) ([]measure, error) {
	return b.onRabbit(ctx, sustained(ctx))
}

func notifyMemory(ctx context.Context, b *bench) ([]measure, error) {
	return b.onMemory(ctx, sustained(ctx))
}

// sustained measures how many notifications a second are worked off, most of which do not concern Muster.
func sustained(ctx context.Context) func(*site, publisher) ([]measure, error) {
	return func(s *site, to publisher) ([]measure, error) {
		messages := noise(boots)
		before, err := s.process.cpu()
		if err != nil {
			return nil, err
		}
		started := time.Now()
		for _, body := range messages {
			if err := to.publish(ctx, body); err != nil {
				return nil, err
			}
		}
		published := time.Since(started)
		if err := s.workedOff(ctx, float64(len(messages))); err != nil {
			return nil, err
		}
		took := time.Since(started)
		after, err := s.process.cpu()
		name := fmt.Sprintf("%d messages, %d of them of interest", len(messages), boots*interesting())
		measured := []measure{
			plain(name+": rate", float64(len(messages))/took.Seconds(), "/s"),
			plain("published in", published.Seconds(), "s"),
		}
		if s.process != 0 {
			measured = append(measured, plain("server CPU each", (after-before).Seconds()*1000/float64(len(messages)), "ms"))
		}
		return measured, err
	}
}

// interesting is how many messages of a boot become hints.
func interesting() (n int) {
	for _, e := range bootEvents {
		m, err := notify.Parse(messageOf(e.publisher, e.event, strings.ReplaceAll(strings.ReplaceAll(e.payload, "%[1]q", "%q"), "%q", `"`+newID()+`"`)))
		if err == nil && len(m.Hints()) > 0 {
			n++
		}
	}
	return n
}

// workedOff waits until so many messages have come and none is unacknowledged.
func (s *site) workedOff(ctx context.Context, messages float64) error {
	for deadline := time.Now().Add(5 * time.Minute); ; {
		received, err := s.sum(ctx, "muster_notifications_received_total")
		if err != nil {
			return err
		}
		open, err := s.sum(ctx, "muster_notifications_unacknowledged")
		if err != nil || received >= messages && open == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%.0f of %.0f messages came, %.0f are unacknowledged", received, messages, open)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// sum reads a metric, all labels together; 0 if it is not there yet.
func (s *site) sum(ctx context.Context, name string) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	sum := 0.0
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		rest, ok := bytes.CutPrefix(lines.Bytes(), []byte(name))
		if !ok || len(rest) == 0 || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		value, err := strconv.ParseFloat(string(rest[bytes.LastIndexByte(rest, ' ')+1:]), 64)
		if err != nil {
			return 0, err
		}
		sum += value
	}
	return sum, lines.Err()
}

const (
	losers    = 30   // people who lose a role, one after the other
	stormPace = 1000 // notifications a second in the storm
)

// convergence measures from a notification until what it is about is done: a role is taken away, and the certificate is revoked.
func convergence(ctx context.Context, b *bench) ([]measure, error) {
	return b.onRabbit(ctx, func(s *site, to publisher) ([]measure, error) {
		idle, err := s.loseRoles(ctx, to)
		if err != nil {
			return nil, err
		}
		noisy, stop := context.WithCancel(ctx)
		var wait sync.WaitGroup
		wait.Go(func() { blow(noisy, b.rabbit.URL("/"), to.(*broker).queue) })
		stormy, err := s.loseRoles(ctx, to)
		stop()
		wait.Wait()
		if err != nil {
			return nil, err
		}
		return []measure{
			plain("idle: hint to converged, p50", milliseconds(idle[len(idle)/2]), "ms"),
			plain("idle: hint to converged, p99", milliseconds(idle[len(idle)*99/100]), "ms"),
			plain(fmt.Sprintf("storm of %d/s: hint to converged, p50", stormPace), milliseconds(stormy[len(stormy)/2]), "ms"),
			plain(fmt.Sprintf("storm of %d/s: hint to converged, p99", stormPace), milliseconds(stormy[len(stormy)*99/100]), "ms"),
		}, nil
	})
}

// blow sends noise at the storm's pace until the context ends.
func blow(ctx context.Context, transport, queue string) {
	to, err := newBroker(transport, queue)
	if err != nil {
		return
	}
	defer to.connection.Close()
	messages := noise(100)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for range stormPace / 100 {
			if to.publish(ctx, messages[n%len(messages)]) != nil {
				return
			}
			n++
		}
	}
}

// loseRoles takes the role of people with a certificate, one after the other, and returns how long that took each, sorted.
func (s *site) loseRoles(ctx context.Context, to publisher) ([]time.Duration, error) {
	times := make([]time.Duration, 0, losers)
	for range losers {
		name := newID()
		p, err := s.bench.newPerson(name, "project0")
		if err != nil {
			return nil, err
		}
		serial, err := s.issueOne(ctx, p)
		if err != nil {
			return nil, err
		}
		if err := s.cloud.Identity.Ungrant(p.user, p.project, "member"); err != nil {
			return nil, err
		}
		body := messageOf("identity.bench", "identity.role_assignment.deleted", fmt.Sprintf(`{"typeURI": "http://schemas.dmtf.org/cloud/audit/1.0/event",
			"user": %q, "project": %q, "role": %q, "action": "deleted.role_assignment", "inherited_to_projects": false}`, p.user, p.project, newID()))
		started := time.Now()
		if err := to.publish(ctx, body); err != nil {
			return nil, err
		}
		if err := s.untilRevoked(ctx, serial); err != nil {
			return nil, err
		}
		times = append(times, time.Since(started))
	}
	slices.Sort(times)
	return times, nil
}

func (s *site) untilRevoked(ctx context.Context, serial uint64) error {
	c, err := dial(ctx, s.address, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	request := s.request("GET", fmt.Sprint("/v1/usercerts/", serial), s.bench.admin, nil)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		status, err := c.do(request)
		if err != nil {
			return err
		}
		var cert struct {
			Revoked bool `json:"revoked"`
		}
		if status != http.StatusOK || json.Unmarshal(c.body, &cert) != nil || time.Now().After(deadline) {
			return fmt.Errorf("certificate %d: status %d, not revoked", serial, status)
		}
		if cert.Revoked {
			return nil
		}
	}
}
