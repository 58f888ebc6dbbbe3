// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/client"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/test/deployment"
)

// TestListsEnd: a list of the real server comes whole and once, however its
// entries fall on pages.
func TestListsEnd(t *testing.T) {
	d := deployment.New(t, deployment.Options{FreeIPA: true, Settings: deployment.Settings{
		"api": {"max_page": "2"},
		// Nobody compares, but the queue is there to be asked for.
		"converge": {"enabled": "true", "interval": "7d", "create_authorities": "false"},
		"neutron":  {"enabled": "false"},
	}})
	url := d.Start(t).URL
	_, records := d.OpenStore(t)
	identity := d.Cloud.Identity
	project, err := identity.CreateProject("paged")
	if err != nil {
		t.Fatal(err)
	}
	muster, err := client.Login(t.Context(), client.Config{URL: url, Environ: []string{
		"OS_AUTH_URL=" + d.Cloud.AuthURL(), "OS_USERNAME=admin", "OS_PASSWORD=" + identity.Password("admin"),
		"OS_USER_DOMAIN_ID=default", "OS_PROJECT_NAME=admin", "OS_PROJECT_DOMAIN_ID=default",
	}})
	if err != nil {
		t.Fatal(err)
	}

	later := time.Now().Add(time.Hour)
	var audit, enrolled, queued []string
	for i := range 5 { // four fill two pages, the fifth begins a third
		entry := store.Audit{Actor: project, Action: "paged", Outcome: "ok", ObjectID: fmt.Sprint(i), ProjectID: project}
		if err := records.AppendAudit(t.Context(), entry); err != nil {
			t.Fatal(err)
		}
		e := store.Enrolment{InstanceID: fmt.Sprintf("%032d", i), ProjectID: project, FQDN: fmt.Sprintf("web%d.example.test", i),
			State: store.EnrolmentFailed, OTPState: store.OTPNew, Want: "{}"}
		if _, _, err := records.BeginEnrolment(t.Context(), e, store.EnrolmentChange{}); err != nil {
			t.Fatal(err)
		}
		key := store.PendingKey{Kind: "instance", ID: fmt.Sprintf("%032d", i), NextAt: later}
		if err := records.DeferKey(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		audit = slices.Insert(audit, 0, entry.ObjectID) // newest first
		enrolled, queued = append(enrolled, e.InstanceID), append(queued, key.ID)
		if i < 3 {
			continue
		}
		same(t, audit, muster.Audit(t.Context(), client.AuditQuery{ProjectID: project, Action: "paged"}),
			func(e client.AuditEntry) string { return e.ObjectID })
		same(t, enrolled, muster.Enrolments(t.Context(), client.EnrolmentQuery{ProjectID: project}),
			func(e client.Enrolment) string { return e.InstanceID })
		same(t, queued, muster.Queue(t.Context()), func(k client.QueuedKey) string { return k.ID })
	}
}

// same compares a list with the IDs that it should have, and does not wait for
// the end of one that has none.
func same[T any](t *testing.T, want []string, pages iter.Seq2[[]T, error], id func(T) string) {
	t.Helper()
	var got []string
	for page, err := range pages {
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range page {
			got = append(got, id(entry))
		}
		if len(got) > 2*len(want) {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
