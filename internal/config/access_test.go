// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnreadable: path_resolution(7) says which bits count for whom. The user is
// not the files' owner, who runs the test, unless a case says so.
func TestUnreadable(t *testing.T) {
	const other = 4711
	gid := uint32(os.Getgid())
	stranger, member := Identity{"muster", other, []uint32{other}}, Identity{"muster", other, []uint32{other, gid}}
	owner := Identity{"muster", uint32(os.Getuid()), []uint32{other}}
	for _, c := range []struct {
		name string
		mode map[string]os.FileMode // other than those that a good machine has
		who  Identity
		want string // the one problem; {} is the folder
	}{
		{"the group reads", nil, member, ""},
		{"a secret of another group", map[string]os.FileMode{"muster.conf": 0o644, "muster.conf.d/a.conf": 0o644, "log": 0o666}, stranger,
			"muster.conf:4 [keystone_authtoken] password_file: user muster can't read {}/secret; let that user's group read it"},
		{"the configuration", map[string]os.FileMode{"muster.conf": 0o600}, member, "{}/muster.conf: user muster can't read {}/muster.conf;"},
		{"another file of it", map[string]os.FileMode{"muster.conf.d/a.conf": 0o600}, member, "{}/muster.conf.d/a.conf: user muster can't read"},
		{"others may, but the group may not", map[string]os.FileMode{"tls/ca.crt": 0o604}, member,
			"muster.conf:5 [keystone_authtoken] cafile: user muster can't read {}/tls/ca.crt;"},
		{"a folder", map[string]os.FileMode{"tls": 0o700}, member,
			"muster.conf:5 [keystone_authtoken] cafile: user muster can't enter the folder {}/tls;"},
		{"a link into a folder", map[string]os.FileMode{"private": 0o700}, member,
			"muster.conf:7 [oslo_policy] policy_file: user muster can't enter the folder {}/private;"},
		{"a log of root's", map[string]os.FileMode{"log": 0o640}, member, "muster.conf:2 [DEFAULT] log_file: user muster can't write {}/log;"},
		{"the owner", map[string]os.FileMode{"secret": 0o600, "muster.conf": 0o600, "tls": 0o700}, owner, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, dir, err := load(t, map[string]string{
				"muster.conf": "[DEFAULT]\nlog_file = log\n[keystone_authtoken]\npassword_file = secret\ncafile = tls/ca.crt\n" +
					"[oslo_policy]\npolicy_file = policy.yaml\n",
				"muster.conf.d/a.conf": "", "secret": "s", "tls/ca.crt": "x", "private/rules": "{}", "policy.yaml": "{}", "log": "",
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(dir, "policy.yaml")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("private/rules", filepath.Join(dir, "policy.yaml")); err != nil {
				t.Fatal(err)
			}
			modes := map[string]os.FileMode{"..": 0o755, ".": 0o755, "muster.conf": 0o640, "muster.conf.d": 0o755, "muster.conf.d/a.conf": 0o640,
				"secret": 0o640, "tls": 0o755, "tls/ca.crt": 0o644, "private": 0o755, "private/rules": 0o644, "log": 0o660}
			for name, mode := range modes {
				if special, ok := c.mode[name]; ok {
					mode = special
				}
				if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
					t.Fatal(err)
				}
			}
			found := cfg.Unreadable(c.who)
			if c.want == "" {
				if len(found) > 0 {
					t.Errorf("got %v, want nothing", found)
				}
				return
			}
			if len(found) != 1 || !strings.Contains(found[0].String(), strings.ReplaceAll(c.want, "{}", dir)) {
				t.Errorf("got %v, want %s", found, c.want)
			}
		})
	}
}
