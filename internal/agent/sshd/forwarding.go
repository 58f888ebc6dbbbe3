// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/muster-cloud/muster/internal/agent/files"
)

// forwardingLimits names the accounts for which sshd forwards no SSH agent, or
// can't: from OpenSSH 10.1 on the agent's socket lies in the account's home.
func (c *SSHD) forwardingLimits(f *Finding, accounts []string) (limits []string) {
	forbidden := f.where(func(s Settings) bool {
		return s.of("allowagentforwarding") == "no" || s.of("disableforwarding") == "yes" || s.of("agentsocketpath") == "none"
	})
	forbidden = slices.DeleteFunc(forbidden, func(name string) bool { return !slices.Contains(accounts, name) })
	if len(forbidden) > 0 {
		limits = append(limits, "sshd forwards no SSH agent for "+strings.Join(forbidden, ", ")+", by AllowAgentForwarding, DisableForwarding or "+
			"AgentSocketPath in its configuration, and sudo asks that agent (pam_sudo): sudo refuses them; allow forwarding there, or let the operator "+
			"switch pam_sudo off")
	}
	for _, name := range slices.Sorted(slices.Values(accounts)) {
		folder, inHome := strings.CutPrefix(f.accounts[name].of("agentsocketpath"), "user:")
		if !inHome || slices.Contains(forbidden, name) {
			continue
		}
		if reason := c.noSocket(name, folder); reason != "" {
			limits = append(limits, "sshd can't forward an SSH agent for "+name+": "+reason+"; sudo asks that agent (pam_sudo), and refuses them")
		}
	}
	return limits
}

// longestSocket is how long a socket's name can be ("s.2N0me1rP8M.sshd.4194304.Zb1LOpRX6I"),
// and longestPath how long its path (unix(7)).
const (
	longestSocket = 36
	longestPath   = 107
)

// noSocket is why sshd can make no socket in a folder of the account's home.
// Those that are not there it makes.
func (c *SSHD) noSocket(account, folder string) string {
	passwd, err := c.tree.Read("/etc/passwd")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(passwd)) {
		field := strings.Split(line, ":")
		if len(field) < 7 || field[0] != account {
			continue
		}
		uid, errUID := strconv.Atoi(field[2])
		if errUID != nil {
			return ""
		}
		home := field[5]
		if len(path.Join(home, folder))+1+longestSocket > longestPath {
			return "the path of a socket in " + path.Join(home, folder) + " is too long"
		}
		return c.notWritable(home, folder, uid)
	}
	return ""
}

// notWritable is why the account cannot make the folder, or something in it.
func (c *SSHD) notWritable(home, folder string, uid int) string {
	info, err := c.tree.Stat(home)
	if err != nil {
		return fmt.Sprintf("its home %s is not there", home)
	}
	last := home // that is there
	for name := range strings.SplitSeq(folder, "/") {
		inside, err := c.tree.Stat(path.Join(last, name))
		if err != nil {
			break
		}
		last, info = path.Join(last, name), inside
	}
	const use = 0o300 // to make something in a folder of one's own
	if !info.IsDir() || files.OwnerOf(info) != uid || info.Mode().Perm()&use != use {
		return last + " is not the account's to write to"
	}
	var disk syscall.Statfs_t
	const readOnly = 1 // ST_RDONLY of statvfs(3)
	if err := syscall.Statfs(filepath.Join(c.tree.Root(), last), &disk); err == nil && disk.Flags&readOnly != 0 {
		return last + " is on a file system that is read-only"
	}
	return ""
}
