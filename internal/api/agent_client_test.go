// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/agent/muster"
	"github.com/muster-cloud/muster/internal/agentapi"
)

// What the agent's own client asks, Muster answers: from the token to a list
// that changed while it waited.
func TestAgentsClient(t *testing.T) { everywhere(t, testAgentsClient) }

func testAgentsClient(t *testing.T, w *world) {
	keys := hostKeys(t)
	m, token := w.booted(keys...)
	client, err := muster.New(muster.Config{Endpoint: w.next(), HostID: m.id, ProjectID: w.demo, UserAgent: "muster-agent/test"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	certs, err := client.HostCerts(ctx, token, lines(keys))
	if err != nil || len(certs) != len(keys) {
		t.Fatal(len(certs), err)
	}
	state, err := client.State(ctx, keys[2])
	if err != nil || state.ProjectID != w.demo || len(state.UserCAs) != 1 || state.Accounts == nil {
		t.Fatalf("%+v %v", state, err)
	}
	list, err := client.RevokedKeys(ctx, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	before, err := list.Verify(state.ProjectID, state.UserCAs, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, issued := w.userCert()
	cert := certificate(t, issued["cert"].(string))
	changed := make(chan error, 1)
	go func() {
		next, err := client.RevokedKeys(ctx, list.ETag, 4*time.Minute)
		if err == nil && next == nil {
			err = errors.New("the wait ended without a list")
		}
		if err == nil {
			after, verifyErr := next.Verify(state.ProjectID, state.UserCAs, before.Version)
			if err = verifyErr; err == nil && !after.Revoked(cert) {
				err = errors.New("the new list does not hold what was revoked")
			}
		}
		changed <- err
	}()
	w.do("manager", "POST", "/v1/revokeduserkeys/"+w.demo, object("serial", issued["serial"])).want(200)
	if err := <-changed; err != nil {
		t.Error(err)
	}
	again, err := client.Renew(ctx, keys[1], lines(keys))
	if err != nil || !slices.Equal(again, certs) {
		t.Errorf("a renewal at once gave others: %v", err)
	}
	err = client.ReportEnrolment(ctx, keys[0], agentapi.OutcomeFailed, "never asked for it")
	if !muster.Refused(err, 404) {
		t.Error(err)
	}
	w.do("admin", "DELETE", "/v1/hosts/"+m.id, "").want(204)
	if _, err := client.State(ctx, keys[0]); !muster.Refused(err, 404) {
		t.Errorf("after the instance's end: %v", err)
	}
}
