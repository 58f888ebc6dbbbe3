// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package identity

import "net/http"

// region is the only region there is.
const region = "RegionOne"

func (s *Service) catalogRoutes() {
	s.route("GET /v3/services", "list_services", http.StatusOK, (*call).isAdmin, func(c *call) (any, *failure) {
		views := []object{}
		for _, id := range s.services.order {
			one := s.services.byID[id]
			views = append(views, s.linked("service", id, object{"name": one.Name, "type": one.Type, "enabled": true}))
		}
		return s.list(c, "services", views), nil
	})
	s.route("GET /v3/endpoints", "list_endpoints", http.StatusOK, (*call).isAdmin, func(c *call) (any, *failure) {
		views := []object{}
		for _, id := range s.endpoints.order {
			view := s.endpointView(id)
			view["service_id"], view["enabled"] = s.endpoints.byID[id].ServiceID, true
			views = append(views, s.linked("endpoint", id, view))
		}
		return s.list(c, "endpoints", views), nil
	})
	s.route("GET /v3/regions", "list_regions", http.StatusOK, anybodyKnown, func(c *call) (any, *failure) {
		return s.list(c, "regions", []object{s.linked("region", region,
			object{"description": "", "parent_region_id": nil})}), nil
	})
}

func (s *Service) endpointView(id string) object {
	e := s.endpoints.byID[id]
	return object{"id": id, "interface": e.Interface, "url": e.URL, "region": region, "region_id": region}
}

// catalog is the service catalogue as it stands in a token.
func (s *Service) catalog() []object {
	entries := []object{}
	for _, id := range s.services.order {
		one := s.services.byID[id]
		endpoints := []object{}
		for _, eid := range s.endpoints.order {
			if s.endpoints.byID[eid].ServiceID == id {
				endpoints = append(endpoints, s.endpointView(eid))
			}
		}
		entries = append(entries, object{"id": id, "type": one.Type, "name": one.Name, "endpoints": endpoints})
	}
	return entries
}

// AddService puts a service with one address for all interfaces in the catalogue.
func (s *Service) AddService(kind, name, url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := newID()
	s.services.add(id, &service{Name: name, Type: kind})
	for _, face := range []string{"public", "internal", "admin"} {
		s.endpoints.add(newID(), &endpoint{ServiceID: id, Interface: face, URL: url})
	}
}
