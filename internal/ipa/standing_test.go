// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa_test

import (
	"slices"
	"testing"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
)

// TestStanding: a caller is told which permissions it has, and what it may write, with and without rights.
func TestStanding(t *testing.T) {
	w := newWorld(t, freeipa.Config{})
	c := newClient(t, config(w))
	s, err := c.Standing(t.Context())
	must(t, err)
	if !s.Listed || s.Admin || s.Principal != nova+"@EXAMPLE.TEST" || !slices.Contains(s.Permissions, "System: Add Hosts") ||
		!slices.Equal(s.Privileges, []string{"Nova Host Management"}) || !s.Host["userpassword"] || s.Host["description"] ||
		!s.Service["managedby"] || !s.Zone["arecord"] {
		t.Errorf("%+v", s)
	}
	for _, permission := range s.Permissions {
		w.Forbid(permission)
	}
	s, err = c.Standing(t.Context())
	must(t, err)
	if _, shown := s.Host["userpassword"]; !shown || s.Host["userpassword"] || s.Service["managedby"] || s.Zone != nil || len(s.Permissions) > 0 || !s.Listed {
		t.Errorf("without rights: %+v", s)
	}
}
