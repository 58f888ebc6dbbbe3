// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/api/apitest"
	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/uuid"
	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

var databases services.Databases

func TestMain(m *testing.M) { os.Exit(databases.Main(m)) }

// world is a whole Muster beside a cloud with two projects and their people.
type world struct {
	t      testing.TB
	cloud  *deployment.Deployment
	urls   []string      // of the replicas
	turn   *atomic.Int64 // whose it is
	checks *apitest.Transport
	client *http.Client

	programs    string            // the agent's folder
	demo, other string            // projects
	users       map[string]string // IDs by name
	tokens      map[string]string // by caller
}

// everywhere runs a test on one replica with SQLite, and on two that share a
// PostgreSQL and are asked in turn: a client must see no difference.
func everywhere(t *testing.T, test func(*testing.T, *world)) {
	t.Run("one replica", func(t *testing.T) { test(t, newWorld(t, 1, deployment.Options{})) })
	t.Run("two replicas", func(t *testing.T) { test(t, newWorld(t, 2, deployment.Options{Database: databases.PostgreSQL(t)})) })
}

// The people: alice and bob are members of demo, mia is its manager; carol and
// otto are the same in project other; boot is a service user.
func newWorld(t testing.TB, replicas int, o deployment.Options) *world {
	t.Helper()
	o.FreeIPA = true
	if o.Settings == nil {
		o.Settings = deployment.Settings{}
	}
	folder := programs(t)
	agent := map[string]string{"directory": folder}
	maps.Copy(agent, o.Settings["agent"])
	o.Settings["agent"] = agent
	// The instances of these tests are not in Nova, and nobody looks for them.
	o.Settings["neutron"] = map[string]string{"enabled": "false"}
	o.Settings["converge"] = map[string]string{"enabled": "true", "create_authorities": "false"}
	d := deployment.New(t, o)
	w := &world{t: t, programs: folder, cloud: d, turn: new(atomic.Int64), checks: apitest.NewTransport(t), users: map[string]string{}, tokens: map[string]string{}}
	for range replicas {
		w.urls = append(w.urls, d.Start(t).URL)
		w.awaitComparison()
	}
	w.client = &http.Client{Transport: w.checks}
	keystone := d.Cloud.Identity
	w.demo = keystone.ProjectID("demo")
	var err error
	if w.other, err = keystone.CreateProject("other"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct{ caller, user, project, role string }{
		{"owner", "alice", "demo", "member"}, {"member", "bob", "demo", "member"}, {"manager", "mia", "demo", "manager"},
		{"stranger", "carol", "other", "member"}, {"other manager", "otto", "other", "manager"}, {"service", "boot", "service", "service"},
	} {
		id, err := keystone.CreateUser(p.user, "secret")
		if err != nil {
			t.Fatal(err)
		}
		w.users[p.user] = id
		if err := keystone.Grant(id, keystone.ProjectID(p.project), p.role); err != nil {
			t.Fatal(err)
		}
		w.tokens[p.caller] = w.token(p.user, "secret", p.project)
	}
	w.tokens["expired"] = w.token("alice", "secret", "demo")
	keystone.ExpireToken(w.tokens["expired"])
	w.tokens["bad"] = "gAAAAA-nobody-gave-this-out"
	w.tokens["admin"] = w.token("admin", keystone.Password("admin"), "admin")
	w.tokens["system"] = w.systemToken()
	return w
}

// awaitComparison returns when the first replica has compared everything with
// the cloud, as it does at its start: the tests' instances, which come later,
// are not Nova's, and would be gone.
func (w *world) awaitComparison() {
	w.t.Helper()
	first := deployment.As(w.urls[0], deployment.Person{})
	err := deployment.Await(w.t.Context(), func(ctx context.Context) error {
		_, err := first.Metric(ctx, `muster_converge_comparisons_total{outcome="done"}`)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) token(user, password, project string) string {
	w.t.Helper()
	token, err := w.cloud.Cloud.Identity.Token(user, password, project)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

func (w *world) systemToken() string {
	w.t.Helper()
	body := fmt.Sprintf(`{"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": "admin", "domain": {"id": "default"},
		"password": %q}}}, "scope": {"system": {"all": true}}}}`, w.cloud.Cloud.Identity.Password("admin"))
	response, err := http.Post(w.cloud.Cloud.AuthURL()+"/auth/tokens", "application/json", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	response.Body.Close()
	token := response.Header.Get("X-Subject-Token")
	if token == "" {
		w.t.Fatalf("no token for the system: %s", response.Status)
	}
	return token
}

// reply is an answer that was read.
type reply struct {
	t      testing.TB
	Status int
	Header http.Header
	Text   string
}

// json reads the body into a map.
func (r reply) json() map[string]any {
	r.t.Helper()
	var value map[string]any
	decoder := json.NewDecoder(strings.NewReader(r.Text))
	decoder.UseNumber() // serials have more digits than a float shows
	if err := decoder.Decode(&value); err != nil {
		r.t.Fatalf("the body is no JSON object: %v\n%s", err, r.Text)
	}
	return value
}

// want fails the test unless the status is this one.
func (r reply) want(status int) reply {
	r.t.Helper()
	if r.Status != status {
		r.t.Fatalf("answered with %d, want %d: %s", r.Status, status, r.Text)
	}
	return r
}

// next is the URL of the replica whose turn it is.
func (w *world) next() string { return w.urls[int(w.turn.Add(1)-1)%len(w.urls)] }

// at is the world with one replica, counted around.
func (w *world) at(replica int) *world {
	one := *w
	i := replica % len(w.urls)
	one.urls = w.urls[i : i+1]
	return &one
}

// do asks as a caller; body is JSON text, or nothing. Headers are "Name: value".
func (w *world) do(caller, method, path, body string, headers ...string) reply {
	w.t.Helper()
	request, err := http.NewRequest(method, w.next()+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if body != "" {
		request.Body = io.NopCloser(strings.NewReader(body))
		request.ContentLength = int64(len(body))
		request.Header.Set("Content-Type", "application/json")
	}
	if token := w.tokens[caller]; token != "" {
		request.Header.Set("X-Auth-Token", token)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Set(name, value)
	}
	response, err := w.client.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply{w.t, response.StatusCode, response.Header, string(text)}
}

func newKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	return agenttest.NewSigner(t).PublicKey()
}

func line(key ssh.PublicKey) string { return agenttest.Line(key) }

func newID() string {
	id := make([]byte, 16)
	rand.Read(id)
	return hex.EncodeToString(id)
}

func object(pairs ...any) string {
	fields := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		fields[pairs[i].(string)] = pairs[i+1]
	}
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err) // the pairs are a test's own
	}
	return string(text)
}

// userCert makes a certificate of alice's in demo and returns it.
func (w *world) userCert() (serial json.Number, cert map[string]any) {
	w.t.Helper()
	cert = w.do("owner", "POST", "/v1/usercerts", object("user_id", w.users["alice"], "auth_id", w.demo, "pub_key", line(newKey(w.t)))).want(201).json()
	return cert["serial"].(json.Number), cert
}

// boots boots an instance without addresses in Nova, which asks nobody for
// vendordata, and returns its ID. What Nova does not have, Muster takes away as
// soon as it looks.
func (w *world) boots(project string) string {
	w.t.Helper()
	id, err := w.cloud.Cloud.Compute.Boot(w.t.Context(), compute.Server{
		Name: "web1", ProjectID: project, UserID: w.users["alice"], Metadata: map[string]string{"ipa_enroll": "true"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.cloud.Cloud.Network.Unplug(id)
	canonical, err := uuid.Parse(id)
	if err != nil {
		w.t.Fatal(err)
	}
	return canonical
}

// instance makes one in demo and returns its ID and token.
func (w *world) instance() (id, token string) {
	w.t.Helper()
	id = w.boots(w.demo)
	boot := w.do("service", "POST", "/v1/vendordata", object("project-id", w.demo, "instance-id", id, "hostname", "web1")).want(200).json()
	return id, boot["token"].(string)
}

// enrolment makes that of an instance in demo and returns the instance's ID.
func (w *world) enrolment() string {
	w.t.Helper()
	id := w.boots(w.demo)
	w.do("service", "POST", "/v1", enrolling(id, w.demo)).want(200)
	return id
}

// enrolling is Nova's body for an instance that asks for enrolment, under a
// name of its own.
func enrolling(id, project string) string {
	return object("project-id", project, "instance-id", id, "hostname", "web-"+id[:16], "metadata", map[string]string{"ipa_enroll": "true"})
}

// hostCert makes an instance in demo and its certificate.
func (w *world) hostCert() map[string]any {
	w.t.Helper()
	id, token := w.instance()
	return w.do("none", "POST", "/noauth/hostcerts", object("token_id", token, "host_id", id, "pub_key", line(newKey(w.t)))).want(200).json()
}
