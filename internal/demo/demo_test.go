// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"testing"
)

func TestPlay(t *testing.T) {
	report, err := Play(t.Context(), Config{Observe: func(step Step) { t.Logf("%+v", step) }})
	if err != nil || !report.OK {
		t.Fatal(err, report.OK)
	}
	t.Log(report.Seconds)
}
