// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/sshca/krl"
	"github.com/muster-cloud/muster/test/deployment"
)

// ledger is all that clients were told, over all rounds.
type ledger struct {
	user, nova *deployment.Client
	person     deployment.Person

	mu      sync.Mutex
	issued  map[uint64]string // user certificates by serial
	hosts   map[string]host   // by instance
	revoked map[uint64]bool   // user certificates whose revocation was answered
	highest uint64            // serial of a user certificate that was checked
	fresh   []string          // instances since the last check
	refused int               // requests that were told to come back later
}

// tells tells whether there is something of each kind, without which nothing is tested.
func (l *ledger) tells() bool { return len(l.issued) > 0 && len(l.revoked) > 0 && len(l.hosts) > 0 }

// host is what an instance was told.
type host struct {
	token, key string
	serial     uint64 // 0: it has no certificate yet
	cert       string
}

func newLedger(d *deployment.Deployment, t *testing.T) *ledger {
	t.Helper()
	d.Project(t, "load")
	l := &ledger{
		person: d.Person(t, "alice", "load", "member", "admin"),
		issued: map[uint64]string{}, hosts: map[string]host{}, revoked: map[uint64]bool{},
	}
	l.user, l.nova = deployment.As("", l.person), deployment.As("", d.Nova(t))
	return l
}

// load asks for everything at once until the context ends.
func (l *ledger) load(ctx context.Context, t *testing.T, url string, seed uint64) {
	t.Helper()
	var workers sync.WaitGroup
	for n := range uint64(3) {
		random := rand.New(rand.NewPCG(seed, n))
		workers.Go(func() {
			for ctx.Err() == nil {
				if err := l.issueAndRevoke(ctx, url, random); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	workers.Go(func() {
		random := rand.New(rand.NewPCG(seed, 99))
		for ctx.Err() == nil {
			if err := l.boot(ctx, url, random); err != nil {
				t.Error(err)
				return
			}
		}
	})
	workers.Wait()
}

func (l *ledger) issueAndRevoke(ctx context.Context, url string, random *rand.Rand) error {
	answer, err := l.user.At(url).Call(ctx, "POST", "/v1/usercerts", l.person.OwnCert(publicKey(random)))
	if err != nil || l.later(answer) {
		return nil // nothing was told
	}
	var cert deployment.UserCert
	if answer.Status != http.StatusCreated {
		return fmt.Errorf("issue: status %d: %s", answer.Status, answer.Body)
	}
	if err := answer.Decode(&cert); err != nil {
		return err
	}
	l.mu.Lock()
	before, twice := l.issued[cert.Serial]
	l.issued[cert.Serial] = cert.Cert
	l.mu.Unlock()
	if twice && before != cert.Cert {
		return fmt.Errorf("serial %d was given to two certificates", cert.Serial)
	}
	if random.IntN(2) == 0 {
		return nil
	}
	answer, err = l.user.At(url).Call(ctx, "POST", "/v1/revokeduserkeys/"+l.person.ProjectID, deployment.Object{"serial": cert.Serial})
	if err != nil || l.later(answer) {
		return nil
	}
	if answer.Status != http.StatusOK {
		return fmt.Errorf("revoke: status %d: %s", answer.Status, answer.Body)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revoked[cert.Serial] = true
	return nil
}

// later tells that the replica could not do it now, and said so.
func (l *ledger) later(answer deployment.Answer) bool {
	if answer.Status != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused++
	return true
}

func (l *ledger) boot(ctx context.Context, url string, random *rand.Rand) error {
	instance := deployment.NewID()
	token, ok, err := l.token(ctx, url, instance)
	if !ok || err != nil {
		return err
	}
	h := host{token: token, key: publicKey(random)}
	l.note(instance, h)
	cert, ok, err := l.hostCert(ctx, url, instance, h)
	if !ok || err != nil {
		return err
	}
	h.serial, h.cert = cert.Serial, cert.Cert
	l.note(instance, h)
	return nil
}

func (l *ledger) note(instance string, h host) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.hosts[instance]; !known {
		l.fresh = append(l.fresh, instance)
	}
	l.hosts[instance] = h
}

// token asks for an instance's token; false if nobody answered.
func (l *ledger) token(ctx context.Context, url, instance string) (string, bool, error) {
	answer, err := l.nova.At(url).Call(ctx, "POST", "/v1/hosttokens",
		deployment.Object{"host_id": instance, "auth_id": l.person.ProjectID, "hostname": "vm"})
	if err != nil || l.later(answer) {
		return "", false, nil
	}
	if answer.Status != http.StatusCreated {
		return "", false, fmt.Errorf("token: status %d: %s", answer.Status, answer.Body)
	}
	var token deployment.HostToken
	err = answer.Decode(&token)
	return token.TokenID, true, err
}

func (l *ledger) hostCert(ctx context.Context, url, instance string, h host) (cert deployment.HostCert, ok bool, err error) {
	answer, err := l.nova.At(url).Call(ctx, "POST", "/noauth/hostcerts",
		deployment.Object{"host_id": instance, "token_id": h.token, "pub_key": h.key})
	if err != nil || l.later(answer) {
		return cert, false, nil
	}
	if answer.Status != http.StatusOK {
		return cert, false, fmt.Errorf("host certificate: status %d: %s", answer.Status, answer.Body)
	}
	return cert, true, answer.Decode(&cert)
}

// check compares what the replica has with what clients were told.
func (l *ledger) check(t *testing.T, url string) {
	t.Helper()
	recorded := l.recorded(t, url, l.highest)
	for serial, cert := range l.issued {
		if serial <= l.highest {
			continue
		}
		switch record, ok := recorded[serial]; {
		case !ok:
			t.Errorf("certificate %d was given out, and is not recorded", serial)
		case record.Cert != cert:
			t.Errorf("certificate %d is recorded otherwise than it was given out", serial)
		}
	}
	l.highest = max(l.highest, slices.Max(append(slices.Collect(maps.Keys(recorded)), 0)))
	for _, instance := range l.fresh {
		l.checkHost(t, url, instance)
	}
	l.fresh = nil
	if len(l.revoked) > 0 {
		l.checkList(t, l.list(t, url))
	}
}

// checkHost asks again for what an instance was told: token and certificate stay.
func (l *ledger) checkHost(t *testing.T, url, instance string) {
	t.Helper()
	told := l.hosts[instance]
	token, ok, err := l.token(t.Context(), url, instance)
	if err != nil || !ok {
		t.Fatalf("the token of instance %s after the crash: %v", instance, err)
	}
	if token != told.token {
		t.Errorf("instance %s was told another token before the crash", instance)
	}
	cert, ok, err := l.hostCert(t.Context(), url, instance, told)
	if err != nil || !ok {
		t.Fatalf("the certificate of instance %s after the crash: %v", instance, err)
	}
	if told.serial != 0 && cert.Cert != told.cert {
		t.Errorf("instance %s was given another certificate before the crash", instance)
	}
	told.serial, told.cert = cert.Serial, cert.Cert
	l.hosts[instance] = told
}

// recorded lists the user certificates with serials above the one given.
func (l *ledger) recorded(t *testing.T, url string, above uint64) map[uint64]deployment.UserCert {
	t.Helper()
	all := make(map[uint64]deployment.UserCert)
	for {
		var page struct {
			Certs []deployment.UserCert `json:"certs"`
			Links struct {
				Next string `json:"next"`
			} `json:"links"`
		}
		l.user.At(url).Want(t, http.StatusOK, "GET", fmt.Sprintf("/v1/usercerts?marker=%d", above), nil, &page)
		for _, cert := range page.Certs {
			all[cert.Serial] = cert
			above = max(above, cert.Serial)
		}
		if page.Links.Next == "" {
			return all
		}
	}
}

// list fetches the project's revocation list.
func (l *ledger) list(t *testing.T, url string) []byte {
	t.Helper()
	var body struct {
		Data string `json:"revoked_keys_data"`
	}
	l.user.At(url).Want(t, http.StatusOK, "GET", "/noauth/revokeduserkeys/"+l.person.ProjectID, nil, &body)
	raw, err := base64.StdEncoding.DecodeString(body.Data)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (l *ledger) checkList(t *testing.T, raw []byte) {
	t.Helper()
	parsed, err := krl.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	for serial := range l.revoked {
		cert, err := deployment.Certificate(l.issued[serial])
		if err != nil {
			t.Fatal(err)
		}
		if !parsed.Revoked(cert) {
			t.Errorf("the revocation of %d was answered, and is not in the list", serial)
		}
	}
}

// checkSerials finds a serial that was given to two certificates, of users or hosts.
func (l *ledger) checkSerials(t *testing.T) {
	t.Helper()
	seen := make(map[uint64]string)
	for serial := range l.issued {
		seen[serial] = "a user certificate"
	}
	for instance, h := range l.hosts {
		if h.serial == 0 {
			continue
		}
		if other, twice := seen[h.serial]; twice {
			t.Errorf("serial %d: the host certificate of %s, and %s", h.serial, instance, other)
		}
		seen[h.serial] = "the host certificate of " + instance
	}
}

// publicKey makes a key pair and returns its public half.
func publicKey(random *rand.Rand) string {
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = byte(random.Uint32())
	}
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(seed).Public())
	if err != nil {
		panic(err) // Ed25519 is known
	}
	return string(ssh.MarshalAuthorizedKey(key))
}
