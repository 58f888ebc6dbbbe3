// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// A report is a hint: FreeIPA decides whether an instance has joined.
func TestReport(t *testing.T) {
	w := newWorld(t)
	r := w.replica(t)
	req := request(1, "web", "a")
	otp := r.enrol(t, req).OTP
	tell := func(joined bool, reason string) store.Enrolment {
		t.Helper()
		e, err := r.Report(t.Context(), Actor{RequestID: "req-1"}, Report{InstanceID: id(1), Joined: joined, Reason: reason})
		must(t, err)
		return e
	}
	equal(t, tell(true, "").State, store.EnrolmentCreated)

	failed := tell(false, "no route to host\nforged: line \x1b[2J")
	equal(t, failed.State, store.EnrolmentFailed)
	equal(t, failed.LastError, "the instance reports: no route to host forged: line  [2J")
	equal(t, tell(false, "no route to host\nforged: line \x1b[2J").Version, failed.Version)
	equal(t, tell(false, "another reason at once").Version, failed.Version)
	w.skew.Add(int64(reportEvery))
	equal(t, tell(false, " ").LastError, "the instance reports: no reason given")
	equal(t, r.enrol(t, req).OTP, otp) // it may try again

	must(t, w.ipa.Join("a.example.test", otp))
	done := tell(true, "")
	equal(t, done.State, store.EnrolmentEnrolled)
	equal(t, done.LastError, "")
	equal(t, len(done.OTPSealed), 0)
	equal(t, tell(false, "too late").State, store.EnrolmentEnrolled)
	equal(t, tell(true, "").Version, done.Version)

	audits, err := r.store.Audits(t.Context(), store.AuditFilter{Action: "enrolment.report"}, store.Page{})
	must(t, err)
	if len(audits) != 2 || audits[0].Outcome != "failed" || audits[0].ObjectID != id(1) {
		t.Errorf("audit: %+v", audits)
	}
}

// What an instance says of itself changes no enrolment that is under way, or has gone.
func TestReportOutOfTurn(t *testing.T) {
	w := newWorld(t)
	must(t, w.ipa.AddHost("b.example.test", ""))
	r := w.replica(t)
	_, err := r.Report(t.Context(), Actor{}, Report{InstanceID: id(1)})
	refused(t, err, problem.NotFound)
	_, err = r.Report(t.Context(), Actor{}, Report{InstanceID: id(1), Reason: strings.Repeat("x", MaxReason+1)})
	refused(t, err, problem.Invalid)
	_, err = r.Enrol(t.Context(), operator, request(2, "web", "b"))
	refused(t, err, problem.Conflict)
	e, err := r.Report(t.Context(), Actor{}, Report{InstanceID: id(2), Reason: "x"})
	must(t, err)
	if strings.Contains(e.LastError, "reports") || e.State != store.EnrolmentFailed {
		t.Errorf("%+v", e)
	}
	r.enrol(t, request(3, "web", "c"))
	r.leave(t, 3)
	e, err = r.Report(t.Context(), Actor{}, Report{InstanceID: id(3), Reason: "x"})
	must(t, err)
	equal(t, e.State, store.EnrolmentGone)
}
