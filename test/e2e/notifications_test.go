// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"github.com/muster-cloud/muster/internal/devcloud/compute"
)

// Each form of Nova's notifications is enough: an instance that is rebuilt gets
// a new identity, and one that is deleted goes, long before any comparison.
func TestNotificationFormats(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w *world) {
		for _, format := range []string{compute.Unversioned, compute.Versioned} {
			t.Run(format, func(t *testing.T) {
				s := newSite(t, w.speaking(t, format))
				before := s.directory()
				s.start(t, "one")
				g := s.enrolled(t, s.member(t, s.newProject(t, unique("shop"))).session)
				s.rebuild(t, g)
				g.goes(t)
				s.awaitNothing(t, before, g)
			})
		}
	})
}
