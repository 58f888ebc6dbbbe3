// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agentapi"
)

// agentCount is how many instances ask: those of a large cloud in a few seconds.
const agentCount = 2000

// fleetShare is the part of a processor that 10,000 agents may cost which ask
// once a minute: what one challenge and one state may cost follows from it.
const fleetShare = 0.10

// agents measures what the agents of instances cost that ask what has changed,
// and that renew their certificates. The server looks up each key, verifies each
// signature, and answers to each what it should be.
func agents(ctx context.Context, b *bench) ([]measure, error) {
	return b.on(ctx, "sqlite", func(s *site) ([]measure, error) {
		in := s.newInstances(agentCount)
		boot := load{clients: bootClients, requests: in.requests, status: http.StatusCreated, seen: in.keepToken}
		if _, err := s.measure(ctx, "agent-boot", boot); err != nil {
			return nil, err
		}
		signers, err := newSigners(len(in.ids))
		if err != nil {
			return nil, err
		}
		certified, err := s.certifySets(ctx, in, signers)
		if err != nil {
			return nil, err
		}
		challenges := load{clients: clients, requests: [][]byte{s.request("POST", agentapi.PathChallenges, "", map[string]string{})},
			repeat: len(in.ids), status: http.StatusOK}
		asked, err := s.measure(ctx, "agent-challenges", challenges)
		if err != nil {
			return nil, err
		}
		states, err := s.signedLoad(ctx, "agent-states", agentapi.PathState, in, signers, nil)
		if err != nil {
			return nil, err
		}
		fresh, err := newKeys(len(in.ids))
		if err != nil {
			return nil, err
		}
		renewals, err := s.signedLoad(ctx, "agent-renewals", agentapi.PathRenew, in, signers, fresh)
		if err != nil {
			return nil, err
		}
		each := asked.perRequest() + states.perRequest()
		measured := loadMeasures("first certificates", certified, 0, 0)
		measured = append(measured, loadMeasures("states", states, 0, 0)...)
		measured = append(measured, atMost("10,000 agents that ask each minute: share of one CPU", each/1000*10_000/60*100, "%", fleetShare*100))
		return append(measured, loadMeasures("renewals with a new key", renewals, 0, 0)...), nil
	})
}

func newSigners(n int) ([]ssh.Signer, error) {
	signers := make([]ssh.Signer, n)
	for i := range signers {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		if signers[i], err = ssh.NewSignerFromSigner(private); err != nil {
			return nil, err
		}
	}
	return signers, nil
}

// certifySets spends the instances' tokens on a key each.
func (s *site) certifySets(ctx context.Context, in *instances, signers []ssh.Signer) (timing, error) {
	requests := make([][]byte, len(signers))
	for i, signer := range signers {
		requests[i] = s.request("POST", agentapi.PathHostCerts, "", map[string]any{
			"token": in.tokens[i], "host_id": in.ids[i], "pub_keys": []string{authorizedLine(signer)},
		})
	}
	return s.measure(ctx, "agent-certificates", load{clients: clients, requests: requests, status: http.StatusOK})
}

func authorizedLine(signer ssh.Signer) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
}

// signedLoad sends one signed request of each instance, with a new key if there
// are keys. All have one challenge, which they may.
func (s *site) signedLoad(ctx context.Context, name, path string, in *instances, signers []ssh.Signer, keys []string) (timing, error) {
	answer, err := s.call(ctx, s.request("POST", agentapi.PathChallenges, "", map[string]string{}), http.StatusOK)
	if err != nil {
		return timing{}, err
	}
	var challenge agentapi.Challenge
	if err := json.Unmarshal(answer, &challenge); err != nil {
		return timing{}, fmt.Errorf("challenge: %w", err)
	}
	requests := make([][]byte, len(signers))
	for i, signer := range signers {
		order := agentapi.RenewRequest{Signed: agentapi.Signed{Challenge: challenge.Challenge, HostID: in.ids[i]}}
		if keys != nil {
			order.PubKeys = keys[i : i+1]
		}
		body, err := json.Marshal(order)
		if err != nil {
			return timing{}, err
		}
		signature, err := agentapi.SignRequest(signer, path, body)
		if err != nil {
			return timing{}, err
		}
		requests[i] = s.requestWith("POST", path, map[string]string{agentapi.SignatureHeader: signature}, json.RawMessage(body))
	}
	return s.measure(ctx, name, load{clients: clients, requests: requests, status: http.StatusOK})
}
