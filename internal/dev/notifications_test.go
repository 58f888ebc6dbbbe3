// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"
)

// TestNotifications: what happens in the cloud reaches Muster.
func TestNotifications(t *testing.T) {
	environment, _ := start(t, Config{})
	cloud := environment.Cloud
	user, err := cloud.Identity.CreateUser("carol", "secret")
	if err != nil {
		t.Fatal(err)
	}
	if err := cloud.Identity.DeleteUser(user); err != nil {
		t.Fatal(err)
	}
	token, err := cloud.Identity.Token("admin", environment.User("admin").Password, "admin")
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, environment.MusterURL+"/v1/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Auth-Token", token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		var answer struct {
			Events []struct {
				Type, Outcome string
				Hints         []struct{ Kind, ID string }
			}
		}
		err = json.NewDecoder(response.Body).Decode(&answer)
		if err != nil || response.StatusCode != http.StatusOK || response.Body.Close() != nil {
			t.Fatal(response.Status, err)
		}
		for _, e := range answer.Events {
			if e.Type == "identity.user.deleted" && len(e.Hints) == 1 && e.Hints[0].Kind == "user" && e.Hints[0].ID == user {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing came: %+v", answer.Events)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
