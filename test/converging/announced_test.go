// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converging

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/muster-cloud/muster/test/deployment"
)

// TestAnnounced: when Keystone has taken a role, the certificate is in the
// list soon, and nobody but Keystone's notification told. The limit is far above
// what is wanted (2 s), for a busy machine; the log has the times.
func TestAnnounced(t *testing.T) {
	w := newWorldWith(t, deployment.Settings{"converge": {"enabled": "true"}, "DEFAULT": {"transport_url": "memory://"}})
	w.d.Cloud.Notifier.To(w.replica.Server.Memory())
	var took []time.Duration
	for range 10 {
		// A role that was just given back counts when its notification has come.
		if err := deployment.Await(t.Context(), func(context.Context) error {
			status := w.do("alice", "POST", "/v1/usercerts", object{"user_id": w.alice, "auth_id": w.demo, "pub_key": deployment.NewKey(t)}, nil)
			if status != 201 {
				return fmt.Errorf("no certificate: %d", status)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		before := w.list()
		if err := w.d.Cloud.Identity.Ungrant(w.alice, w.demo, "member"); err != nil {
			t.Fatal(err)
		}
		answered := time.Now()
		for bytes.Equal(w.list(), before) {
			if time.Since(answered) > time.Minute {
				t.Fatal("the list does not change")
			}
			time.Sleep(time.Millisecond)
		}
		took = append(took, time.Since(answered))
		if err := w.d.Cloud.Identity.Grant(w.alice, w.demo, "member"); err != nil {
			t.Fatal(err)
		}
		w.login()
	}
	slices.Sort(took)
	t.Logf("from Keystone's answer to the changed list: median %v, worst %v", took[len(took)/2], took[len(took)-1])
}

// list is the project's revocation list.
func (w *world) list() []byte {
	w.t.Helper()
	var answer struct {
		Data string `json:"revoked_keys_data"`
	}
	if status := w.do("nobody", "GET", "/noauth/revokeduserkeys/"+w.demo, nil, &answer); status != 200 {
		w.t.Fatal(status)
	}
	list, err := base64.StdEncoding.DecodeString(answer.Data)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}
