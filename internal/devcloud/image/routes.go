// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/identity"
)

// maxBody bounds a request body.
const maxBody = 114688

type object = map[string]any

func (s *Service) routes() {
	s.mux = http.NewServeMux()
	s.mux.HandleFunc("GET /{$}", s.showVersions)
	s.mux.HandleFunc("GET /v2/images", s.known(s.list))
	s.mux.HandleFunc("POST /v2/images", s.known(s.create))
	s.mux.HandleFunc("GET /v2/images/{id}", s.known(s.show))
	s.mux.HandleFunc("DELETE /v2/images/{id}", s.known(s.remove))
}

// showVersions answers 300, as the real one does.
func (s *Service) showVersions(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusMultipleChoices, object{"versions": []object{{"id": "v2.16", "status": "CURRENT",
		"links": []object{{"rel": "self", "href": s.cfg.URL + "/v2/"}}}}})
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

func (s *Service) show(w http.ResponseWriter, r *http.Request, caller identity.Caller) {
	found, ok := s.visible(r.PathValue("id"), caller)
	if !ok {
		refuse(w, http.StatusNotFound, "No image found with ID "+r.PathValue("id"))
		return
	}
	writeJSON(w, http.StatusOK, found.view())
}

func (s *Service) list(w http.ResponseWriter, r *http.Request, caller identity.Caller) {
	name := r.URL.Query().Get("name")
	images := []object{}
	s.mu.Lock()
	for _, id := range s.order {
		if one := s.images[id]; one.visibleTo(caller) && (name == "" || one.Name == name) {
			images = append(images, one.view())
		}
	}
	s.mu.Unlock()
	writeJSON(w, http.StatusOK, object{"images": images, "first": "/v2/images", "schema": "/v2/schemas/images"})
}

func (s *Service) create(w http.ResponseWriter, r *http.Request, caller identity.Caller) {
	var body map[string]any
	if json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&body) != nil {
		refuse(w, http.StatusBadRequest, "Malformed JSON in request body.")
		return
	}
	wanted := Image{Owner: caller.ProjectID, Properties: map[string]string{}}
	for name, value := range body {
		text, _ := value.(string)
		switch name {
		case "name":
			wanted.Name = text
		case "visibility":
			wanted.Visibility = text
		case "disk_format", "container_format", "min_disk", "min_ram", "protected", "tags":
		default:
			wanted.Properties[name] = text
		}
	}
	id, err := s.Add(wanted)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	s.mu.Lock()
	made := s.images[id]
	s.mu.Unlock()
	w.Header().Set("Location", s.cfg.URL+"/v2/images/"+id)
	writeJSON(w, http.StatusCreated, made.view())
}

func (s *Service) remove(w http.ResponseWriter, r *http.Request, caller identity.Caller) {
	found, ok := s.visible(r.PathValue("id"), caller)
	switch {
	case !ok:
		refuse(w, http.StatusNotFound, fmt.Sprintf("Failed to find image %s to delete", r.PathValue("id")))
	case !found.ownedBy(caller):
		refuse(w, http.StatusForbidden, "You are not authorized to complete delete_image action.")
	default:
		s.Delete(found.id)
		w.WriteHeader(http.StatusNoContent)
	}
}

// view is an image on the wire. What its owner says of it stands beside what
// Glance says, and never in its place.
func (r record) view() object {
	view := object{}
	for name, value := range r.Properties {
		view[name] = value
	}
	self := "/v2/images/" + r.id
	for name, value := range (object{
		"id": r.id, "name": r.Name, "status": "active", "visibility": r.Visibility, "owner": r.Owner,
		"created_at": r.created.Format(time.RFC3339), "updated_at": r.created.Format(time.RFC3339),
		"size": 0, "virtual_size": nil, "min_disk": 0, "min_ram": 0, "checksum": nil, "protected": false,
		"disk_format": "qcow2", "container_format": "bare", "os_hidden": false, "os_hash_algo": nil, "os_hash_value": nil,
		"tags": []string{}, "self": self, "file": self + "/file", "schema": "/v2/schemas/image",
	}) {
		view[name] = value
	}
	return view
}

// refuse answers as webob does, with a page.
func refuse(w http.ResponseWriter, status int, message string) {
	title := fmt.Sprintf("%d %s", status, http.StatusText(status))
	w.Header().Set("Content-Type", "text/html; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<html>\n <head>\n  <title>%s</title>\n </head>\n <body>\n  <h1>%s</h1>\n  %s<br /><br />\n\n\n\n </body>\n</html>",
		title, title, html.EscapeString(message))
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}
