// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"errors"
	"strings"
	"testing"
)

// sudo is sudo-rs, and nothing of the other one is left.
func TestOnlySudoRS(t *testing.T) {
	var missing error
	m := New(t, Config{Name: "vm-1", Prepare: func(root string) error {
		if missing = OnlySudoRS(root); errors.Is(missing, ErrNoPackage) {
			return nil
		}
		return missing
	}})
	if missing != nil {
		return // Debian 12 has no sudo-rs
	}
	m.Boot(t)
	for _, name := range []string{"sudo", "visudo"} {
		owner := m.Must(t, "sh", "-c", "dpkg --search $(readlink -f $(command -v "+name+"))")
		if !strings.HasPrefix(owner, "sudo-rs:") {
			t.Errorf("%s is of %q", name, owner)
		}
	}
	m.Must(t, "visudo", "-c")
	if got := m.Must(t, "sudo", "-n", "id", "-un"); got != "root\n" {
		t.Errorf("sudo runs it as %q", got)
	}
}
