// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/client"
)

// TestFollow shows each event once, in the order in which they came, however often they are in the answer.
func TestFollow(t *testing.T) {
	t.Parallel()
	at := func(n int) client.Event {
		return client.Event{ID: fmt.Sprint("a-", n), At: fmt.Sprintf("2026-01-01T00:00:%02d.5", n), Type: fmt.Sprint("event", n), Outcome: "ignored"}
	}
	shown := newFollowed([]client.Event{at(1)})
	var out strings.Builder
	for _, answer := range [][]client.Event{{at(3), at(2), at(1)}, {at(3), at(2)}, {at(4), at(3)}, nil} {
		if err := shown.writeNew(&out, answer, asTable); err != nil {
			t.Fatal(err)
		}
	}
	want := "2026-01-01T00:00:02  -  event2  -  ignored\n2026-01-01T00:00:03  -  event3  -  ignored\n2026-01-01T00:00:04  -  event4  -  ignored\n"
	if out.String() != want {
		t.Errorf("%s", out.String())
	}
	out.Reset()
	if err := shown.writeNew(&out, []client.Event{at(6), at(5)}, asJSON); err != nil {
		t.Fatal(err)
	}
	for n, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var e client.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.ID != at(5+n).ID {
			t.Errorf("%s: %v", line, err)
		}
	}
	for n := range maxFollowed + 2 {
		if err := shown.writeNew(&out, []client.Event{at(100 + n)}, asJSON); err != nil {
			t.Fatal(err)
		}
	}
	if len(shown) > maxFollowed {
		t.Errorf("%d events are remembered", len(shown))
	}
}
