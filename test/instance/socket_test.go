// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bySocket makes an image in which systemd listens for sshd.
func bySocket(root string) error {
	for _, args := range [][]string{{"disable", "ssh.service"}, {"enable", "ssh.socket"}} {
		command := exec.Command("systemctl", append([]string{"--root=" + root}, args...)...)
		if output, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, output)
		}
	}
	return nil
}

// uninitialized makes an image whose first boot enables all that can be, so that
// systemd listens for an sshd that is started without anybody coming (machine-id(5)).
func uninitialized(root string) error {
	return os.WriteFile(filepath.Join(root, "etc/machine-id"), []byte("uninitialized\n"), 0o444)
}

// Whoever listens for sshd, people get in at all of its ports, what changes is
// in force, and sessions go on.
func TestWhoListens(t *testing.T) {
	for name, row := range map[string]struct {
		image  func(root string) error
		socket string // the state of ssh.socket before the agent
		second string // port
	}{
		"ssh.service, second port":             {socket: "inactive", second: "2222"},
		"ssh.socket":                           {image: bySocket, socket: "active"},
		"ssh.socket, second port":              {image: bySocket, socket: "active", second: "2222"},
		"machine-id uninitialized":             {image: uninitialized, socket: "active"},
		"machine-id uninitialized second port": {image: uninitialized, socket: "active", second: "2222"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings, ports := "", []string{"22"}
			if row.second != "" {
				settings, ports = "[vendordata]\nssh_port = "+row.second+"\n", append(ports, row.second)
			}
			s := newSite(t, withAgent(t, settings))
			alice := s.newPerson(t, "alice", "member")
			s.certify(t, alice)
			images := []func(string) error{bare}
			if row.image != nil {
				images = append(images, row.image)
			}
			i := s.newInstance(t, "web-1", images...)
			i.install(t, programs)
			i.Boot(t)
			if state, _ := i.Run(t.Context(), "systemctl", "is-active", "ssh.socket"); strings.TrimSpace(state) != row.socket {
				t.Fatalf("ssh.socket is %s", state)
			}

			i.Must(t, program, "install")
			i.awaitSetUp(t)
			everywhere := func() {
				t.Helper()
				for _, port := range ports {
					alice.enterAt(t, i, port, "member")
				}
			}
			everywhere()
			open := alice.open(t, i, ports[len(ports)-1])
			open.answers(t)
			// Another account changes sshd's configuration.
			bob := s.newPerson(t, "bob", "gardener")
			i.await(t, func() error { return i.has("gardener", true) })
			s.recertify(t, i, bob, "gardener")
			everywhere()
			open.answers(t)

			if err := i.PowerOff(); err != nil {
				t.Fatal(err)
			}
			i.Boot(t)
			i.awaitSetUp(t)
			everywhere()
			i.healthy(t)

			i.Must(t, program, "uninstall")
			if left, _ := i.Run(t.Context(), "sh", "-c", "ls -d /etc/systemd/system/ssh.socket.d"); left != "" {
				t.Errorf("left: %s", left)
			}
			if _, err := alice.ssh(t.Context(), i.Machine, login{account: "member", command: "true"}); !errors.Is(err, errHostRefused) {
				t.Errorf("at a machine without the agent: %v", err)
			}
			if row.second != "" {
				i.await(t, func() error {
					_, err := alice.tryLogin(t.Context(), i.Machine, login{account: "member", command: "true", options: []string{"Port=" + row.second}})
					if errors.Is(err, errNobody) {
						return nil
					}
					return fmt.Errorf("at the port of before: %w", err)
				})
			}
		})
	}
}

// install puts the agent's program into the machine.
func (i *instance) install(t *testing.T, from func() (string, error)) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(i.Root, program), read(t, from), 0o755); err != nil {
		t.Fatal(err)
	}
}

// enterAt is enter for one of sshd's ports.
func (p *person) enterAt(t *testing.T, i *instance, port, account string) {
	t.Helper()
	i.await(t, func() error {
		output, err := p.ssh(t.Context(), i.Machine, login{account: account, command: "id -un", options: []string{"Port=" + port}})
		if err == nil && output != account+"\n" {
			err = fmt.Errorf("the command ran as %q", output)
		}
		if err != nil {
			err = fmt.Errorf("%s at port %s: %w", p.name, port, err)
		}
		return err
	})
}

// session is a log-in that stays open, and says again what it is told.
type session struct {
	to   io.Writer
	from io.Reader
}

func (p *person) open(t *testing.T, i *instance, port string) *session {
	t.Helper()
	command := exec.CommandContext(t.Context(), "ssh", "-F", "none", "-T", "-l", "member", "-p", port,
		"-o", "BatchMode=yes", "-o", "UserKnownHostsFile="+filepath.Join(p.folder, "known_hosts"), "-o", "HostKeyAlias="+i.Machine.Name,
		"-o", "IdentitiesOnly=yes", "-o", "IdentityFile="+p.key(), "-o", "ControlPath=none", i.Address.String(), "cat")
	to, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	from, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	return &session{to, from}
}

func (s *session) answers(t *testing.T) {
	t.Helper()
	said := time.Now().String()
	if _, err := io.WriteString(s.to, said); err != nil {
		t.Fatalf("the session has ended: %v", err)
	}
	heard := make([]byte, len(said))
	if _, err := io.ReadFull(s.from, heard); err != nil || string(heard) != said {
		t.Fatalf("the session says %q: %v", heard, err)
	}
}
