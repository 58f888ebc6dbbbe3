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

// defaultDomain is the one ID that Keystone gives and that is no UUID.
const defaultDomain = "default"

// identityPayload is Keystone's, in both its formats (notification_format):
// basic, and CADF, which has resource_info at its top too. Role assignments
// have the CADF shape in either.
// https://docs.openstack.org/keystone/latest/admin/event_notifications.html
type identityPayload struct {
	ResourceInfo string `json:"resource_info"`
	// ActorID is who joined or left a group; only the basic format tells.
	ActorID   string `json:"actor_id"`
	ActorType string `json:"actor_type"`

	User      string `json:"user"`
	Group     string `json:"group"`
	Project   string `json:"project"`
	Domain    string `json:"domain"`
	Role      string `json:"role"`
	Inherited bool   `json:"inherited_to_projects"`
}

// identityEvents are the kinds of events that concern Muster, and the kinds of
// entities that they name. Who is new has nothing yet that could go; a new
// project gets its authority.
var identityEvents = map[string]converge.Kind{
	"project.created": converge.Project, "project.updated": converge.Project,
	"project.deleted": converge.Project, "project.disabled": converge.Project,
	"user.updated": converge.User, "user.deleted": converge.User, "user.disabled": converge.User,
	"group.updated": converge.Group, "group.deleted": converge.Group,
	"role.updated": converge.Role, "role.deleted": converge.Role,
	"application_credential.deleted": converge.Credential, "OS-TRUST:trust.deleted": converge.Credential,
	"OS-OAUTH1:access_token.deleted": converge.Credential,
	"domain.updated":                 converge.Domain, "domain.deleted": converge.Domain, "domain.disabled": converge.Domain,
}

func identityHints(event string, payload json.RawMessage) ([]converge.Hint, error) {
	kind, concerns := identityEvents[event]
	action, isAssignment := strings.CutPrefix(event, "role_assignment.")
	isAssignment = isAssignment && (action == "created" || action == "deleted")
	if !concerns && !isAssignment {
		return nil, nil
	}
	var p identityPayload
	if err := decodePayload(payload, &p); err != nil {
		return nil, err
	}
	if isAssignment {
		return assignmentHints(p, action)
	}
	hint, err := identityHint(kind, p.ResourceInfo)
	if err != nil {
		return nil, err
	}
	hints := []converge.Hint{hint}
	// Who left a group is no longer found among its members.
	if kind == converge.Group && p.ActorType == "user" && p.ActorID != "" {
		member, err := identityHint(converge.User, p.ActorID)
		if err != nil {
			return nil, err
		}
		hints = append(hints, member)
	}
	return hints, nil
}

// assignmentHints aims as well as the message does. A role that is inherited,
// or given in a domain, counts in projects that are not named.
func assignmentHints(p identityPayload, action string) ([]converge.Hint, error) {
	switch {
	case p.Group != "":
		return groupHints(p, action)
	case p.User == "":
		return nil, fmt.Errorf("%w: the role assignment names neither user nor group", ErrUnreadable)
	case p.Project == "" || p.Inherited:
		hint, err := identityHint(converge.User, p.User)
		return []converge.Hint{hint}, err
	}
	user, err := uuid.ParseUser(p.User)
	if err != nil {
		return nil, wrongID(converge.User)
	}
	project, err := uuid.Parse(p.Project)
	if err != nil {
		return nil, wrongID(converge.Project)
	}
	return []converge.Hint{{Key: converge.GrantKey(user, project)}}, nil
}

// groupHints name the place too where a group has lost a role: if that was its
// last one there, its grants no longer say that it matters. What is inherited
// matters to whoever has certificates.
func groupHints(p identityPayload, action string) ([]converge.Hint, error) {
	group, err := identityHint(converge.Group, p.Group)
	inDomain := p.Domain != "" && !p.Inherited // where no certificates are for
	if err != nil || action != "deleted" || inDomain {
		return []converge.Hint{group}, err
	}
	kind, id := converge.Role, p.Role
	if p.Project != "" && !p.Inherited {
		kind, id = converge.Members, p.Project
	}
	where, err := identityHint(kind, id)
	return []converge.Hint{group, where}, err
}

func identityHint(kind converge.Kind, id string) (converge.Hint, error) {
	if id == defaultDomain && (kind == converge.Domain || kind == converge.Project) {
		// A domain is a project too, under the same ID.
		return converge.Hint{Key: converge.Key{Kind: converge.Domain, ID: id}}, nil
	}
	parse := uuid.Parse
	if kind == converge.User || kind == converge.Group {
		parse = uuid.ParseUser // groups from LDAP have such IDs too
	}
	canonical, err := parse(id)
	if err != nil {
		return converge.Hint{}, wrongID(kind)
	}
	return converge.Hint{Key: converge.Key{Kind: kind, ID: canonical}}, nil
}

func wrongID(kind converge.Kind) error {
	return fmt.Errorf("%w: its %s ID is missing or no UUID", ErrUnreadable, kind)
}
