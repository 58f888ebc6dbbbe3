// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
)

// row is one piece of work to measure. Each run starts from nothing.
type row struct {
	name string
	run  func(context.Context, *bench) ([]measure, error)
}

func allRows() []row {
	return []row{
		{"usercert-sqlite", userCerts("sqlite", 4000, 0.30)},
		{"usercert-postgresql", userCerts("postgresql", 2000, 0)},
		{"usercert-mariadb", userCerts("mariadb", 2000, 0)},
		{"boot", boot},
		{"agents", agents},
		{"krl-build", krlBuild},
		{"krl-serve", krlServe},
		{"krl-visible", krlVisible},
		{"longpoll", longPolls},
		{"memory", memory},
		{"start", startTime},
		{"enrol", enrol},
		{"enrol-storm", enrolStorm},
		{"notify-rabbitmq", notifyRabbitMQ},
		{"notify-memory", notifyMemory},
		{"converge", convergence},
		{"compare", comparison},
		{"growth-clients", growthClients},
		{"growth-records", growthRecords},
	}
}

// on runs a row's work on a new site and stops it.
func (b *bench) on(ctx context.Context, engine string, work func(*site) ([]measure, error), change ...func(*site)) (measured []measure, err error) {
	s, err := b.newSite(ctx, engine, change...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	return work(s)
}

// loadMeasures are the usual numbers of a load.
func loadMeasures(name string, t timing, rate, cpu float64) []measure {
	return []measure{
		atLeast(name+": rate", t.rate(), "/s", rate),
		atMost(name+": server CPU each", t.perRequest(), "ms", cpu),
		plain(name+": p50", milliseconds(t.p50), "ms"),
		plain(name+": p99", milliseconds(t.p99), "ms"),
	}
}

// userCerts measures certificates for fresh user keys.
func userCerts(engine string, rate, cpu float64) func(context.Context, *bench) ([]measure, error) {
	return func(ctx context.Context, b *bench) ([]measure, error) {
		return b.on(ctx, engine, func(s *site) ([]measure, error) {
			t, err := s.issueUsers(ctx, "usercert-"+engine, clients, b.requests)
			return loadMeasures("user certificates", t, rate, cpu), err
		})
	}
}

// issueUsers warms the caches and measures the issue of n certificates.
func (s *site) issueUsers(ctx context.Context, name string, clients, n int) (timing, error) {
	warm := max(n/10, people)
	requests, err := s.userRequests(warm + n)
	if err != nil {
		return timing{}, err
	}
	l := load{address: s.address, clients: clients, requests: requests[:warm], status: http.StatusCreated}
	if _, err := l.run(ctx, s.process); err != nil {
		return timing{}, err
	}
	l.requests = requests[warm:]
	return s.measure(ctx, name, l)
}

func (s *site) userRequests(n int) ([][]byte, error) {
	keys, err := newKeys(n)
	if err != nil {
		return nil, err
	}
	requests := make([][]byte, n)
	for i, key := range keys {
		p := s.bench.persons[i%people]
		requests[i] = s.request("POST", "/v1/usercerts", p.token,
			map[string]string{"user_id": p.user, "auth_id": p.project, "pub_key": key})
	}
	return requests, nil
}

// Nova's computes ask at once, on as many connections.
const (
	bootClients  = 200
	firstPace    = 4000 // requests a second at which their latencies are measured
	repeatedPace = 10_000
)

// boot measures what instances cost: Nova's first vendordata call, the host
// certificate for its token, and Nova's repeated calls. As fast as 200 clients
// can, a latency is no more than their number divided by the rate; so
// latencies are measured at the pace that is the goal.
func boot(ctx context.Context, b *bench) ([]measure, error) {
	return b.on(ctx, "sqlite", func(s *site) ([]measure, error) {
		warm := load{address: s.address, clients: clients, requests: s.newInstances(people).requests, status: http.StatusCreated}
		if _, err := warm.run(ctx, s.process); err != nil {
			return nil, err
		}
		fast, paced := s.newInstances(b.requests), s.newInstances(b.requests)
		first := load{clients: bootClients, requests: fast.requests, status: http.StatusCreated, seen: fast.keepToken}
		firstTime, err := s.measure(ctx, "vendordata-first", first)
		if err != nil {
			return nil, err
		}
		first.requests, first.seen, first.pace = paced.requests, nil, firstPace
		firstPaced, err := s.measure(ctx, "vendordata-first-paced", first)
		if err != nil {
			return nil, err
		}
		certs, err := s.hostCerts(ctx, fast)
		if err != nil {
			return nil, err
		}
		again := load{clients: bootClients, requests: fast.requests, repeat: 2, status: http.StatusCreated}
		againTime, err := s.measure(ctx, "vendordata-repeated", again)
		if err != nil {
			return nil, err
		}
		again.pace = repeatedPace
		againPaced, err := s.measure(ctx, "vendordata-repeated-paced", again)
		if err != nil {
			return nil, err
		}
		return slices.Concat(
			loadMeasures("first vendordata", firstTime, firstPace, 0),
			[]measure{atMost("first vendordata: p99 at 4,000/s", milliseconds(firstPaced.p99), "ms", 20)},
			loadMeasures("host certificates", certs, 4000, 0),
			loadMeasures("repeated vendordata", againTime, repeatedPace, 0),
			[]measure{atMost("repeated vendordata: p99 at 10,000/s", milliseconds(againPaced.p99), "ms", 20)},
		), nil
	})
}

// instances are to boot.
type instances struct {
	ids, tokens []string
	requests    [][]byte // Nova's
}

func (s *site) newInstances(n int) *instances {
	in := &instances{ids: make([]string, n), tokens: make([]string, n), requests: make([][]byte, n)}
	for i := range in.ids {
		in.ids[i] = newID()
		in.requests[i] = s.vendordata(in.ids[i], s.bench.persons[i%people].project)
	}
	return in
}

// keepToken takes the one-time token out of the answer to a request.
func (in *instances) keepToken(request int, body []byte) {
	var answer struct {
		Token string `json:"token"`
	}
	// An answer without token shows when it is used.
	_ = json.Unmarshal(body, &answer)
	in.tokens[request] = answer.Token
}

// vendordata is Nova's call for an instance, without user-data.
func (s *site) vendordata(instance, project string) []byte {
	return s.request("POST", "/v1/novavendordata", s.bench.nova, map[string]any{
		"project-id": project, "instance-id": instance, "image-id": "8a0ae8b9-6a5f-4f53-9d0b-3f0a7e2a4b6c",
		"user-data": nil, "hostname": "vm-" + instance[:8], "metadata": map[string]string{}, "boot-roles": "reader,member,admin",
	})
}

// hostCerts spends the instances' tokens on fresh host keys.
func (s *site) hostCerts(ctx context.Context, in *instances) (timing, error) {
	keys, err := newKeys(len(in.ids))
	if err != nil {
		return timing{}, err
	}
	requests := make([][]byte, len(keys))
	for i, key := range keys {
		requests[i] = s.request("POST", "/noauth/hostcerts", "",
			map[string]string{"token_id": in.tokens[i], "host_id": in.ids[i], "pub_key": key})
	}
	return s.measure(ctx, "hostcert", load{clients: clients, requests: requests, status: http.StatusOK})
}
