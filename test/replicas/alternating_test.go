// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package replicas

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/test/deployment"
)

// turns sends one request after another to the next replica, as a load
// balancer does.
type turns struct {
	clients [2]*deployment.Client
	n       int
}

func (p *pair) turns(person deployment.Person) *turns { return &turns{clients: p.both(person)} }

func (c *turns) want(t *testing.T, status int, method, path string, body, into any, headers ...string) deployment.Answer {
	t.Helper()
	c.n++
	return c.clients[c.n%2].Want(t, status, method, path, body, into, headers...)
}

// serials follows a list of certificates from page to page, each from the other replica.
func (c *turns) serials(t *testing.T, path string, headers ...string) (serials []uint64) {
	t.Helper()
	for path += "?limit=2"; path != ""; {
		var page struct {
			Certs []struct{ Serial uint64 } `json:"certs"`
			Links struct{ Next string }     `json:"links"`
		}
		c.want(t, http.StatusOK, "GET", path, nil, &page, headers...)
		for _, cert := range page.Certs {
			serials = append(serials, cert.Serial)
		}
		_, next, _ := strings.Cut(page.Links.Next, "://")
		_, path, _ = strings.Cut(next, "/")
		if path != "" {
			path = "/" + path
		}
	}
	slices.Sort(serials)
	return serials
}

// TestAlternating: everything that one replica did, the other knows at once.
func TestAlternating(t *testing.T) {
	onBoth(t, func(t *testing.T, p *pair) {
		user, nova, root, nobody := p.turns(p.alice), p.turns(p.nova), p.turns(p.root), p.turns(deployment.Person{})
		project := p.alice.ProjectID
		root.want(t, http.StatusNotFound, "GET", "/v1/authorities/"+project, nil, nil)
		root.want(t, http.StatusCreated, "POST", "/v1/authorities", deployment.Object{"auth_id": project}, nil)
		root.want(t, http.StatusConflict, "POST", "/v1/authorities", deployment.Object{"auth_id": project}, nil)
		nobody.want(t, http.StatusOK, "GET", "/noauth/revokeduserkeys/"+project, nil, nil)

		var issued []uint64
		for range 5 {
			var cert, shown deployment.UserCert
			user.want(t, http.StatusCreated, "POST", "/v1/usercerts", p.alice.OwnCert(deployment.NewKey(t)), &cert)
			user.want(t, http.StatusOK, "GET", fmt.Sprintf("/v1/usercerts/%d", cert.Serial), nil, &shown)
			user.want(t, http.StatusOK, "GET", "/v1/usercerts/"+cert.UserID+"/"+cert.Fingerprint, nil, &shown)
			if shown != cert {
				t.Errorf("shown %+v, issued %+v", shown, cert)
			}
			issued = append(issued, cert.Serial)
		}
		slices.Sort(issued)
		if got := user.serials(t, "/v1/usercerts"); !slices.Equal(got, issued) {
			t.Errorf("listed %v, issued %v", got, issued)
		}
		root.want(t, http.StatusOK, "POST", "/v1/revokeduserkeys/"+project, deployment.Object{"serial": issued[0]}, nil)
		root.want(t, http.StatusBadRequest, "POST", "/v1/revokeduserkeys/"+project, deployment.Object{"serial": issued[0]}, nil)
		var revoked deployment.UserCert
		user.want(t, http.StatusOK, "GET", fmt.Sprintf("/v1/usercerts/%d", issued[0]), nil, &revoked)
		if !revoked.Revoked {
			t.Error("the other replica doesn't show the revocation")
		}

		var hosts []uint64
		for range 3 {
			instance := deployment.NewID()
			var token deployment.HostToken
			nova.want(t, http.StatusCreated, "POST", "/v1/hosttokens",
				deployment.Object{"host_id": instance, "auth_id": project, "hostname": "vm"}, &token)
			var cert, shown deployment.HostCert
			nobody.want(t, http.StatusOK, "POST", "/noauth/hostcerts",
				deployment.Object{"host_id": instance, "token_id": token.TokenID, "pub_key": deployment.NewKey(t)}, &cert)
			root.want(t, http.StatusOK, "GET", "/v1/hostcerts/"+instance+"/"+cert.Fingerprint, nil, &shown)
			if shown != cert {
				t.Errorf("shown %+v, issued %+v", shown, cert)
			}
			hosts = append(hosts, cert.Serial)
		}
		slices.Sort(hosts)
		if got := root.serials(t, "/v1/hostcerts", "X-Auth-Sudo-Project-ID", project); !slices.Equal(got, hosts) {
			t.Errorf("listed %v, issued %v", got, hosts)
		}
		if all := slices.Compact(slices.Sorted(slices.Values(append(issued, hosts...)))); len(all) != len(issued)+len(hosts) {
			t.Errorf("a serial was given twice: %v", all)
		}
	})
}
