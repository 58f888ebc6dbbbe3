// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
)

// units is what systemd says of Debian's units in these states.
func units(socket, service string, listen ...string) string {
	text := ""
	for _, address := range listen {
		text += "Listen=" + address + " (Stream)\n"
	}
	text += "Id=ssh.socket\nTriggers=ssh.service\nActiveState=" + socket + "\n\nId=sshd.socket\nTriggers=\nActiveState=inactive\n"
	for range 2 { // sshd.service is another name of it
		text += "\nId=ssh.service\nTriggers=\nActiveState=" + service + "\n"
	}
	return text
}

// TestUnits reads what systemctl show --property=Id,ActiveState,Listen,Triggers
// wrote in Debians where ssh.socket was started, or something like it.
func TestUnits(t *testing.T) {
	idle := map[string]unit{
		"ssh.socket":  {state: "active", listen: []string{"[::]:22"}, triggers: []string{"ssh.service"}},
		"sshd.socket": {state: "inactive"}, "ssh.service": {state: "inactive"},
	}
	for name, test := range map[string]struct {
		text string
		want map[string]unit
	}{
		"systemd 252": {
			text: "Listen=127.0.0.1:22 (Stream)\nListen=[::1]:22 (Stream)\nListen=/run/x.sock (Stream)\n" +
				"Id=x.socket\nTriggers=x.service\nActiveState=failed\n",
			want: map[string]unit{"x.socket": {
				state: "failed", listen: []string{"127.0.0.1:22", "[::1]:22", "/run/x.sock"}, triggers: []string{"x.service"},
			}},
		},
		"systemd 257": {text: units("active", "inactive", "[::]:22"), want: idle},
		"systemd 262": {
			text: "Id=ssh.socket\nTriggers=ssh.service\nActiveState=active\nListen=[::]:22 (Stream)\n\n" +
				"Id=sshd.socket\nTriggers=\nActiveState=inactive\n\nId=ssh.service\nTriggers=\nActiveState=inactive\n\n" +
				"Id=ssh.service\nTriggers=\nActiveState=inactive\n",
			want: idle,
		},
	} {
		if got := parseUnits([]byte(test.text)); !cmp.Equal(got, test.want, cmp.AllowUnexported(unit{})) {
			t.Errorf("%s: %s", name, cmp.Diff(test.want, got, cmp.AllowUnexported(unit{})))
		}
	}
}

func FuzzUnits(f *testing.F) {
	f.Add([]byte(units("active", "failed", "[::]:22", "/run/x.sock")))
	f.Fuzz(func(t *testing.T, text []byte) {
		for id, one := range parseUnits(text) {
			if id == "" || slices.Contains(one.triggers, "") {
				t.Errorf("%q: %+v", id, one)
			}
			one.listens("22")
			socketContent(one.listen, "22")
		}
	})
}

func TestSocketContent(t *testing.T) {
	for _, test := range []struct {
		listen []string
		want   string
	}{
		{[]string{"[::]:22"}, "ListenStream=2222\n"},
		{[]string{"[::]:22", "192.0.2.1:22"}, "ListenStream=2222\n"},
		{nil, "ListenStream=2222\n"},
		{[]string{"0.0.0.0:22"}, "ListenStream=0.0.0.0:2222\n"},
		{[]string{"192.0.2.1:22", "192.0.2.1:23", "[2001:db8::1]:22", "/run/x.sock"},
			"ListenStream=192.0.2.1:2222\nListenStream=[2001:db8::1]:2222\n"},
	} {
		want := "# Made by muster-agent: changes here are lost.\n[Socket]\n" + test.want
		if got := string(socketContent(test.listen, "2222")); got != want {
			t.Errorf("%q: %q", test.listen, got)
		}
	}
}

// socketed is a machine where systemd listens for sshd, as Debian's does: on
// what the unit and its additions say, or on nothing if one of the ports is
// somebody else's; and not while sshd runs. (Seen with systemd 252, 257 and 262.)
type socketed struct {
	*managed
	root      string
	generates bool   // the unit follows sshd's configuration, as Ubuntu's does
	taken     string // a port that is somebody else's
	die       string // the process is killed after this command
	sshd      bool   // it runs
	loaded    []string
	listening []string
}

var listenStream = regexp.MustCompile(`(?m)^ListenStream=(\d+)$`)

// load is what systemd does when it reads its configuration.
func (s *socketed) load(ctx context.Context) error {
	s.loaded = []string{"22"}
	if s.generates {
		settings, err := s.Runner.Run(ctx, nil, "sshd", "-T")
		if err != nil {
			return err
		}
		s.loaded = nil
		for _, found := range regexp.MustCompile(`(?mi)^port (\d+)$`).FindAllStringSubmatch(string(settings), -1) {
			s.loaded = append(s.loaded, found[1])
		}
	}
	additions, err := filepath.Glob(filepath.Join(s.root, "etc/systemd/system/ssh.socket.d/*.conf"))
	for _, file := range additions {
		text, readErr := os.ReadFile(file)
		err = errors.Join(err, readErr)
		for _, found := range listenStream.FindAllStringSubmatch(string(text), -1) {
			s.loaded = append(s.loaded, found[1])
		}
	}
	return err
}

func (s *socketed) Run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	if name != "systemctl" {
		return s.managed.Run(ctx, stdin, name, args...)
	}
	command := strings.Join(args, " ")
	output, err := s.managed.Run(ctx, stdin, name, args...)
	switch {
	case strings.HasPrefix(command, "show "):
		state := map[bool]string{true: "active", false: "inactive"}
		var listen []string
		for _, port := range s.loaded {
			listen = append(listen, "[::]:"+port)
		}
		output = []byte(units(state[s.listening != nil], state[s.sshd], listen...))
	case command == "daemon-reload":
		err = s.load(ctx)
	case command == "stop ssh.socket":
		s.listening = nil
	case command == "stop ssh.service":
		s.sshd = false
	case command == "start ssh.socket" && s.sshd:
		err = errors.New("Socket service ssh.service already active, refusing.")
	case command == "start ssh.socket" && slices.Contains(s.loaded, s.taken):
		err = errors.New("Failed to listen on sockets: Address already in use")
	case command == "start ssh.socket":
		s.listening = s.loaded
	}
	if s.die != "" && command == s.die {
		panic("killed")
	}
	return output, err
}

// socketHost is a machine of that kind; start starts its agent again.
func socketHost(t *testing.T) (h *host, s *socketed, start func()) {
	h, m := managedHost(t, map[string]string{"systemctl": ""}, "run/systemd/system")
	s = &socketed{managed: m, root: h.root, sshd: true, loaded: []string{"22"}, listening: []string{"22"}}
	start = func() {
		t.Helper()
		if err := h.tree.Close(); err != nil {
			t.Fatal(err)
		}
		h.open()
		h.runner = s
	}
	start()
	return h, s, start
}

func (s *socketed) expectPorts(t *testing.T, ports []string, ran ...string) {
	t.Helper()
	if !cmp.Equal(s.listening, ports) {
		t.Errorf("systemd listens on %q", s.listening)
	}
	s.expect(t, ran...)
}

// What setting the second port and restarting the socket takes.
var (
	readAnew = "systemctl daemon-reload"
	restarts = []string{"systemctl stop ssh.socket", "systemctl stop ssh.service", "systemctl start ssh.socket"}
	ported   = slices.Concat([]string{readAnew, readAnew}, restarts)
	unported = slices.Concat([]string{readAnew}, restarts)
)

// TestSocket: a socket of systemd's is restarted for its ports alone. If it
// cannot have the second one, it listens on the first, whatever happens.
func TestSocket(t *testing.T) {
	h, s, start := socketHost(t)
	h.apply(h.want())
	s.expectPorts(t, []string{"22"}, "systemctl try-restart ssh.service")
	w := h.want()
	w.Port = 2222
	h.apply(w)
	s.expectPorts(t, []string{"22", "2222"}, ported...) // and sshd starts with whoever comes
	s.sshd = true
	w.HostCerts = nil
	h.apply(w)
	s.expectPorts(t, []string{"22", "2222"}, "systemctl try-restart ssh.service")

	// The new port is somebody else's.
	w.Port, s.taken = 2223, "2223"
	h.apply(w)
	s.expectPorts(t, []string{"22"}, slices.Concat(ported, unported)...)
	if all := h.Warnings(); len(all) != 1 || !strings.Contains(all[0], "2223") {
		t.Errorf("it says %q", all)
	}
	s.taken = ""
	w.Port = 2224
	h.apply(w)
	s.expectPorts(t, []string{"22", "2224"}, ported...)
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.expectPorts(t, []string{"22"}, unported...)
	if h.tree.Exists("/etc/systemd/system/ssh.socket.d") {
		t.Error("something is left of the socket's additions")
	}
	start()
	h.apply(h.want())
	s.expectPorts(t, []string{"22"}) // sshd starts with whoever comes
}

// TestSocketWasKilled: whatever the agent was doing when it was killed, the
// next one makes the socket listen.
func TestSocketWasKilled(t *testing.T) {
	for _, at := range []string{"daemon-reload", "stop ssh.socket", "stop ssh.service", "start ssh.socket"} {
		for _, taken := range []string{"", "2222"} {
			t.Run(at+taken, func(t *testing.T) {
				h, s, start := socketHost(t)
				w := h.want()
				w.Port = 2222
				s.die, s.taken = at, taken
				func() {
					defer func() {
						if recover() == nil {
							t.Fatal("it was not killed")
						}
					}()
					_, _ = h.Apply(t.Context(), w)
				}()
				s.die = ""
				start()
				if _, err := h.Apply(t.Context(), w); err != nil {
					t.Fatal(err)
				}
				want := []string{"22", "2222"}
				if taken != "" {
					want = want[:1]
				}
				s.ran = nil
				s.expectPorts(t, want)
			})
		}
	}
}

// TestSocketFailed: at the start of the machine another program had the port,
// and the socket did not start.
func TestSocketFailed(t *testing.T) {
	h, s, start := socketHost(t)
	w := h.want()
	w.Port = 2222
	h.apply(w)
	s.taken, s.listening = "2222", nil
	start()
	h.runner = &failing{socketed: s, says: units("failed", "inactive", "[::]:22", "[::]:2222")}
	if _, err := h.Apply(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	s.ran = nil
	s.expectPorts(t, []string{"22"})
}

// failing says once that the socket has failed.
type failing struct {
	*socketed
	says string
}

func (f *failing) Run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	output, err := f.socketed.Run(ctx, stdin, name, args...)
	if name == "systemctl" && args[0] == "show" && f.says != "" {
		output, f.says = []byte(f.says), ""
	}
	return output, err
}

// TestSocketOfUbuntu: one that learns sshd's ports by itself gets no addition.
func TestSocketOfUbuntu(t *testing.T) {
	h, s, _ := socketHost(t)
	s.generates = true
	w := h.want()
	w.Port = 2222
	h.apply(w)
	s.expectPorts(t, []string{"22", "2222"}, unported...)
	if h.tree.Exists("/etc/systemd/system/ssh.socket.d") {
		t.Error("it got an addition")
	}
}

// TestSocketOfTheImage: a port that the image's own addition has needs nothing,
// and what else the image has there stays.
func TestSocketOfTheImage(t *testing.T) {
	h, s, _ := socketHost(t)
	const theirs = "/etc/systemd/system/ssh.socket.d/ports.conf"
	agenttest.Write(t, h.root, theirs, "[Socket]\nListenStream=2222\n")
	if err := s.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.listening = s.loaded
	w := h.want()
	for _, port := range []int{2222, 2223} {
		w.Port = port
		h.apply(w)
	}
	if want := []string{"22", "2223", "2222"}; !cmp.Equal(s.listening, want) {
		t.Errorf("systemd listens on %q", s.listening)
	}
	if err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"22", "2222"}; !cmp.Equal(s.listening, want) || !h.tree.Exists(theirs) {
		t.Errorf("systemd listens on %q", s.listening)
	}
}
