// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// portState is the state file about what was opened for the second port.
const portState = "port.json"

// opened is what was done to let the second port through.
type opened struct {
	Port      string `json:"port"`
	SELinux   bool   `json:"selinux"`
	Firewall  bool   `json:"firewall"`
	Permanent bool   `json:"permanent"`
}

// openPort labels the port for SELinux and opens it in firewalld, where they
// run, and closes the one that was opened before; no port: nothing is opened.
// What does not succeed is a warning, since sshd's first port works anyway,
// and is tried again at the next call.
func (c *SSHD) openPort(ctx context.Context, port string) {
	if c.portDone == port {
		return
	}
	var done opened
	if content, err := c.tree.LoadState(portState); err == nil && json.Unmarshal(content, &done) != nil {
		done = opened{}
	}
	before, whole := done, true
	if done.Port != port {
		c.closePort(ctx, done)
		done = opened{Port: port}
	}
	if port != "" {
		labelled := c.labelPort(ctx, &done)
		whole = c.openFirewall(ctx, &done) && labelled
	}
	if done != before {
		content, err := json.Marshal(done)
		if err == nil {
			err = c.tree.SaveState(portState, content)
		}
		if err != nil {
			c.log.Warn("what was opened for the second port could not be noted", "error", err)
			return
		}
	}
	if whole {
		c.portDone = port
	}
}

// sshPort is SELinux's type of ports that sshd may bind.
const sshPort = "ssh_port_t"

// labelPort lets sshd bind the port under SELinux. A label of the policy's is
// set aside, and back once ours is gone; one that somebody set here stays.
func (c *SSHD) labelPort(ctx context.Context, done *opened) bool {
	if done.SELinux || !c.tree.Exists("/sys/fs/selinux/enforce") {
		return true
	}
	ours, err := c.isLabelled(ctx, done.Port)
	if ours || err == nil && c.label(ctx, "-a", done.Port) == nil {
		done.SELinux = !ours
		return true
	}
	if err == nil {
		err = c.label(ctx, "-m", done.Port) // the policy has another type for it
	}
	if done.SELinux = err == nil; !done.SELinux {
		c.log.Warn("SELinux may keep sshd from its second port; install semanage (policycoreutils-python-utils) "+
			"and allow it: semanage port -a -t ssh_port_t -p tcp PORT", "port", done.Port, "error", err)
	}
	return done.SELinux
}

func (c *SSHD) label(ctx context.Context, how, port string) error {
	_, err := c.runner.Run(ctx, nil, "semanage", "port", how, "-t", sshPort, "-p", "tcp", port)
	return err
}

// isLabelled tells whether somebody has labelled the port for sshd on this
// machine. That it was labelled otherwise is an error: it is for something else.
func (c *SSHD) isLabelled(ctx context.Context, port string) (bool, error) {
	local, err := c.runner.Run(ctx, nil, "semanage", "port", "-l", "-C", "-n")
	if err != nil {
		return false, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(local)) {
		fields := strings.Fields(strings.ReplaceAll(line, ",", " "))
		if len(fields) < 3 || fields[1] != "tcp" || !slices.ContainsFunc(fields[2:], func(ports string) bool { return holds(ports, number) }) {
			continue
		}
		if fields[0] != sshPort {
			return false, fmt.Errorf("somebody has given it the type %s here", fields[0])
		}
		return true, nil
	}
	return false, nil
}

// holds tells whether a port is in a range as semanage writes it.
func holds(ports string, number int) bool {
	first, last, found := strings.Cut(ports, "-")
	if !found {
		last = first
	}
	low, errLow := strconv.Atoi(first)
	high, errHigh := strconv.Atoi(last)
	return errLow == nil && errHigh == nil && low <= number && number <= high
}

// openFirewall opens the port now and for good, and notes what was not open
// before. A firewalld that does not run may start later, so that it is looked
// for again each time.
func (c *SSHD) openFirewall(ctx context.Context, done *opened) bool {
	if !c.firewallRuns(ctx) {
		return false
	}
	whole := true
	rule := done.Port + "/tcp"
	for permanently, is := range map[bool]*bool{false: &done.Firewall, true: &done.Permanent} {
		if *is || c.firewall(ctx, permanently, "--query-port="+rule) == nil {
			continue
		}
		err := c.firewall(ctx, permanently, "--add-port="+rule)
		if *is = err == nil; err != nil {
			c.log.Warn("firewalld does not let the second port of sshd through", "port", done.Port, "error", err)
			whole = false
		}
	}
	return whole
}

func (c *SSHD) closePort(ctx context.Context, done opened) {
	if done.SELinux {
		if _, err := c.runner.Run(ctx, nil, "semanage", "port", "-d", "-p", "tcp", done.Port); err != nil {
			c.log.Warn("the SELinux label of sshd's former second port stays", "port", done.Port, "error", err)
		}
	}
	running := (done.Firewall || done.Permanent) && c.firewallRuns(ctx)
	for permanently, was := range map[bool]bool{false: done.Firewall, true: done.Permanent} {
		remove := "--remove-port=" + done.Port + "/tcp"
		var err error
		switch {
		case !was:
		case running:
			err = c.firewall(ctx, permanently, remove)
		case permanently: // what was open until it ended is closed already
			_, err = c.runner.Run(ctx, nil, "firewall-offline-cmd", remove)
		}
		if err != nil {
			c.log.Warn("the former second port of sshd stays open in firewalld", "port", done.Port, "error", err)
		}
	}
}

func (c *SSHD) firewallRuns(ctx context.Context) bool {
	_, err := c.runner.Run(ctx, nil, "firewall-cmd", "--state")
	return err == nil
}

func (c *SSHD) firewall(ctx context.Context, permanently bool, args ...string) error {
	if permanently {
		args = append([]string{"--permanent"}, args...)
	}
	_, err := c.runner.Run(ctx, nil, "firewall-cmd", args...)
	return err
}
