// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
)

// managed is a Runner with the real sshd and the other programs played. It
// records what changes something.
type managed struct {
	files.Runner
	answers map[string]string // by the beginning of a command; "!" is a failure
	ran     []string
}

// asking are the commands that change nothing.
var asking = []string{"systemctl show", "--state", "--query-port", "semanage port -l"}

func (m *managed) Run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	if name == "sshd" || name == "ssh-keygen" {
		return m.Runner.Run(ctx, stdin, name, args...)
	}
	line := strings.Join(append([]string{name}, args...), " ")
	if !slices.ContainsFunc(asking, func(word string) bool { return strings.Contains(line, word) }) {
		m.ran = append(m.ran, line)
	}
	longest, found := "", false
	for command := range m.answers {
		if strings.HasPrefix(line, command) && len(command) >= len(longest) {
			longest, found = command, true
		}
	}
	switch answer := m.answers[longest]; {
	case !found:
		return nil, exec.ErrNotFound
	case answer == "!":
		return nil, errors.New("it failed")
	default:
		return []byte(answer), nil
	}
}

// expect tells what was run since the last time.
func (m *managed) expect(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	slices.Sort(m.ran)
	if !cmp.Equal(m.ran, want) {
		t.Errorf("it ran %q, not %q", m.ran, want)
	}
	m.ran = nil
}

// managedHost is a host whose service manager and guards are played.
func managedHost(t *testing.T, answers map[string]string, marks ...string) (*host, *managed) {
	t.Helper()
	h := newHost(t, debian)
	m := &managed{Runner: h.runner, answers: answers}
	h.runner = m
	// /sys is not part of the machine, so that it is an ordinary folder here.
	for _, mark := range marks {
		if err := os.MkdirAll(filepath.Join(h.root, mark), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return h, m
}

func TestReload(t *testing.T) {
	for name, test := range map[string]struct {
		answers map[string]string
		mark    string
		want    []string
	}{
		"Debian": {
			answers: map[string]string{"systemctl": "", "systemctl show": units("inactive", "active")},
			mark:    "run/systemd/system", want: []string{"systemctl try-reload-or-restart ssh.service"},
		},
		"RHEL, while it starts": {
			answers: map[string]string{
				"systemctl": "", "systemctl show": "Id=sshd.socket\nActiveState=inactive\n\nId=sshd.service\nActiveState=activating\n",
			},
			mark: "run/systemd/system", want: []string{"systemctl try-reload-or-restart sshd.service"},
		},
		// Reloaded, sshd does not find again what it had from the socket.
		"a socket": {
			answers: map[string]string{"systemctl": "", "systemctl show": units("active", "active", "[::]:22")},
			mark:    "run/systemd/system", want: []string{"systemctl try-restart ssh.service"},
		},
		"a socket, and nobody has come yet": {
			answers: map[string]string{"systemctl": "", "systemctl show": units("active", "inactive", "[::]:22")},
			mark:    "run/systemd/system",
		},
		"not started": {answers: map[string]string{"systemctl show": units("inactive", "inactive")}, mark: "run/systemd/system"},
		"Alpine": {
			answers: map[string]string{"rc-service": ""}, mark: "run/openrc/started/sshd", want: []string{"rc-service sshd reload"},
		},
		"no service manager": {},
	} {
		t.Run(name, func(t *testing.T) {
			h, m := managedHost(t, test.answers, test.mark)
			h.apply(h.want())
			m.expect(t, test.want...)
			if err := h.SetRevoked(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			m.expect(t)
			if err := h.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			m.expect(t, test.want...)
		})
	}
}

// noting is a Runner that looks at a file before it reloads sshd.
type noting struct {
	files.Runner
	file string
	seen []bool
}

func (n *noting) Run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	if name == "rc-service" {
		_, err := os.Stat(n.file)
		n.seen = append(n.seen, err == nil)
	}
	return n.Runner.Run(ctx, stdin, name, args...)
}

// TestListsGoLast: sshd, which refuses everybody without its revocation list,
// forgets it before it goes.
func TestListsGoLast(t *testing.T) {
	h, _ := managedHost(t, map[string]string{"rc-service": ""}, "run/openrc/started/sshd")
	h.apply(h.want())
	watch := &noting{Runner: h.runner, file: filepath.Join(h.root, RevokedFile)}
	h.runner = watch
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(watch.seen, []bool{true}) || h.tree.Exists(Folder) {
		t.Errorf("the list was there at the reload: %v", watch.seen)
	}
}

// TestReloadIsRepeated: a failed reload is an error, and tried again, though
// nothing else is to be done.
func TestReloadIsRepeated(t *testing.T) {
	h, m := managedHost(t, map[string]string{"rc-service": "!"}, "run/openrc/started/sshd")
	w := h.want()
	if changed, err := h.Apply(t.Context(), w); err == nil || !changed {
		t.Fatal(changed, err)
	}
	h.expect(h.effective(), always...)
	m.answers["rc-service"] = ""
	if changed, err := h.Apply(t.Context(), w); err != nil || changed {
		t.Fatal(changed, err)
	}
	m.expect(t, "rc-service sshd reload", "rc-service sshd reload")
	h.apply(Want{})
	m.expect(t, "rc-service sshd reload")
}

// TestGuards: the second port is let through SELinux and firewalld, and what
// was done for it is undone, but nothing that others did.
func TestGuards(t *testing.T) {
	h, m := managedHost(t, map[string]string{"semanage": "", "firewall-cmd": "", "firewall-cmd --query-port": "!"},
		"sys/fs/selinux/enforce")
	w := h.want()
	w.Port = 2222
	h.apply(w)
	// The permanent rule is there already.
	m.expect(t, "semanage port -a -t ssh_port_t -p tcp 2222", "firewall-cmd --add-port=2222/tcp")
	w.Port = 2223
	h.apply(w)
	m.expect(t, "semanage port -d -p tcp 2222", "firewall-cmd --remove-port=2222/tcp",
		"semanage port -a -t ssh_port_t -p tcp 2223", "firewall-cmd --add-port=2223/tcp")
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.expect(t, "semanage port -d -p tcp 2223", "firewall-cmd --remove-port=2223/tcp")

	// A label that is there is the operator's; a guard that fails is no error, and tried again.
	m.answers = map[string]string{
		"semanage": "!", "firewall-cmd": "", "firewall-cmd --query-port": "!",
		"firewall-cmd --add-port": "!", "firewall-cmd --permanent": "!",
	}
	if changed, err := h.Apply(t.Context(), w); err != nil || !changed {
		t.Fatal(changed, err)
	}
	m.ran = nil
	m.answers = map[string]string{
		"semanage": "", "semanage port -l": "ssh_port_t                     tcp      2220-2230, 24\n",
		"firewall-cmd": "", "firewall-cmd --query-port": "!",
	}
	if changed, err := h.Apply(t.Context(), w); err != nil || changed {
		t.Fatal(changed, err)
	}
	m.expect(t, "firewall-cmd --add-port=2223/tcp")
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.expect(t, "firewall-cmd --remove-port=2223/tcp")
}

func TestNoServer(t *testing.T) {
	h := newHost(t, debian)
	if err := os.Remove(filepath.Join(h.root, "usr/sbin/sshd")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Apply(t.Context(), Want{}); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	if _, err := h.HostKeys(t.Context()); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
}

// TestVendorFile: where SUSE ships the configuration, and no copy is in /etc.
func TestVendorFile(t *testing.T) {
	h := newHost(t, debian)
	if err := os.Remove(filepath.Join(h.root, mainFile)); err != nil {
		t.Fatal(err)
	}
	agenttest.Write(t, h.root, vendorFile, debian)
	p := &plan{}
	if _, err := h.choosePlace(t.Context(), p); err != nil || p.file != dropFolder+"/00-muster.conf" {
		t.Fatal(p.file, err)
	}
	agenttest.Write(t, h.root, vendorFile, "UsePAM yes\n")
	if _, err := h.choosePlace(t.Context(), &plan{}); err == nil {
		t.Fatal("a file of the package's would be changed")
	}
}

// TestPrivilegeFolder: before Debian's ssh service has run, sshd cannot even
// test.
func TestPrivilegeFolder(t *testing.T) {
	h := newHost(t, debian)
	if err := os.Remove(filepath.Join(h.root, "run/sshd")); err != nil {
		t.Fatal(err)
	}
	h.apply(h.want())
}
