// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa_test

import (
	"fmt"
	"testing"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/ipa"
)

// BenchmarkHostShow measures one call after the other.
func BenchmarkHostShow(b *testing.B) {
	w := newWorld(b, freeipa.Config{})
	c := newClient(b, config(w))
	for b.Loop() {
		if _, err := c.HostShow(b.Context(), "ipa.example.test"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHostShowMany measures calls of many callers, 8 in flight.
func BenchmarkHostShowMany(b *testing.B) {
	w := newWorld(b, freeipa.Config{})
	c := newClient(b, config(w))
	b.SetParallelism(50)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.HostShow(b.Context(), "ipa.example.test"); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkEnrol20 measures a new host with 20 sub-hosts, services and managers in one batch.
func BenchmarkEnrol20(b *testing.B) {
	w := newWorld(b, freeipa.Config{})
	c := newClient(b, config(w))
	number := 0
	for b.Loop() {
		number++
		host := fmt.Sprintf("vm%d.example.test", number)
		commands := []ipa.Command{ipa.HostAdd(host, ipa.HostAttributes{Password: "otp"})}
		for i := range 20 {
			sub := fmt.Sprintf("vm%d.net%d.example.test", number, i)
			commands = append(commands, ipa.HostAdd(sub, ipa.HostAttributes{}), ipa.ServiceAdd("HTTP/"+sub), ipa.ServiceAddHost("HTTP/"+sub, host))
		}
		results, err := c.Batch(b.Context(), commands...)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range results {
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
	}
}

// BenchmarkKerberosLogin measures a log-in with a real KDC, and the call that needs it.
func BenchmarkKerberosLogin(b *testing.B) {
	w := newKerberosWorld(b, 0)
	c := newClient(b, w.cfg)
	for b.Loop() {
		w.EndSessions()
		if err := c.Run(b.Context(), ipa.Ping()); err != nil {
			b.Fatal(err)
		}
	}
}
