// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enrolment

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/test/deployment"
)

// Two thousand instances boot while FreeIPA answers nothing at all. Whoever needs nothing of it is answered meanwhile, however
// many wait for it; they are answered without it when it is time; and it gets each of them once when it is back.
func TestStormOnSilentFreeIPA(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: two thousand boots take some seconds")
	}
	const boots = 2000
	// All boots still wait when the others have their answers: they wait for a minute.
	s := newSite(t, deployment.Options{})
	person := s.Person(t, "carol", "shop", "member")
	carol := deployment.As(s.url, person)
	known := deployment.NewID()
	password := s.enrol(t, known, s.project, "known")
	var cert deployment.UserCert
	carol.Want(t, http.StatusCreated, "POST", "/v1/usercerts", person.OwnCert(deployment.NewKey(t)), &cert)

	release := make(chan struct{})
	s.ipa.Inject(func(string) freeipa.Fault {
		<-release
		return freeipa.Fault{}
	})
	var answered atomic.Int64
	var crowd sync.WaitGroup
	defer crowd.Wait()
	ids := make([]string, boots)
	for n := range ids {
		ids[n] = deployment.NewID()
		crowd.Go(func() {
			answer, err := s.nova.Call(context.WithoutCancel(t.Context()), "POST", "/v1", body(ids[n], s.project, fmt.Sprint("vm", n)))
			answered.Add(1)
			if err != nil || answer.Status != http.StatusOK {
				t.Errorf("boot %d: %d %s %v", n, answer.Status, answer.Body, err)
			}
		})
	}
	s.awaitWanted(t, boots)

	// Several of each, so that one free place somewhere is not enough.
	for range 20 {
		carol.Want(t, http.StatusCreated, "POST", "/v1/usercerts", person.OwnCert(deployment.NewKey(t)), nil)
		s.nova.Want(t, http.StatusCreated, "POST", "/v1/novavendordata", body(deployment.NewID(), s.project, "no-enrolment"), nil)
		if again := s.enrol(t, known, s.project, "known"); again != password {
			t.Errorf("the enrolled instance now gets %+v, had %+v", again, password)
		}
		carol.Want(t, http.StatusOK, "GET", "/noauth/revokeduserkeys/"+s.project, nil, nil)
		carol.Want(t, http.StatusOK, "GET", "/healthz", nil, nil)
	}
	carol.Want(t, http.StatusOK, "POST", "/v1/revokeduserkeys/"+s.project, deployment.Object{"serial": cert.Serial}, nil)
	s.refused(t, http.StatusConflict, "belongs to another instance", deployment.NewID(), s.project, "vm7")
	// Attempts end after some time, and their boots are answered: on a slow machine some hundred. All others still wait.
	if n := answered.Load(); n > boots/2 {
		t.Errorf("%d of %d boots were answered while FreeIPA was silent", n, boots)
	}
	close(release)
	crowd.Wait()
	s.awaitWanted(t, 0)
	made := 0
	for _, host := range s.ipa.Hosts() {
		if strings.HasPrefix(host.FQDN, "vm") {
			made++
		}
	}
	if made != boots {
		t.Errorf("FreeIPA has %d hosts of %d boots", made, boots)
	}
}

// awaitWanted returns when so many enrolments wait for FreeIPA.
func (s *site) awaitWanted(t *testing.T, count int) {
	t.Helper()
	err := deployment.Await(t.Context(), func(ctx context.Context) error {
		found := 0
		for marker := ""; ; {
			var page struct {
				Enrolments []struct {
					ID string `json:"instance_id"`
				}
			}
			answer, err := s.operator.Call(ctx, "GET", "/v1/enrolments?state=wanted&limit=1000&marker="+marker, nil, "X-Auth-All-Projects", "True")
			if err == nil {
				err = answer.Decode(&page)
			}
			if err != nil {
				return err
			}
			found += len(page.Enrolments)
			if len(page.Enrolments) < 1000 {
				break
			}
			marker = page.Enrolments[999].ID
		}
		if found != count {
			return fmt.Errorf("%d enrolments wait for FreeIPA, want %d", found, count)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
