// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package issuing looks at what people and instances get of a whole Muster,
// and at what they must not get, with the faults of its predecessors in mind.
package issuing

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-cloud/muster/test/deployment"
)

// house is a deployment with a replica and a project.
type house struct {
	*deployment.Deployment
	url     string
	project string
	nova    *deployment.Client
	root    *deployment.Client
	nobody  *deployment.Client
}

func newHouse(t *testing.T, settings deployment.Settings) *house {
	t.Helper()
	h := &house{Deployment: deployment.New(t, deployment.Options{Settings: settings})}
	h.project = h.Project(t, "alpha")
	h.url = h.Start(t).URL
	h.nova, h.root = deployment.As(h.url, h.Nova(t)), deployment.As(h.url, h.Operator(t))
	h.nobody = deployment.As(h.url, deployment.Person{})
	return h
}

// person makes a person with roles in a project, and a client.
func (h *house) person(t *testing.T, name, project string, roles ...string) (deployment.Person, *deployment.Client) {
	t.Helper()
	p := h.Person(t, name, project, roles...)
	return p, deployment.As(h.url, p)
}

// boot gets the token of a new instance.
func (h *house) boot(t *testing.T) (instance, token string) {
	t.Helper()
	instance = deployment.NewID()
	var answer deployment.HostToken
	h.nova.Want(t, http.StatusCreated, "POST", "/v1/hosttokens",
		deployment.Object{"host_id": instance, "auth_id": h.project, "hostname": "VM-1"}, &answer)
	return instance, answer.TokenID
}

func hostKey(instance, token, key string) deployment.Object {
	return deployment.Object{"host_id": instance, "token_id": token, "pub_key": key}
}

// TestNobodyElsesBusiness: a token alone opens nothing that is others'.
func TestNobodyElsesBusiness(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	beta := h.Project(t, "beta")
	alice, asAlice := h.person(t, "alice", "alpha", "member")
	bob, asBob := h.person(t, "bob", "alpha", "member")
	mallory, asMallory := h.person(t, "mallory", "beta", "admin-of-nothing", "member")
	var cert deployment.UserCert
	asAlice.Want(t, http.StatusCreated, "POST", "/v1/usercerts", alice.OwnCert(deployment.NewKey(t)), &cert)
	instance, _ := h.boot(t)
	serial := deployment.Object{"serial": cert.Serial}
	key := deployment.NewKey(t)

	for name, c := range map[string]*deployment.Client{"of the project": asBob, "of another project": asMallory} {
		for _, call := range []struct {
			method, path string
			body         any
		}{
			{"POST", "/v1/usercerts", deployment.Object{"user_id": alice.ID, "auth_id": alice.ProjectID, "pub_key": key}},
			{"POST", "/v1/usercerts", deployment.Object{"user_id": alice.ID, "auth_id": beta, "pub_key": key}},
			{"POST", "/v1/revokeduserkeys/" + h.project, serial},
			{"POST", "/v1/revocations", deployment.Object{"auth_id": h.project, "user_id": alice.ID}},
			{"POST", "/v1/revocations", deployment.Object{"user_id": alice.ID}},
			{"POST", "/v1/authorities", deployment.Object{"auth_id": beta}},
			{"POST", "/v1/hosttokens", deployment.Object{"host_id": instance, "auth_id": h.project, "hostname": "x"}},
			{"POST", "/v1/novavendordata", deployment.Object{"instance-id": instance, "project-id": h.project, "hostname": "x"}},
			{"DELETE", "/v1/hosts/" + instance, nil},
		} {
			answer, err := c.Call(t.Context(), call.method, call.path, call.body)
			if err != nil || answer.Status != http.StatusForbidden {
				t.Errorf("a member %s may %s %s: %d %s %v", name, call.method, call.path, answer.Status, answer.Body, err)
			}
		}
		c.Want(t, http.StatusNotFound, "GET", fmt.Sprintf("/v1/usercerts/%d", cert.Serial), nil, nil)
		var list struct {
			Certs []deployment.UserCert `json:"certs"`
		}
		c.Want(t, http.StatusOK, "GET", "/v1/usercerts", nil, &list)
		if len(list.Certs) != 0 {
			t.Errorf("a member %s sees others' certificates: %+v", name, list.Certs)
		}
		c.Want(t, http.StatusForbidden, "GET", "/v1/usercerts", nil, nil, "X-Auth-All-Projects", "True")
	}
	// For oneself, but in a project where one has no role.
	asMallory.Want(t, http.StatusForbidden, "POST", "/v1/usercerts",
		deployment.Object{"user_id": mallory.ID, "auth_id": h.project, "pub_key": key}, nil)
	// An operator may ask for another, who gets that other's roles and no more.
	var forBob deployment.UserCert
	h.root.Want(t, http.StatusCreated, "POST", "/v1/usercerts",
		deployment.Object{"user_id": bob.ID, "auth_id": h.project, "pub_key": key}, &forBob)
	if forBob.Principals != "member,reader" {
		t.Errorf("the operator got %q for bob, who is a member", forBob.Principals)
	}
}

// TestUserCertificatesAreShort: hours, whoever asks for more.
func TestUserCertificatesAreShort(t *testing.T) {
	t.Parallel()
	h := newHouse(t, deployment.Settings{"role:visitor": {"lifetime": "30m"}})
	life := func(c *deployment.Client, p deployment.Person, body deployment.Object) time.Duration {
		t.Helper()
		var answer deployment.UserCert
		c.Want(t, http.StatusCreated, "POST", "/v1/usercerts", body, &answer)
		cert, err := deployment.Certificate(answer.Cert)
		if err != nil {
			t.Fatal(err)
		}
		return time.Until(time.Unix(int64(cert.ValidBefore), 0))
	}
	alice, asAlice := h.person(t, "alice", "alpha", "member")
	if got := life(asAlice, alice, alice.OwnCert(deployment.NewKey(t))); got > 12*time.Hour || got < 11*time.Hour {
		t.Errorf("by default a certificate lives %v", got)
	}
	visitor, asVisitor := h.person(t, "vera", "alpha", "member", "visitor")
	if got := life(asVisitor, visitor, visitor.OwnCert(deployment.NewKey(t))); got > 30*time.Minute {
		t.Errorf("a visitor's certificate lives %v", got)
	}
	for name, seconds := range map[string]int64{"a year": 365 * 24 * 3600, "more than the maximum": 25 * 3600, "a second": 1, "less than nothing": -1} {
		body := alice.OwnCert(deployment.NewKey(t))
		body["lifetime"] = seconds
		answer := asAlice.Want(t, http.StatusBadRequest, "POST", "/v1/usercerts", body, nil)
		if !strings.Contains(string(answer.Body), "lifetime") {
			t.Errorf("%s: %s", name, answer.Body)
		}
	}
}

// TestSecretsAreSealed: whoever has the database alone has no key and no token.
func TestSecretsAreSealed(t *testing.T) {
	t.Parallel()
	h := newHouse(t, deployment.Settings{"ssh": {"ca_algorithm": "rsa-3072"}})
	instance, token := h.boot(t)
	h.nobody.Want(t, http.StatusOK, "POST", "/noauth/hostcerts", hostKey(instance, token, deployment.NewKey(t)), nil)
	_, unused := h.boot(t)
	files, err := filepath.Glob(h.SQLite() + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no database: %v", err)
	}
	found := false
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found = found || bytes.Contains(content, []byte(instance))
		for what, secret := range map[string]string{
			"a private key (PEM)": "PRIVATE KEY", "a private key (OpenSSH)": "openssh-key-v1",
			// PKCS #8 and PKCS #1 both have the public exponent right before the private one.
			"a private key (DER)": "\x02\x03\x01\x00\x01\x02\x82\x01",
			"a spent token":       token, "a token": unused,
		} {
			if bytes.Contains(content, []byte(secret)) {
				t.Errorf("%s holds %s in clear", filepath.Base(file), what)
			}
		}
	}
	if !found {
		t.Error("the instance is not in the files: these are not the records")
	}
}

// TestHostCertificateNamesItsHost, so that nobody has to trust a project's CA for "*".
func TestHostCertificateNamesItsHost(t *testing.T) {
	t.Parallel()
	h := newHouse(t, deployment.Settings{"ssh": {"host_domains": "example.com"}})
	instance, token := h.boot(t)
	var answer deployment.HostCert
	h.nobody.Want(t, http.StatusOK, "POST", "/noauth/hostcerts", hostKey(instance, token, deployment.NewKey(t)), &answer)
	cert, err := deployment.Certificate(answer.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cert.ValidPrincipals, []string{"vm-1", "vm-1.example.com"}) {
		t.Errorf("principals %q, want the host's name in small letters, and in its domain", cert.ValidPrincipals)
	}
}

// TestStolenTokenIsAnAlarm: a token that comes with another key is refused, recorded and counted.
func TestStolenTokenIsAnAlarm(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	instance, token := h.boot(t)
	other, _ := h.boot(t)
	h.nobody.Want(t, http.StatusOK, "POST", "/noauth/hostcerts", hostKey(instance, token, deployment.NewKey(t)), nil)
	h.nobody.Want(t, http.StatusConflict, "POST", "/noauth/hostcerts", hostKey(instance, token, deployment.NewKey(t)), nil)
	h.nobody.Want(t, http.StatusConflict, "POST", "/noauth/hostcerts", hostKey(other, token, deployment.NewKey(t)), nil)
	h.nobody.Want(t, http.StatusNotFound, "POST", "/noauth/hostcerts", hostKey(instance, deployment.NewID(), deployment.NewKey(t)), nil)
	if got, err := h.nobody.Metric(t.Context(), "muster_host_tokens_misused_total"); err != nil || got != 2 {
		t.Errorf("the metric counts %v misused tokens (%v), want 2", got, err)
	}
	var list struct {
		Entries []struct {
			Outcome  string `json:"outcome"`
			ObjectID string `json:"object_id"`
			Remote   string `json:"remote"`
			Times    int    `json:"times"`
		} `json:"audit"`
	}
	h.root.Want(t, http.StatusOK, "GET", "/v1/audit?action=hostcert.issue", nil, &list, "X-Auth-All-Projects", "True")
	refused := 0
	for _, entry := range list.Entries {
		if entry.Outcome == "refused" && entry.ObjectID == instance && entry.Remote == "127.0.0.1" {
			refused += entry.Times // those of a minute are one entry
		}
	}
	if refused != 2 {
		t.Errorf("%d refusals in the audit, want 2: %+v", refused, list.Entries)
	}
}

// TestRolesThatAreNoAccounts are left out, and never harm.
func TestRolesThatAreNoAccounts(t *testing.T) {
	t.Parallel()
	h := newHouse(t, deployment.Settings{"ssh": {"role_accounts": "Project Boss:boss"}})
	bad := []string{"My Role", "root", "../x", strings.Repeat("r", 40), "sshd", "ro\u0308le", "-rf", "a,b"}
	alice, asAlice := h.person(t, "alice", "alpha", append(slices.Clone(bad), "operator-1", "Project Boss")...)
	var cert deployment.UserCert
	asAlice.Want(t, http.StatusCreated, "POST", "/v1/usercerts", alice.OwnCert(deployment.NewKey(t)), &cert)
	if cert.Principals != "boss,operator-1" {
		t.Errorf("principals %q, want only those that can be accounts", cert.Principals)
	}
	bob, asBob := h.person(t, "bob", "alpha", bad...)
	answer := asBob.Want(t, http.StatusForbidden, "POST", "/v1/usercerts", bob.OwnCert(deployment.NewKey(t)), nil)
	if !strings.Contains(string(answer.Body), "root") {
		t.Errorf("the refusal gives no reason: %s", answer.Body)
	}
	var data struct{ Users string }
	h.nova.Want(t, http.StatusCreated, "POST", "/v1/novavendordata", deployment.Object{
		"project-id": h.project, "instance-id": deployment.NewID(), "hostname": "vm",
	}, &data)
	if data.Users != "boss,operator-1" {
		t.Errorf("instances make the accounts %q", data.Users)
	}
}

// TestOneQueryForRoles: what Keystone is asked for a certificate does not grow
// with the number of roles.
func TestOneQueryForRoles(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var asked []string
	var forward atomic.Pointer[httputil.ReverseProxy]
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Method+" "+r.URL.String())
		mu.Unlock()
		forward.Load().ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	h := &house{Deployment: deployment.New(t, deployment.Options{Settings: deployment.Settings{
		"keystone_authtoken": {"auth_url": proxy.URL + "/identity/v3"},
	}})}
	target, err := url.Parse(h.Cloud.MetadataURL())
	if err != nil {
		t.Fatal(err)
	}
	forward.Store(httputil.NewSingleHostReverseProxy(target))
	h.project = h.Project(t, "alpha")
	h.url = h.Start(t).URL
	requests := func(name string, roles ...string) int {
		p, c := h.person(t, name, "alpha", roles...)
		mu.Lock()
		asked = nil
		mu.Unlock()
		c.Want(t, http.StatusCreated, "POST", "/v1/usercerts", p.OwnCert(deployment.NewKey(t)), nil)
		mu.Lock()
		defer mu.Unlock()
		t.Logf("%s: %q", name, asked)
		return len(asked)
	}
	requests("first", "member") // logs Muster in
	few := requests("few", "member")
	var roles []string
	for n := range 40 {
		roles = append(roles, fmt.Sprintf("role-%d", n))
	}
	if many := requests("many", roles...); many != few || few == 0 {
		t.Errorf("%d requests for one role, %d for %d", few, many, len(roles))
	}
}

// TestUnchangedListCostsNothing: who has the list gets 304 without a body, and
// who waits hears of a change at once.
func TestUnchangedListCostsNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	alice, asAlice := h.person(t, "alice", "alpha", "member")
	var cert deployment.UserCert
	asAlice.Want(t, http.StatusCreated, "POST", "/v1/usercerts", alice.OwnCert(deployment.NewKey(t)), &cert)
	path := "/noauth/revokeduserkeys/" + h.project
	etag := h.nobody.Want(t, http.StatusOK, "GET", path, nil, nil).Header.Get("Etag")
	if answer := h.nobody.Want(t, http.StatusNotModified, "GET", path, nil, nil, "If-None-Match", etag); len(answer.Body) != 0 {
		t.Errorf("304 with a body of %d bytes", len(answer.Body))
	}
	begin := time.Now()
	h.nobody.Want(t, http.StatusNotModified, "GET", path+"?wait=1", nil, nil, "If-None-Match", etag)
	if waited := time.Since(begin); waited < 900*time.Millisecond {
		t.Errorf("a long poll of one second was answered after %v though nothing changed", waited)
	}
	changed := make(chan deployment.Answer, 1)
	go func() {
		answer, err := h.nobody.Call(t.Context(), "GET", path+"?wait=240", nil, "If-None-Match", etag)
		if err != nil {
			t.Error(err)
		}
		changed <- answer
	}()
	if err := h.nobody.AwaitWaiters(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	h.root.Want(t, http.StatusOK, "POST", "/v1/revokeduserkeys/"+h.project, deployment.Object{"serial": cert.Serial}, nil)
	revoked := time.Now()
	answer := <-changed
	took := time.Since(revoked)
	t.Logf("a change was answered after %v", took)
	// A busy machine takes its time; whom nobody wakes waits for minutes.
	if answer.Status != http.StatusOK || answer.Header.Get("Etag") == etag || took > time.Minute {
		t.Errorf("a change was answered with %d after %v", answer.Status, took)
	}
}
