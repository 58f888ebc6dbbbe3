// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package identity

import "slices"

func (s *Service) addGrant(g grant) {
	if !slices.Contains(s.grants, g) {
		s.grants = append(s.grants, g)
	}
}

// dropGrants removes the grants that fit. Application credentials and trusts
// that rest on them stay, and are good again when the role comes back.
func (s *Service) dropGrants(fits func(grant) bool) {
	s.grants = slices.DeleteFunc(s.grants, fits)
}

// effective is a grant as it counts: of a user, at the place where it counts.
type effective struct {
	user      string
	scope     scope
	role      string
	inherited bool
}

// effectiveGrants lists what a user holds: own and through groups, inherited
// and implied. Empty userID: of all users, but for what they have through groups
// that a mapping put them in.
func (s *Service) effectiveGrants(userID string) []effective {
	var list []effective
	for _, g := range s.grants {
		holders := []string{g.user}
		if g.group != "" {
			holders = s.groups.byID[g.group].members
			if userID != "" {
				holders = slices.Concat(holders, s.groups.byID[g.group].mapped)
			}
		}
		for _, holder := range holders {
			if userID != "" && holder != userID {
				continue
			}
			for _, place := range s.places(g) {
				for _, roleID := range s.withImplied(g.role) {
					e := effective{holder, place, roleID, g.inherited}
					if !slices.Contains(list, e) {
						list = append(list, e)
					}
				}
			}
		}
	}
	return list
}

// places are where a grant counts.
func (s *Service) places(g grant) []scope {
	if !g.inherited {
		return []scope{{project: g.project, domain: g.domain, system: g.system}}
	}
	var places []scope
	for _, id := range s.projects.order {
		p := s.projects.byID[id]
		below := g.domain != "" && p.DomainID == g.domain
		for parent := p.ParentID; !below && g.project != ""; {
			above, ok := s.projects.get(parent)
			below = parent == g.project
			if !ok {
				break
			}
			parent = above.ParentID
		}
		if below {
			places = append(places, scope{project: id})
		}
	}
	return places
}

// withImplied returns the role and all that it implies, however far.
func (s *Service) withImplied(roleID string) []string {
	all := []string{roleID}
	for i := 0; i < len(all); i++ {
		for _, next := range s.implied[all[i]] {
			if !slices.Contains(all, next) {
				all = append(all, next)
			}
		}
	}
	return all
}

// groupRoles returns the IDs of the roles that the groups have there, inherited
// and implied ones too.
func (s *Service) groupRoles(groupIDs []string, place scope) []string {
	var held []string
	for _, g := range s.grants {
		if !slices.Contains(groupIDs, g.group) || !slices.Contains(s.places(g), place) {
			continue
		}
		for _, id := range s.withImplied(g.role) {
			if !slices.Contains(held, id) {
				held = append(held, id)
			}
		}
	}
	return held
}

// heldIn returns the IDs of the roles that the user has there.
func (s *Service) heldIn(userID string, place scope) []string {
	var held []string
	for _, e := range s.effectiveGrants(userID) {
		if e.scope == place && !slices.Contains(held, e.role) {
			held = append(held, e.role)
		}
	}
	return held
}
