// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package compute

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/identity"
	"github.com/muster-cloud/muster/internal/uuid"
)

const (
	// maxBody bounds a request body, as oslo.middleware does.
	maxBody = 114688
	// pageSize is Nova's max_limit.
	pageSize = 1000
)

type object = map[string]any

func (s *Service) routes() {
	s.mux = http.NewServeMux()
	s.mux.HandleFunc("GET /v2.1", s.showVersion)
	s.mux.HandleFunc("GET /v2.1/{$}", s.showVersion)
	s.mux.HandleFunc("POST /v2.1/servers", s.known(s.createServer))
	s.mux.HandleFunc("GET /v2.1/servers", s.known(s.listServers(briefView)))
	s.mux.HandleFunc("GET /v2.1/servers/detail", s.known(s.listServers(fullView)))
	s.mux.HandleFunc("GET /v2.1/servers/{id}", s.known(s.owned(func(w http.ResponseWriter, _ *http.Request, found server) {
		writeJSON(w, http.StatusOK, object{"server": fullView(s, found)})
	})))
	s.mux.HandleFunc("DELETE /v2.1/servers/{id}", s.known(s.owned(func(w http.ResponseWriter, _ *http.Request, found server) {
		if s.Delete(found.id) != nil {
			refuse(w, http.StatusNotFound, "itemNotFound", "Instance "+found.id+" could not be found.")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})))
	s.mux.HandleFunc("POST /v2.1/servers/{id}/action", s.known(s.owned(s.act)))
	s.mux.HandleFunc("GET /v2.1/servers/{id}/os-instance-actions", s.known(s.owned(s.listActions)))
	s.mux.HandleFunc("GET /openstack/latest/meta_data.json", s.readMetadata(metaData))
	s.mux.HandleFunc("GET /openstack/latest/vendor_data2.json", s.readMetadata(func(ctx context.Context, found server) (any, error) {
		return s.Vendordata(ctx, found.id)
	}))
}

func (s *Service) showVersion(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, object{"version": object{"id": "v2.1", "status": "CURRENT", "version": "2.1",
		"min_version": "2.1", "updated": "2013-07-23T11:33:21Z", "links": []object{{"rel": "self", "href": s.cfg.URL + "/"}}}})
}

func (s *Service) known(handler func(http.ResponseWriter, *http.Request, identity.Caller)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		caller, ok := s.cfg.Keystone.Caller(r.Header.Get("X-Auth-Token"))
		if !ok || caller.ProjectID == "" {
			writeJSON(w, http.StatusUnauthorized, object{"error": object{"code": 401, "title": "Unauthorized",
				"message": "The request you have made requires authentication."}})
			return
		}
		handler(w, r, caller)
	}
}

func isAdmin(caller identity.Caller) bool { return slices.Contains(caller.Roles, "admin") }

// owned finds the server in the path, if the caller may see it.
func (s *Service) owned(handler func(http.ResponseWriter, *http.Request, server)) func(
	http.ResponseWriter, *http.Request, identity.Caller) {
	return func(w http.ResponseWriter, r *http.Request, caller identity.Caller) {
		found, ok := s.find(r.PathValue("id"))
		if !ok || found.ProjectID != caller.ProjectID && !isAdmin(caller) {
			refuse(w, http.StatusNotFound, "itemNotFound", "Instance "+r.PathValue("id")+" could not be found.")
			return
		}
		handler(w, r, found)
	}
}

func (s *Service) createServer(w http.ResponseWriter, r *http.Request, caller identity.Caller) {
	var body struct {
		Server *struct {
			Name      string
			ImageRef  string
			FlavorRef string
			Metadata  map[string]string
			UserData  string `json:"user_data"`
			Networks  any    // "none", or a list: the port is of the one network in any case
		}
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&body)
	if err != nil || body.Server == nil || body.Server.Name == "" || body.Server.FlavorRef == "" {
		refuse(w, http.StatusBadRequest, "badRequest", "Invalid input for field/attribute server.")
		return
	}
	for key, value := range body.Server.Metadata {
		if key == "" || len(key) > 255 || len(value) > 255 {
			refuse(w, http.StatusBadRequest, "badRequest", "Invalid metadata: a key or value is not of 1 to 255 characters.")
			return
		}
	}
	id, err := s.create(Server{Name: body.Server.Name, ProjectID: caller.ProjectID, UserID: caller.UserID,
		ImageID: body.Server.ImageRef, FlavorID: body.Server.FlavorRef, Metadata: body.Server.Metadata,
		UserData: body.Server.UserData, Unconnected: body.Server.Networks == "none"})
	if err != nil {
		refuse(w, http.StatusBadRequest, "badRequest", err.Error())
		return
	}
	s.builds.Go(func() {
		if err := s.build(s.building, id); err != nil {
			s.cfg.Logger.Warn("the config drive was not finished", "instance", id, "error", err)
		}
	})
	link := s.cfg.URL + "/servers/" + id
	w.Header().Set("Location", link)
	writeJSON(w, http.StatusAccepted, object{"server": object{"id": id, "links": links(link),
		"OS-DCF:diskConfig": "MANUAL", "security_groups": []object{{"name": "default"}}}})
}

func (s *Service) listServers(view func(*Service, server) object) func(http.ResponseWriter, *http.Request, identity.Caller) {
	return func(w http.ResponseWriter, r *http.Request, caller identity.Caller) {
		query := r.URL.Query()
		limit, err := strconv.Atoi(query.Get("limit"))
		if query.Get("limit") == "" {
			limit = pageSize
		} else if err != nil || limit < 0 {
			refuse(w, http.StatusBadRequest, "badRequest", "Invalid input for query parameters limit.")
			return
		}
		limit = min(limit, pageSize)
		everybody := query.Has("all_tenants") && query.Get("all_tenants") != "0"
		if everybody && !isAdmin(caller) {
			refuse(w, http.StatusForbidden, "forbidden", "Policy doesn't allow os_compute_api:servers:index:get_all_tenants to be performed.")
			return
		}
		only := identity.DashedID(query.Get("uuid"))
		// All that are there are active.
		fitting := cmp.Or(query.Get("status"), "ACTIVE") == "ACTIVE"
		servers, more, ok := s.page(query.Get("marker"), limit, func(one *server) bool {
			return fitting && (everybody || one.ProjectID == caller.ProjectID) && (!query.Has("uuid") || one.id == only) && strings.Contains(one.Name, query.Get("name"))
		})
		if !ok {
			refuse(w, http.StatusBadRequest, "badRequest", "marker ["+query.Get("marker")+"] not found")
			return
		}
		list := []object{}
		for _, one := range servers {
			list = append(list, view(s, one))
		}
		answer := object{"servers": list}
		if more {
			query.Set("marker", servers[len(servers)-1].id)
			answer["servers_links"] = []object{{"rel": "next", "href": s.cfg.URL + strings.TrimPrefix(r.URL.Path, "/v2.1") + "?" + query.Encode()}}
		}
		writeJSON(w, http.StatusOK, answer)
	}
}

// page returns up to limit servers after the marker, newest first, and whether
// there are more; false at last if the marker is unknown.
func (s *Service) page(marker string, limit int, fits func(*server) bool) (servers []server, more, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok = marker == ""
	for _, id := range slices.Backward(s.order) {
		one := s.servers[id]
		if ok && fits(one) {
			if len(servers) == limit {
				return servers, limit > 0, true
			}
			servers = append(servers, *one)
		}
		ok = ok || id == identity.DashedID(marker)
	}
	return servers, false, ok
}

func links(self string) []object {
	return []object{{"rel": "self", "href": self}, {"rel": "bookmark", "href": strings.Replace(self, "/v2.1", "", 1)}}
}

func briefView(s *Service, one server) object {
	return object{"id": one.id, "name": one.Name, "links": links(s.cfg.URL + "/servers/" + one.id)}
}

func fullView(s *Service, one server) object {
	view := briefView(s, one)
	view["status"], view["tenant_id"], view["user_id"] = "ACTIVE", one.ProjectID, one.UserID
	view["created"], view["updated"] = one.created.Format(time.RFC3339), one.updated.Format(time.RFC3339)
	view["metadata"], view["addresses"], view["image"] = one.Metadata, s.addresses(one.id), ""
	if one.Metadata == nil {
		view["metadata"] = object{}
	}
	if one.ImageID != "" {
		view["image"] = object{"id": one.ImageID}
	}
	view["flavor"] = object{"id": one.FlavorID}
	view["OS-EXT-STS:vm_state"], view["OS-EXT-STS:task_state"], view["OS-EXT-STS:power_state"] = "active", nil, 1
	view["OS-SRV-USG:launched_at"] = one.launched.Format(novaTime)
	view["OS-EXT-SRV-ATTR:hostname"] = one.hostname
	return view
}

// addresses are a server's fixed ones: Nova's view of floating ones is late, and
// is left out here.
func (s *Service) addresses(id string) object {
	if s.cfg.Network == nil {
		return object{}
	}
	list := []object{}
	for _, address := range s.cfg.Network.Fixed(id) {
		version := 6
		if address.Is4() {
			version = 4
		}
		list = append(list, object{"addr": address.String(), "version": version, "OS-EXT-IPS:type": "fixed"})
	}
	if len(list) == 0 {
		return object{}
	}
	return object{"private": list}
}

// readMetadata answers as the metadata service does behind Neutron's proxy,
// which names the instance and signs it.
func (s *Service) readMetadata(document func(context.Context, server) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Instance-ID")
		if id == "" || r.Header.Get("X-Tenant-ID") == "" || r.Header.Get("X-Forwarded-For") == "" {
			http.Error(w, "X-Instance-ID, X-Tenant-ID or X-Forwarded-For header is missing from request.", http.StatusBadRequest)
			return
		}
		if !hmac.Equal([]byte(r.Header.Get("X-Instance-ID-Signature")), []byte(s.Sign(id))) {
			http.Error(w, "Invalid proxy request signature.", http.StatusForbidden)
			return
		}
		found, ok := s.find(id)
		tenant, err := uuid.Parse(r.Header.Get("X-Tenant-ID"))
		if !ok || err != nil || tenant != found.ProjectID {
			http.Error(w, "404 Not Found", http.StatusNotFound)
			return
		}
		answer, err := document(r.Context(), found)
		if err != nil {
			http.Error(w, "404 Not Found", http.StatusNotFound)
			return
		}
		writeJSON(w, http.StatusOK, answer)
	}
}

// metaData is meta_data.json, without what is drawn by lot.
func metaData(_ context.Context, found server) (any, error) {
	return object{
		"uuid": found.id, "name": found.Name, "hostname": found.hostname + ".novalocal", "project_id": found.ProjectID,
		"meta": found.Metadata, "launch_index": 0, "availability_zone": "nova", "devices": []string{},
	}, nil
}

// Sign returns the X-Instance-ID-Signature for an instance ID: HMAC-SHA256
// under the shared secret, in hexadecimal.
func (s *Service) Sign(instanceID string) string {
	mac := hmac.New(sha256.New, []byte(s.cfg.MetadataSecret))
	mac.Write([]byte(instanceID))
	return hex.EncodeToString(mac.Sum(nil))
}

func refuse(w http.ResponseWriter, status int, name, message string) {
	writeJSON(w, status, object{name: object{"code": status, "message": message}})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}
