// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"context"
	"net/http"
	"testing"

	"github.com/muster-cloud/muster/test/deployment"
)

// TestNotifications: what happens in the cloud reaches Muster, which acts on it.
func TestNotifications(t *testing.T) {
	environment, _ := start(t, Config{})
	identity := environment.Cloud.Identity
	project := identity.ProjectID("demo")
	as := func(user, password, project string) *deployment.Client {
		t.Helper()
		token, err := identity.Token(user, password, project)
		if err != nil {
			t.Fatal(err)
		}
		return deployment.As(environment.MusterURL, deployment.Person{Token: token})
	}
	user, err := identity.CreateUser("carol", "secret")
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.Grant(user, project, "member"); err != nil {
		t.Fatal(err)
	}
	carol, admin := as("carol", "secret", "demo"), as("admin", environment.User("admin").Password, "admin")
	carol.Want(t, http.StatusCreated, "POST", "/v1/usercerts",
		deployment.Object{"user_id": user, "auth_id": project, "pub_key": deployment.NewKey(t)}, nil)
	list := "/noauth/revokeduserkeys/" + project
	etag := admin.Want(t, http.StatusOK, "GET", list, nil, nil).Header.Get("Etag")
	changed := make(chan int, 1)
	go func() {
		answer, err := admin.Call(context.WithoutCancel(t.Context()), "GET", list+"?wait=240", nil, "If-None-Match", etag)
		if err != nil {
			t.Error(err)
		}
		changed <- answer.Status
	}()
	if err := identity.DeleteUser(user); err != nil {
		t.Fatal(err)
	}
	if status := <-changed; status != http.StatusOK {
		t.Fatalf("the user's certificate is not revoked: %d", status)
	}
	var answer struct {
		Events []struct {
			Type, Outcome string
			Hints         []struct{ Kind, ID string }
		}
	}
	admin.Want(t, http.StatusOK, "GET", "/v1/events", nil, &answer)
	for _, e := range answer.Events {
		if e.Type == "identity.user.deleted" && len(e.Hints) == 1 && e.Hints[0].Kind == "user" && e.Hints[0].ID == user {
			return
		}
	}
	t.Errorf("the deletion is not among the events: %+v", answer.Events)
}
