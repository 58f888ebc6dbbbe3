// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package trouble

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/sshca/krl"
	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

// hurried are settings under which trouble is noticed soon.
func hurried(option, value string) deployment.Settings {
	return deployment.Settings{"database": {"pool_timeout": "5s"}, "api": {option: value}}
}

func TestDatabaseCrashes(t *testing.T) {
	services.EachDatabase(t, func(t *testing.T, server *services.Server, database string) {
		w := newWorld(t, deployment.Options{Database: database, Settings: hurried("request_timeout", "20s")})
		client := deployment.As(w.Start(t).URL, w.alice)
		cert := w.mustWork(t, client)
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		askWithoutDatabase(t, w, client)
		if err := server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.mustRecover(t, client)
		revokeAndLook(t, w, client, cert)
	})
}

// TestDatabaseIsSilent: it takes connections, and never answers.
func TestDatabaseIsSilent(t *testing.T) {
	// Either limit must lead to an answer: the pool's, or the request's.
	for option, settings := range map[string]deployment.Settings{
		"pool_timeout":    hurried("request_timeout", "2m"),
		"request_timeout": {"database": {"pool_timeout": "2m"}, "api": {"request_timeout": "10s"}},
	} {
		t.Run(option, func(t *testing.T) {
			t.Parallel()
			database, gate := deployment.Through(t, databases.PostgreSQL(t))
			w := newWorld(t, deployment.Options{Database: database, Settings: settings})
			client := deployment.As(w.Start(t).URL, w.alice)
			cert := w.mustWork(t, client)
			gate.Hang()
			within(t, time.Minute, "all answers", func() { askWithoutDatabase(t, w, client) })
			gate.Open()
			w.mustRecover(t, client)
			revokeAndLook(t, w, client, cert)
		})
	}
}

// askWithoutDatabase makes calls of every kind, all at once.
func askWithoutDatabase(t *testing.T, w *world, client *deployment.Client) {
	t.Helper()
	root := deployment.As(client.URL, w.root)
	nobody := deployment.As(client.URL, deployment.Person{})
	type call struct {
		client       *deployment.Client
		method, path string
		body         any
	}
	calls := []call{
		{client, "POST", "/v1/usercerts", w.alice.OwnCert(deployment.NewKey(t))},
		{client, "POST", "/v1/usercerts", w.alice.OwnCert(deployment.NewKey(t))},
		{client, "GET", "/v1/usercerts", nil},
		{client, "GET", "/v1/authorities/" + w.alice.ProjectID, nil},
		{root, "POST", "/v1/revocations", deployment.Object{"auth_id": w.alice.ProjectID, "serial": 1}},
		{root, "GET", "/v1/audit", nil},
		{nobody, "POST", "/noauth/hostcerts", deployment.Object{
			"host_id": deployment.NewID(), "token_id": deployment.NewID(), "pub_key": deployment.NewKey(t),
		}},
		{nobody, "GET", "/noauth/revokeduserkeys/" + w.alice.ProjectID, nil},
		{nobody, "GET", "/noauth/revokeduserkeys/" + w.alice.ProjectID, nil},
		{nobody, "GET", "/noauth/revokeduserkeys/" + w.alice.ProjectID, nil},
	}
	done := make(chan struct{})
	for _, c := range calls {
		go func() {
			answer, err := c.client.Call(t.Context(), c.method, c.path, c.body)
			wantUnavailable(t, fmt.Sprintf("%s %s", c.method, c.path), answer, err)
			done <- struct{}{}
		}()
	}
	for range calls {
		<-done
	}
	wantIll(t, nobody, "database")
}

// revokeAndLook revokes, and finds the revocation in the list.
func revokeAndLook(t *testing.T, w *world, client *deployment.Client, cert deployment.UserCert) {
	t.Helper()
	root := deployment.As(client.URL, w.root)
	root.Want(t, http.StatusOK, "POST", "/v1/revokeduserkeys/"+w.alice.ProjectID, deployment.Object{"serial": cert.Serial}, nil)
	list := client.Want(t, http.StatusOK, "GET", "/noauth/revokeduserkeys/"+w.alice.ProjectID, nil, nil, "Accept", "application/octet-stream")
	parsed, err := deployment.Certificate(cert.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if revoked, err := krl.Parse(list.Body); err != nil || !revoked.Revoked(parsed) {
		t.Errorf("the revocation is not in the list: %v", err)
	}
}
