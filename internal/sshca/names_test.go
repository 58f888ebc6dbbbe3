// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"fmt"
	"strings"
	"testing"
)

// TestLongNames: the longest names that Keystone and the DNS allow can be
// certified; a key ID ends with the whole serial.
func TestLongNames(t *testing.T) {
	w := newWorld(t)
	w.directory.grant(alice, blue, "member")
	for _, name := range []string{strings.Repeat("a", 255), strings.Repeat("🔑", 255)} {
		cert, err := w.IssueUser(t.Context(), Actor{UserID: alice}, UserRequest{ProjectID: blue, UserID: alice, UserName: name, PublicKey: newKey(t)})
		if err != nil {
			t.Fatalf("a user name of %d bytes: %v", len(name), err)
		}
		if parsed := parseCert(t, cert.Cert); cert.UserName != name || len(parsed.KeyId) > 255 || !strings.HasSuffix(parsed.KeyId, fmt.Sprint("_", cert.Serial)) {
			t.Errorf("user name %s, key ID %s", cert.UserName, parsed.KeyId)
		}
	}
	hostname := strings.Repeat("a", maxHostname)
	boot, err := w.HostToken(t.Context(), Actor{}, InstanceRequest{InstanceID: red, ProjectID: blue, Hostname: hostname})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := w.IssueHost(t.Context(), Actor{}, HostRequest{Token: boot.Token, InstanceID: red, PublicKey: newKey(t)})
	if err != nil || cert.Hostname != hostname {
		t.Errorf("a host name of %d bytes: %v", len(hostname), err)
	}
}
