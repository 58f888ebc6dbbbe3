// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sudo

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
)

// visitor is a person with an SSH agent that holds a key and a certificate.
type visitor struct {
	*host
	key    any // private
	keys   agent.Agent
	socket string
	cert   *ssh.Certificate
}

func (h *host) visitor(serial uint64, principals ...string) *visitor {
	h.Helper()
	key := agenttest.NewKey(h)
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		h.Fatal(err)
	}
	cert := &ssh.Certificate{
		Key: signer.PublicKey(), CertType: ssh.UserCert, Serial: serial, KeyId: fmt.Sprint("visitor ", serial),
		ValidPrincipals: principals, ValidBefore: ssh.CertTimeInfinity,
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-pty": "", "permit-agent-forwarding": ""}},
	}
	if err := cert.SignCert(rand.Reader, h.ca); err != nil {
		h.Fatal(err)
	}
	v := &visitor{host: h, key: key, keys: agent.NewKeyring(), cert: cert, socket: filepath.Join(h.T.TempDir(), "agent")}
	if err := v.keys.Add(agent.AddedKey{PrivateKey: key, Certificate: cert}); err != nil {
		h.Fatal(err)
	}
	listener, err := net.Listen("unix", v.socket)
	if err != nil {
		h.Fatal(err)
	}
	var connections sync.WaitGroup
	h.Cleanup(func() { _ = listener.Close(); connections.Wait() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() {
				defer connection.Close()
				_ = agent.ServeAgent(v.keys, connection)
			})
		}
	}()
	return v
}

// command is ssh to the host.
func (v *visitor) command(name string, options []string, remote string) *exec.Cmd {
	known := filepath.Join(v.T.TempDir(), "known_hosts")
	authority := append([]byte("@cert-authority * "), ssh.MarshalAuthorizedKey(v.ca.PublicKey())...)
	if err := os.WriteFile(known, authority, 0o600); err != nil {
		v.Fatal(err)
	}
	arguments := []string{
		"-F", "none", "-T", "-p", strconv.Itoa(v.port), "-l", name, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=none", "-o", "HostKeyAlias=host", "-o", "LogLevel=ERROR",
		"-o", "IdentityAgent=" + v.socket, "-o", "IdentityFile=none", "-o", "ConnectTimeout=60",
	}
	command := exec.CommandContext(v.Context(), "ssh", append(append(arguments, options...), "127.0.0.1", remote)...)
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "SSH_AUTH_SOCK=" + v.socket, "HOME=/nonexistent"}
	return command
}

// run logs in and runs something; it returns everything that was written.
func (v *visitor) run(name string, options []string, remote string) (string, error) {
	v.Helper()
	output, err := v.command(name, options, remote).CombinedOutput()
	return string(output), err
}

func (v *visitor) expect(name string, options []string, remote, want string) {
	v.Helper()
	output, err := v.run(name, options, remote)
	if err != nil || strings.TrimSpace(output) != want {
		v.Errorf("%s: %v: %s", remote, err, output)
	}
}

func (v *visitor) refused(name string, options []string, remote, want string) {
	v.Helper()
	output, err := v.run(name, options, remote)
	if err == nil || !strings.Contains(output, want) {
		v.Errorf("%s: %v: %s", remote, err, output)
	}
}

var forward = []string{"-A"}

// withoutCertificate makes the person's agent one that holds the key alone, and
// returns options by which ssh forwards it, and shows the certificate.
func (v *visitor) withoutCertificate() []string {
	v.Helper()
	if err := errors.Join(v.keys.RemoveAll(), v.keys.Add(agent.AddedKey{PrivateKey: v.key})); err != nil {
		v.Fatal(err)
	}
	file := filepath.Join(v.T.TempDir(), "key-cert.pub")
	if err := os.WriteFile(file, ssh.MarshalAuthorizedKey(v.cert), 0o600); err != nil {
		v.Fatal(err)
	}
	return []string{"-A", "-o", "CertificateFile=" + file}
}

// session is an open login that runs lines which it gets.
type session struct {
	*visitor
	input  io.WriteCloser
	output *transcript
}

func (v *visitor) login(name string, options []string) *session {
	v.Helper()
	s := &session{visitor: v, output: &transcript{}}
	command := v.command(name, options, "sh")
	command.Stdout, command.Stderr = s.output, s.output
	var err error
	if s.input, err = command.StdinPipe(); err != nil {
		v.Fatal(err)
	}
	if err := command.Start(); err != nil {
		v.Fatal(err)
	}
	v.Cleanup(func() { _ = s.input.Close(); _ = command.Wait() })
	return s
}

// does runs a line and returns what it wrote.
func (s *session) does(line string) string {
	s.Helper()
	mark := fmt.Sprintf("done-%d", time.Now().UnixNano())
	before := len(s.output.String())
	if _, err := io.WriteString(s.input, line+" 2>&1; echo "+mark+"\n"); err != nil {
		s.Fatal(err)
	}
	s.until(line, s.output, func(text string) bool { return strings.Contains(text[before:], mark) })
	said, _, _ := strings.Cut(s.output.String()[before:], mark)
	return strings.TrimSpace(said)
}
