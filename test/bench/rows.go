// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
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
		{"krl-build", krlBuild},
		{"krl-serve", krlServe},
		{"krl-visible", krlVisible},
		{"longpoll", longPolls},
		{"memory", memory},
		{"start", startTime},
		{"growth-clients", growthClients},
		{"growth-records", growthRecords},
	}
}

// on runs a row's work on a new site and stops it.
func (b *bench) on(ctx context.Context, engine string, work func(*site) ([]measure, error)) (measured []measure, err error) {
	s, err := b.newSite(ctx, engine)
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

// bootClients is how many computes ask at once.
const bootClients = 200

// boot measures what instances cost: Nova's first vendordata call, the host
// certificate for its token, and Nova's repeated calls.
func boot(ctx context.Context, b *bench) ([]measure, error) {
	return b.on(ctx, "sqlite", func(s *site) ([]measure, error) {
		warm := max(b.requests/10, projects)
		instances := make([]string, warm+b.requests)
		tokens := make([]string, len(instances))
		requests := make([][]byte, len(instances))
		for i := range instances {
			instances[i] = newID()
			requests[i] = s.vendordata(instances[i], s.bench.persons[i%people].project)
		}
		l := load{address: s.address, clients: bootClients, requests: requests[:warm], status: http.StatusCreated}
		if _, err := l.run(ctx, s.process); err != nil {
			return nil, err
		}
		instances, tokens, l.requests = instances[warm:], tokens[warm:], requests[warm:]
		l.seen = func(request int, body []byte) { tokens[request] = tokenOf(body) }
		first, err := s.measure(ctx, "vendordata-first", l)
		if err != nil {
			return nil, err
		}
		certs, err := s.hostCerts(ctx, instances, tokens)
		if err != nil {
			return nil, err
		}
		l.seen = nil
		again, err := s.measure(ctx, "vendordata-repeated", l)
		if err != nil {
			return nil, err
		}
		return []measure{
			atLeast("first vendordata: rate", first.rate(), "/s", 4000),
			plain("first vendordata: server CPU each", first.perRequest(), "ms"),
			plain("first vendordata: p50", milliseconds(first.p50), "ms"),
			atMost("first vendordata: p99, 200 clients", milliseconds(first.p99), "ms", 20),
			atLeast("host certificates: rate", certs.rate(), "/s", 4000),
			plain("host certificates: server CPU each", certs.perRequest(), "ms"),
			plain("host certificates: p50", milliseconds(certs.p50), "ms"),
			plain("host certificates: p99", milliseconds(certs.p99), "ms"),
			atLeast("repeated vendordata: rate", again.rate(), "/s", 10_000),
			plain("repeated vendordata: server CPU each", again.perRequest(), "ms"),
			plain("repeated vendordata: p50", milliseconds(again.p50), "ms"),
			atMost("repeated vendordata: p99, 200 clients", milliseconds(again.p99), "ms", 20),
		}, nil
	})
}

// vendordata is Nova's call for an instance, without user-data.
func (s *site) vendordata(instance, project string) []byte {
	return s.request("POST", "/v1/novavendordata", s.bench.nova, map[string]any{
		"project-id": project, "instance-id": instance, "image-id": "8a0ae8b9-6a5f-4f53-9d0b-3f0a7e2a4b6c",
		"user-data": nil, "hostname": "vm-" + instance[:8], "metadata": map[string]string{}, "boot-roles": "reader,member,admin",
	})
}

func tokenOf(body []byte) string {
	var answer struct {
		Token string `json:"token"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return ""
	}
	return answer.Token
}

// hostCerts spends the tokens on fresh host keys.
func (s *site) hostCerts(ctx context.Context, instances, tokens []string) (timing, error) {
	keys, err := newKeys(len(tokens))
	if err != nil {
		return timing{}, err
	}
	requests := make([][]byte, len(tokens))
	for i, key := range keys {
		requests[i] = s.request("POST", "/noauth/hostcerts", "",
			map[string]string{"token_id": tokens[i], "host_id": instances[i], "pub_key": key})
	}
	return s.measure(ctx, "hostcert", load{clients: clients, requests: requests, status: http.StatusOK})
}
