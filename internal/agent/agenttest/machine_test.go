// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agenttest

import (
	"os"
	"testing"

	"github.com/muster-cloud/muster/internal/agent/files"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// No disk is found, not even those of this machine.
func TestNoDisks(t *testing.T) {
	Machine(t, "blkid")
	// It fails, in silence, if there is none.
	if found, err := (files.Programs{}).Run(t.Context(), nil, "blkid", "-o", "device"); err == nil || len(found) > 0 {
		t.Errorf("found %q, %v", found, err)
	}
}
