// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAccountsOfRoles(t *testing.T) {
	rules := AccountRules{Accounts: map[string]string{"My Role": "myrole", "boss": "admin"}, Reserved: []string{"oracle"}}
	tests := []struct {
		name     string
		rules    AccountRules
		roles    []string
		want     []string
		leftOut  []string
		prefixed bool
	}{
		{"plain", rules, []string{"member", "admin", "reader"}, []string{"admin", "member", "reader"}, nil, false},
		{"old Keystone's capital", rules, []string{"Member", "_member_"}, []string{"Member", "_member_"}, nil, false},
		{"mapped", rules, []string{"My Role"}, []string{"myrole"}, nil, false},
		{"two roles of one account", rules, []string{"boss", "admin"}, []string{"admin"}, nil, false},
		{"blank inside", rules, []string{"Your Role"}, nil, []string{"Your Role"}, false},
		{"system accounts", rules, []string{"root", "Root", "sshd", "sudo", "systemd-network", "ubuntu"}, nil,
			[]string{"root", "Root", "sshd", "sudo", "systemd-network", "ubuntu"}, false},
		{"configured reserve", rules, []string{"oracle"}, nil, []string{"oracle"}, false},
		{"path", rules, []string{"../x", "/etc", "..", "."}, nil, []string{"../x", "/etc", "..", "."}, false},
		{"numbers only", rules, []string{"1000", "0"}, nil, []string{"1000", "0"}, false},
		{"option", rules, []string{"-o"}, nil, []string{"-o"}, false},
		{"comma splits principals", rules, []string{"a,root"}, nil, []string{"a,root"}, false},
		{"line feed", rules, []string{"a\nroot"}, nil, []string{"a\nroot"}, false},
		{"not ASCII", rules, []string{"größe", "раss"}, nil, []string{"größe", "раss"}, false},
		{"longest", rules, []string{strings.Repeat("a", 32), strings.Repeat("b", 33)}, []string{strings.Repeat("a", 32)}, []string{strings.Repeat("b", 33)}, false},
		{"prefix", AccountRules{Prefix: "os-"}, []string{"root", "member"}, []string{"os-member", "os-root"}, nil, true},
		{"empty", rules, []string{""}, nil, []string{""}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			accounts, leftOut := tt.rules.Of(tt.roles)
			var roles []string
			for _, left := range leftOut {
				roles = append(roles, left.Role)
			}
			if diff := cmp.Diff(tt.want, accounts); diff != "" {
				t.Errorf("accounts (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.leftOut, roles); diff != "" {
				t.Errorf("left out (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAccountRulesCheck(t *testing.T) {
	if err := (AccountRules{Accounts: map[string]string{"admin": "root"}}).Check(); err == nil {
		t.Error("a role mapped to root was accepted")
	}
	if err := (AccountRules{Accounts: map[string]string{"admin": "boss"}}).Check(); err != nil {
		t.Error(err)
	}
}

func FuzzAccount(f *testing.F) {
	for _, seed := range []string{"member", "root", "a,b", "", "é", "-x", "a\x00b", strings.Repeat("x", 40)} {
		f.Add(seed)
	}
	safe := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9._-]{0,31}$`)
	f.Fuzz(func(t *testing.T, role string) {
		accounts, _ := (AccountRules{}).Of([]string{role})
		for _, account := range accounts {
			if !safe.MatchString(account) || account == "root" {
				t.Fatalf("role %q became account %q", role, account)
			}
		}
	})
}
