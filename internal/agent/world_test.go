// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/metadata"
	"github.com/muster-cloud/muster/internal/agent/muster"
	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/sshca/krl"
)

const (
	instanceID = "d8e02d56264849a3bf976be8f1204f38"
	projectID  = "39a37b95df2f4d3c8bb9d3a4a4b0e7b1"
	lifetime   = 48 * time.Hour
)

// cloud is Nova and Muster, as one instance sees them.
type cloud struct {
	t      *testing.T
	hostCA ssh.Signer

	mu       sync.Mutex
	away     bool // Muster does not answer
	refuse   int  // status of signed calls, 0: they are answered
	token    string
	spent    string // the keys that the token was spent on
	found    metadata.Instance
	foundErr error
	state    agentapi.State
	userCA   ssh.Signer // signs the list; nil: nobody
	list     krl.List
	changed  chan struct{} // closed when the list changes
	serial   uint64
	certs    map[string]string // by key
	reports  []string
	calls    map[string]int
}

func newCloud(t *testing.T) *cloud {
	c := &cloud{
		t: t, hostCA: agenttest.NewSigner(t), userCA: agenttest.NewSigner(t), token: "t1", changed: make(chan struct{}),
		certs: map[string]string{}, calls: map[string]int{},
	}
	c.found = metadata.Instance{
		ID: instanceID, ProjectID: projectID, Hostname: "web", Source: "test", Token: "t1", Endpoint: "http://muster",
	}
	c.state = agentapi.State{
		Version: "v1", ProjectID: projectID, Hostname: "web", Names: []string{"web"}, UserCAs: []string{agenttest.Line(c.userCA.PublicKey())},
		Accounts: []agentapi.Account{{Name: "member"}, {Name: "admin", Sudo: true}}, SSHPort: 22, PollSeconds: 60, LongPollSeconds: 50,
	}
	c.list = krl.List{Version: 1, Comment: projectID}
	return c
}

// called is how often a call was made.
func (c *cloud) called(call string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[call]
}

// told is what the instance said of joining.
func (c *cloud) told() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.reports)
}

// do alters the cloud.
func (c *cloud) do(alter func(c *cloud)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	alter(c)
}

// revoke makes a new list.
func (c *cloud) revoke(version uint64) {
	c.list.Version = version
	c.list.Authorities = []krl.Authority{{Key: c.userCA.PublicKey(), Serials: []uint64{version}}}
	close(c.changed)
	c.changed = make(chan struct{})
}

// enter begins a call.
func (c *cloud) enter(call string, signed bool) (leave func(), err error) {
	c.mu.Lock()
	c.calls[call]++
	switch {
	case c.away:
		err = fmt.Errorf("%w: connection refused", muster.ErrAway)
	case signed && c.refuse != 0:
		err = &muster.Refusal{Status: c.refuse}
	}
	return c.mu.Unlock, err
}

func (c *cloud) Find(context.Context) (metadata.Instance, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls["find"]++
	return c.found, c.foundErr
}

func (c *cloud) FindCurrent(ctx context.Context) (metadata.Instance, error) { return c.Find(ctx) }

func (c *cloud) Skew() time.Duration { return 0 }

func (c *cloud) HostCerts(_ context.Context, token string, keys []string) ([]agentapi.HostCert, error) {
	leave, err := c.enter("hostcerts", false)
	defer leave()
	switch set := strings.Join(keys, "\n"); {
	case err != nil:
		return nil, err
	case token != c.token:
		return nil, &muster.Refusal{Status: http.StatusNotFound}
	case c.spent != "" && c.spent != set:
		return nil, &muster.Refusal{Status: http.StatusConflict}
	default:
		c.spent = set
	}
	return c.issue(keys), nil
}

func (c *cloud) Renew(_ context.Context, signer ssh.Signer, keys []string) ([]agentapi.HostCert, error) {
	leave, err := c.enter("renew", true)
	defer leave()
	if err == nil {
		err = c.accept(signer)
	}
	if err != nil {
		return nil, err
	}
	return c.issue(keys), nil
}

// accept tells whether a host key has a certificate.
func (c *cloud) accept(signer ssh.Signer) error {
	cert, err := muster.ParseCert(c.certs[agenttest.Line(signer.PublicKey())])
	if err != nil || !validAt(cert, time.Now()) {
		return &muster.Refusal{Status: http.StatusForbidden}
	}
	return nil
}

func (c *cloud) issue(keys []string) []agentapi.HostCert {
	var out []agentapi.HostCert
	for _, key := range keys {
		public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key))
		if err != nil {
			c.t.Fatal(err)
		}
		if strings.HasPrefix(key, "ssh-dss ") || strings.HasPrefix(key, "ssh-rsa ") {
			c.t.Errorf("certified: %.20s", key)
		}
		c.serial++
		cert := &ssh.Certificate{
			Key: public, Serial: c.serial, CertType: ssh.HostCert, KeyId: "web", ValidPrincipals: slices.Clone(c.state.Names),
			ValidAfter: uint64(time.Now().Unix()) - 60, ValidBefore: uint64(time.Now().Add(lifetime).Unix()),
		}
		if err := cert.SignCert(rand.Reader, c.hostCA); err != nil {
			c.t.Fatal(err)
		}
		c.certs[key] = agenttest.Line(cert)
		out = append(out, agentapi.HostCert{PubKey: key, Cert: agenttest.Line(cert), Serial: c.serial})
	}
	return out
}

func (c *cloud) State(_ context.Context, signer ssh.Signer) (agentapi.State, error) {
	leave, err := c.enter("state", true)
	defer leave()
	if err == nil {
		err = c.accept(signer)
	}
	return c.state, err
}

func (c *cloud) RevokedKeys(ctx context.Context, etag string, wait time.Duration) (*muster.List, error) {
	leave, err := c.enter("list", false)
	changed, tag := c.changed, fmt.Sprint(c.list.Version)
	leave()
	if err != nil {
		return nil, err
	}
	if tag == etag {
		select {
		case <-time.After(wait):
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
	leave, err = c.enter("list answered", false)
	defer leave()
	if err != nil {
		return nil, err
	}
	raw, err := c.list.Marshal()
	if err != nil {
		c.t.Fatal(err)
	}
	list := &muster.List{Raw: raw, ETag: fmt.Sprint(c.list.Version)}
	if c.userCA != nil {
		if list.Signature, err = agentapi.SignList(c.userCA, raw); err != nil {
			c.t.Fatal(err)
		}
	}
	return list, nil
}

func (c *cloud) ReportEnrolment(_ context.Context, signer ssh.Signer, outcome, reason string) error {
	leave, err := c.enter("report", true)
	defer leave()
	if err == nil {
		err = c.accept(signer)
	}
	if err == nil {
		c.reports = append(c.reports, strings.TrimSpace(outcome+" "+reason))
		if outcome == agentapi.OutcomeEnrolled {
			c.state.IPA.Done = true
		}
	}
	return err
}

// host is the machine: two host keys, and what was made of it.
type host struct {
	mu         sync.Mutex
	signers    []ssh.Signer
	old        []HostKey // that nobody certifies
	revoked    []byte
	lists      int // times that the list was replaced
	want       Want
	configured int
	asked      func() // called when the machine is asked for its warnings
	fail       error  // of Configure and SetRevoked
	shut       error  // of Configure, which did all the same
	joined     bool
	joins      []string
	joinErr    error
}

func newHost(t *testing.T) *host {
	return &host{signers: []ssh.Signer{agenttest.NewSigner(t), agenttest.NewSigner(t)}}
}

func (h *host) do(alter func(h *host)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	alter(h)
}

// wanted, times and tried are what the agent did so far.
func (h *host) wanted() Want {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.want
}

func (h *host) times() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.configured
}

func (h *host) tried() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.joins)
}

func (h *host) HostKeys(context.Context) ([]HostKey, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys := slices.Clone(h.old)
	for i, signer := range h.signers {
		keys = append(keys, HostKey{Path: fmt.Sprintf("/etc/ssh/ssh_host_%d_key", i), Public: agenttest.Line(signer.PublicKey())})
	}
	return keys, nil
}

func (h *host) Signer(key HostKey) (ssh.Signer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, signer := range h.signers {
		if agenttest.Line(signer.PublicKey()) == key.Public {
			return signer, nil
		}
	}
	return nil, errors.New("no such key")
}

func (h *host) Configure(_ context.Context, want Want) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return false, h.fail
	}
	h.want = want
	h.configured++
	return true, h.shut
}

func (h *host) Warnings() []string {
	if h.asked != nil {
		h.asked()
	}
	return []string{"the image has its own mind"}
}

func (h *host) Revoked() ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bytes.Clone(h.revoked), nil
}

func (h *host) SetRevoked(_ context.Context, list []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return h.fail
	}
	h.revoked = list
	h.lists++
	return nil
}

func (h *host) version(t *testing.T) uint64 {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	list, err := krl.Parse(h.revoked)
	if err != nil {
		t.Fatal(err)
	}
	return list.Version
}

func (h *host) Joined() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.joined
}

func (h *host) Join(_ context.Context, to agentapi.IPA, password string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.joins = append(h.joins, to.FQDN+" "+password)
	h.joined = h.joinErr == nil
	return h.joinErr
}

// log keeps what an agent says.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), words)
}

// life is an agent that runs.
type life struct {
	t     *testing.T
	cloud *cloud
	host  *host
	log   *log
	dir   string
	stop  context.CancelFunc
	ended chan error
}

func newLife(t *testing.T) *life {
	return &life{t: t, cloud: newCloud(t), host: newHost(t), log: &log{}, dir: t.TempDir()}
}

func (l *life) agent() *Agent {
	l.t.Helper()
	a, err := New(Config{
		Finder: l.cloud, Machine: l.host, Connect: func(Identity) (Muster, error) { return l.cloud, nil },
		StateDir: l.dir, RunDir: l.dir, Earliest: time.Unix(1, 0), Log: slog.New(slog.NewTextHandler(l.log, nil)),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return a
}

// start runs an agent until end is called.
func (l *life) start() {
	ctx, stop := context.WithCancel(l.t.Context())
	l.stop, l.ended = stop, make(chan error, 1)
	a := l.agent()
	go func() { l.ended <- a.Run(ctx) }()
}

func (l *life) end() {
	l.t.Helper()
	l.stop()
	if err := <-l.ended; !errors.Is(err, context.Canceled) {
		l.t.Errorf("Run: %v", err)
	}
}

func (l *life) status() *Status {
	l.t.Helper()
	status, err := ReadStatus(l.dir)
	if err != nil {
		l.t.Fatal(err)
	}
	return status
}

// all is how often each call was made.
func (c *cloud) all() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.calls)
}
