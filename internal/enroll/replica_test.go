// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"fmt"
	"os"
	"sync"
	"testing"

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
