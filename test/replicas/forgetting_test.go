// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package replicas

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/muster-cloud/muster/test/deployment"
)

// TestTokenIsForgottenByTheOther: a notification reaches one replica. The other one, which has seen
// the token and would believe it for five minutes, asks Keystone anew within two seconds.
func TestTokenIsForgottenByTheOther(t *testing.T) {
	for name, database := range map[string]func(testing.TB) string{"PostgreSQL": databases.PostgreSQL, "MariaDB": databases.MariaDB} {
		t.Run(name, func(t *testing.T) {
			d := deployment.New(t, deployment.Options{Database: database(t), Settings: deployment.Settings{
				"DEFAULT": {"transport_url": "memory://"}}})
			d.Project(t, "alpha")
			told, other := d.Start(t), d.Start(t)
			for event, end := range map[string]func(id string) error{
				"identity.user.updated": func(id string) error { return d.Cloud.Identity.EnableUser(id, false) },
				"identity.user.deleted": d.Cloud.Identity.DeleteUser,
			} {
				person := d.Person(t, "somebody-"+event[len("identity.user."):], "alpha", "member")
				client := deployment.As(other.URL, person)
				client.Want(t, http.StatusOK, "GET", "/v1/usercerts", nil, nil)
				if err := end(person.ID); err != nil {
					t.Fatal(err)
				}
				client.Want(t, http.StatusOK, "GET", "/v1/usercerts", nil, nil) // nobody has told it
				began := time.Now()
				message := fmt.Sprintf(`{"message_id": "1", "publisher_id": "identity.h", "event_type": %q, "priority": "INFO", `+
					`"timestamp": "2026-11-22 01:19:31.086979", "payload": {"resource_info": %q}}`, event, person.ID)
				if err := told.Server.Memory().Publish(t.Context(), "keystone", "muster_notifications.info", []byte(message)); err != nil {
					t.Fatal(err)
				}
				err := deployment.Await(t.Context(), func(ctx context.Context) error {
					answer, err := client.Call(ctx, "GET", "/v1/usercerts", nil)
					if err == nil && answer.Status != http.StatusUnauthorized {
						err = fmt.Errorf("status %d", answer.Status)
					}
					return err
				})
				if err != nil {
					t.Fatalf("%s: the other replica believes the token still: %v", event, err)
				}
				t.Logf("%s: after %v", event, time.Since(began))
			}
		})
	}
}
