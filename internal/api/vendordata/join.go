// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package vendordata

import (
	"net/http"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/policy"
)

// Join is novajoin's face: enrolment alone, with its paths and its errors.
type Join struct {
	guard     *api.Guard
	enrolment *Enrolment
}

// NewJoin returns the face.
func NewJoin(guard *api.Guard, enrolment *Enrolment) *Join {
	return &Join{guard: guard, enrolment: enrolment}
}

// Name implements api.Face.
func (j *Join) Name() string { return "join" }

// Register implements api.Face. Tatu's version document is at the same path;
// it is read with GET.
func (j *Join) Register(router *api.Router) {
	router.Handle("POST /v1", j.guard.Authenticated(j.create))
	router.Shape("/v1", NamedError)
}

func (j *Join) create(r *api.Request) (api.Response, error) {
	instance, err := read(r)
	if err != nil {
		return api.Response{}, err
	}
	if err := r.Authorize(policy.JoinCreate, api.Object{ProjectID: instance.project}); err != nil {
		return api.Response{}, err
	}
	joining, err := j.enrolment.answer(r, instance)
	if err != nil {
		return api.Response{}, err
	}
	return api.Response{Body: joining}, nil
}

// NamedError is the shape of novajoin's errors, which it has from Nova.
func NamedError(status int, reason string) any {
	name, ok := errorNames[status]
	if !ok {
		name = "computeFault"
	}
	return map[string]any{name: struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{status, reason}}
}

var errorNames = map[int]string{
	http.StatusBadRequest:            "badRequest",
	http.StatusUnauthorized:          "unauthorized",
	http.StatusForbidden:             "forbidden",
	http.StatusNotFound:              "itemNotFound",
	http.StatusMethodNotAllowed:      "badMethod",
	http.StatusConflict:              "conflictingRequest",
	http.StatusRequestEntityTooLarge: "overLimit",
	http.StatusUnsupportedMediaType:  "badMediaType",
	http.StatusServiceUnavailable:    "serviceUnavailable",
}
