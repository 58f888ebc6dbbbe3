// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/test/services"
)

var databases services.Databases

func TestMain(m *testing.M) { os.Exit(databases.Main(m)) }

// TestReplicas has three replicas on a database server serve the same instances, with a service that all of them share, in one rush:
// each first call several times, and then all leave at once.
func TestReplicas(t *testing.T) {
	for name, url := range map[string]func(testing.TB) string{"postgresql": databases.PostgreSQL, "mariadb": databases.MariaDB} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const instances, calls = 20, 3
			w := newWorld(t)
			w.url = url(t)
			replicas := []*replica{w.replica(t), w.replica(t), w.replica(t)}
			var answers [instances][calls]Answer
			var wg sync.WaitGroup
			for n := range instances {
				for call := range calls {
					wg.Go(func() {
						var err error
						answers[n][call], err = replicas[call].Enrol(t.Context(), operator, request(n, "web", fmt.Sprint("vm", n),
							"compact_service_mysql", `["x"]`, "managed_service_a", "haproxy/vip-1.example.test"))
						if err != nil {
							t.Error(err)
						}
					})
				}
			}
			wg.Wait()
			for n := range instances {
				replicas[0].reach(t, n, store.EnrolmentCreated)
				for _, answer := range answers[n] {
					equal(t, answer, answers[n][0])
				}
				must(t, w.ipa.Join(answers[n][0].FQDN, answers[n][0].OTP))
			}
			hosts, services := w.entries()
			equal(t, len(hosts), 2*instances+1)
			equal(t, len(services), instances+1)
			for n := range instances {
				for call := range calls {
					wg.Go(func() {
						if err := replicas[call].Leave(t.Context(), operator, id(n)); err != nil {
							t.Error(err)
						}
					})
				}
			}
			wg.Wait()
			for n := range instances {
				replicas[0].reach(t, n, store.EnrolmentGone)
			}
			hosts, services = w.entries()
			equal(t, append(hosts, services...), []string(nil))
		})
	}
}

// countedRecords counts the reads of single enrolments, and of several at once.
type countedRecords struct {
	Records
	reads, looks atomic.Int64
}

// EnrolmentsOf implements Records.
func (c *countedRecords) EnrolmentsOf(ctx context.Context, instanceIDs []string) ([]store.Enrolment, error) {
	c.looks.Add(1)
	return c.Records.EnrolmentsOf(ctx, instanceIDs)
}

// Enrolment implements Records.
func (c *countedRecords) Enrolment(ctx context.Context, instanceID string) (store.Enrolment, error) {
	c.reads.Add(1)
	return c.Records.Enrolment(ctx, instanceID)
}

// TestOtherReplicaWorks has one replica wait for what another one is doing: all calls get its password, and none reads the database again
// and again meanwhile.
func TestOtherReplicaWorks(t *testing.T) {
	const instances, calls = 4, 25
	w := newWorld(t)
	release := make(chan struct{})
	w.ipa.Inject(func(command string) freeipa.Fault {
		if command == "batch" {
			<-release
		}
		return freeipa.Fault{}
	})
	// A slow machine shall not end what both wait for.
	patient := func(c *Config) { c.AttemptTime, c.AnswerWithin = time.Minute, time.Minute }
	first := w.replica(t, patient)
	records := &countedRecords{}
	second := w.replica(t, patient, func(c *Config) { records.Records, c.Store = c.Store, records })
	var answers [instances][1 + calls]Answer
	var wg sync.WaitGroup
	enrol := func(r *replica, n, call int) {
		wg.Go(func() {
			var err error
			if answers[n][call], err = r.Enrol(t.Context(), operator, request(n, "web", fmt.Sprint("vm", n))); err != nil {
				t.Error(err)
			}
		})
	}
	for n := range instances {
		enrol(first, n, calls)
		first.until(t, n, first.claimed)
		for call := range calls {
			enrol(second, n, call)
		}
	}
	for len(second.board.asked()) < instances || records.reads.Load() < instances*calls {
		time.Sleep(time.Millisecond)
	}
	// While the one look for all is taken five times, each call could have read the database as often.
	for enough := records.looks.Load() + 5; records.looks.Load() < enough; {
		time.Sleep(time.Millisecond)
	}
	equal(t, records.reads.Load(), int64(instances*calls))
	close(release)
	wg.Wait()
	for n := range instances {
		for _, answer := range answers[n] {
			if answer != answers[n][calls] || answer.OTP == "" {
				t.Errorf("instance %d: %+v, and %+v on the replica that did it", n, answer, answers[n][calls])
			}
		}
	}
}

// TestClaimIsKept: a replica that is asked for more about an instance on which another one works leaves it to that one, and does not give
// the other one's claim back.
func TestClaimIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reached, release := make(chan struct{}, 100), make(chan struct{})
	w.ipa.Inject(func(command string) freeipa.Fault {
		if command == "batch" {
			reached <- struct{}{}
			<-release
		}
		return freeipa.Fault{}
	})
	patient := func(c *Config) { c.AttemptTime, c.AnswerWithin = time.Minute, time.Minute }
	first := w.replica(t, patient)
	records := &countedRecords{}
	second := w.replica(t, patient, func(c *Config) { records.Records, c.Store = c.Store, records })
	answered := make(chan error, 1)
	go func() {
		_, err := first.Enrol(t.Context(), operator, request(1, "web", "a"))
		answered <- err
	}()
	<-reached
	must(t, second.Leave(t.Context(), operator, id(1)))
	orders := int64(1)
	for deadline := time.Now().Add(30 * time.Second); records.reads.Load()-orders < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the second replica works on what the first has claimed")
		}
		_, err := second.Retry(t.Context(), operator, id(1))
		must(t, err)
		orders++
	}
	e, err := second.store.Enrolment(t.Context(), id(1))
	must(t, err)
	kept, err := second.release(t.Context(), &attempt{service: second.Service, e: e})
	must(t, err)
	equal(t, kept.ClaimedBy, first.Service.replica)
	close(release)
	if <-answered == nil {
		t.Error("enrolled, although it has left")
	}
	first.reach(t, 1, store.EnrolmentGone)
}
