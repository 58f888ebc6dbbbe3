// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package trouble takes away what Muster stands on, and sends clients that
// misbehave: the rest of the world gets a clear answer, and all is well again
// without a restart.
package trouble

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

var databases services.Databases

func TestMain(m *testing.M) {
	os.Exit(deployment.Main(func() int { return databases.Main(m) }))
}

// world is a deployment with one project.
type world struct {
	*deployment.Deployment
	alice, nova, root deployment.Person
}

func newWorld(t *testing.T, o deployment.Options) *world {
	t.Helper()
	d := deployment.New(t, o)
	d.Project(t, "alpha")
	return &world{Deployment: d, alice: d.Person(t, "alice", "alpha", "member"), nova: d.Nova(t), root: d.Operator(t)}
}

// certificate asks for a certificate of a new key.
func (w *world) certificate(t *testing.T, c *deployment.Client) (deployment.Answer, error) {
	t.Helper()
	return c.Call(t.Context(), "POST", "/v1/usercerts", w.alice.OwnCert(deployment.NewKey(t)))
}

// mustWork fails the test unless the replica issues a certificate.
func (w *world) mustWork(t *testing.T, c *deployment.Client) deployment.UserCert {
	t.Helper()
	var cert deployment.UserCert
	c.Want(t, http.StatusCreated, "POST", "/v1/usercerts", w.alice.OwnCert(deployment.NewKey(t)), &cert)
	return cert
}

// mustRecover waits until the replica issues a certificate again.
func (w *world) mustRecover(t *testing.T, c *deployment.Client) {
	t.Helper()
	err := deployment.Await(t.Context(), func(ctx context.Context) error {
		answer, err := c.Call(ctx, "POST", "/v1/usercerts", w.alice.OwnCert(deployment.NewKey(t)))
		if err == nil && answer.Status != http.StatusCreated {
			err = errorStatus(answer)
		}
		return err
	})
	if err != nil {
		t.Fatalf("no recovery: %v", err)
	}
}

type errorStatus deployment.Answer

// Error implements error.
func (e errorStatus) Error() string { return strconv.Itoa(e.Status) + " " + string(e.Body) }

// wantUnavailable checks that an answer says: not now, come back.
func wantUnavailable(t *testing.T, what string, answer deployment.Answer, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: no answer at all: %v", what, err)
		return
	}
	var body struct{ Title, Description string }
	if decodeErr := answer.Decode(&body); decodeErr != nil || body.Description == "" {
		t.Errorf("%s: the body explains nothing: %s", what, answer.Body)
	}
	after, err := strconv.Atoi(answer.Header.Get("Retry-After"))
	if answer.Status != http.StatusServiceUnavailable || err != nil || after < 1 || after > 60 {
		t.Errorf("%s: status %d, Retry-After %q, want 503 and 1 to 60: %s", what, answer.Status, answer.Header.Get("Retry-After"), answer.Body)
	}
}

// within fails the test if something took longer.
func within(t *testing.T, limit time.Duration, what string, do func()) {
	t.Helper()
	begin := time.Now()
	do()
	if took := time.Since(begin); took > limit {
		t.Errorf("%s took %v, more than %v", what, took.Round(time.Millisecond), limit)
	}
}
