// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package vendordata

import (
	"testing"
	"time"
)

// TestDeadline: answers are begun before they are due, and in a crowd sooner, but never so soon that FreeIPA has no chance.
func TestDeadline(t *testing.T) {
	t.Parallel()
	arrived := time.Now()
	e := &Enrolment{cfg: EnrolmentConfig{AnswerWithin: 4 * time.Second}}
	for n, want := range map[int64]time.Duration{1: 3600*time.Millisecond - crowding, 100: 3575 * time.Millisecond,
		2000: 3100 * time.Millisecond, 1_000_000: 2800 * time.Millisecond} {
		if got := e.deadline(arrived, n).Sub(arrived); got != want {
			t.Errorf("%d waiting: %v, want %v", n, got, want)
		}
	}
}
