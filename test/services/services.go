// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package services starts private database servers for tests: in a temporary folder, on a socket in it and a free loopback port, and under an
// account without rights where the server insists. It never touches a server, cluster or configuration that is on the machine, and needs only
// what scripts/services-install.sh installs.
package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrMissing: the programs of the service are not installed.
var ErrMissing = errors.New("not installed: run scripts/services-install.sh as root")

const (
	startTimeout = 5 * time.Minute
	stopTimeout  = 2 * time.Minute
)

// Server is a running database server.
type Server struct {
	kind    kind
	folder  string
	port    int
	account *account // nil: our own
	command *exec.Cmd
	exited  chan struct{} // closed when the process has ended
}

// kind is what differs between the servers.
type kind interface {
	// prepare fills the empty folder.
	prepare(ctx context.Context, s *Server) error
	// program returns the server's program and arguments.
	program(s *Server) (string, []string)
	// execute runs SQL by the server's own client, as its administrator.
	execute(ctx context.Context, s *Server, sql string) error
	// url returns the address of a database as SQLAlchemy writes it.
	url(s *Server, database string) string
}

// start prepares a folder and starts the server in it.
func start(ctx context.Context, k kind, a *account) (*Server, error) {
	// The path of a socket is at most some 100 bytes long: no test's own folder.
	folder, err := os.MkdirTemp("", "muster-db-")
	if err != nil {
		return nil, err
	}
	s := &Server{kind: k, folder: folder, account: a}
	if err := s.begin(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) begin(ctx context.Context) error {
	if s.account != nil {
		if err := os.Chown(s.folder, s.account.uid, s.account.gid); err != nil {
			return err
		}
	}
	if err := s.kind.prepare(ctx, s); err != nil {
		return err
	}
	var err error
	if s.port, err = Port(); err != nil {
		return err
	}
	return s.Start(ctx)
}

// Start starts the server, again after Kill, and waits until it answers.
func (s *Server) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	log, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	name, args := s.kind.program(s)
	s.command = s.run(context.WithoutCancel(ctx), name, args...)
	s.command.Stdout, s.command.Stderr = log, log
	if err := s.command.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.exited = exited
	go func(c *exec.Cmd) {
		// How it ended doesn't matter: it is killed on purpose.
		_ = c.Wait()
		close(exited)
	}(s.command)
	return s.await(ctx)
}

// await asks until the server answers.
func (s *Server) await(ctx context.Context) error {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := s.kind.execute(ctx, s, "SELECT 1;")
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("the server ended while starting:\n%s", s.logTail())
		case <-ctx.Done():
			return fmt.Errorf("the server doesn't answer: %w:\n%s", err, s.logTail())
		case <-again.C:
		}
	}
}

// Kill ends the server as a crash does, with SIGKILL, and returns when it's gone with its children. Those of PostgreSQL have process
// groups of their own, and hold its memory.
func (s *Server) Kill() error {
	if s.command == nil || s.command.Process == nil {
		return nil
	}
	offspring, err := children(s.command.Process.Pid)
	if err := errors.Join(err, s.signal(syscall.SIGKILL)); err != nil {
		return err
	}
	deadline := time.Now().Add(stopTimeout)
	for _, pid := range offspring {
		for !ended(pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
			if time.Now().After(deadline) {
				return fmt.Errorf("the server's child %d didn't end within %s", pid, stopTimeout)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// children returns the processes whose parent is pid.
func children(pid int) ([]int, error) {
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, folder := range folders {
		child, err := strconv.Atoi(filepath.Base(folder))
		if err != nil {
			return nil, err
		}
		if fields := stat(child); len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			found = append(found, child)
		}
	}
	return found, nil
}

// ended tells whether a process is gone, or dead and waited for by nobody: its
// new parent is the machine's process 1, which in a container may be anything.
func ended(pid int) bool {
	fields := stat(pid)
	return len(fields) == 0 || fields[0] == "Z" || fields[0] == "X"
}

// stat returns what /proc/PID/stat (proc(5)) has after the name, which ends with
// the last parenthesis: the state, the parent and more. Nothing: it is gone.
func stat(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
}

// Stop ends the server and removes its folder.
func (s *Server) Stop() error {
	var err error
	if s.command != nil && s.command.Process != nil {
		// At the end of a test nobody wants the data: the quickest end will do.
		if err = s.signal(syscall.SIGQUIT); err != nil {
			err = s.Kill()
		}
	}
	return errors.Join(err, remove(s.folder))
}

// remove removes a server's folder. What was killed there may still be at the
// end of a call that makes a file.
func remove(folder string) error {
	for deadline := time.Now().Add(stopTimeout); ; time.Sleep(10 * time.Millisecond) {
		err := os.RemoveAll(folder)
		if !errors.Is(err, syscall.ENOTEMPTY) || time.Now().After(deadline) {
			return err
		}
	}
}

// signal sends a signal to the server and all its processes, and waits for the first to end. Its children, which see that, follow.
func (s *Server) signal(sig syscall.Signal) error {
	select {
	case <-s.exited:
		return nil
	default:
	}
	if err := syscall.Kill(-s.command.Process.Pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("the server didn't end within %s", stopTimeout)
	}
}

// Database makes a new, empty database and returns its URL.
func (s *Server) Database(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.kind.execute(ctx, s, "CREATE DATABASE "+name+";"); err != nil {
		return "", err
	}
	return s.kind.url(s, name), nil
}

// path returns a path in the server's folder.
func (s *Server) path(name string) string { return filepath.Join(s.folder, name) }

// run prepares a program under the server's account, in a process group of its own so that it ends with its children.
func (s *Server) run(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = s.folder
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=" + s.folder, "TMPDIR=" + s.folder}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if s.account != nil {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(s.account.uid), Gid: uint32(s.account.gid)}
	}
	return c
}

// finish runs a program to its end; the error shows what it said.
func finish(c *exec.Cmd) error {
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(c.Path), err, tail(out))
	}
	return nil
}

func (s *Server) logTail() []byte {
	log, err := os.ReadFile(s.path("log"))
	if err != nil {
		return []byte(err.Error())
	}
	return tail(log)
}

func tail(out []byte) []byte { return out[max(0, len(out)-2000):] }

// account is whom a server runs as.
type account struct{ uid, gid int }

// unprivileged returns the first of the accounts that the machine has, if we are root; else nil, for our own.
func unprivileged(names ...string) (*account, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if uidErr == nil && gidErr == nil && uid != 0 {
			return &account{uid, gid}, nil
		}
	}
	return nil, fmt.Errorf("none of the accounts %v is on this machine", names)
}

// newest returns the last of the programs that match, in the order of their names.
func newest(patterns ...string) (string, error) {
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return found[len(found)-1], nil
		}
	}
	return "", ErrMissing
}
