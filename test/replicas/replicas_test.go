// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package replicas lets two replicas on one database be one Muster to their
// clients.
package replicas

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/sshca/krl"
	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

var databases services.Databases

func TestMain(m *testing.M) { os.Exit(databases.Main(m)) }

// pair is two replicas and those who ask them.
type pair struct {
	*deployment.Deployment
	urls  [2]string
	alice deployment.Person
	nova  deployment.Person
	root  deployment.Person
}

// onBoth runs a test on PostgreSQL and on MariaDB. SQLite is for one replica.
func onBoth(t *testing.T, test func(*testing.T, *pair)) {
	for name, database := range map[string]func(testing.TB) string{"PostgreSQL": databases.PostgreSQL, "MariaDB": databases.MariaDB} {
		t.Run(name, func(t *testing.T) {
			d := deployment.New(t, deployment.Options{Database: database(t)})
			d.Project(t, "alpha")
			p := &pair{Deployment: d, alice: d.Person(t, "alice", "alpha", "member"), nova: d.Nova(t), root: d.Operator(t)}
			for i := range p.urls {
				p.urls[i] = d.Start(t).URL
			}
			test(t, p)
		})
	}
}

// both returns a person's client for each replica.
func (p *pair) both(person deployment.Person) [2]*deployment.Client {
	first := deployment.As(p.urls[0], person)
	return [2]*deployment.Client{first, first.At(p.urls[1])}
}

// atOnce makes simultaneous calls and returns the answers in the order of the calls.
func atOnce(t *testing.T, calls ...func(context.Context) (deployment.Answer, error)) []deployment.Answer {
	t.Helper()
	answers := make([]deployment.Answer, len(calls))
	start := make(chan struct{})
	var running sync.WaitGroup
	for i, call := range calls {
		running.Go(func() {
			<-start
			var err error
			if answers[i], err = call(t.Context()); err != nil {
				t.Errorf("call %d: %v", i, err)
			}
		})
	}
	close(start)
	running.Wait()
	return answers
}

func post(c *deployment.Client, path string, body any) func(context.Context) (deployment.Answer, error) {
	return func(ctx context.Context) (deployment.Answer, error) { return c.Call(ctx, "POST", path, body) }
}

// count tells how many answers have each status.
func count(answers []deployment.Answer) map[int]int {
	statuses := make(map[int]int)
	for _, a := range answers {
		statuses[a.Status]++
	}
	return statuses
}

// rounds is how often a race is run: it must not be won by luck.
const rounds = 20

func TestAuthorityIsMadeOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, p *pair) {
		clients := p.both(p.root)
		for round := range rounds {
			project := p.Project(t, fmt.Sprintf("race-%d", round))
			body := deployment.Object{"auth_id": project}
			answers := atOnce(t, post(clients[0], "/v1/authorities", body), post(clients[1], "/v1/authorities", body))
			if got := count(answers); got[http.StatusCreated] != 1 || got[http.StatusConflict] != 1 {
				t.Fatalf("round %d: statuses %v, want one 201 and one 409", round, got)
			}
			var seen [2]struct {
				User string `json:"user_pub_key"`
				Host string `json:"host_pub_key"`
			}
			for i, c := range clients {
				c.Want(t, http.StatusOK, "GET", "/v1/authorities/"+project, nil, &seen[i])
			}
			if seen[0] != seen[1] || seen[0].User == "" || seen[0].Host == "" {
				t.Fatalf("round %d: the replicas have different authorities: %v", round, seen)
			}
		}
	})
}

func TestHostTokenIsTheSame(t *testing.T) {
	onBoth(t, func(t *testing.T, p *pair) {
		clients := p.both(p.nova)
		for round := range rounds {
			instance := deployment.NewID()
			direct := deployment.Object{"host_id": instance, "auth_id": p.alice.ProjectID, "hostname": "vm"}
			nova := deployment.Object{"instance-id": instance, "project-id": p.alice.ProjectID, "hostname": "vm"}
			answers := atOnce(t,
				post(clients[0], "/v1/hosttokens", direct), post(clients[1], "/v1/hosttokens", direct),
				post(clients[0], "/v1/novavendordata", nova), post(clients[1], "/v1/novavendordata", nova),
			)
			tokens := make(map[string]bool)
			for i, a := range answers {
				var token struct {
					ID    string `json:"token_id"`
					Token string `json:"token"`
				}
				if err := a.Decode(&token); err != nil || a.Status != http.StatusCreated {
					t.Fatalf("round %d, answer %d: %d %s %v", round, i, a.Status, a.Body, err)
				}
				tokens[token.ID+token.Token] = true
			}
			if len(tokens) != 1 {
				t.Fatalf("round %d: %d different tokens for one instance", round, len(tokens))
			}
		}
	})
}

func TestTokenIsSpentOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, p *pair) {
		novas, anybody := p.both(p.nova), p.both(deployment.Person{})
		for round := range rounds {
			instance := deployment.NewID()
			var token deployment.HostToken
			novas[0].Want(t, http.StatusCreated, "POST", "/v1/hosttokens",
				deployment.Object{"host_id": instance, "auth_id": p.alice.ProjectID, "hostname": "vm"}, &token)
			body := func() deployment.Object {
				return deployment.Object{"host_id": instance, "token_id": token.TokenID, "pub_key": deployment.NewKey(t)}
			}
			bodies := []deployment.Object{body(), body()}
			answers := atOnce(t,
				post(anybody[0], "/noauth/hostcerts", bodies[0]), post(anybody[1], "/noauth/hostcerts", bodies[1]))
			if got := count(answers); got[http.StatusOK] != 1 || got[http.StatusConflict] != 1 {
				t.Fatalf("round %d: statuses %v, want one 200 and one 409", round, got)
			}
			winner := 0
			if answers[1].Status == http.StatusOK {
				winner = 1
			}
			// The same key again, from either replica: the same certificate.
			var first, again deployment.HostCert
			if err := answers[winner].Decode(&first); err != nil {
				t.Fatal(err)
			}
			for i := range anybody {
				anybody[i].Want(t, http.StatusOK, "POST", "/noauth/hostcerts", bodies[winner], &again)
				if again.Cert != first.Cert {
					t.Fatalf("round %d: replica %d has another certificate for the same key", round, i)
				}
				anybody[i].Want(t, http.StatusConflict, "POST", "/noauth/hostcerts", bodies[1-winner], nil)
			}
		}
	})
}

// TestUserCertificates: every certificate that is given out is recorded, and a
// key that has one gets it again, whichever replica is asked.
func TestUserCertificates(t *testing.T) {
	onBoth(t, func(t *testing.T, p *pair) {
		clients := p.both(p.alice)
		for round := range rounds {
			body := p.alice.OwnCert(deployment.NewKey(t))
			answers := atOnce(t, post(clients[0], "/v1/usercerts", body), post(clients[1], "/v1/usercerts", body))
			for i, a := range answers {
				var cert, recorded deployment.UserCert
				if err := a.Decode(&cert); err != nil || a.Status != http.StatusCreated {
					t.Fatalf("round %d: %d %s %v", round, a.Status, a.Body, err)
				}
				clients[1-i].Want(t, http.StatusOK, "GET", fmt.Sprintf("/v1/usercerts/%d", cert.Serial), nil, &recorded)
				if recorded.Cert != cert.Cert {
					t.Fatalf("round %d: the other replica has another certificate %d", round, cert.Serial)
				}
			}
			var again [2]deployment.UserCert
			for i, c := range clients {
				c.Want(t, http.StatusCreated, "POST", "/v1/usercerts", body, &again[i])
			}
			if again[0].Serial != again[1].Serial {
				t.Fatalf("round %d: the replicas gave %d and %d for one key", round, again[0].Serial, again[1].Serial)
			}
		}
	})
}

// visible is how soon a revocation must be seen at the other replica. A second
// is wanted, and logged; the limit is for machines that are busy. A poll that
// nobody wakes waits for longer.
const visible = time.Minute

func TestRevocationIsSeenByTheOther(t *testing.T) {
	onBoth(t, func(t *testing.T, p *pair) {
		clients, anybody := p.both(p.alice), p.both(deployment.Person{})
		list := "/noauth/revokeduserkeys/" + p.alice.ProjectID
		var cert deployment.UserCert
		for round := range 6 {
			here, there := round%2, 1-round%2
			clients[here].Want(t, http.StatusCreated, "POST", "/v1/usercerts", p.alice.OwnCert(deployment.NewKey(t)), &cert)
			parsed, err := deployment.Certificate(cert.Cert)
			if err != nil {
				t.Fatal(err)
			}
			etag := anybody[there].Want(t, http.StatusOK, "GET", list, nil, nil).Header.Get("Etag")
			type waited struct {
				answer deployment.Answer
				at     time.Time
				err    error
			}
			woken := make(chan waited, 1)
			go func() {
				answer, err := anybody[there].Call(t.Context(), "GET", list+"?wait=240", nil,
					"If-None-Match", etag, "Accept", "application/octet-stream")
				woken <- waited{answer, time.Now(), err}
			}()
			awaitWaiters(t, anybody[there])
			asRoot := deployment.As(p.urls[here], p.root)
			asRoot.Want(t, http.StatusOK, "POST", "/v1/revokeduserkeys/"+p.alice.ProjectID, deployment.Object{"serial": cert.Serial}, nil)
			committed := time.Now()
			w := <-woken
			if w.err != nil || w.answer.Status != http.StatusOK {
				t.Fatalf("round %d: long poll: %d %v", round, w.answer.Status, w.err)
			}
			late := w.at.Sub(committed)
			t.Logf("round %d: the other replica's long poll answered after %v", round, late)
			if late > visible {
				t.Errorf("round %d: the other replica's long poll answered after %v", round, late)
			}
			for i, c := range anybody {
				answer := c.Want(t, http.StatusOK, "GET", list, nil, nil, "Accept", "application/octet-stream")
				revoked, err := krl.Parse(answer.Body)
				if err != nil || !revoked.Revoked(parsed) {
					t.Errorf("round %d: replica %d doesn't have the revocation: %v", round, i, err)
				}
				if got := answer.Header.Get("Etag"); got != w.answer.Header.Get("Etag") {
					t.Errorf("round %d: replica %d answers with ETag %s, the other with %s", round, i, got, w.answer.Header.Get("Etag"))
				}
			}
		}
	})
}

// TestEndedInstance: an instance that was deleted is at its end everywhere.
func TestEndedInstance(t *testing.T) {
	onBoth(t, func(t *testing.T, p *pair) {
		instance := deployment.NewID()
		novas, anybody, roots := p.both(p.nova), p.both(deployment.Person{}), p.both(p.root)
		var token deployment.HostToken
		order := deployment.Object{"host_id": instance, "auth_id": p.alice.ProjectID, "hostname": "vm"}
		novas[0].Want(t, http.StatusCreated, "POST", "/v1/hosttokens", order, &token)
		var cert deployment.HostCert
		key := deployment.Object{"host_id": instance, "token_id": token.TokenID, "pub_key": deployment.NewKey(t)}
		anybody[1].Want(t, http.StatusOK, "POST", "/noauth/hostcerts", key, &cert)
		list := "/noauth/revokeduserkeys/" + p.alice.ProjectID
		anybody[0].Want(t, http.StatusOK, "GET", list, nil, nil) // from now on it is in memory
		roots[0].Want(t, http.StatusNoContent, "DELETE", "/v1/hosts/"+instance, nil, nil)

		parsed, err := deployment.Certificate(cert.Cert)
		if err != nil {
			t.Fatal(err)
		}
		answer := anybody[0].Want(t, http.StatusOK, "GET", list, nil, nil, "Accept", "application/octet-stream")
		if revoked, err := krl.Parse(answer.Body); err != nil || !revoked.Revoked(parsed) {
			t.Errorf("the replica that ended the instance doesn't list its certificate: %v", err)
		}
		for i := range p.urls {
			anybody[i].Want(t, http.StatusNotFound, "POST", "/noauth/hostcerts", key, nil)
			novas[i].Want(t, http.StatusConflict, "POST", "/v1/hosttokens", order, nil)
			roots[i].Want(t, http.StatusNotFound, "GET", "/v1/hosts/"+instance, nil, nil)
		}
	})
}

// TestOwnerOfAnInstance: of two projects that name one instance at once, one has it.
func TestOwnerOfAnInstance(t *testing.T) {
	onBoth(t, func(t *testing.T, p *pair) {
		other := p.Project(t, "beta")
		clients := p.both(p.nova)
		for round := range rounds {
			instance := deployment.NewID()
			order := func(project string) deployment.Object {
				return deployment.Object{"host_id": instance, "auth_id": project, "hostname": "vm"}
			}
			answers := atOnce(t, post(clients[0], "/v1/hosttokens", order(p.alice.ProjectID)), post(clients[1], "/v1/hosttokens", order(other)))
			if got := count(answers); got[http.StatusCreated] != 1 || got[http.StatusConflict] != 1 {
				t.Fatalf("round %d: statuses %v, want one 201 and one 409", round, got)
			}
		}
	})
}

// awaitWaiters returns when a long poll waits at the replica.
func awaitWaiters(t *testing.T, c *deployment.Client) {
	t.Helper()
	if err := c.AwaitWaiters(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
}
