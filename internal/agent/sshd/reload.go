// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// reloadIfDue makes sshd read its configuration, if it has not yet. A mark in
// the state folder outlives a kill between the change and the reload.
func (c *SSHD) reloadIfDue(ctx context.Context, port string) error {
	if _, err := c.tree.LoadState(reloadMark); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := c.reload(ctx, port); err != nil {
		return fmt.Errorf("sshd's configuration is right, but sshd could not be made to read it: %w", err)
	}
	return c.tree.DropState(reloadMark)
}

// reload uses whatever looks after sshd here. An sshd that does not run will
// read its configuration when it starts.
func (c *SSHD) reload(ctx context.Context, port string) error {
	switch {
	case c.tree.Exists("/run/systemd/system"):
		if err := c.restartSocket(ctx, port); err != nil {
			return err
		}
		return c.reloadBySystemd(ctx)
	case c.tree.Exists("/run/openrc/started/sshd"):
		_, err := c.runner.Run(ctx, nil, "rc-service", "sshd", "reload")
		return err
	default:
		return c.reloadBySignal(ctx)
	}
}

// socketState is the state file about a socket of systemd's that listens for
// sshd.
const socketState = "sshd-socket.json"

// socket is such a unit, and what it was last told.
type socket struct {
	Unit string `json:"unit"`
	Port string `json:"port"` // the second port; empty: none
	// Restarting: whether it listens again is not known.
	Restarting bool `json:"restarting"`
}

// errSocket says that a socket of systemd's does not listen any more.
var errSocket = errors.New("the unit that listens for sshd does not start")

// restartSocket makes a socket that listens for sshd learn its ports, if they
// are others than it knows. One that cannot have all of them listens on none.
func (c *SSHD) restartSocket(ctx context.Context, port string) error {
	var known socket
	if content, err := c.tree.LoadState(socketState); err == nil && json.Unmarshal(content, &known) != nil {
		known = socket{}
	}
	if known.Port == port && !known.Restarting {
		return nil
	}
	unit := known.Unit
	if !known.Restarting {
		units := []string{"ssh.socket", "sshd.socket"}
		n := slices.IndexFunc(units, func(unit string) bool { return c.active(ctx, unit) })
		if n < 0 {
			return nil
		}
		unit = units[n]
	}
	if err := c.saveSocket(socket{unit, port, true}); err != nil {
		return err
	}
	for _, args := range [][]string{{"daemon-reload"}, {"restart", unit}} {
		if _, err := c.runner.Run(ctx, nil, "systemctl", args...); err != nil {
			return fmt.Errorf("%w: %s: %w", errSocket, unit, err)
		}
	}
	return c.saveSocket(socket{unit, port, false})
}

func (c *SSHD) saveSocket(s socket) error {
	content, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return c.tree.SaveState(socketState, content)
}

// reloadBySystemd reloads the service under either of its names.
func (c *SSHD) reloadBySystemd(ctx context.Context) error {
	for _, unit := range []string{"ssh.service", "sshd.service"} {
		if c.active(ctx, unit) {
			_, err := c.runner.Run(ctx, nil, "systemctl", "try-reload-or-restart", unit)
			return err
		}
	}
	return nil
}

func (c *SSHD) active(ctx context.Context, unit string) bool {
	// It exits with another code than 0 unless the unit is active already.
	output, _ := c.runner.Run(ctx, nil, "systemctl", "is-active", unit)
	return slices.Contains([]string{"active", "activating", "reloading"}, strings.TrimSpace(string(output)))
}

// reloadBySignal tells the sshd of the pid file, where no service manager is.
func (c *SSHD) reloadBySignal(ctx context.Context) error {
	settings, err := c.settings(ctx)
	if err != nil {
		return err
	}
	for _, file := range settings["pidfile"] {
		content, err := c.tree.Read(file)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
		if err != nil || pid <= 1 {
			continue
		}
		name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		if err != nil || strings.TrimSpace(string(name)) != "sshd" {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
			return err
		}
	}
	return nil
}
