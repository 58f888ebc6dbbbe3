// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/test/deployment"
)

// called is what came of a request that somebody else made.
type called struct {
	answer deployment.Answer
	err    error
}

func call(ctx context.Context, c *deployment.Client, method, path string, body any, headers ...string) <-chan called {
	done := make(chan called, 1)
	go func() {
		answer, err := c.Call(ctx, method, path, body, headers...)
		done <- called{answer, err}
	}()
	return done
}

// Shut-down has an order: no new requests, long polls are answered, what runs
// is finished, its records are committed, the database is closed.
func TestShutdownFinishesWhatRuns(t *testing.T) {
	d := deployment.New(t, deployment.Options{})
	replica := d.Start(t)
	alice := d.Person(t, "alice", "demo", "member")
	operator := deployment.As(replica.URL, d.Operator(t))
	operator.Want(t, http.StatusCreated, "POST", "/v1/authorities", deployment.Object{"auth_id": alice.ProjectID}, nil)
	list := "/noauth/revokeduserkeys/" + alice.ProjectID
	etag := operator.Want(t, http.StatusOK, "GET", list, nil, nil).Header.Get("Etag")

	poll := call(t.Context(), operator, "GET", list+"?wait=300", nil, "If-None-Match", etag)
	if err := operator.AwaitWaiters(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	d.Keystone.Hang()
	issue := call(t.Context(), deployment.As(replica.URL, alice), "POST", "/v1/usercerts", alice.OwnCert(deployment.NewKey(t)))
	if err := d.Keystone.AwaitHeld(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	replica.BeginStop()
	if got := <-poll; got.err != nil || got.answer.Status != http.StatusNotModified {
		t.Errorf("the long poll: %d %v, want 304", got.answer.Status, got.err)
	}
	if err := deployment.AwaitClosed(t.Context(), replica.URL); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-issue:
		t.Fatalf("the request was cut off: %d %s %v", got.answer.Status, got.answer.Body, got.err)
	default:
	}
	d.Keystone.Open()
	got := <-issue
	if got.err != nil || got.answer.Status != http.StatusCreated {
		t.Fatalf("the request that ran: %d %s %v", got.answer.Status, got.answer.Body, got.err)
	}
	if err := replica.Stop(); err != nil {
		t.Errorf("the end: %v", err)
	}
	var cert deployment.UserCert
	if err := got.answer.Decode(&cert); err != nil {
		t.Fatal(err)
	}
	_, records := d.OpenStore(t)
	if record, err := records.UserCert(t.Context(), cert.Serial); err != nil || record.Cert != cert.Cert {
		t.Errorf("what was issued during the shut-down is not recorded: %v", err)
	}
}

// A request that does not end in time is cut off, and the end tells of it.
func TestShutdownDoesNotWaitForEver(t *testing.T) {
	d := deployment.New(t, deployment.Options{Settings: deployment.Settings{"DEFAULT": {"shutdown_timeout": "1s"}}})
	replica, err := d.TryStart(noCleanup{t})
	if err != nil {
		t.Fatal(err)
	}
	alice := d.Person(t, "alice", "demo", "member")
	d.Keystone.Hang()
	issue := call(t.Context(), deployment.As(replica.URL, alice), "POST", "/v1/usercerts", alice.OwnCert(deployment.NewKey(t)))
	if err := d.Keystone.AwaitHeld(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := replica.Stop(); err == nil || !strings.Contains(err.Error(), "listener main: requests were still running after 1s") {
		t.Errorf("the end: %v", err)
	}
	if got := <-issue; got.err == nil && got.answer.Status < http.StatusInternalServerError {
		t.Errorf("the request: %d %s", got.answer.Status, got.answer.Body)
	}
}

// noCleanup is a test that looks by itself how its replica ends.
type noCleanup struct{ *testing.T }

// Cleanup implements testing.TB.
func (noCleanup) Cleanup(func()) {}

// Reload takes over the policy and the certificates, each for itself; what
// cannot be read is named and stays as it was.
func TestReload(t *testing.T) {
	folder := t.TempDir()
	policy, cert, key := filepath.Join(folder, "policy.yaml"), filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key")
	trusting := writeTLS(t, cert, key)
	write(t, policy, `"authority:list": "@"`)
	d := deployment.New(t, deployment.Options{Settings: deployment.Settings{
		"oslo_policy": {"policy_file": policy}, "listen:main": {"tls_cert": cert, "tls_key": key},
	}})
	replica := d.Start(t)
	alice := deployment.As(replica.URL, d.Person(t, "alice", "demo", "member"))
	alice.HTTP = trusting
	alice.Want(t, http.StatusOK, "GET", "/v1/authorities", nil, nil)

	write(t, policy, `"authority:list": "!"`)
	alice.Want(t, http.StatusOK, "GET", "/v1/authorities", nil, nil)
	if err := replica.Server.Reload(); err != nil {
		t.Fatal(err)
	}
	alice.Want(t, http.StatusForbidden, "GET", "/v1/authorities", nil, nil)

	write(t, policy, `"authority:list": "rule:nowhere"`)
	if err := replica.Server.Reload(); err == nil || !strings.Contains(err.Error(), "[oslo_policy] policy_file: ") {
		t.Errorf("a rule that cannot be resolved: %v", err)
	}
	alice.Want(t, http.StatusForbidden, "GET", "/v1/authorities", nil, nil)

	write(t, policy, `"authority:list": "@"`)
	write(t, cert, "nonsense")
	if err := replica.Server.Reload(); err == nil || !strings.Contains(err.Error(), "[listen:main] tls_cert: ") {
		t.Errorf("a certificate that cannot be read: %v", err)
	}
	alice.HTTP.CloseIdleConnections()
	alice.Want(t, http.StatusOK, "GET", "/v1/authorities", nil, nil)
}

// writeTLS writes a certificate for 127.0.0.1 and its key, and returns a client
// that trusts it.
func writeTLS(t *testing.T, certFile, keyFile string) *http.Client {
	t.Helper()
	owner := httptest.NewTLSServer(nil)
	defer owner.Close()
	pair := owner.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})))
	write(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	return owner.Client()
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The API's description tells the version that the program was built as.
func TestDescriptionHasTheVersion(t *testing.T) {
	d := deployment.New(t, deployment.Options{})
	var document struct{ Info struct{ Version string } }
	deployment.As(d.Start(t).URL, deployment.Person{}).Want(t, http.StatusOK, "GET", "/openapi.json", nil, &document)
	if document.Info.Version != deployment.Version {
		t.Errorf("version %q, want %q", document.Info.Version, deployment.Version)
	}
}
