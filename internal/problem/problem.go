// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package problem holds the few kinds of failure that cross room borders.
//
// Domain packages return a [*Problem] when they refuse a request; its text is
// meant for whoever asked and holds nothing secret. Every other error is a
// fault of ours or of a peer: its text goes to the log, never to a caller.
// Only the API turns kinds into HTTP statuses, and only in one place.
package problem

import (
	"fmt"
	"log/slog"
)

// Kind says what went wrong, in terms that a caller can act on.
type Kind int

// The kinds, each with the HTTP status that the API gives it.
const (
	Invalid      Kind = iota + 1 // 400: the request cannot be carried out as written
	Unauthorized                 // 401: no token, or one that Keystone does not know
	Forbidden                    // 403: a rule does not allow it
	NotFound                     // 404: the object does not exist, or not for this caller
	Conflict                     // 409: the object is in another state, or somebody else's
	TooLarge                     // 413: the body is larger than the limit
	TooMany                      // 429: more requests than the limit
	Unavailable                  // 503: a service that is needed does not answer
)

// Problem is a refusal with its reason.
type Problem struct {
	Kind   Kind
	Field  string // the field of the request that is at fault, or empty
	Reason string // for the caller: what is wrong, and what to do
	Cause  error  // for the log only
}

// Error returns the reason, with the field before it.
func (p *Problem) Error() string {
	if p.Field != "" {
		return p.Field + ": " + p.Reason
	}
	return p.Reason
}

// LogValue is the problem with its cause, which only the log may hold.
func (p *Problem) LogValue() slog.Value {
	if p.Cause == nil {
		return slog.StringValue(p.Error())
	}
	return slog.StringValue(p.Error() + ": " + p.Cause.Error())
}

// Unwrap returns what the problem was caused by.
func (p *Problem) Unwrap() error { return p.Cause }

// New returns a problem of the kind; the reason is formatted as by fmt.Sprintf.
func New(kind Kind, format string, args ...any) *Problem {
	return &Problem{Kind: kind, Reason: fmt.Sprintf(format, args...)}
}

// InField returns a problem of kind Invalid with one field of the request.
func InField(field, format string, args ...any) *Problem {
	return &Problem{Kind: Invalid, Field: field, Reason: fmt.Sprintf(format, args...)}
}
