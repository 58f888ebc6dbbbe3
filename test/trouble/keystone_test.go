// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package trouble

import (
	"net/http"
	"testing"
	"time"

	"github.com/muster-cloud/muster/test/deployment"
)

func TestKeystoneAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, deployment.Options{Settings: deployment.Settings{"keystone_authtoken": {
		"http_connect_timeout": "1s", "role_cache_time": "0",
	}}})
	replica := w.Start(t)
	known, nova := deployment.As(replica.URL, w.alice), deployment.As(replica.URL, w.nova)
	bob := deployment.As(replica.URL, w.Person(t, "bob", "alpha", "member"))
	cert := w.mustWork(t, known)
	boot := deployment.Object{"host_id": deployment.NewID(), "auth_id": w.alice.ProjectID, "hostname": "vm"}
	var before, after deployment.HostToken
	nova.Want(t, http.StatusCreated, "POST", "/v1/hosttokens", boot, &before)

	for name, trouble := range map[string]func(){"gone": w.Keystone.Shut, "silent": w.Keystone.Hang} {
		trouble()
		within(t, 10*time.Second, "Keystone "+name, func() {
			answer, err := bob.Call(t.Context(), "GET", "/v1/usercerts", nil)
			wantUnavailable(t, "a token that was not seen before, Keystone "+name, answer, err)
			// Certificates are issued on fresh roles only.
			answer, err = w.certificate(t, known)
			wantUnavailable(t, "a certificate, Keystone "+name, answer, err)
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
		known.Want(t, http.StatusOK, "GET", "/readyz", nil, nil)
	}
}

// wantIll checks that the replica is alive, not ready, and says why.
func wantIll(t *testing.T, c *deployment.Client, part string) {
	t.Helper()
	c.Want(t, http.StatusOK, "GET", "/healthz", nil, nil)
	var body struct {
		Checks map[string]any `json:"checks"`
	}
	answer := c.Want(t, http.StatusServiceUnavailable, "GET", "/readyz", nil, &body)
	if _, named := body.Checks[part]; !named {
		t.Errorf("/readyz doesn't name %s: %s", part, answer.Body)
	}
}
