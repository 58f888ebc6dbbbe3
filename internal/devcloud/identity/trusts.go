// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/http"
	"slices"
	"time"
)

// trustRoutes registers trusts (OS-TRUST).
func (s *Service) trustRoutes() {
	const path = "/v3/OS-TRUST/trusts"
	party := func(c *call) bool {
		lent, ok := s.trusts.get(c.PathValue("id"))
		return c.isAdmin() || ok && (lent.giver == s.holder(c.token) || lent.taker == c.token.userID)
	}
	s.route("POST "+path, "create_trust", http.StatusCreated, anybodyKnown, s.createTrust)
	s.route("GET "+path+"/{id}", "get_trust", http.StatusOK, party, func(c *call) (any, *failure) {
		lent, ok := s.trusts.get(c.PathValue("id"))
		if !ok || !lent.expires.IsZero() && !s.now().Before(lent.expires) {
			return nil, notFound("trust", c.PathValue("id"))
		}
		return object{"trust": s.trustView(c.PathValue("id"))}, nil
	})
	s.route("DELETE "+path+"/{id}", "delete_trust", http.StatusNoContent, party, func(c *call) (any, *failure) {
		if _, ok := s.trusts.get(c.PathValue("id")); !ok {
			return nil, notFound("trust", c.PathValue("id"))
		}
		s.deleteTrust(c.PathValue("id"))
		return nil, nil
	})
}

func (s *Service) createTrust(c *call) (any, *failure) {
	var body struct {
		Given *struct {
			Giver         string `json:"trustor_user_id"`
			Taker         string `json:"trustee_user_id"`
			Project       string `json:"project_id"`
			Impersonation bool
			ExpiresAt     string `json:"expires_at"`
			Roles         []struct{ ID, Name string }
			Redelegate    bool `json:"allow_redelegation"`
		} `json:"trust"`
	}
	if fail := c.decode(&body); fail != nil {
		return nil, fail
	}
	if body.Given == nil {
		return nil, badRequest("'trust' is a required property")
	}
	given := body.Given
	lent := &trust{giver: given.Giver, taker: given.Taker, project: given.Project, impersonation: given.Impersonation, from: c.token.trust}
	if given.Redelegate {
		lent.left = 3 // [trust] max_redelegation_count
	}
	if lent.from != "" {
		lent.left = s.trusts.byID[lent.from].left - 1
	}
	if given.Giver != s.holder(c.token) || c.token.cred != "" || lent.left < 0 {
		return nil, forbidden("create_trust")
	}
	if _, ok := s.users.get(given.Taker); !ok {
		return nil, notFound("user", given.Taker)
	}
	for _, r := range given.Roles {
		id := r.ID
		if id == "" {
			id = s.roleNamed(r.Name)
		}
		if !slices.Contains(c.token.roles, id) {
			return nil, notFound("role", id)
		}
		lent.roles = append(lent.roles, id)
	}
	if given.ExpiresAt != "" {
		var err error
		if lent.expires, err = time.Parse(time.RFC3339, given.ExpiresAt); err != nil {
			return nil, badRequest("expires_at is not a time.")
		}
	}
	id := newID()
	s.trusts.add(id, lent)
	s.announce("OS-TRUST:trust", "created", id)
	return object{"trust": s.trustView(id)}, nil
}

func (s *Service) trustView(id string) object {
	lent := s.trusts.byID[id]
	view := object{"id": id, "trustor_user_id": lent.giver, "trustee_user_id": lent.taker, "project_id": lent.project,
		"impersonation": lent.impersonation, "expires_at": nil, "redelegation_count": lent.left}
	if !lent.expires.IsZero() {
		view["expires_at"] = lent.expires.UTC().Format(timeLayout)
	}
	return view
}

// deleteTrust deletes those that pass it on first.
func (s *Service) deleteTrust(id string) {
	for _, other := range slices.Clone(s.trusts.order) {
		if lent, ok := s.trusts.get(other); ok && lent.from == id {
			s.deleteTrust(other)
		}
	}
	s.trusts.remove(id)
	s.announce("OS-TRUST:trust", "deleted", id)
}

// trustRoles are the roles that a trust lends, with those that they imply.
func (s *Service) trustRoles(id string) (roles []string) {
	for _, role := range s.trusts.byID[id].roles {
		for _, one := range s.withImplied(role) {
			if !slices.Contains(roles, one) {
				roles = append(roles, one)
			}
		}
	}
	return roles
}

// spoilt tells of a token whether it is of a trust whose giver is disabled or
// has lost a role of it.
func (s *Service) spoilt(t *token) bool {
	lent, ok := s.trusts.get(t.trust)
	if !ok {
		return false
	}
	giver, ok := s.users.get(lent.giver)
	if !ok {
		return false
	}
	held := s.heldIn(lent.giver, scope{project: lent.project})
	return !giver.Enabled || slices.ContainsFunc(s.trustRoles(t.trust), func(role string) bool { return !slices.Contains(held, role) })
}

// spoilt is how Keystone refuses such a token.
func spoilt() *failure {
	return &failure{http.StatusForbidden, "You are not authorized to perform the requested action."}
}

// holder is the user whom a token shows: who gave the trust, if the one who has
// it acts in that name.
func (s *Service) holder(t *token) string {
	if lent, ok := s.trusts.get(t.trust); ok && lent.impersonation {
		return lent.giver
	}
	return t.userID
}
