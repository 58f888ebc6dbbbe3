// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
)

const (
	storm       = 2000            // instances that boot at once
	stormTime   = 5 * time.Second // for which bystanders ask; longer than any boot waits
	othersPace  = 32              // requests a second of each kind of bystander
	othersInAll = othersPace * int(stormTime/time.Second)
)

// bystander is one kind of request that needs nothing of FreeIPA.
type bystander struct {
	name string
	load load
}

// bystanders are those who ask while others boot, each kind on connections of its own: from those who wait for the processors alone to
// those who need the database and Keystone too.
func (s *site) bystanders(ctx context.Context) ([]bystander, error) {
	p := s.bench.persons[0]
	certificates, err := s.userRequests(people + othersInAll)
	if err != nil {
		return nil, err
	}
	known, enrolled := s.newInstances(people), s.newEnrolments(people, "")
	kinds := []bystander{
		{"user certificate", load{requests: certificates[people:], status: http.StatusCreated}},
		{"first vendordata", load{requests: s.newInstances(othersInAll).requests, status: http.StatusCreated}},
		{"repeated vendordata", load{requests: known.requests, repeat: othersInAll / people, status: http.StatusCreated}},
		{"repeated vendordata of an enrolled instance", load{requests: enrolled.requests, repeat: othersInAll / people, status: http.StatusOK}},
		{"revocation list", load{requests: [][]byte{s.listRequest(p.project, "")}, repeat: othersInAll, status: http.StatusOK}},
		{"health", load{requests: [][]byte{s.request("GET", "/healthz", "", nil)}, repeat: othersInAll, status: http.StatusOK}},
	}
	for _, warm := range [][][]byte{certificates[:people], known.requests, enrolled.requests} {
		for _, r := range warm {
			if err := s.ask(ctx, r); err != nil {
				return nil, err
			}
		}
	}
	for i := range kinds {
		kinds[i].load.clients, kinds[i].load.pace, kinds[i].load.address = 8, othersPace, s.address
	}
	return kinds, nil
}

// ask sends a request and takes any good answer.
func (s *site) ask(ctx context.Context, request []byte) error {
	c, err := dial(ctx, s.address, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	status, err := c.do(request)
	if err == nil && status >= http.StatusBadRequest {
		err = fmt.Errorf("status %d: %.300s", status, c.body)
	}
	return err
}

// besides measures bystanders while something else goes on, and waits for both.
func (s *site) besides(ctx context.Context, work func() error) (all timing, each []measure, err error) {
	kinds, err := s.bystanders(ctx)
	if err != nil {
		return all, nil, err
	}
	times, failures := make([]timing, len(kinds)), make([]error, len(kinds)+1)
	var wait sync.WaitGroup
	for i, kind := range kinds {
		wait.Go(func() { times[i], failures[i] = kind.load.run(ctx, 0) })
	}
	failures[len(kinds)] = work()
	wait.Wait()
	for i, kind := range kinds {
		all.latencies = append(all.latencies, times[i].latencies...)
		each = append(each, plain(kind.name+": p99", milliseconds(times[i].p99), "ms"))
	}
	all.rank()
	return all, each, errors.Join(failures...)
}

// enrolStorm measures what becomes of many boots at once at a slow FreeIPA: whether all are answered in time, and when all are enrolled.
// Beside them others ask who need nothing of FreeIPA. What two thousand requests cost them by the processors alone shows
// beside a FreeIPA that takes no time; what FreeIPA's slowness adds, beside one that takes its time, and one that answers nothing.
func enrolStorm(ctx context.Context, b *bench) ([]measure, error) {
	return b.onEnrolling(ctx, func(s *site) ([]measure, error) {
		alone, _, err := s.besides(ctx, func() error { return nil })
		if err != nil {
			return nil, err
		}
		measured := []measure{plain("others, 192/s, nobody boots: p99", milliseconds(alone.p99), "ms")}
		for _, freeIPA := range []struct {
			name  string
			delay time.Duration
		}{{"FreeIPA 0 ms", 0}, {"FreeIPA 50 ms", slowFreeIPA}, {"FreeIPA silent", time.Hour}} {
			some, err := s.storm(ctx, freeIPA.name, freeIPA.delay)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", freeIPA.name, err)
			}
			measured = append(measured, some...)
		}
		return measured, nil
	})
}

// storm boots instances at once. A FreeIPA that is silent speaks again when all have their answer.
func (s *site) storm(ctx context.Context, name string, delay time.Duration) ([]measure, error) {
	b := s.bench
	e := s.newEnrolments(storm, "")
	before, calls := len(b.cloud.FreeIPA.Hosts()), b.cloud.FreeIPA.Calls()["batch"]
	silent := delay > time.Minute
	var boots timing
	var started time.Time
	others, each, err := s.besides(ctx, func() (err error) {
		b.cloud.FreeIPA.Inject(func(command string) freeipa.Fault { return freeipa.Fault{Delay: delay} })
		before, calls, started = len(b.cloud.FreeIPA.Hosts()), b.cloud.FreeIPA.Calls()["batch"], time.Now()
		boots, err = s.measure(ctx, strings.ReplaceAll("enrol-storm "+name, " ", "-"),
			load{clients: storm, requests: e.requests, status: http.StatusOK, seen: e.count})
		return err
	})
	if err != nil {
		return nil, err
	}
	if silent {
		b.delayFreeIPA(0)
		started = time.Now()
	}
	all, err := b.allThere(ctx, before+storm, started)
	if err != nil {
		return nil, err
	}
	made := b.cloud.FreeIPA.Calls()["batch"] - calls
	b.delayFreeIPA(0)
	again := s.newEnrolments(0, "")
	_, err = s.measure(ctx, "enrol-storm-again", load{clients: clients, requests: e.requests, status: http.StatusOK, seen: again.count})
	if got := again.passwords.Load(); err == nil && got != storm {
		err = fmt.Errorf("%d of %d have a password in the end", got, storm)
	}
	measured := []measure{
		atMost(name+", 2000 boots at once: slowest answer", milliseconds(boots.slowest), "ms", 4000),
		plain(name+": answered with a password at once", float64(e.passwords.Load()), ""),
		plain(name+": all 2000 in FreeIPA after", all.Seconds(), "s"),
		plain(name+": calls to FreeIPA for each", float64(made)/storm, ""),
		plain(name+": others, 192/s: p50", milliseconds(others.p50), "ms"),
		plain(name+": others, 192/s: p99", milliseconds(others.p99), "ms"),
	}
	for _, m := range each {
		m.Name = name + ": " + m.Name
		measured = append(measured, m)
	}
	return measured, err
}

// allThere waits until FreeIPA has so many hosts, each once.
func (b *bench) allThere(ctx context.Context, hosts int, started time.Time) (time.Duration, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		there := b.cloud.FreeIPA.Hosts()
		if len(there) >= hosts {
			names := make([]string, len(there))
			for i, host := range there {
				names[i] = host.FQDN
			}
			slices.Sort(names)
			if len(there) > hosts || len(slices.Compact(names)) != hosts {
				return 0, fmt.Errorf("FreeIPA has %d hosts, want %d", len(there), hosts)
			}
			return time.Since(started), nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
		if time.Since(started) > 5*time.Minute {
			return 0, fmt.Errorf("only %d hosts of %d after 5 minutes", len(there), hosts)
		}
	}
}
