// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sudo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	// maxAncestors bounds the walk from sudo to the login.
	maxAncestors = 64
	maxEnviron   = 4 << 20
	// maxSocketPath is the kernel's limit of sun_path.
	maxSocketPath = 107
)

// person is the account that called sudo.
type person struct{ uid, gid int }

// lookUp finds an account among the machine's own. Muster's are all there.
func lookUp(root, account string) (person, error) {
	content, err := os.ReadFile(filepath.Join(root, "/etc/passwd"))
	if err != nil {
		return person{}, err
	}
	for line := range strings.Lines(string(content)) {
		field := strings.Split(line, ":")
		if len(field) < 7 || field[0] != account {
			continue
		}
		uid, errUID := strconv.Atoi(field[2])
		gid, errGID := strconv.Atoi(field[3])
		return person{uid: uid, gid: gid}, errors.Join(errUID, errGID)
	}
	return person{}, fmt.Errorf("%s is not in /etc/passwd", account)
}

// dialAgent connects to the agent that the calling session names.
func dialAgent(ctx context.Context, sudo int, who person) (net.Conn, error) {
	failed := fmt.Errorf("%w; if you did, \"muster-agent status\" says what keeps sshd from forwarding it", ErrNoAgent)
	for path := range named(sudo, who, "SSH_AUTH_SOCK") {
		connection, err := dial(ctx, path, sudo, who)
		if err == nil {
			return connection, nil
		}
		failed = fmt.Errorf("%w (%w)", ErrNoAgent, err)
	}
	return nil, failed
}

// named are the values of a variable in the calling session. It is looked for
// in sudo's own environment, which is the caller's, and then in those of the
// caller's processes that led to it.
func named(sudo int, who person, variable string) iter.Seq[string] {
	return func(yield func(string) bool) {
		seen := map[string]bool{}
		for pid, n := sudo, 0; pid > 1 && n < maxAncestors; n++ {
			parent, uid, err := relatives(pid)
			if err != nil || pid != sudo && uid != who.uid {
				return
			}
			value := valueOf(pid, variable)
			if value != "" && !seen[value] {
				seen[value] = true
				if !yield(value) {
					return
				}
			}
			pid = parent
		}
	}
}

// relatives returns a process's parent and real user.
func relatives(pid int) (parent, uid int, err error) {
	status, err := os.ReadFile(proc(pid, "status"))
	if err != nil {
		return 0, 0, err
	}
	parent, uid = -1, -1
	for line := range strings.Lines(string(status)) {
		field := strings.Fields(line)
		if len(field) < 2 {
			continue
		}
		switch field[0] {
		case "PPid:":
			parent, err = strconv.Atoi(field[1])
		case "Uid:":
			uid, err = strconv.Atoi(field[1])
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return parent, uid, nil
}

// valueOf is a variable in a process's environment, or nothing.
func valueOf(pid int, name string) string {
	f, err := os.Open(proc(pid, "environ"))
	if err != nil {
		return ""
	}
	defer f.Close()
	environ, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return ""
	}
	for variable := range bytes.SplitSeq(environ, []byte{0}) {
		if value, found := bytes.CutPrefix(variable, []byte(name+"=")); found {
			return string(value)
		}
	}
	return ""
}

func proc(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// dial connects with the caller's rights, so that nobody reaches through sudo
// what he could not reach himself, and makes sure who listens.
func dial(ctx context.Context, path string, sudo int, who person) (net.Conn, error) {
	if !filepath.IsAbs(path) || len(path) > maxSocketPath {
		return nil, errors.New("SSH_AUTH_SOCK is no absolute path")
	}
	var connection net.Conn
	err := asPerson(who, func() error {
		info, err := os.Stat(path)
		if err != nil {
			return errors.New("SSH_AUTH_SOCK names nothing that you may use")
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok || info.Mode().Type() != os.ModeSocket || int(stat.Uid) != who.uid {
			return errors.New("SSH_AUTH_SOCK names no socket of yours")
		}
		connection, err = (&net.Dialer{}).DialContext(ctx, "unix", path)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := checkListener(connection, sudo, who); err != nil {
		return nil, errors.Join(err, connection.Close())
	}
	return connection, nil
}

// asPerson does something with another user's rights and comes back. Real and
// saved user stay root, so that the person can neither stop nor trace this
// process meanwhile.
func asPerson(who person, do func() error) (err error) {
	if os.Geteuid() != 0 {
		return do()
	}
	if err := syscall.Setresgid(-1, who.gid, -1); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, syscall.Setresgid(-1, 0, -1)) }()
	if err := syscall.Setresuid(-1, who.uid, -1); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, syscall.Setresuid(-1, 0, -1)) }()
	return do()
}

// checkListener makes sure that the one who listens is a process of the same
// account and the same login as sudo. Several people share an account, and one
// must not get through with the other's agent by naming its socket alone. It is
// no wall between them: a process of one's own may pass on what the other's says.
func checkListener(connection net.Conn, sudo int, who person) error {
	unix, ok := connection.(*net.UnixConn)
	if !ok {
		return errors.New("no Unix socket")
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return err
	}
	var listener *syscall.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		listener, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	if int(listener.Uid) != who.uid {
		return errors.New("the agent belongs to somebody else")
	}
	if login, theirs := loginOf(sudo), loginOf(int(listener.Pid)); login != theirs {
		return errors.New("the agent belongs to another login than the one that calls sudo")
	}
	return nil
}

// loginOf is the audit session of a process, which pam_loginuid sets at each
// login and nobody but root can change. It is the same for all where the
// kernel keeps none.
func loginOf(pid int) string {
	id, err := os.ReadFile(proc(pid, "sessionid"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
