// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/uuid"
)

// instanceEvents are those of Nova that concern Muster, versioned and not. A
// rebuild is heard of when it begins, so that what the new disk is to find is
// there before it asks. Those of shelving, evacuating, resizing and moving are
// not among them: the instance stays who it is.
// https://docs.openstack.org/nova/latest/admin/notifications.html
var instanceEvents = map[string]bool{
	"create.end": true, "update": true, "delete.end": true, "soft_delete.end": true, "restore.end": true,
	"rebuild.start": true, "rebuild.end": true, "interface_attach.end": true, "interface_detach.end": true,
}

// stateChange is what an update says of the instance's way from one state to
// another.
type stateChange struct {
	OldState     string `json:"old_state"`
	State        string `json:"state"`
	NewTaskState string `json:"new_task_state"`
}

// leadsToEvent tells whether an update is one of those that Nova sends on the
// way to create.end or delete.end, eight of them for a boot. Others may have
// come with a change of the metadata.
func (s stateChange) leadsToEvent() bool {
	return s.OldState == "building" || s.State == "building" || s.NewTaskState == "deleting"
}

func unversionedHints(event string, payload json.RawMessage) ([]converge.Hint, error) {
	event, isInstance := strings.CutPrefix(event, "instance.")
	if !isInstance || !instanceEvents[event] {
		return nil, nil
	}
	var p struct {
		InstanceID string `json:"instance_id"`
		stateChange
	}
	if err := decodePayload(payload, &p); err != nil {
		return nil, err
	}
	if event == "update" && p.leadsToEvent() {
		return nil, nil
	}
	return instanceHints(event, p.InstanceID)
}

// object is a versioned object of oslo.versionedobjects.
type object[T any] struct {
	Version string `json:"nova_object.version"`
	Data    T      `json:"nova_object.data"`
}

// supported tells whether the payload's major version is one whose fields are
// known. A new minor version only adds some. Updates are at 2 since Nova 17.
func (o object[T]) supported(event string) bool {
	major, _, _ := strings.Cut(o.Version, ".")
	return major == "1" || major == "2" && event == "update"
}

func versionedHints(publisher, event string, payload json.RawMessage) ([]converge.Hint, error) {
	if !strings.HasPrefix(publisher, "nova-") || !instanceEvents[event] {
		return nil, nil
	}
	var p object[struct {
		UUID        string              `json:"uuid"`
		StateUpdate object[stateChange] `json:"state_update"`
	}]
	if err := decodePayload(payload, &p); err != nil {
		return nil, err
	}
	if !p.supported(event) {
		return nil, fmt.Errorf("%w: Nova's payload has another major version than Muster knows", ErrUnreadable)
	}
	if event == "update" && p.Data.StateUpdate.Data.leadsToEvent() {
		return nil, nil
	}
	return instanceHints(event, p.Data.UUID)
}

func instanceHints(event, id string) ([]converge.Hint, error) {
	canonical, err := uuid.Parse(id)
	if err != nil {
		return nil, wrongID(converge.Instance)
	}
	return []converge.Hint{{Key: converge.Key{Kind: converge.Instance, ID: canonical}, Rebuilt: strings.HasPrefix(event, "rebuild.")}}, nil
}

// networkHints reads what nova-network said of floating IPs.
func networkHints(event string, payload json.RawMessage) ([]converge.Hint, error) {
	if event != "floating_ip.associate" && event != "floating_ip.disassociate" {
		return nil, nil
	}
	var p struct {
		InstanceID string `json:"instance_id"`
	}
	if err := decodePayload(payload, &p); err != nil {
		return nil, err
	}
	return instanceHints(event, p.InstanceID)
}
