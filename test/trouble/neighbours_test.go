// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package trouble

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/muster-cloud/muster/test/deployment"
)

// TestNeighbourAway: of each neighbour that Muster does without for a while, health and the list of
// what is tried again say that it is away, calls that need it answer 503 and its name, `muster config
// check` finds it, and the rest goes on.
func TestNeighbourAway(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it waits for time limits")
	}
	t.Parallel()
	w := newWorld(t, deployment.Options{FreeIPA: true, Settings: deployment.Settings{
		"converge": {"enabled": "true", "interval": "1h"}, "nova": {"timeout": "3s"}, "neutron": {"timeout": "3s"},
		"enroll": {"answer_within": "3s"}, "ipa": {"timeout": "3s"},
	}})
	replica := w.Start(t)
	root, alice := deployment.As(replica.URL, w.root), deployment.As(replica.URL, w.alice)
	wantPart(t, root, map[string]string{"database": "ok", "keystone": "ok", "custody": "ok", "ipa": "ok", "glance": "ok", "nova": "ok", "neutron": "ok"})
	if problems, err := w.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Fatalf("config check: %v, %v", problems, err)
	}
	for _, neighbour := range []struct {
		part, section string
		gate          *deployment.Gate
		called        string // how a comparison that needs it names it; empty: none does
	}{
		{"nova", "nova", w.ToNova, "Nova does not answer"},
		{"neutron", "neutron", w.ToNeutron, "Neutron does not answer"},
		{"glance", "glance", w.ToGlance, ""},
		{"ipa", "ipa", w.FreeIPA, ""},
	} {
		for name, trouble := range map[string]func(){"gone": neighbour.gate.Shut, "silent": neighbour.gate.Hang} {
			t.Run(neighbour.part+" "+name, func(t *testing.T) {
				trouble()
				defer neighbour.gate.Open()
				wantPart(t, root, map[string]string{neighbour.part: "ill", "database": "ok", "keystone": "ok"})
				var list struct {
					Away []struct{ Name, Error string } `json:"away"`
				}
				root.Want(t, http.StatusOK, "GET", "/v1/queue", nil, &list)
				if len(list.Away) != 1 || list.Away[0].Name != neighbour.part || list.Away[0].Error == "" {
					t.Errorf("the queue says %+v", list.Away)
				}
				if neighbour.called != "" {
					answer := root.Want(t, http.StatusServiceUnavailable, "POST", "/v1/reconcile", deployment.Object{"dry_run": true}, nil)
					if !strings.Contains(string(answer.Body), neighbour.called) {
						t.Errorf("reconcile: %s", answer.Body)
					}
				}
				problems, err := w.Check(t.Context())
				if err != nil || len(problems) != 1 || problems[0].Section != neighbour.section {
					t.Errorf("config check: %v, %v", problems, err)
				}
				w.mustWork(t, alice)
				neighbour.gate.Open()
				wantPart(t, root, map[string]string{neighbour.part: "ok"})
			})
		}
	}
}

// wantPart waits until /readyz is 200 and says so of the parts.
func wantPart(t *testing.T, c *deployment.Client, parts map[string]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	err := deployment.Await(ctx, func(ctx context.Context) error {
		var said map[string]string
		answer, err := c.Call(ctx, "GET", "/readyz", nil)
		if err != nil {
			return err
		}
		if answer.Status != http.StatusOK {
			return errorStatus(answer)
		}
		if err := answer.Decode(&said); err != nil {
			return err
		}
		for part, want := range parts {
			if said[part] != want {
				return fmt.Errorf("%s is %q, want %q", part, said[part], want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
