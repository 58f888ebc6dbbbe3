// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package compute

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/identity"
)

// novaTime is how Nova writes times that come straight from its database.
const novaTime = "2006-01-02T15:04:05.000000"

// action is an entry of the log of what was done to a server.
type action struct {
	name string
	at   time.Time
}

// act is POST /servers/ID/action, of which rebuild is known.
func (s *Service) act(w http.ResponseWriter, r *http.Request, found server) {
	var body struct {
		Rebuild *struct{ ImageRef string }
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&body)
	if err != nil || body.Rebuild == nil {
		refuse(w, http.StatusBadRequest, "badRequest", "There is no such action: only rebuild is known here.")
		return
	}
	if s.rebuild(found.id, body.Rebuild.ImageRef) != nil {
		refuse(w, http.StatusNotFound, "itemNotFound", "Instance "+found.id+" could not be found.")
		return
	}
	again, _ := s.find(found.id)
	writeJSON(w, http.StatusAccepted, object{"server": fullView(s, again)})
}

// listActions is GET /servers/ID/os-instance-actions, newest first.
func (s *Service) listActions(w http.ResponseWriter, _ *http.Request, found server) {
	list := []object{}
	for _, a := range slices.Backward(found.actions) {
		list = append(list, object{"action": a.name, "instance_uuid": found.id, "message": nil, "request_id": "req-" + identity.NewDashedID(),
			"project_id": found.ProjectID, "user_id": found.UserID, "start_time": a.at.Format(novaTime)})
	}
	writeJSON(w, http.StatusOK, object{"instanceActions": list})
}
