// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openssh

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/muster-cloud/muster/internal/demo/openssh"
	"github.com/muster-cloud/muster/test/deployment"
)

// generation is one of a CA.
type generation struct {
	Role       string
	Generation int
	State      string
	PublicKey  string `json:"pub_key"`
}

func (s *site) generations(t *testing.T, role string) (of []generation) {
	t.Helper()
	var list struct{ Generations []generation }
	s.root.Want(t, http.StatusOK, "GET", "/v1/authorities/"+s.project+"/generations", nil, &list)
	for _, g := range list.Generations {
		if g.Role == role {
			of = append(of, g)
		}
	}
	return of
}

func (s *site) rotate(t *testing.T, role string) {
	t.Helper()
	s.root.Want(t, http.StatusCreated, "POST", "/v1/authorities/"+s.project+"/generations", deployment.Object{"role": role}, nil)
}

func (s *site) retire(t *testing.T, role string, generation int) {
	t.Helper()
	s.root.Want(t, http.StatusOK, "DELETE", fmt.Sprintf("/v1/authorities/%s/generations/%s/%d", s.project, role, generation), nil, nil)
}

// trust writes the CAs that sshd trusts, as an agent does, or as a host without
// one that booted with the first generation and only fetches the list.
func (s *site) trust(t *testing.T, all bool) {
	t.Helper()
	s.fetchList(t)
	keys := ""
	for _, g := range s.generations(t, "user") {
		if all && g.State != "revoked" || !all && g.Generation == 1 {
			keys += g.PublicKey + "\n"
		}
	}
	s.write(t, "user-ca.pub", keys)
}

// TestGenerations walks at random through rotations and retirements of the user
// CA. At each step sshd lets in exactly those whose certificate was signed by a
// generation that it trusts and that was not retired.
func TestGenerations(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, "ed25519")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	members := map[int]member{1: s.newMember(t, "alpha", "ed25519", "member")} // by the generation that signed
	retired := map[int]bool{}
	newest := 1
	for step := range 6 {
		var old []int
		for g := 1; g < newest; g++ {
			if !retired[g] {
				old = append(old, g)
			}
		}
		if len(old) > 0 && random.IntN(2) == 0 {
			g := old[random.IntN(len(old))]
			s.retire(t, "user", g)
			retired[g] = true
		} else {
			s.rotate(t, "user")
			newest++
			members[newest] = s.newMember(t, "alpha", "ed25519", "member")
		}
		for _, agent := range []bool{true, false} {
			s.trust(t, agent)
			for g, m := range members {
				what := fmt.Sprintf("step %d, agent %v, generation %d of %d, retired %v", step, agent, g, newest, retired)
				switch {
				case retired[g]:
					s.mustRefuse(t, what, m, "Failed publickey")
				case agent || g == 1:
					s.mustLogin(t, what, m)
				default:
					s.mustRefuse(t, what, m, "Failed publickey")
				}
			}
		}
	}
}

// TestRetiredGenerationIsRevoked: a host that still trusts a generation which
// was retired refuses its certificates, because the list names the CA.
func TestRetiredGenerationIsRevoked(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, "ed25519")
	old := s.newMember(t, "alpha", "ed25519", "member")
	s.rotate(t, "user")
	s.mustLogin(t, "with the old generation", old)
	s.retire(t, "user", 1)
	s.fetchList(t)
	s.mustRefuse(t, "after it was retired", old, "revoked")
}

// TestHostGenerations: ssh trusts a host by either generation of the host CA,
// until the one that signed its certificate is retired.
func TestHostGenerations(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, "ed25519")
	m := s.newMember(t, "alpha", "ed25519", "member")
	s.rotate(t, "host")
	known := ""
	for _, g := range s.generations(t, "host") {
		known += "@cert-authority * " + g.PublicKey + "\n"
	}
	client := openssh.Client{
		Account: s.account, Key: m.key, Certificate: m.certificate, HostName: hostName, Command: "true",
		KnownHosts: s.write(t, "known_hosts_both", known), RevokedHosts: filepath.Join(s.folder, "krl"),
	}
	s.fetchList(t)
	if _, err := s.server.Login(t.Context(), client); err != nil {
		t.Fatalf("after the rotation: %v", err)
	}
	s.retire(t, "host", 1)
	s.fetchList(t)
	if _, err := s.server.Login(t.Context(), client); !errors.Is(err, openssh.ErrHostRefused) {
		t.Errorf("after the retirement: %v, want ssh to refuse the host", err)
	}
}
