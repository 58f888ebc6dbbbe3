// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package outage_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/outage"
)

// TestNote: however often something fails, that is said once, and once that it is over.
func TestNote(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	var o outage.Outage
	away := errors.New("the database is away")
	ended, end := context.WithCancel(t.Context())
	end()
	o.Note(ended, logger, "look", away)
	for _, err := range []error{nil, away, away, away, nil, nil, away, nil} {
		o.Note(t.Context(), logger, "look", err)
	}
	for text, want := range map[string]int{"Cannot look": 2, "Can look again": 2, "\n": 4, "the database is away": 2} {
		if got := strings.Count(log.String(), text); got != want {
			t.Errorf("%q is there %d times, want %d, in:\n%s", text, got, want, log.String())
		}
	}
}
