// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"github.com/muster-cloud/muster/internal/devcloud/messaging"
	"github.com/muster-cloud/muster/internal/uuid"
)

// exchange and publisherID are Keystone's.
const (
	exchange    = "keystone"
	publisherID = "identity.identity.devcloud"
)

// announce tells that something was created, updated or deleted. Keystone keeps
// domains among its projects, and tells of their changes twice.
func (s *Service) announce(kind, action, id string) {
	if kind == "domain" && action != "created" {
		s.notify("project", action, object{"resource_info": id})
	}
	s.notify(kind, action, object{"resource_info": id})
}

// announceMember tells that a user joined or left a group ("added", "removed").
func (s *Service) announceMember(groupID, userID, operation string) {
	payload := object{"resource_info": groupID}
	if !s.cadf { // which does not say who
		payload["actor_id"], payload["actor_type"], payload["actor_operation"] = userID, "user", operation
	}
	s.notify("group", "updated", payload)
}

func (s *Service) notify(kind, action string, payload object) {
	if s.cadf {
		event := s.cadfEvent(kind, action, payload["resource_info"], "data/security/"+kind)
		event["resource_info"] = payload["resource_info"]
		payload = event
	} else if kind != "user" || action != "deleted" { // Keystone forgets the request then
		payload["request_id"] = "req-" + uuid.Dashed(newID())
	}
	s.notifier.Notify(exchange, publisherID, "identity."+kind+"."+action, payload)
}

// announceGrant tells that a role was given or taken, which Keystone does in
// CADF's form always, and never of roles in the system.
func (s *Service) announceGrant(action string, g grant) {
	if g.system {
		return
	}
	event := s.cadfEvent("role_assignment", action, uuid.Dashed(newID()), "service/security/account/user")
	for name, id := range map[string]string{"user": g.user, "group": g.group, "project": g.project, "domain": g.domain} {
		if id != "" {
			event[name] = id
		}
	}
	event["role"], event["inherited_to_projects"] = g.role, g.inherited
	s.notifier.Notify(exchange, publisherID, "identity.role_assignment."+action, event)
}

func (s *Service) cadfEvent(kind, action string, target any, targetType string) object {
	return object{"typeURI": "http://schemas.dmtf.org/cloud/audit/1.0/event", "eventType": "activity",
		"id": uuid.Dashed(newID()), "eventTime": s.now().UTC().Format("2006-01-02T15:04:05.000000+0000"),
		"action": action + "." + kind, "outcome": "success",
		"observer": object{"id": s.observer, "typeURI": "service/security"},
		"target":   object{"id": target, "typeURI": targetType}}
}

// notifications are how a Service announces.
type notifications struct {
	notifier *messaging.Notifier
	cadf     bool
	observer string
}
