// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package converge makes what Muster keeps agree with what the cloud says.
//
// A key names an entity of the cloud that may have changed. A hint is such a
// key, with what was said of it, used to aim better and never to act on: what
// is true is asked of the service that owns the entity.
package converge

import "strings"

// A Kind says what sort of entity a key names, and so which controller works
// on it.
type Kind string

// The kinds of entities, and whose IDs their keys hold.
const (
	Project Kind = "project" // Keystone project
	User    Kind = "user"    // Keystone user
	Grant   Kind = "grant"   // user in project, see GrantKey
	Members Kind = "members" // Keystone project of which the roles of many may have changed
	Group   Kind = "group"   // Keystone group
	Role    Kind = "role"    // Keystone role
	Domain  Kind = "domain"  // Keystone domain
	// Credential is what can be used in the place of a user's login: a Keystone
	// application credential, trust, or OAuth 1 access token.
	Credential Kind = "credential"
	Instance   Kind = "instance" // Nova server
	Address    Kind = "address"  // Neutron port or floating IP
)

// Kinds lists every kind.
func Kinds() []Kind {
	return []Kind{Project, User, Grant, Members, Group, Role, Domain, Credential, Instance, Address}
}

// A Key names one entity of the cloud.
type Key struct {
	Kind Kind   `json:"kind"`
	ID   string `json:"id"` // canonical: 32 (users: up to 64) lower-case hex digits; of a grant, see GrantKey
}

// GrantKey names a user's roles in a project.
func GrantKey(userID, projectID string) Key {
	return Key{Kind: Grant, ID: userID + "/" + projectID}
}

// Grant returns the user and the project of a grant's key.
func (k Key) Grant() (userID, projectID string) {
	userID, projectID, _ = strings.Cut(k.ID, "/")
	return userID, projectID
}

// String gives the key as people read it, "instance 0f…".
func (k Key) String() string { return string(k.Kind) + " " + k.ID }

// A Hint says that an entity may have changed.
type Hint struct {
	Key     Key  `json:"key"`
	Rebuilt bool `json:"rebuilt,omitempty"` // the instance was rebuilt: its disk, and so its host key, are new
	Booted  bool `json:"booted,omitempty"`  // Nova itself just spoke for the instance: whatever it answers now, it is not gone
}
