// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/agent/files"
)

const (
	// systemdRuns is there where systemd looks after services (sd_booted(3)).
	systemdRuns = "/run/systemd/system"
	// socketState is the state file about a socket of systemd's that listens for sshd.
	socketState = "sshd-socket.json"
	// socketTimeout bounds a restart of such a socket. It has a deadline of its
	// own, since it comes to its end although the agent is told to end.
	socketTimeout = 3 * time.Minute
)

// socketNames and serviceNames are what distributions call the socket that
// listens for sshd, and sshd.
var (
	socketNames  = []string{"ssh.socket", "sshd.socket"}
	serviceNames = []string{"ssh.service", "sshd.service"}
)

// errSocket says that a socket of systemd's does not listen any more.
var errSocket = errors.New("the unit that listens for sshd does not start")

// socket is what was last done about such a unit.
type socket struct {
	Unit string `json:"unit"`
	Port string `json:"port"` // the second port; empty: none
	// Restarting: whether it listens, and on what, is not known.
	Restarting bool `json:"restarting"`
}

// unit is what systemd says of a socket or a service.
type unit struct {
	state    string   // active, inactive, failed, …
	listen   []string // a socket's addresses with ports
	triggers []string // the services that a socket starts
}

// active tells whether the unit is up, or about to be.
func (u unit) active() bool {
	return slices.Contains([]string{"active", "activating", "reloading"}, u.state)
}

// listens tells whether the unit has the port, on whatever address.
func (u unit) listens(port string) bool {
	return slices.ContainsFunc(u.listen, func(address string) bool {
		_, its, err := net.SplitHostPort(address)
		return err == nil && its == port
	})
}

// parseUnits reads what "systemctl show" says of several units: a block of
// properties for each, with an empty line between them.
func parseUnits(text []byte) map[string]unit {
	units := map[string]unit{}
	for block := range strings.SplitSeq(string(text), "\n\n") {
		var id string
		var one unit
		for line := range strings.Lines(block) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch key {
			case "Id":
				id = value
			case "ActiveState":
				one.state = value
			case "Triggers":
				one.triggers = append(one.triggers, strings.Fields(value)...)
			case "Listen": // "[::]:22 (Stream)", a line for each
				if address, stream := strings.CutSuffix(value, " (Stream)"); stream {
					one.listen = append(one.listen, address)
				}
			}
		}
		if id != "" {
			units[id] = one
		}
	}
	return units
}

// units asks systemd for those that have to do with sshd.
func (c *SSHD) units(ctx context.Context) (map[string]unit, error) {
	args := slices.Concat([]string{"show", "--property=Id,ActiveState,Listen,Triggers"}, socketNames, serviceNames)
	output, err := c.runner.Run(ctx, nil, "systemctl", args...)
	if err != nil {
		return nil, fmt.Errorf("asking systemd who listens for sshd: %w", err)
	}
	return parseUnits(output), nil
}

// active returns the first of the names whose unit is active; nothing if none is.
func active(units map[string]unit, names []string) string {
	for _, name := range names {
		if units[name].active() {
			return name
		}
	}
	return ""
}

// keepSocket makes a socket of systemd's that listens for sshd listen on the
// second port, too, and no more on a former one. sshd takes what it is given
// then, whatever Port says. Such a unit listens on all of its ports or on none.
func (c *SSHD) keepSocket(ctx context.Context, port string) error {
	if !c.tree.Exists(systemdRuns) {
		return nil
	}
	units, err := c.units(ctx)
	if err != nil {
		return err
	}
	var known socket
	if content, err := c.tree.LoadState(socketState); err == nil && json.Unmarshal(content, &known) != nil {
		known = socket{}
	}
	name := known.Unit
	if !known.Restarting {
		if listening := active(units, socketNames); listening != "" {
			name = listening
		} else if name == "" || units[name].state != "failed" {
			return nil // sshd listens for itself
		}
	}
	now := units[name]
	if now.active() && !known.Restarting && known.Port == port && (port == "" || now.listens(port)) {
		return nil
	}
	if err := c.saveSocket(socket{name, port, true}); err != nil {
		return err
	}
	if err := c.setSocket(ctx, name, port); err != nil {
		return err
	}
	if err := c.restartSocket(ctx, name, now); err != nil {
		return err
	}
	return c.saveSocket(socket{name, port, false})
}

func (c *SSHD) saveSocket(s socket) error {
	content, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return c.tree.SaveState(socketState, content)
}

// setSocket writes what the unit lacks of the second port. Ubuntu's reads
// sshd's configuration when systemd is told to read its own, and lacks nothing.
func (c *SSHD) setSocket(ctx context.Context, name, port string) error {
	folder := path.Join("/etc/systemd/system", name+".d")
	file := path.Join(folder, "muster-agent.conf")
	change := c.tree.Begin()
	if err := errors.Join(change.Restore(file), change.Restore(folder)); err != nil {
		return err
	}
	if _, err := change.Do(ctx); err != nil {
		return err
	}
	if err := c.systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	units, err := c.units(ctx)
	if err != nil {
		return err
	}
	if port == "" || units[name].listens(port) {
		return nil
	}
	change = c.tree.Begin()
	err = errors.Join(change.Folder(folder, files.Folder), change.Write(file, socketContent(units[name].listen, port), files.Public))
	if err != nil {
		return err
	}
	if _, err := change.Do(ctx); err != nil {
		return err
	}
	return c.systemctl(ctx, "daemon-reload")
}

// socketContent adds the port to each address on which the unit listens: where
// the image keeps sshd to one of them, the second port is kept to it, too.
func socketContent(listen []string, port string) []byte {
	var hosts []string
	for _, address := range listen {
		if host, _, err := net.SplitHostPort(address); err == nil && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	var text bytes.Buffer
	text.WriteString("# Made by muster-agent: changes here are lost.\n[Socket]\n")
	if len(hosts) == 0 || slices.Contains(hosts, "::") {
		hosts = []string{""}
	}
	for _, host := range hosts {
		address := port // on all addresses, with and without IPv6
		if host != "" {
			address = net.JoinHostPort(host, port)
		}
		fmt.Fprintf(&text, "ListenStream=%s\n", address)
	}
	return text.Bytes()
}

// restartSocket makes the unit listen on what it should. systemd does not start
// it while its service runs, which has the old ports from it; sshd's sessions go
// on without that. The unit stops first, or somebody who connects meanwhile
// would make it start the service again.
func (c *SSHD) restartSocket(ctx context.Context, name string, as unit) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), socketTimeout)
	defer cancel()
	if err := c.systemctl(ctx, "stop", name); err != nil {
		return err
	}
	for _, service := range as.triggers {
		if strings.Contains(service, "@") {
			continue // one for each connection
		}
		if err := c.systemctl(ctx, "stop", service); err != nil {
			return err
		}
	}
	if err := c.systemctl(ctx, "start", name); err != nil {
		return fmt.Errorf("%w: %s: %w", errSocket, name, err)
	}
	return nil
}

func (c *SSHD) systemctl(ctx context.Context, args ...string) error {
	_, err := c.runner.Run(ctx, nil, "systemctl", args...)
	return err
}
