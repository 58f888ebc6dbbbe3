// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// TestFreeIPAAway boots an instance while FreeIPA fails in several ways: the answer comes at once, and the enrolment is done later.
func TestFreeIPAAway(t *testing.T) {
	for name, fault := range map[string]freeipa.Fault{
		"HTML page":               {Status: 500},
		"cut before":              {Cut: freeipa.CutBefore},
		"cut after it was done":   {Cut: freeipa.CutAfter},
		"no JSON, but it is done": {Body: []byte("<html>")},
	} {
		for _, onFailure := range []OnFailure{AnswerEmpty, AnswerError} {
			t.Run(name+", "+string(onFailure), func(t *testing.T) {
				w := newWorld(t)
				w.ipa.Inject(func(command string) freeipa.Fault {
					if strings.HasPrefix(command, "login") {
						return freeipa.Fault{}
					}
					return fault
				})
				r := w.replica(t, func(c *Config) { c.OnFailure = onFailure })
				req := request(1, "web", "a", "compact_service_HTTP", `["x"]`)
				answer, err := r.Enrol(t.Context(), operator, req)
				if onFailure == AnswerError {
					refused(t, err, problem.Unavailable, "a.example.test")
				} else {
					must(t, err)
					equal(t, answer, Answer{FQDN: "a.example.test", Realm: "EXAMPLE.TEST"})
				}
				e := r.until(t, 1, func(e store.Enrolment) bool { return e.Attempts > 2 })
				if e.LastError == "" || e.State != store.EnrolmentWanted {
					t.Errorf("%+v", e)
				}
				w.ipa.Inject(nil)
				equal(t, r.reach(t, 1, store.EnrolmentCreated).LastError, "")
				must(t, w.ipa.Join("a.example.test", r.enrol(t, req).OTP))
				_, services := w.entries()
				equal(t, services, []string{"HTTP/a.x.example.test"})
				r.leave(t, 1)
				hosts, _ := w.entries()
				equal(t, len(hosts), 0)
			})
		}
	}
}

// TestSlowFreeIPA answers in time, and keeps nobody waiting who needs nothing of FreeIPA.
func TestSlowFreeIPA(t *testing.T) {
	w := newWorld(t)
	r := w.replica(t, func(c *Config) { c.AnswerWithin, c.MaxInFlight = 5*time.Second, 2 })
	joined := r.enrol(t, request(1, "web", "joined"))
	must(t, w.ipa.Join("joined.example.test", joined.OTP))
	r.joined(t, 1)
	created := r.enrol(t, request(2, "web", "created"))

	release := make(chan struct{})
	w.ipa.Inject(func(string) freeipa.Fault {
		<-release
		return freeipa.Fault{}
	})
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			began := time.Now()
			answer, err := r.Enrol(t.Context(), operator, request(100+n, "web", fmt.Sprint("slow", n)))
			if took := time.Since(began); took > time.Minute || err != nil || answer.OTP != "" {
				t.Errorf("%v, %+v, %v", took, answer, err)
			}
		})
	}
	wg.Wait()
	for range 100 {
		answer, err := r.Enrol(t.Context(), operator, request(1, "web", "joined"))
		must(t, err)
		equal(t, answer.OTP, "")
		equal(t, r.enrol(t, request(2, "web", "created")), created)
	}
	close(release)
	for n := range 20 {
		r.reach(t, 100+n, store.EnrolmentCreated)
	}
}

// TestJoinedNeedsNoAnswer: an instance that has joined is told so, though some of its services are not to be had.
func TestJoinedNeedsNoAnswer(t *testing.T) {
	w := newWorld(t)
	must(t, w.ipa.AddHost("a.theirs.example.test", ""))
	r := w.replica(t, func(c *Config) { c.OnFailure = AnswerError })
	req := request(1, "web", "a")
	must(t, w.ipa.Join("a.example.test", r.enrol(t, req).OTP))
	r.joined(t, 1)
	for _, metadata := range []map[string]string{nil, {"compact_service_HTTP": `["theirs"]`}} {
		req.Metadata = metadata
		answer, err := r.Enrol(t.Context(), operator, req)
		must(t, err)
		equal(t, answer, Answer{FQDN: "a.example.test", Realm: "EXAMPLE.TEST"})
	}
	r.reach(t, 1, store.EnrolmentFailed)
}

// TestMissingRight is told as an operator's matter, and goes on when the right is there.
func TestMissingRight(t *testing.T) {
	w := newBareWorld(t)
	registry := prometheus.NewRegistry()
	r := w.replica(t, func(c *Config) { c.Registerer = registry })
	answer, err := r.Enrol(t.Context(), operator, request(1, "web", "a"))
	must(t, err)
	equal(t, answer.OTP, "")
	e := r.reach(t, 1, store.EnrolmentFailed)
	if !strings.Contains(e.LastError, "Insufficient access") || e.NextAt.IsZero() {
		t.Errorf("%+v", e)
	}
	families, err := registry.Gather()
	must(t, err)
	var counted bool
	for _, family := range families {
		for _, m := range family.GetMetric() {
			counted = counted || family.GetName() == "muster_enrolment_attempts_total" && m.GetLabel()[0].GetValue() == "operator" &&
				m.GetCounter().GetValue() >= 1
		}
	}
	if !counted {
		t.Error("the attempts are not counted")
	}
	must(t, w.ipa.GrantHostManagement(nova))
	r.reach(t, 1, store.EnrolmentCreated)
	r.enrol(t, request(1, "web", "a"))
}

// TestRetry tries a failed enrolment again at an operator's word.
func TestRetry(t *testing.T) {
	w := newWorld(t)
	must(t, w.ipa.AddHost("a.example.test", ""))
	r := w.replica(t)
	_, err := r.Retry(t.Context(), operator, id(1))
	refused(t, err, problem.NotFound)
	_, err = r.Enrol(t.Context(), operator, request(1, "web", "a"))
	refused(t, err, problem.Conflict)
	must(t, r.ipa.HostDel(t.Context(), "a.example.test", false))
	e, err := r.Retry(t.Context(), operator, id(1))
	must(t, err)
	equal(t, e.State, store.EnrolmentWanted)
	r.reach(t, 1, store.EnrolmentCreated)
	_, err = r.Retry(t.Context(), operator, id(1))
	refused(t, err, problem.Conflict, "nothing to try again")
	r.leave(t, 1)
	hosts, _ := w.entries()
	equal(t, len(hosts), 0)
}

// TestLook learns from FreeIPA, by later calls, that the instance has joined, or that somebody removed its entry.
func TestLook(t *testing.T) {
	w := newWorld(t)
	r := w.replica(t)
	req := request(1, "web", "a")
	answer := r.enrol(t, req)
	must(t, w.ipa.Join("a.example.test", answer.OTP))
	w.skew.Add(int64(lookEvery))
	again, err := r.Enrol(t.Context(), operator, req)
	must(t, err)
	equal(t, again.OTP, "")
	r.reach(t, 1, store.EnrolmentEnrolled)

	req = request(2, "web", "b")
	otp := r.enrol(t, req).OTP
	must(t, r.ipa.HostDel(t.Context(), "b.example.test", false))
	w.skew.Add(int64(lookEvery))
	_, err = r.Enrol(t.Context(), operator, req)
	refused(t, err, problem.Conflict, "somebody removed the host entry", "muster enrolment retry "+id(2))
	_, err = r.Retry(t.Context(), operator, id(2))
	must(t, err)
	r.reach(t, 2, store.EnrolmentCreated)
	if r.enrol(t, req).OTP == otp {
		t.Error("the new entry has the password of the old one")
	}
}

// TestLeaveWhileEnrolling orders an instance away while it is being enrolled.
func TestLeaveWhileEnrolling(t *testing.T) {
	w := newWorld(t)
	r := w.replica(t)
	reached, release := make(chan struct{}, 100), make(chan struct{})
	w.ipa.Inject(func(command string) freeipa.Fault {
		if command == "batch" {
			reached <- struct{}{}
			<-release
		}
		return freeipa.Fault{}
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := r.Enrol(t.Context(), operator, request(1, "web", "a", "compact_service_HTTP", `["x"]`)); err == nil {
			t.Error("enrolled, although it has left")
		}
	})
	<-reached
	must(t, r.Leave(t.Context(), operator, id(1)))
	close(release)
	wg.Wait()
	r.reach(t, 1, store.EnrolmentGone)
	hosts, services := w.entries()
	equal(t, append(hosts, services...), []string(nil))
}

// TestStorm boots many instances at once on two replicas, with few calls in flight to a slow FreeIPA.
func TestStorm(t *testing.T) {
	const boots = 200
	w := newWorld(t)
	w.ipa.Inject(func(string) freeipa.Fault { return freeipa.Fault{Delay: 5 * time.Millisecond} })
	limit := func(c *Config) { c.MaxInFlight, c.AnswerWithin = 4, 5*time.Second }
	replicas := []*replica{w.replica(t, limit), w.replica(t, limit)}
	otps := make([]string, boots)
	var wg sync.WaitGroup
	for n := range boots {
		wg.Go(func() {
			began := time.Now()
			answer, err := replicas[n%2].Enrol(t.Context(), operator, request(n, "web", fmt.Sprint("vm", n)))
			if err != nil && !isKind(err, problem.Unavailable) || time.Since(began) > time.Minute {
				t.Errorf("%v after %v", err, time.Since(began))
			}
			otps[n] = answer.OTP
		})
	}
	wg.Wait()
	for n := range boots {
		replicas[0].reach(t, n, store.EnrolmentCreated)
		answer := replicas[(n+1)%2].enrol(t, request(n, "web", fmt.Sprint("vm", n)))
		if otps[n] != "" && otps[n] != answer.OTP {
			t.Errorf("instance %d has two one-time passwords", n)
		}
		must(t, w.ipa.Join(answer.FQDN, answer.OTP))
	}
	hosts, _ := w.entries()
	equal(t, len(hosts), boots)
}

func isKind(err error, kind problem.Kind) bool {
	p, ok := errors.AsType[*problem.Problem](err)
	return ok && p.Kind == kind
}

// TestFirstCause: without the right to add services, service_add_host fails as well, for want of the service. Who must act is told what to do,
// and it is not taken for what passes by itself.
func TestFirstCause(t *testing.T) {
	w := newWorld(t)
	w.ipa.Forbid("System: Add Services")
	r := w.replica(t)
	_, err := r.Enrol(t.Context(), operator, request(1, "web", "a", "compact_service_HTTP", `["internalapi"]`))
	must(t, err)
	e := r.reach(t, 1, store.EnrolmentFailed)
	if !strings.Contains(e.LastError, "service_add HTTP/a.internalapi.example.test: Insufficient access: Insufficient 'add' privilege") || e.NextAt.IsZero() {
		t.Errorf("%+v", e)
	}
}

// TestWorstProblem: of several failures, that of the operator's is told, then what passes, then what stays, and of those alike the first.
func TestWorstProblem(t *testing.T) {
	forbidden, gone := &ipa.Error{Command: "first", Code: ipa.ACIError}, &ipa.Error{Command: "second", Code: ipa.NotFound}
	invalid, later := &ipa.Error{Command: "third", Code: ipa.ValidationError}, &ipa.Error{Command: "fourth", Code: ipa.ACIError}
	for _, row := range []struct {
		of   []error
		want error
	}{
		{[]error{nil, forbidden, gone}, forbidden}, {[]error{gone, forbidden}, forbidden}, {[]error{invalid, gone}, gone},
		{[]error{forbidden, later}, forbidden}, {[]error{invalid, nil, later}, later}, {[]error{nil}, nil},
	} {
		var all problems
		for _, err := range row.of {
			all.add(err)
		}
		if all.worst != row.want {
			t.Errorf("of %v: %v, wanted %v", row.of, all.worst, row.want)
		}
	}
}
