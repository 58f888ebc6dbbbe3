// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
)

const (
	ipaDomain   = "bench.test"
	ipaUser     = "nova/undercloud." + ipaDomain
	ipaPassword = "bench-password"

	slowFreeIPA = 50 * time.Millisecond // for each call
)

// enrolling has a site enrol instances in the cloud's FreeIPA, with at most 8 calls in flight.
func enrolling(s *site) {
	ca := filepath.Join(s.bench.folder, "ipa-ca.crt")
	s.sections += fmt.Sprintf("[ipa]\nservers = %s\ndomain = %s\nusername = %s\npassword = %s\ncafile = %s\nclient_conf =\nmax_in_flight = 8\n"+
		"[enroll]\nenabled = true\nanswer_within = 4s\n", s.cloud.FreeIPAAddress(), ipaDomain, ipaUser, ipaPassword, ca)
}

// onEnrolling is on for a site that enrols.
func (b *bench) onEnrolling(ctx context.Context, work func(*site) ([]measure, error)) ([]measure, error) {
	if err := os.WriteFile(filepath.Join(b.folder, "ipa-ca.crt"), b.cloud.FreeIPA.CA(), 0o600); err != nil {
		return nil, err
	}
	defer b.delayFreeIPA(0)
	return b.on(ctx, "sqlite", work, enrolling)
}

func (b *bench) delayFreeIPA(delay time.Duration) {
	b.cloud.FreeIPA.Inject(func(string) freeipa.Fault { return freeipa.Fault{Delay: delay} })
}

// twenty services of an instance, on five further names of it.
const twenty = `{"HTTP": ["a", "b", "c", "d", "e"], "haproxy": ["a", "b", "c", "d", "e"], "mysql": ["a", "b", "c", "d", "e"], "libvirt": ["a", "b", "c", "d", "e"]}`

// enrolments are novajoin's calls for instances that ask to be enrolled.
type enrolments struct {
	requests  [][]byte
	passwords atomic.Int64 // answers with a one-time password
}

func (s *site) newEnrolments(n int, services string) *enrolments {
	e := &enrolments{requests: make([][]byte, n)}
	metadata := map[string]string{"ipa_enroll": "True"}
	if services != "" {
		metadata["compact_services"] = services
	}
	for i := range e.requests {
		id := newID()
		e.requests[i] = s.request("POST", "/v1/", s.bench.nova, map[string]any{
			"project-id": s.bench.persons[i%people].project, "instance-id": id, "image-id": "8a0ae8b9-6a5f-4f53-9d0b-3f0a7e2a4b6c",
			"user-data": nil, "hostname": "vm-" + id[:12], "metadata": metadata, "boot-roles": "member",
		})
	}
	return e
}

// count takes an answer.
func (e *enrolments) count(_ int, body []byte) {
	var answer struct {
		Password string `json:"ipaotp"`
	}
	if json.Unmarshal(body, &answer) == nil && answer.Password != "" {
		e.passwords.Add(1)
	}
}

// enrol measures first vendordata calls of instances with and without services, at a quick and at a slow FreeIPA, from one client and from
// many. The latencies are those of Nova's calls, two round trips to FreeIPA with services and one without included.
func enrol(ctx context.Context, b *bench) ([]measure, error) {
	return b.onEnrolling(ctx, func(s *site) ([]measure, error) {
		var measured []measure
		for _, delay := range []time.Duration{0, slowFreeIPA} {
			b.delayFreeIPA(delay)
			for _, services := range []string{"", twenty} {
				for _, many := range []int{1, 200} {
					some, err := s.enrolSome(ctx, delay, services, many)
					if err != nil {
						return nil, err
					}
					measured = append(measured, some...)
				}
			}
		}
		return measured, nil
	})
}

func (s *site) enrolSome(ctx context.Context, delay time.Duration, services string, many int) ([]measure, error) {
	n := 400
	if delay > 0 && many == 1 {
		n = 40
	}
	count := 0
	if services != "" {
		count = 20
	}
	e := s.newEnrolments(n, services)
	name := fmt.Sprintf("%d services, FreeIPA %d ms, %d at once", count, delay.Milliseconds(), many)
	t, err := s.measure(ctx, strings.ReplaceAll("enrol "+name, " ", "-"), load{clients: many, requests: e.requests, status: http.StatusOK, seen: e.count})
	if err != nil {
		return nil, err
	}
	return []measure{
		plain(name+": rate", t.rate(), "/s"), plain(name+": p50", milliseconds(t.p50), "ms"), plain(name+": p99", milliseconds(t.p99), "ms"),
		plain(name+": with a password", float64(e.passwords.Load())/float64(n)*100, "%"),
	}, nil
}
