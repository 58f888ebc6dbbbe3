// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package openssh runs the real OpenSSH for the demo and for tests: a private
// sshd on a free loopback port, and ssh against it. Everything lives in one
// folder and is configured there; it never reads or changes the configuration,
// keys, agent or known hosts of the machine or of the user who runs it.
package openssh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Errors that callers tell apart.
var (
	// ErrMissing says that a program of OpenSSH is not installed.
	ErrMissing = errors.New("OpenSSH is not installed")
	// ErrRefused says that sshd took none of the client's keys and certificates.
	ErrRefused = errors.New("sshd refused the login")
	// ErrHostRefused says that ssh did not accept the server's host key.
	ErrHostRefused = errors.New("ssh refused the server's host key")
)

// commandTimeout bounds each run of ssh and ssh-keygen, which take less than a
// second where nothing else runs.
const commandTimeout = time.Minute

// serverFolders are searched after PATH: ordinary users often lack them there.
var serverFolders = []string{"/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/lib/ssh"}

// Programs are the absolute paths of OpenSSH's programs.
type Programs struct {
	Server string // sshd, which insists on being started by its absolute path
	Client string // ssh
	Keygen string // ssh-keygen
}

// Find looks the programs up, or returns ErrMissing naming those that lack and
// the packages that hold them.
func Find() (Programs, error) {
	var missing []string
	look := func(name string, folders ...string) string {
		if path, err := exec.LookPath(name); err == nil {
			if path, err = filepath.Abs(path); err == nil {
				return path
			}
		}
		for _, folder := range folders {
			if path, err := exec.LookPath(filepath.Join(folder, name)); err == nil {
				return path
			}
		}
		missing = append(missing, name)
		return ""
	}
	found := Programs{Server: look("sshd", serverFolders...), Client: look("ssh"), Keygen: look("ssh-keygen")}
	if len(missing) > 0 {
		return Programs{}, fmt.Errorf("%w: no %s here; install the packages openssh-server and openssh-client "+
			"(Debian, Ubuntu; elsewhere openssh-server and openssh-clients, or openssh), or run: make demo", ErrMissing,
			strings.Join(missing, ", no "))
	}
	return found, nil
}

// NewKey makes an Ed25519 key pair without passphrase at path and path.pub, as
// a person or a booting instance does, and returns the public line.
func (p Programs) NewKey(ctx context.Context, path, comment string) (string, error) {
	if err := run(ctx, p.Keygen, "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path); err != nil {
		return "", err
	}
	line, err := os.ReadFile(path + ".pub")
	return strings.TrimSpace(string(line)), err
}

// revokedAnswer ends what ssh-keygen says of a key that a KRL revokes.
const revokedAnswer = ": REVOKED"

// Revoked tells whether the KRL revokes the key or certificate, as ssh-keygen
// reads both files.
func (p Programs) Revoked(ctx context.Context, krl, key string) (bool, error) {
	err := run(ctx, p.Keygen, "-Q", "-f", krl, key)
	if err != nil && strings.HasSuffix(err.Error(), revokedAnswer) {
		return true, nil
	}
	return false, err
}

// run runs a program to its end and returns its complaint as error.
func run(ctx context.Context, program string, arguments ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	output, err := exec.CommandContext(ctx, program, arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, strings.TrimSpace(string(output)))
	}
	return nil
}
