// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package converging tests a whole Muster that follows a cloud.
package converging

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/muster-cloud/muster/test/deployment"
)

// world is a Muster whose cloud has alice, a member of the project demo.
type world struct {
	t           testing.TB
	d           *deployment.Deployment
	url         string
	replica     *deployment.Replica
	alice, demo string
	tokens      map[string]string
}

func newWorld(t testing.TB) *world {
	return newWorldWith(t, deployment.Settings{"converge": {"enabled": "true"}})
}

func newWorldWith(t testing.TB, settings deployment.Settings) *world {
	t.Helper()
	d := deployment.New(t, deployment.Options{Settings: settings})
	w := &world{t: t, d: d, replica: d.Start(t), tokens: map[string]string{}}
	w.url = w.replica.URL
	identity := d.Cloud.Identity
	w.demo = identity.ProjectID("demo")
	var err error
	if w.alice, err = identity.CreateUser("alice", "secret"); err != nil {
		t.Fatal(err)
	}
	if err := identity.Grant(w.alice, w.demo, "member"); err != nil {
		t.Fatal(err)
	}
	w.login()
	w.awaitComparison()
	return w
}

// awaitComparison returns when the comparison at the server's start has ended,
// which would find what a test changes before the test asks for it.
func (w *world) awaitComparison() {
	w.t.Helper()
	client := deployment.As(w.url, deployment.Person{})
	if err := deployment.Await(w.t.Context(), func(ctx context.Context) error {
		_, err := client.Metric(ctx, `muster_converge_comparisons_total{outcome="done"}`)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
}

// login gives alice and the administrator new tokens.
func (w *world) login() {
	w.t.Helper()
	identity := w.d.Cloud.Identity
	for user, login := range map[string][2]string{"alice": {"secret", "demo"}, "admin": {identity.Password("admin"), "admin"}} {
		var err error
		if w.tokens[user], err = identity.Token(user, login[0], login[1]); err != nil {
			w.t.Fatal(err)
		}
	}
}

// do asks Muster and reads the answer into a value.
func (w *world) do(caller, method, path string, body, into any) (status int) {
	w.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, bytes.NewReader(text))
	if err != nil {
		w.t.Fatal(err)
	}
	request.Header.Set("X-Auth-Token", w.tokens[caller])
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			w.t.Fatalf("%s %s: %d %s", method, path, response.StatusCode, answer)
		}
	}
	return response.StatusCode
}

type object = map[string]any

// report is the answer of POST /v1/reconcile.
type report struct {
	Kinds []struct {
		Kind     string
		Gone     int
		Refused  bool
		Suspects []struct{ ID, Reason string }
	}
}

func (r report) gone(kind string) int {
	for _, k := range r.Kinds {
		if k.Kind == kind {
			return k.Gone
		}
	}
	return -1
}

// TestReconcile: the operator sees what is gone, and lets it go.
func TestReconcile(t *testing.T) {
	w := newWorld(t)
	var cert struct{ Serial uint64 }
	if status := w.do("alice", "POST", "/v1/usercerts", object{"user_id": w.alice, "auth_id": w.demo, "pub_key": deployment.NewKey(t)}, &cert); status != 201 {
		t.Fatal(status)
	}
	for _, body := range []object{{"dry_run": true}, {"dry_run": false}} {
		if status := w.do("alice", "POST", "/v1/reconcile", body, nil); status != 403 {
			t.Errorf("%v as a member: %d", body, status)
		}
	}
	if status := w.do("alice", "GET", "/v1/queue", nil, nil); status != 403 {
		t.Errorf("the queue as a member: %d", status)
	}
	if status := w.do("admin", "POST", "/v1/reconcile", object{}, nil); status != 400 {
		t.Errorf("without dry_run: %d", status)
	}
	if err := w.d.Cloud.Identity.Ungrant(w.alice, w.demo, "member"); err != nil {
		t.Fatal(err)
	}
	shown := func() (revoked bool) {
		var found struct{ Revoked bool }
		if status := w.do("admin", "GET", "/v1/usercerts/"+jsonNumber(cert.Serial), nil, &found); status != 200 {
			t.Fatal(status)
		}
		return found.Revoked
	}
	var found report
	if status := w.do("admin", "POST", "/v1/reconcile", object{"dry_run": true}, &found); status != 200 || found.gone("grant") != 1 || shown() {
		t.Fatalf("dry run: %d %+v revoked=%v", status, found, shown())
	}
	if status := w.do("admin", "POST", "/v1/reconcile", object{"dry_run": false}, &found); status != 200 || found.gone("grant") != 1 || !shown() {
		t.Fatalf("run: %d %+v revoked=%v", status, found, shown())
	}
	if status := w.do("admin", "POST", "/v1/reconcile", object{"dry_run": true}, &found); status != 200 || found.gone("grant") != 0 {
		t.Fatalf("again: %d %+v", status, found)
	}
	var queue struct{ Queue []object }
	if status := w.do("admin", "GET", "/v1/queue", nil, &queue); status != 200 || len(queue.Queue) != 0 {
		t.Errorf("queue: %d %v", status, queue)
	}
}

func jsonNumber(n uint64) string {
	text, _ := json.Marshal(n) // a number can always be written
	return string(text)
}
