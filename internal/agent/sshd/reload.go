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
	"slices"
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
	case c.tree.Exists("/run/systemd/system"):
		return c.reloadBySystemd(ctx)
	case c.tree.Exists("/run/openrc/started/sshd"):
		_, err := c.runner.Run(ctx, nil, "rc-service", "sshd", "reload")
		return err
	default:
		return c.reloadBySignal(ctx)
	}
}

// reloadBySystemd reloads the service under either of its names, and makes
// a socket that listens for sshd learn its ports.
func (c *SSHD) reloadBySystemd(ctx context.Context) error {
	var failed []error
	for _, unit := range []string{"ssh.socket", "sshd.socket"} {
		if !c.active(ctx, unit) {
			continue
		}
		_, err := c.runner.Run(ctx, nil, "systemctl", "daemon-reload")
		failed = append(failed, err)
		_, err = c.runner.Run(ctx, nil, "systemctl", "try-restart", unit)
		failed = append(failed, err)
		break
	}
	for _, unit := range []string{"ssh.service", "sshd.service"} {
		if c.active(ctx, unit) {
			_, err := c.runner.Run(ctx, nil, "systemctl", "try-reload-or-restart", unit)
			failed = append(failed, err)
			break
		}
	}
	return errors.Join(failed...)
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
