// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// privilegeFolder is compiled into Debian's sshd, which wants it when started
// by root. The machine's own service makes it at each start of the machine.
const privilegeFolder = "/run/sshd"

const (
	startTimeout = time.Minute
	stopTimeout  = 10 * time.Second
	// startTries bounds how often another port is tried when somebody else
	// took the free one before sshd could.
	startTries = 5
	// lookEvery is how often the log is looked at while sshd starts.
	lookEvery = 5 * time.Millisecond
)

// CertificateSuffix follows a private key's path in that of its certificate,
// as ssh-keygen and ssh have it.
const CertificateSuffix = "-cert.pub"

// ServerConfig describes an sshd. All files are read by sshd itself, the last
// three at every login, so that they can be exchanged while it runs.
type ServerConfig struct {
	Programs Programs
	// Dir takes the configuration, the log and the principals; it must exist.
	Dir string
	// HostKeys are the private host keys. Their certificates are beside them
	// (CertificateSuffix).
	HostKeys []string
	// TrustedUserCAKeys holds the user authorities, one public key per line.
	TrustedUserCAKeys string
	// RevokedKeys is the KRL. Without the file sshd refuses everybody.
	RevokedKeys string
	// Principals says which principals may log in as which account of the
	// machine. An sshd that root did not start can serve only its own account.
	Principals map[string][]string
}

// Server is a running sshd.
type Server struct {
	programs Programs
	port     int
	logFile  string
	process  *os.Process
	ended    chan struct{} // closed when sshd is gone
	stop     sync.Once
}

// StartServer starts an sshd that listens on 127.0.0.1 when StartServer
// returns. It ends with the context, or with Close.
func StartServer(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if cfg.Programs == (Programs{}) {
		var err error
		if cfg.Programs, err = Find(); err != nil {
			return nil, err
		}
	}
	if err := writePrincipals(cfg); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		// Left in place: another sshd may have begun to need it meanwhile.
		if err := os.Mkdir(privilegeFolder, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("sshd started by root needs %s: %w", privilegeFolder, err)
		}
	}
	var err error
	for range startTries {
		var server *Server
		if server, err = startOnce(ctx, cfg); err == nil {
			return server, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return nil, err
}

func startOnce(ctx context.Context, cfg ServerConfig) (*Server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	file, err := writeConfig(ctx, cfg, port)
	if err != nil {
		return nil, err
	}
	s := &Server{
		programs: cfg.Programs, port: port,
		logFile: filepath.Join(cfg.Dir, "sshd.log"), ended: make(chan struct{}),
	}
	// sshd writes into the file itself, so that what it says about a login is
	// there when ssh has its answer.
	log, err := os.OpenFile(s.logFile, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := exec.Command(cfg.Programs.Server, "-D", "-e", "-f", file)
	command.Stderr = log
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("starting sshd: %w", err)
	}
	s.process = command.Process
	go func() {
		// How it ended stands in the log.
		_ = command.Wait()
		close(s.ended)
	}()
	if err := s.waitReady(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	return s, nil
}

// waitReady returns when sshd says that it listens. Asking the port instead
// could reach somebody else's server.
func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		if strings.Contains(s.Log(), "Server listening on 127.0.0.1 port") {
			return nil
		}
		select {
		case <-s.ended:
			if strings.Contains(s.Log(), "Address already in use") {
				return fmt.Errorf("sshd on port %d: %w", s.port, syscall.EADDRINUSE)
			}
			return fmt.Errorf("sshd did not start; its log:\n%s", s.Log())
		case <-ctx.Done():
			return fmt.Errorf("sshd did not start: %w; its log:\n%s", ctx.Err(), s.Log())
		case <-look.C:
		}
	}
}

// Port returns the port of 127.0.0.1 on which sshd listens.
func (s *Server) Port() int { return s.port }

// Log returns all that sshd has said.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.logFile)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Close ends sshd and waits for it. Closing again does nothing.
func (s *Server) Close() error {
	var err error
	s.stop.Do(func() {
		_ = s.process.Signal(syscall.SIGTERM)
		select {
		case <-s.ended:
		case <-time.After(stopTimeout):
			err = s.process.Kill()
			<-s.ended
		}
	})
	return err
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// newerOptions are those that not every supported sshd knows. From OpenSSH 9.8
// on, a client whose logins were refused has to wait; here it is always the
// same loopback address, and refusals are what is looked at.
var newerOptions = []string{"PerSourcePenalties no"}

// writeConfig writes sshd_config and lets sshd check it.
func writeConfig(ctx context.Context, cfg ServerConfig, port int) (string, error) {
	options := []string{
		"ListenAddress 127.0.0.1",
		fmt.Sprintf("Port %d", port),
		"TrustedUserCAKeys " + quote(cfg.TrustedUserCAKeys),
		"RevokedKeys " + quote(cfg.RevokedKeys),
		"AuthorizedPrincipalsFile " + quote(filepath.Join(cfg.Dir, "principals")+"/%u"),
		"AuthorizedKeysFile none",
		"AuthenticationMethods publickey",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"PermitRootLogin prohibit-password",
		"UsePAM no",
		"UseDNS no",
		// The folder may lie below /tmp, which everybody may write to.
		"StrictModes no",
		"PidFile none",
		"PrintMotd no",
		"MaxStartups 100",
		"LogLevel VERBOSE",
	}
	for _, key := range cfg.HostKeys {
		options = append(options, "HostKey "+quote(key), "HostCertificate "+quote(key+CertificateSuffix))
	}
	file := filepath.Join(cfg.Dir, "sshd_config")
	write := func(options []string) error {
		return os.WriteFile(file, []byte(strings.Join(options, "\n")+"\n"), 0o600)
	}
	if err := write(slices.Concat(options, newerOptions)); err != nil {
		return "", err
	}
	err := run(ctx, cfg.Programs.Server, "-t", "-f", file)
	if err != nil && strings.Contains(err.Error(), "Bad configuration option") {
		if err := write(options); err != nil {
			return "", err
		}
		err = run(ctx, cfg.Programs.Server, "-t", "-f", file)
	}
	return file, err
}

func quote(path string) string { return `"` + path + `"` }

func writePrincipals(cfg ServerConfig) error {
	folder := filepath.Join(cfg.Dir, "principals")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for account, principals := range cfg.Principals {
		if account == "" || account != filepath.Base(account) {
			return fmt.Errorf("no account name: %q", account)
		}
		var lines bytes.Buffer
		for _, principal := range principals {
			fmt.Fprintln(&lines, principal)
		}
		if err := os.WriteFile(filepath.Join(folder, account), lines.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
