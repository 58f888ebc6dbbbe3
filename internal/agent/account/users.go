// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/muster-cloud/muster/internal/agent/files"
)

const (
	// comment marks accounts of Muster's in /etc/passwd.
	comment = "Muster role"
	// noPassword is a hash that no password has. Unlike "!" it does not make
	// sshd take the account for locked where PAM is not used.
	noPassword = "*"
	// locked on machines without expiry (busybox).
	lockedPassword = "!"
	// maxName is the limit of useradd and utmp.
	maxName = 32
	// firstUID: numbers below belong to the system. It is UID_MIN of common distributions.
	firstUID = 1000
	// getentNone is how getent(1) says that there is nothing of the name.
	getentNone = 2
	// expired is a day in the past; day 0 is read as "never" by some programs.
	expired = "1970-01-02"
)

// traces are files that the programs for accounts leave beside the lists of
// accounts themselves: copies of the lists as they were, and a lock.
var traces = []string{
	"/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-", "/etc/.pwd.lock",
}

// program runs a program that changes accounts. Once begun it comes to its end
// although the agent is told to end: half an account is of no use to anybody.
func (a *Accounts) program(ctx context.Context, stdin string, name string, args ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	a.tree.Step("run " + name)
	return a.tree.Watch(traces, func() error {
		_, err := a.runner.Run(ctx, []byte(stdin), name, args...)
		return err
	})
}

// user is a line of /etc/passwd.
type user struct {
	uid, gid      int
	comment, home string
}

// readUsers reads /etc/passwd.
func (a *Accounts) readUsers() (map[string]user, error) {
	content, err := a.tree.Read("/etc/passwd")
	if err != nil {
		return nil, err
	}
	users := map[string]user{}
	for line := range strings.Lines(string(content)) {
		field := strings.Split(strings.TrimSpace(line), ":")
		if len(field) < 7 {
			continue
		}
		uid, errUID := strconv.Atoi(field[2])
		gid, errGID := strconv.Atoi(field[3])
		if errUID == nil && errGID == nil {
			users[field[0]] = user{uid: uid, gid: gid, comment: field[4], home: field[5]}
		}
	}
	return users, nil
}

// unusable says why a name cannot be an account's. Muster has checked it; but
// it goes into command lines and the rules of sudo as root.
func unusable(name string) string {
	good := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c)
	}
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Sprintf("the name has not 1 to %d characters", maxName)
	case strings.ContainsFunc(name, func(c rune) bool { return !good(c) }):
		return "the name has characters other than ASCII letters, digits, '.', '_' and '-'"
	case name[0] == '-' || name[0] == '.' || name[0] >= '0' && name[0] <= '9':
		return "the name does not begin with a letter or an underscore"
	case name == "root":
		return "it is the system's"
	default:
		return ""
	}
}

// create makes an account. What it is about to do is noted first, so that
// after a kill the account is known to be Muster's.
func (a *Accounts) create(ctx context.Context, name string, users map[string]user) error {
	if err := a.free(ctx, name); err != nil {
		return err
	}
	home := path.Join("/home", name)
	uid, err := a.homeOwner(home, users)
	if err != nil {
		return err
	}
	before, ours := a.made[name]
	a.made[name] = made{UID: -1, Home: home, HomeWasThere: uid >= 0 && (!ours || before.HomeWasThere)}
	if err := a.save(); err != nil {
		delete(a.made, name)
		return err
	}
	if err := a.add(ctx, name, home, uid); err != nil {
		return err // what it left is known to be Muster's
	}
	users, err = a.readUsers()
	if err != nil {
		return err
	}
	made, got := users[name]
	if !got {
		return errors.New("it was made, but is not in /etc/passwd")
	}
	known := a.made[name]
	known.UID = made.uid
	a.made[name] = known
	return a.save()
}

// free refuses a name that a directory service or a group has. An account in
// an existing group, say docker, would have that group's rights.
func (a *Accounts) free(ctx context.Context, name string) error {
	for database, reason := range map[string]string{
		"passwd": "an account of this name is in a directory service",
		"group":  "a group of this name is there already",
	} {
		_, err := a.runner.Run(ctx, nil, "getent", database, name)
		exit := new(exec.ExitError)
		switch {
		case err == nil:
			return clashError(reason)
		case errors.As(err, &exit) && exit.ExitCode() == getentNone:
		case !files.Missing(err):
			return fmt.Errorf("cannot find out whether the name is free: %w", err)
		default:
			content, err := a.tree.Read("/etc/" + database)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(strings.Split(string(content), "\n"), func(line string) bool {
				return strings.HasPrefix(line, name+":")
			}) {
				return clashError(reason)
			}
		}
	}
	return nil
}

// homeOwner returns the number that the account must have so that a home
// folder left by a former account of this name is its own; -1 if there is none.
func (a *Accounts) homeOwner(home string, users map[string]user) (int, error) {
	info, err := a.tree.Stat(home)
	if err != nil {
		return -1, nil
	}
	owner := files.OwnerOf(info)
	if !info.IsDir() || owner < firstUID {
		return 0, clashError(home + " is there already, and belongs to the system: move it away")
	}
	for name, user := range users {
		if user.uid == owner {
			return 0, clashError(fmt.Sprintf("%s is there already, and belongs to %s: move it away", home, name))
		}
	}
	return owner, nil
}

func (a *Accounts) add(ctx context.Context, name, home string, uid int) error {
	args := []string{
		"--create-home", "--home-dir", home, "--shell", a.shell(), "--user-group", "--comment", comment, "--password", noPassword,
	}
	if uid >= 0 {
		args = append(args, "--uid", strconv.Itoa(uid))
	}
	err := a.program(ctx, "", "useradd", append(args, name)...)
	if err != nil && strings.Contains(err.Error(), "invalid user name") {
		// Distributions differ in what they take; what is safe was checked.
		err = a.program(ctx, "", "useradd", append(args, "--badname", name)...)
	}
	if files.Missing(err) {
		return a.addBusybox(ctx, name, home, uid)
	}
	return err
}

// addBusybox is for machines without shadow's programs, as Alpine is.
func (a *Accounts) addBusybox(ctx context.Context, name, home string, uid int) error {
	args := []string{"-D", "-h", home, "-s", a.shell(), "-g", comment}
	if uid >= 0 {
		args = append(args, "-u", strconv.Itoa(uid))
	}
	if err := a.program(ctx, "", "adduser", append(args, name)...); err != nil {
		return err
	}
	return a.setLocked(ctx, name, false)
}

// shell is bash where it is.
func (a *Accounts) shell() string {
	if a.tree.Exists("/bin/bash") {
		return "/bin/bash"
	}
	return "/bin/sh"
}

// locked tells whether the account is refused by sshd.
func (a *Accounts) locked(name string) (bool, error) {
	content, err := a.tree.Read("/etc/shadow")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(content)) {
		field := strings.Split(strings.TrimSpace(line), ":")
		if len(field) >= 8 && field[0] == name {
			return field[7] != "" || strings.HasPrefix(field[1], lockedPassword), nil
		}
	}
	return false, errors.New("it has no line in /etc/shadow")
}

// setLocked lets an account expire, or ends that. Both also put right the
// password, which would let nobody in by certificate if it began with "!".
func (a *Accounts) setLocked(ctx context.Context, name string, locked bool) error {
	day := ""
	if locked {
		day = expired
	}
	err := a.program(ctx, "", "usermod", "--expiredate", day, "--password", noPassword, name)
	if !files.Missing(err) {
		return err
	}
	hash := noPassword
	if locked {
		hash = lockedPassword
	}
	return a.program(ctx, name+":"+hash+"\n", "chpasswd", "-e")
}
