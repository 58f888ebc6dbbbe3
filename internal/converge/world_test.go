// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/compute"
	"github.com/muster-cloud/muster/internal/devcloud/devcloudtest"
	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/internal/uuid"
)

// world is a cloud, and what Muster keeps of it.
type world struct {
	t        testing.TB
	cloud    *devcloud.Cloud
	clock    *clock
	store    *store.Store
	ca       *sshca.Service
	keystone *keystone.Client
	enrolled *enrolments
	cfg      converge.Config
	queue    *converge.Queue
	endQueue func()
	compare  *converge.Comparison
	token    string // the administrator's
}

// clock runs, and can be set forward.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// enrolments notes what was ordered.
type enrolments struct {
	mu            sync.Mutex
	left, rebuilt []string
	updated       []string
	err           error
}

func (e *enrolments) Leave(_ context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.left = append(e.left, id)
	return e.err
}

func (e *enrolments) Rebuild(_ context.Context, id string, _ time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rebuilt = append(e.rebuilt, id)
	return e.err
}

func (e *enrolments) Update(_ context.Context, id string, metadata map[string]string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.updated = append(e.updated, id+" "+metadata["compact_service_HTTP"])
	return e.err
}

func (e *enrolments) Differs(_ store.Enrolment, metadata map[string]string) bool {
	return metadata["compact_service_HTTP"] != ""
}

func (e *enrolments) Astray(context.Context, []store.Enrolment) ([]string, error) { return nil, nil }

func (e *enrolments) Mend(context.Context, string) error { return nil }

const (
	adminPassword  = "admin-password"
	musterPassword = "muster-password"
	// patience is the limit of what always comes, on a machine that is busy, too.
	patience = 3 * time.Minute
)

func newWorld(t testing.TB) *world {
	t.Helper()
	w := newWorldWith(t, nil)
	w.rebuildControllers()
	return w
}

// newWorldWith has a FreeIPA too, unless it is nil. Nobody works on keys yet.
func newWorldWith(t testing.TB, directory *freeipa.Config) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{}, enrolled: &enrolments{}}
	w.cloud = devcloudtest.Start(t, devcloud.Config{FreeIPA: directory,
		Passwords: map[string]string{"admin": adminPassword, "muster": musterPassword}})
	var err error
	if w.token, err = w.cloud.Identity.Token("admin", adminPassword, "admin"); err != nil {
		t.Fatal(err)
	}
	w.store = openStore(t, w.clock)
	w.keystone, err = keystone.New(keystone.Config{
		AuthURL: w.cloud.AuthURL(), Username: "muster", Password: musterPassword, UserDomainID: "default",
		ProjectName: "service", ProjectDomainID: "default", Timeout: patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.buildAuthority()
	w.cfg = converge.Config{
		Keystone: w.keystone, Caches: w.keystone, Nova: w.newNova(), Authority: w.ca, Records: w.store, Enrolments: w.enrolled,
		CallsPerSecond: 100_000, Now: w.clock.Now,
	}
	return w
}

func openStore(t testing.TB, now *clock) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{URL: "sqlite:///" + filepath.Join(t.TempDir(), "muster.db"), Now: now.Now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Upgrade(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
	return s
}

// run runs something until the test ends.
func run(t testing.TB, long func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- long(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (w *world) buildAuthority() {
	w.t.Helper()
	keyring, err := custody.ParseKeyring(strings.NewReader(custody.NewMasterKey()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.ca, err = sshca.New(sshca.Config{
		Store: w.store, Custody: custody.NewSealed(keyring), Sealer: keyring, Directory: w.keystone,
		Algorithm: "ed25519",
		User:      sshca.UserRules{Lifetime: 8 * time.Hour, MaxLifetime: 24 * time.Hour},
		Host:      sshca.HostRules{Lifetime: 30 * 24 * time.Hour, TokenLifetime: time.Hour},
		Now:       w.clock.Now,
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// rebuildControllers takes over a change of w.cfg.
func (w *world) rebuildControllers() {
	w.t.Helper()
	controllers, err := converge.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.queue, err = converge.NewQueue(converge.QueueConfig{Controller: controllers, Pending: w.store, Now: w.clock.Now, Recheck: 6 * time.Second,
		PollInterval: 10 * time.Millisecond})
	if err != nil {
		w.t.Fatal(err)
	}
	w.compare, err = converge.NewComparison(converge.ComparisonConfig{Controllers: controllers, Queue: w.queue, Leases: w.store, Holder: "here",
		Now: w.clock.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	w.endQueue = end
	queue := w.queue
	run(w.t, func(outer context.Context) error {
		stop := context.AfterFunc(outer, end)
		defer stop()
		return queue.Run(ctx)
	})
}

// restart takes over a change of w.cfg, and works on keys in no other way.
func (w *world) restart() {
	w.endQueue()
	w.rebuildControllers()
}

// ask makes an administrator's call to Keystone.
func (w *world) ask(method, path string, body any) map[string]any {
	w.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(w.t.Context(), method, w.cloud.AuthURL()+path, bytes.NewReader(text))
	if err != nil {
		w.t.Fatal(err)
	}
	request.Header.Set("X-Auth-Token", w.token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= 300 {
		w.t.Fatal(method, path, response.Status, string(raw), err)
	}
	var answer map[string]any
	_ = json.Unmarshal(raw, &answer) // some answers have no body
	return answer
}

func (w *world) create(kind string, fields map[string]any) string {
	w.t.Helper()
	return w.ask("POST", "/"+kind+"s", map[string]any{kind: fields})[kind].(map[string]any)["id"].(string)
}

func (w *world) disable(kind, id string) {
	w.t.Helper()
	w.ask("PATCH", "/"+kind+"s/"+id, map[string]any{kind: map[string]any{"enabled": false}})
}

// person is a user with certificates in a project.
type person struct{ user, project string }

// newPerson makes a user and a project, both in a new domain.
func (w *world) newPerson() (p person, domain string) {
	w.t.Helper()
	domain = w.create("domain", map[string]any{"name": rand.Text()})
	p.user = w.create("user", map[string]any{"name": rand.Text(), "domain_id": domain, "password": "secret"})
	p.project = w.create("project", map[string]any{"name": rand.Text(), "domain_id": domain})
	return p, domain
}

func (w *world) role(name string) string {
	w.t.Helper()
	if id := w.cloud.Identity.RoleID(name); id != "" {
		return id
	}
	return w.create("role", map[string]any{"name": name})
}

// newKey is a public key as a line.
func newKey(t testing.TB) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(key))
}

// issue gives the person a certificate for a new key.
func (w *world) issue(p person) store.UserCert {
	w.t.Helper()
	w.keystone.ForgetUser(p.user)
	cert, err := w.ca.IssueUser(w.t.Context(), sshca.Actor{UserID: p.user}, sshca.UserRequest{
		ProjectID: p.project, UserID: p.user, UserName: "somebody", PublicKey: newKey(w.t),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return cert
}

// live are the principals of the person's certificates that are good.
func (w *world) live(p person) []string {
	w.t.Helper()
	certs, err := w.store.LiveUserCerts(w.t.Context(), store.Filter{UserID: p.user, ProjectID: p.project}, store.Page{})
	if err != nil {
		w.t.Fatal(err)
	}
	var all []string
	for _, cert := range certs {
		all = append(all, strings.Join(cert.Principals, ","))
	}
	slices.Sort(all)
	return all
}

// hint offers keys and waits until they were worked on.
func (w *world) hint(keys ...converge.Key) {
	w.t.Helper()
	var hints []converge.Hint
	for _, key := range keys {
		hints = append(hints, converge.Hint{Key: key})
	}
	w.offer(hints...)
}

func (w *world) offer(hints ...converge.Hint) {
	w.t.Helper()
	select {
	case err := <-w.queue.Offer(w.t.Context(), hints):
		if err != nil {
			w.t.Fatal(err)
		}
	case <-time.After(patience):
		w.t.Fatal("the keys were not worked on")
	}
}

// reconcile compares everything.
func (w *world) reconcile(order converge.Order) converge.Report {
	w.t.Helper()
	report, err := w.compare.Reconcile(w.t.Context(), order)
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

// pending are the keys that failed.
func (w *world) pending() (failed []string) {
	w.t.Helper()
	keys, err := w.store.PendingKeys(w.t.Context(), store.Page{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, key := range keys {
		if key.Attempts > 0 {
			failed = append(failed, key.Kind+" "+key.ID+": "+key.LastError)
		}
	}
	return failed
}

// boot starts an instance that asks Muster for its token.
func (w *world) boot(p person) string {
	w.t.Helper()
	id, err := w.cloud.Compute.Boot(w.t.Context(), compute.Server{Name: "web1", ProjectID: p.project, UserID: p.user})
	if err != nil {
		w.t.Fatal(err)
	}
	if id, err = uuid.Parse(id); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.ca.HostToken(w.t.Context(), sshca.Actor{}, sshca.InstanceRequest{InstanceID: id, ProjectID: p.project, Hostname: "web1"}); err != nil {
		w.t.Fatal(err)
	}
	return id
}
