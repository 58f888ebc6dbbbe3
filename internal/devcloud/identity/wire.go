// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// maxBody bounds a request body, as Keystone's max_request_body_size does.
const maxBody = 114688

// failure is an answer that says no, in Keystone's form.
type failure struct {
	code    int
	message string
}

func (f *failure) Error() string { return f.message }

func unauthorized() *failure {
	return &failure{http.StatusUnauthorized, "The request you have made requires authentication."}
}

func forbidden(action string) *failure {
	return &failure{http.StatusForbidden,
		"You are not authorized to perform the requested action: identity:" + action + "."}
}

func notFound(kind, id string) *failure {
	return &failure{http.StatusNotFound, fmt.Sprintf("Could not find %s: %s.", kind, id)}
}

func conflict(kind, name string) *failure {
	return &failure{http.StatusConflict, fmt.Sprintf("Conflict occurred attempting to store %s - "+
		"Duplicate entry found with name %s.", kind, name)}
}

func badRequest(message string) *failure {
	return &failure{http.StatusBadRequest, message + " The server could not comply with the request since it is " +
		"either malformed or otherwise incorrect. The client is assumed to be in error."}
}

// call is a request under way.
type call struct {
	*http.Request
	header http.Header // of the answer
	body   []byte
	token  *token // the caller's; nil before the check
	status int    // of a good answer
}

// object is a JSON object.
type object = map[string]any

// decode reads the body into v.
func (c *call) decode(v any) *failure {
	if json.Unmarshal(c.body, v) != nil {
		return badRequest("The request body is not the JSON that is expected.")
	}
	return nil
}

// route registers a handler that answers with a body (nil: none) and status.
// allowed tells whether the caller may; nil means anybody, without a token.
func (s *Service) route(pattern, action string, status int, allowed func(*call) bool,
	handler func(*call) (any, *failure)) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "X-Auth-Token")
		// The client is waited for before and after the lock, never under it.
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			s.refuse(w, badRequest("The request body cannot be read."))
			return
		}
		c := &call{Request: r, header: w.Header(), body: text, status: status}
		body, fail := s.answer(c, action, allowed, handler)
		if fail != nil {
			s.refuse(w, fail)
			return
		}
		writeJSON(w, c.status, body)
	})
}

func (s *Service) answer(c *call, action string, allowed func(*call) bool,
	handler func(*call) (any, *failure)) (any, *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if allowed != nil {
		c.token = s.valid(c.Header.Get("X-Auth-Token"))
		if c.token == nil {
			return nil, unauthorized()
		}
		if !allowed(c) {
			return nil, forbidden(action)
		}
	}
	return handler(c)
}

func (s *Service) refuse(w http.ResponseWriter, fail *failure) {
	if fail.code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Keystone uri=%q", s.url))
	}
	writeJSON(w, fail.code, object{"error": object{
		"code": fail.code, "message": fail.message, "title": http.StatusText(fail.code)}})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	if body == nil {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}
