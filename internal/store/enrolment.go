// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"time"
)

// EnrolmentState says how far an enrolment is.
type EnrolmentState string

// The states of an enrolment.
const (
	EnrolmentWanted   EnrolmentState = "wanted"   // recorded; FreeIPA has not all of it yet
	EnrolmentCreated  EnrolmentState = "created"  // FreeIPA has all of it; the instance has not joined yet
	EnrolmentEnrolled EnrolmentState = "enrolled" // the instance has joined
	EnrolmentFailed   EnrolmentState = "failed"   // see LastError; without NextAt nothing happens until somebody acts
	EnrolmentLeaving  EnrolmentState = "leaving"  // being removed
	EnrolmentGone     EnrolmentState = "gone"     // removed
)

// OTPState says where an instance's one-time password is.
type OTPState string

// The states of a one-time password.
const (
	OTPNew     OTPState = "new"     // made; FreeIPA may or may not have it
	OTPRebuild OTPState = "rebuild" // as OTPNew, and the host's keytab is to be made invalid before
	OTPSet     OTPState = "set"     // FreeIPA has it
	OTPUsed    OTPState = "used"    // spent or dropped
)

// Enrolment is an instance's enrolment in FreeIPA.
type Enrolment struct {
	InstanceID  string
	ProjectID   string
	ProjectName string
	FQDN        string
	State       EnrolmentState
	OTPState    OTPState
	OTPSealed   []byte // the one-time password, sealed by custody; empty once it is used
	Want        string // what the instance wants, as JSON of package enroll
	LastError   string // of the last attempt; "" if it succeeded
	Attempts    int    // failed ones in a row
	NextAt      time.Time
	ClaimedBy   string // the replica that works on it
	ClaimedTill time.Time
	CreatedAt   time.Time
	UpdatedAt   time.Time
	GoneAt      time.Time
	Version     int64 // grows with each change
}

// EnrolmentFilter selects enrolments of a list; empty fields select all.
type EnrolmentFilter struct {
	ProjectID string
	State     EnrolmentState
}

// Enrolment returns an instance's enrolment. ErrNotFound.
func (s *Store) Enrolment(ctx context.Context, instanceID string) (Enrolment, error) {
	return Enrolment{}, ErrNotFound
}

// Enrolments lists enrolments by instance.
func (s *Store) Enrolments(ctx context.Context, f EnrolmentFilter, page Page) ([]Enrolment, error) {
	return nil, nil
}
