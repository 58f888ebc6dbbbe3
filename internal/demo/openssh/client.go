// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// sshFailed is ssh's own exit code; any other is the remote command's.
const sshFailed = 255

// Client is a person with a key, a certificate and one line of known hosts.
type Client struct {
	// Account is the remote account.
	Account string
	// Key is the private key, Certificate its certificate; without one the
	// bare key is offered.
	Key, Certificate string
	// KnownHosts is the only known_hosts file.
	KnownHosts string
	// RevokedHosts is a KRL of host keys that ssh must not trust; optional.
	RevokedHosts string
	// HostName is the name by which the host is looked up in KnownHosts and
	// in its certificate; empty means its address.
	HostName string
	// HostKeyAlgorithm is the only one that the host may prove itself by; empty
	// means the best that both have.
	HostKeyAlgorithm string
	// Command is what to run there.
	Command string
}

// LoginError is a login that failed.
type LoginError struct {
	Reason    error  // ErrRefused, ErrHostRefused, or how ssh or the command ended
	ClientLog string // what ssh said
	ServerLog string // what sshd said meanwhile
}

// Error tells all that both sides said.
func (e *LoginError) Error() string {
	return fmt.Sprintf("%v\nssh: %s\nsshd's log:\n%s", e.Reason, strings.TrimSpace(e.ClientLog), e.ServerLog)
}

// Unwrap returns the reason.
func (e *LoginError) Unwrap() error { return e.Reason }

// Login runs the client's command on the server and returns what the command
// wrote to its standard output, or a *LoginError.
func (s *Server) Login(ctx context.Context, client Client) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	before := len(s.Log())
	command := exec.CommandContext(ctx, s.programs.Client, s.Arguments(client)...)
	command.Env = environmentWithoutAgent()
	var output, complaint bytes.Buffer
	command.Stdout, command.Stderr = &output, &complaint
	err := command.Run()
	if err == nil {
		return output.String(), nil
	}
	return output.String(), &LoginError{
		Reason: reason(err, complaint.String()), ClientLog: complaint.String(), ServerLog: s.Log()[before:],
	}
}

// Arguments returns the arguments with which Login runs ssh. They switch off
// all that the machine or the user has set up for ssh.
func (s *Server) Arguments(client Client) []string {
	options := []string{
		"BatchMode=yes",
		"StrictHostKeyChecking=yes",
		"UserKnownHostsFile=" + client.KnownHosts,
		"GlobalKnownHostsFile=none",
		"UpdateHostKeys=no",
		"IdentitiesOnly=yes",
		"IdentityAgent=none",
		"IdentityFile=" + client.Key,
		"PreferredAuthentications=publickey",
		"ControlPath=none",
		"ConnectTimeout=30",
		"LogLevel=ERROR",
	}
	if client.Certificate != "" {
		options = append(options, "CertificateFile="+client.Certificate)
	}
	if client.RevokedHosts != "" {
		options = append(options, "RevokedHostKeys="+client.RevokedHosts)
	}
	if client.HostName != "" {
		options = append(options, "HostKeyAlias="+client.HostName)
	}
	if client.HostKeyAlgorithm != "" {
		options = append(options, "HostKeyAlgorithms="+client.HostKeyAlgorithm)
	}
	arguments := []string{"-F", "none", "-T", "-p", strconv.Itoa(s.port), "-l", client.Account}
	for _, option := range options {
		arguments = append(arguments, "-o", option)
	}
	return append(arguments, "127.0.0.1", client.Command)
}

func reason(err error, complaint string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != sshFailed {
		return err
	}
	switch {
	case strings.Contains(complaint, "Permission denied"):
		return ErrRefused
	case strings.Contains(complaint, "Host key verification failed"), strings.Contains(complaint, "host key is known"):
		return ErrHostRefused
	}
	return err
}

func environmentWithoutAgent() []string {
	var kept []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "SSH_") {
			kept = append(kept, variable)
		}
	}
	return kept
}
