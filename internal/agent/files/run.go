// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Runner runs programs of the machine.
type Runner interface {
	// Run runs a program to its end and returns its standard output. The name
	// is looked up in the folders of the system's programs, unless it is an
	// absolute path. A program that is not there is exec.ErrNotFound, one that
	// fails a *ProgramError.
	Run(ctx context.Context, stdin []byte, name string, args ...string) (stdout []byte, err error)
}

const (
	defaultTimeout = time.Minute
	maxOutput      = 4 << 20
	maxComplaint   = 4 << 10
	// waitDelay is how long a stopped program's children may hold its output.
	waitDelay = 2 * time.Second
)

// folders of programs; the environment's PATH is not asked.
var folders = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/lib/ssh"}

// ProgramError is a program that failed.
type ProgramError struct {
	Name   string
	Stderr string // the last 4 KiB of it
	Err    error  // how it ended
}

// Error says what the program said.
func (e *ProgramError) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("%s: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("%s: %v: %s", e.Name, e.Err, e.Stderr)
}

// Unwrap returns how it ended.
func (e *ProgramError) Unwrap() error { return e.Err }

// Programs runs the programs of the tree at Root, with an environment that
// holds nothing of the caller's.
type Programs struct {
	Root    string        // "" or "/": no chroot
	Timeout time.Duration // for contexts without deadline; default one minute
	Env     []string      // in addition to PATH, HOME and LC_ALL
}

// Find returns a program's path inside the root, or exec.ErrNotFound. An
// absolute path is not looked for elsewhere.
func (p Programs) Find(name string) (string, error) {
	candidates := []string{name}
	if !filepath.IsAbs(name) {
		candidates = nil
		for _, folder := range folders {
			candidates = append(candidates, filepath.Join(folder, name))
		}
	}
	for _, path := range candidates {
		// A link may lead somewhere else inside another root; it counts as a program.
		info, err := os.Lstat(filepath.Join("/", p.Root, path))
		if err == nil && (info.Mode().Type() == fs.ModeSymlink || info.Mode().IsRegular() && info.Mode()&0o111 != 0) {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// Run implements Runner.
func (p Programs) Run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	path, err := p.Find(name)
	if err != nil {
		return nil, err
	}
	if _, limited := ctx.Deadline(); !limited {
		timeout := p.Timeout
		if timeout <= 0 {
			timeout = defaultTimeout
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	command := exec.CommandContext(ctx, path, args...)
	command.Dir = "/"
	command.Env = append([]string{"PATH=" + strings.Join(folders, ":"), "HOME=/root", "LC_ALL=C"}, p.Env...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.Root != "" && p.Root != "/" {
		command.SysProcAttr.Chroot = p.Root
	}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = waitDelay
	output, complaint := &bounded{limit: maxOutput}, &bounded{limit: maxComplaint, last: true}
	command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(stdin), output, complaint
	if err := command.Run(); err != nil {
		if ended := ctx.Err(); ended != nil {
			err = fmt.Errorf("%w (%w)", ended, err)
		}
		return output.Bytes(), &ProgramError{Name: name, Stderr: strings.TrimSpace(complaint.String()), Err: err}
	}
	return output.Bytes(), nil
}

// Missing tells whether a Runner's error means that the program is not there.
func Missing(err error) bool { return errors.Is(err, exec.ErrNotFound) }

// bounded keeps the first bytes, or the last, and drops the rest.
type bounded struct {
	bytes.Buffer
	limit int
	last  bool
}

var _ io.Writer = (*bounded)(nil)

// Write never fails, so that the program is not stopped by a full buffer.
func (b *bounded) Write(p []byte) (int, error) {
	if b.last {
		b.Buffer.Write(p[max(0, len(p)-b.limit):])
		b.Next(max(0, b.Len()-b.limit))
	} else {
		b.Buffer.Write(p[:min(len(p), b.limit-b.Len())])
	}
	return len(p), nil
}
