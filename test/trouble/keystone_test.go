// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package trouble

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/muster-cloud/muster/test/deployment"
)

func TestKeystoneAway(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it waits for time limits")
	}
	t.Parallel()
	w := newWorld(t, deployment.Options{Settings: deployment.Settings{"keystone_authtoken": {
		"http_connect_timeout": "5s", "role_cache_time": "1s",
	}}})
	replica := w.Start(t)
	known, nova := deployment.As(replica.URL, w.alice), deployment.As(replica.URL, w.nova)
	cert := w.mustWork(t, known)
	boot := deployment.Object{"host_id": deployment.NewID(), "auth_id": w.alice.ProjectID, "hostname": "vm"}
	var before, after deployment.HostToken
	nova.Want(t, http.StatusCreated, "POST", "/v1/hosttokens", boot, &before)

	for name, trouble := range map[string]func(){"gone": w.Keystone.Shut, "silent": w.Keystone.Hang} {
		bob := deployment.As(replica.URL, w.Person(t, "bob-"+name, "alpha", "member"))
		trouble()
		within(t, time.Minute, "Keystone "+name, func() {
			answer, err := bob.Call(t.Context(), "GET", "/v1/usercerts", nil)
			wantUnavailable(t, "a token that was not seen before, Keystone "+name, answer, err)
			// Certificates are issued on fresh roles only: soon no more.
			answer = w.awaitRefusal(t, known)
			wantUnavailable(t, "a certificate, Keystone "+name, answer, nil)
		})
		// Who was known before goes on, and instances boot.
		var list struct {
			Certs []deployment.UserCert `json:"certs"`
		}
		known.Want(t, http.StatusOK, "GET", "/v1/usercerts", nil, &list)
		if len(list.Certs) == 0 || list.Certs[0].Serial != cert.Serial {
			t.Errorf("Keystone %s: the list is %v", name, list)
		}
		nova.Want(t, http.StatusCreated, "POST", "/v1/hosttokens", boot, &after)
		if after.TokenID != before.TokenID {
			t.Errorf("Keystone %s: another host token", name)
		}
		wantIll(t, known, "keystone")

		w.Keystone.Open()
		w.mustRecover(t, known)
		bob.Want(t, http.StatusOK, "GET", "/v1/usercerts", nil, nil)
		mustBeReady(t, known)
	}
}

// awaitRefusal asks for certificates until there are none, and returns that answer.
func (w *world) awaitRefusal(t *testing.T, c *deployment.Client) (refusal deployment.Answer) {
	t.Helper()
	err := deployment.Await(t.Context(), func(context.Context) (err error) {
		if refusal, err = w.certificate(t, c); err == nil && refusal.Status == http.StatusCreated {
			err = errors.New("it is issued")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return refusal
}

// mustBeReady waits until the replica says that it is.
func mustBeReady(t *testing.T, c *deployment.Client) {
	t.Helper()
	err := deployment.Await(t.Context(), func(ctx context.Context) error {
		answer, err := c.Call(ctx, "GET", "/readyz", nil)
		if err == nil && answer.Status != http.StatusOK {
			err = errorStatus(answer)
		}
		return err
	})
	if err != nil {
		t.Errorf("not ready: %v", err)
	}
}

// wantIll checks that the replica is alive, not ready, and says why.
func wantIll(t *testing.T, c *deployment.Client, part string) {
	t.Helper()
	c.Want(t, http.StatusOK, "GET", "/healthz", nil, nil)
	err := deployment.Await(t.Context(), func(ctx context.Context) error {
		var parts map[string]string
		answer, err := c.Call(ctx, "GET", "/readyz", nil)
		if err != nil {
			return err
		}
		if err := answer.Decode(&parts); err != nil {
			return err
		}
		if answer.Status != http.StatusServiceUnavailable || parts[part] == "ok" || parts[part] == "" {
			return errorStatus(answer)
		}
		return nil
	})
	if err != nil {
		t.Errorf("/readyz doesn't say that the %s is away: %v", part, err)
	}
}
