// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package compute

import "time"

// The forms of Nova's notifications (notification_format).
const (
	Unversioned = "unversioned"
	Versioned   = "versioned"
	Both        = "both"
)

// exchange is Nova's.
const exchange = "nova"

// state is where an instance is on its way.
type state struct{ state, oldState, task, oldTask string }

// The states that the announced changes are made in.
var (
	building = state{state: "building", oldState: "building", task: "scheduling", oldTask: "scheduling"}
	active   = state{state: "active", oldState: "active"}
	deleting = state{state: "active", oldState: "active", task: "deleting", oldTask: "deleting"}
	deleted  = state{state: "deleted", oldState: "deleted"}
)

// announce tells what happened to an instance: create.end, delete.end,
// rebuild.end or update.
func (s *Service) announce(event string, one server, now state) {
	if s.cfg.NotificationFormat != Versioned {
		s.cfg.Notifier.Notify(exchange, "compute.devcloud", "compute.instance."+event, s.unversioned(event, one, now))
	}
	if s.cfg.NotificationFormat != Unversioned {
		s.cfg.Notifier.Notify(exchange, "nova-compute:devcloud", "instance."+event, s.versioned(event, one, now))
	}
}

func (s *Service) unversioned(event string, one server, now state) object {
	payload := object{"tenant_id": one.ProjectID, "user_id": one.UserID, "instance_id": one.id, "display_name": one.Name,
		"hostname": one.hostname, "instance_flavor_id": one.FlavorID, "host": "devcloud", "node": "devcloud",
		"availability_zone": "nova", "created_at": one.created.Format("2006-01-02 15:04:05+00:00"), "deleted_at": "",
		"state": now.state, "state_description": now.task, "image_meta": object{"base_image_ref": one.ImageID},
		"metadata": withKeys(one.Metadata)}
	if now == deleted {
		payload["deleted_at"] = s.cfg.Now().UTC().Format("2006-01-02T15:04:05.000000")
	}
	if event == "update" {
		payload["old_state"], payload["old_task_state"], payload["new_task_state"] = now.oldState, orNull(now.oldTask), orNull(now.task)
	}
	return payload
}

func (s *Service) versioned(event string, one server, now state) object {
	data := object{"uuid": one.id, "user_id": one.UserID, "tenant_id": one.ProjectID, "display_name": one.Name,
		"host_name": one.hostname, "host": "devcloud", "node": "devcloud", "availability_zone": "nova",
		"image_uuid": one.ImageID, "created_at": one.created.Format(time.RFC3339), "deleted_at": nil,
		"state": now.state, "task_state": orNull(now.task), "ip_addresses": []any{}, "metadata": withKeys(one.Metadata)}
	if now == deleted {
		data["deleted_at"] = s.cfg.Now().UTC().Format(time.RFC3339)
	}
	name, version := "InstanceActionPayload", "1.8"
	switch event {
	case "create.end":
		name, version = "InstanceCreatePayload", "1.12"
	case "rebuild.start", "rebuild.end":
		name = "InstanceActionRebuildPayload"
	case "update":
		name, version = "InstanceUpdatePayload", "2.0"
		data["state_update"] = versionedObject("InstanceStateUpdatePayload", "1.0", object{"old_state": now.oldState,
			"state": now.state, "old_task_state": orNull(now.oldTask), "new_task_state": orNull(now.task)})
	}
	return versionedObject(name, version, data)
}

func versionedObject(name, version string, data object) object {
	return object{"nova_object.name": name, "nova_object.namespace": "nova", "nova_object.version": version, "nova_object.data": data}
}

func withKeys(metadata map[string]string) map[string]string {
	if metadata == nil {
		return map[string]string{}
	}
	return metadata
}

func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}
