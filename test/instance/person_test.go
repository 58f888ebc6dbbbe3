// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/machine"
)

// Why ssh did not let somebody in.
var (
	errRefused     = errors.New("sshd refused the login")
	errHostRefused = errors.New("ssh refused the host")
	errNobody      = errors.New("nobody listens")
)

// sshTimeout bounds a login with its command, on a machine that is busy.
const sshTimeout = 3 * time.Minute

// person is somebody with a key outside of the instances.
type person struct {
	name, id string
	folder   string
	client   *deployment.Client
	agent    string // the socket of the person's ssh-agent, once there is one
}

func (p *person) key() string { return filepath.Join(p.folder, "key") }

func (p *person) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.folder, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (p *person) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// login is one log-in by ssh.
type login struct {
	account string
	command string
	name    string   // by which the host is known; empty: the machine's name
	forward bool     // the person's agent
	options []string // further ones of ssh
}

// ssh logs in, trusting nothing but the line of the authority, and returns what
// the command wrote. Errors wrap errRefused, errHostRefused, errNobody, or are the
// command's. An sshd that was told to read its configuration again listens to
// nobody for a moment, some time afterwards: that is waited for.
func (p *person) ssh(ctx context.Context, m *machine.Machine, l login) (output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, sshTimeout)
	defer cancel()
	listening, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	_ = eventually(listening, func() error {
		if output, err = p.tryLogin(ctx, m, l); errors.Is(err, errNobody) {
			return err
		}
		return nil
	})
	return output, err
}

func (p *person) tryLogin(ctx context.Context, m *machine.Machine, l login) (string, error) {
	if l.name == "" {
		l.name = m.Name
	}
	args := []string{"-F", "none", "-T", "-l", l.account}
	for _, option := range append([]string{
		"BatchMode=yes", "StrictHostKeyChecking=yes", "UserKnownHostsFile=" + filepath.Join(p.folder, "known_hosts"),
		"GlobalKnownHostsFile=none", "UpdateHostKeys=no", "IdentitiesOnly=yes", "IdentityFile=" + p.key(),
		"CertificateFile=" + p.key() + "-cert.pub", "PreferredAuthentications=publickey", "ControlPath=none",
		"ConnectTimeout=60", "LogLevel=ERROR", "HostKeyAlias=" + l.name,
	}, l.options...) {
		args = append(args, "-o", option)
	}
	if l.forward {
		args = append(args, "-A")
	}
	command := exec.CommandContext(ctx, "ssh", append(args, m.Address.String(), l.command)...)
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.folder}
	if l.forward {
		command.Env = append(command.Env, "SSH_AUTH_SOCK="+p.agent)
	}
	var complaint strings.Builder
	command.Stderr = &complaint
	output, err := command.Output()
	if err == nil {
		return string(output), nil
	}
	return string(output), fmt.Errorf("%w: %s", reason(err, complaint.String()), strings.TrimSpace(complaint.String()))
}

// reason tells ssh's own failures, for which it has the exit code 255, from
// those of the command.
func reason(err error, complaint string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 255 {
		return err
	}
	switch {
	case strings.Contains(complaint, "Connection refused"), strings.Contains(complaint, "Connection reset"):
		return errNobody
	case strings.Contains(complaint, "Permission denied"):
		return errRefused
	case strings.Contains(complaint, "Host key verification failed"), strings.Contains(complaint, "host key is known"):
		return errHostRefused
	}
	return err
}

// enter logs in, and fails the test unless the command ran in the account. sshd
// reads a changed configuration a moment after it was told to (SIGHUP): who comes
// in that moment meets nobody, or the sshd of before.
func (p *person) enter(t *testing.T, m *machine.Machine, account string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTime)
	defer cancel()
	err := eventually(ctx, func() error {
		output, err := p.ssh(ctx, m, login{account: account, command: "id -un"})
		if err == nil && output != account+"\n" {
			err = fmt.Errorf("the command ran as %q", output)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s as %s: %v\n%s", p.name, account, err, sshdLog(m))
	}
}

// startAgent starts an ssh-agent that holds the key and its certificate.
func (p *person) startAgent(t *testing.T) {
	t.Helper()
	p.agent = filepath.Join(p.folder, "agent")
	command := exec.Command("ssh-agent", "-D", "-a", p.agent)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), startTime)
	defer cancel()
	if err := eventually(ctx, func() error {
		_, err := os.Stat(p.agent)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	p.loadAgent(t)
}

// loadAgent puts the key, with the certificate of now, into the agent.
func (p *person) loadAgent(t *testing.T) {
	t.Helper()
	p.load(t, p.key())
}

// load makes the agent hold a key, and the certificate that lies beside it.
func (p *person) load(t *testing.T, key string) {
	t.Helper()
	for _, args := range [][]string{{"-q", "-D"}, {"-q", key}} {
		command := exec.Command("ssh-add", args...)
		command.Env = []string{"SSH_AUTH_SOCK=" + p.agent}
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("ssh-add: %v: %s", err, output)
		}
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, output)
	}
	return string(output)
}

// startTime is how soon a program answers that was started or told to reload.
const startTime = 2 * time.Minute

// eventually asks until there is no error any more, and returns the last one if
// the context ends before.
func eventually(ctx context.Context, ask func() error) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("not in time: %w", err)
		}
	}
}

// sshdTags are sshd's names in the journal: since OpenSSH 9.8 a connection is
// its session's, since 10.0 its authentication's, too.
var sshdTags = []string{"-t", "sshd", "-t", "sshd-session", "-t", "sshd-auth"}

// sshdLog is what the machine's sshd has said.
func sshdLog(m *machine.Machine) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	output, err := m.Run(ctx, "journalctl", append([]string{"-b", "--no-pager", "-o", "cat"}, sshdTags...)...)
	if err != nil {
		return err.Error()
	}
	return output
}
