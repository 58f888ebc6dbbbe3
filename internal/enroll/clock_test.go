// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/store"
)

// TestClockFarAhead: what a replica put off, claimed, or noted while its clock was a year ahead is not believed when the clock is right.
func TestClockFarAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.skew.Store(int64(365 * 24 * time.Hour))
	// Claimed by one that never comes to it.
	_, err := w.idle(t).begin(t.Context(), operator, request(1, "web", "claimed"))
	must(t, err)
	// Tried in vain, and put off.
	far := w.idle(t, func(c *Config) { c.BackoffMin, c.BackoffMax, c.AnswerWithin = time.Minute, time.Minute, patience })
	w.ipa.Inject(func(string) freeipa.Fault { return freeipa.Fault{Status: 503} })
	stop := far.run(t)
	_, err = far.Enrol(t.Context(), operator, request(2, "web", "failed"))
	must(t, err)
	far.until(t, 2, func(e store.Enrolment) bool { return e.Attempts > 0 && e.ClaimedBy == "" })
	w.ipa.Inject(nil)
	// Enrolled, and seen not to have joined yet.
	joins, rebuilt := request(3, "web", "joins"), request(4, "web", "rebuilt")
	otp, old := far.enrol(t, joins).OTP, far.enrol(t, rebuilt).OTP
	w.skew.Add(int64(lookEvery))
	far.enrol(t, joins)
	far.enrol(t, rebuilt)
	stop()

	w.skew.Store(0)
	r := w.replica(t)
	r.reach(t, 1, store.EnrolmentCreated)
	r.reach(t, 2, store.EnrolmentCreated)
	must(t, w.ipa.Join("joins.example.test", otp))
	answer, err := r.Enrol(t.Context(), operator, joins)
	must(t, err)
	equal(t, answer.OTP, "")
	must(t, w.ipa.Join("rebuilt.example.test", old))
	must(t, r.Rebuild(t.Context(), operator, id(4), w.now()))
	r.reach(t, 4, store.EnrolmentCreated)
	if r.enrol(t, rebuilt).OTP == old {
		t.Error("the rebuilt instance gets the password that is spent")
	}
}
