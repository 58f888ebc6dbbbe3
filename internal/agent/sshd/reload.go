// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// reloadIfDue makes sshd read its configuration, if it has not yet. A mark in
// the state folder outlives a kill between the change and the reload.
func (c *SSHD) reloadIfDue(ctx context.Context) error {
	if _, err := c.tree.LoadState(reloadMark); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := c.reload(ctx); err != nil {
		return fmt.Errorf("sshd's configuration is right, but sshd could not be made to read it: %w", err)
	}
	return c.tree.DropState(reloadMark)
}

// reload uses whatever looks after sshd here. An sshd that does not run will
// read its configuration when it starts.
func (c *SSHD) reload(ctx context.Context) error {
	switch {
	case c.tree.Exists(systemdRuns):
		return c.reloadBySystemd(ctx)
	case c.tree.Exists("/run/openrc/started/sshd"):
		_, err := c.runner.Run(ctx, nil, "rc-service", "sshd", "reload")
		return err
	default:
		return c.reloadBySignal(ctx)
	}
}

// reloadBySystemd reloads the service under either of its names. An sshd that
// got its ports from a socket of systemd's does not find them again when it
// reloads: it ends, or leaves the first port to nobody. That one is restarted;
// who connects meanwhile waits, and sessions go on.
func (c *SSHD) reloadBySystemd(ctx context.Context) error {
	units, err := c.units(ctx)
	if err != nil {
		return err
	}
	service := active(units, serviceNames)
	switch {
	case service == "":
		return nil
	case active(units, socketNames) != "":
		return c.systemctl(ctx, "try-restart", service)
	default:
		return c.systemctl(ctx, "try-reload-or-restart", service)
	}
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
