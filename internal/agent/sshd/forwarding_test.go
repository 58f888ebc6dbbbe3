// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
)

// TestNoSocketForTheAgent: what keeps OpenSSH 10.6 from making the socket of a
// forwarded agent. Each was tried with it, in Debian unstable, and so was that a
// home of 56 characters is short enough and one of 66 is not.
func TestNoSocketForTheAgent(t *testing.T) {
	const atHome, account = "AgentSocketPath user:.ssh/agent\n", 12345
	for name, test := range map[string]struct {
		says string // sshd -T
		home string // default: /home/member
		make func(home string) error
		want string
	}{
		"all is well":          {says: atHome},
		"a folder of before":   {says: atHome, make: func(home string) error { return folders(account, home+"/.ssh", home+"/.ssh/agent") }},
		"before 10.1":          {make: func(home string) error { return os.Chown(home, 0, 0) }},
		"none":                 {says: "AgentSocketPath none\n", want: "AgentSocketPath in its configuration"},
		"somebody else's home": {says: atHome, make: func(home string) error { return os.Chown(home, 0, 0) }, want: "member is not the account's"},
		"root's .ssh":          {says: atHome, make: func(home string) error { return folders(0, home+"/.ssh") }, want: ".ssh is not the account's"},
		"root's agent": {says: atHome, make: func(home string) error {
			return errors.Join(folders(account, home+"/.ssh"), folders(0, home+"/.ssh/agent"))
		}, want: ".ssh/agent is not"},
		"of another folder":      {says: "AgentSocketPath user:a/b\n", make: func(home string) error { return folders(0, home+"/a") }, want: "/a is not the account's"},
		"a file in its place":    {says: atHome, make: func(home string) error { return os.WriteFile(home+"/.ssh", nil, 0o600) }, want: ".ssh is not the account's"},
		"no home":                {says: atHome, make: os.Remove, want: "/home/member is not there"},
		"a home of 56":           {says: atHome, home: "/home/" + strings.Repeat("x", 50)},
		"a home of 66":           {says: atHome, home: "/home/" + strings.Repeat("x", 60), want: "too long"},
		"nothing is forwarded":   {says: "AllowAgentForwarding no\n" + atHome, want: "by AllowAgentForwarding"},
		"nothing whatsoever is":  {says: "DisableForwarding yes\n", want: "DisableForwarding"},
		"a home without writing": {says: atHome, make: func(home string) error { return errors.Join(os.Chown(home, account, account), os.Chmod(home, 0o555)) }, want: "not the account's to write"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, debian)
			home := test.home
			if home == "" {
				home = "/home/member"
			}
			agenttest.Write(t, h.root, "/etc/passwd", "root:x:0:0::/root:/bin/sh\nmember:x:12345:12345:Muster role:"+home+":/bin/sh\n")
			inside := filepath.Join(h.root, home)
			if err := errors.Join(os.RemoveAll(inside), folders(account, inside)); err != nil {
				t.Fatal(err)
			}
			if test.make != nil {
				if err := test.make(inside); err != nil {
					t.Fatal(err)
				}
			}
			found := &Finding{accounts: map[string]Settings{
				"member": ParseSettings([]byte(test.says)), "other": ParseSettings([]byte("AllowAgentForwarding no\n")),
			}}
			limits := h.forwardingLimits(found, []string{"member"})
			if (len(limits) == 0) != (test.want == "") || len(limits) > 1 || test.want != "" && !strings.Contains(limits[0], test.want) ||
				strings.Contains(strings.Join(limits, ""), "other") {
				t.Errorf("it says %q", limits)
			}
		})
	}
}

// folders makes folders of somebody's.
func folders(uid int, names ...string) error {
	var failed error
	for _, name := range names {
		failed = errors.Join(failed, os.MkdirAll(name, 0o700), os.Chown(name, uid, uid))
	}
	return failed
}

// TestAuthInfo: sessions of accounts whose sudo asks their agent learn by which
// certificate somebody logged in, and no others.
func TestAuthInfo(t *testing.T) {
	h := newHost(t, debian+"ExposeAuthInfo no\n")
	agenttest.Write(t, h.root, dropFolder+"/00-a.conf", "Match User member\nExposeAuthInfo no\n") // before 00-muster.conf
	want := h.want()
	want.ForwardAgent = []string{"member"}
	h.apply(want)
	h.expect(h.effective("-C", connection("member")), "exposeauthinfo yes")
	h.expect(h.effective("-C", connection("reader")), "exposeauthinfo no")
	h.expect(h.effective("-C", connection("other")), "exposeauthinfo no")
}
