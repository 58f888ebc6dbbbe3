// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package service makes the agent a service of the machine: of systemd, of
// OpenRC, or, where there is neither, of cron, which starts it with the machine
// and again if it ended.
//
// Its files are written through the tree's journal, so that they go with
// everything else that is undone. It never starts the agent by itself where a
// service manager is there.
package service

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/agent/files"
)

// name is the service's, wherever it runs.
const name = "muster-agent"

// timeout bounds one command to a service manager. Stopping may wait for what
// the agent has under way.
const timeout = 2 * time.Minute

//go:embed muster-agent.service
var systemdUnit string

//go:embed muster-agent.openrc
var openRCScript string

//go:embed muster-agent.cron
var cronLines string

// ErrNoManager: nothing here could start the agent with the machine.
var ErrNoManager = errors.New("this machine has neither systemd nor OpenRC nor cron: " +
	"let whatever starts its services run: muster-agent run")

// Manager starts services.
type Manager string

// The managers that are known.
const (
	Systemd Manager = "systemd"
	OpenRC  Manager = "OpenRC"
	Cron    Manager = "cron"
)

// Service is the agent as a service.
type Service struct {
	manager Manager
	runner  files.Runner
}

// Find returns the agent as a service of the manager that the machine has; exists
// looks at the machine's files.
func Find(exists func(path string) bool, runner files.Runner) (*Service, error) {
	for _, sign := range []struct {
		path    string
		manager Manager
	}{
		{"/run/systemd/system", Systemd}, // sd_booted(3)
		{"/run/openrc", OpenRC},
		{"/etc/cron.d", Cron},
		{busyboxTable, Cron},
	} {
		if exists(sign.path) {
			return &Service{sign.manager, runner}, nil
		}
	}
	return nil, ErrNoManager
}

// Manager tells who starts the agent.
func (s *Service) Manager() Manager { return s.manager }

// Where the files of each manager are.
const (
	unitFile     = "/etc/systemd/system/" + name + ".service"
	scriptFile   = "/etc/init.d/" + name
	cronFile     = "/etc/cron.d/" + name
	busyboxTable = "/etc/crontabs/root" // busybox's crond knows neither cron.d nor @reboot
)

// Write writes the service's file, for the agent at the path program. Files for
// other managers go: an image is often made where nothing of the instance runs,
// so that it seemed to have cron alone.
func (s *Service) Write(ctx context.Context, tree *files.Tree, program string) error {
	file, text, attr := s.file(tree)
	change := tree.Begin()
	for _, other := range []string{unitFile, scriptFile, cronFile, busyboxTable} {
		if other == file {
			continue
		}
		if err := change.Restore(other); err != nil {
			return err
		}
	}
	content := []byte(strings.ReplaceAll(text, "@PROGRAM@", program))
	stage := func() error { return change.Write(file, content, attr) }
	if file == busyboxTable {
		stage = func() error { return addToTable(tree, change, content) }
	}
	if err := stage(); err != nil {
		return err
	}
	_, err := change.Do(ctx)
	return err
}

// file is what the manager reads, and what is to be in it.
func (s *Service) file(tree *files.Tree) (file, text string, attr files.Attr) {
	switch {
	case s.manager == Systemd:
		return unitFile, systemdUnit, files.Public
	case s.manager == OpenRC:
		return scriptFile, openRCScript, files.Folder
	case tree.Exists(filepath.Dir(cronFile)):
		return cronFile, cronLines, files.Public
	default:
		return busyboxTable, "*/5 * * * * @PROGRAM@ run >/dev/null 2>&1", files.Attr{}
	}
}

// addToTable adds a line to the table of busybox's crond, which has no column
// for the user.
func addToTable(tree *files.Tree, change *files.Change, line []byte) error {
	table, err := tree.Read(busyboxTable)
	if err != nil {
		return err
	}
	table = files.Strip(table)
	if len(table) > 0 && table[len(table)-1] != '\n' {
		table = append(table, '\n')
	}
	return change.Edit(busyboxTable, append(table, files.Block(string(line))...))
}

// Start makes the manager start the agent, now and with the machine. An agent
// that runs is replaced by the one that is installed.
func (s *Service) Start(ctx context.Context, program string) error {
	switch s.manager {
	case Systemd:
		return s.each(ctx, []string{"systemctl", "daemon-reload"}, []string{"systemctl", "enable", name},
			[]string{"systemctl", "--no-block", "restart", name})
	case OpenRC:
		return s.each(ctx, []string{"rc-update", "add", name, "default"}, []string{"rc-service", name, "restart"})
	default:
		// In a session of its own it outlives the one who installs it.
		return s.each(ctx, []string{"sh", "-c", `setsid "$1" run </dev/null >/dev/null 2>&1 &`, "sh", program})
	}
}

// Stop makes the manager stop the agent, and start it no more. It is no error
// if there was none.
func (s *Service) Stop(ctx context.Context) error {
	switch s.manager {
	case Systemd:
		if out, err := s.run(ctx, "systemctl", "show", "--property=LoadState", name); err == nil && strings.Contains(string(out), "not-found") {
			return nil
		}
		return s.each(ctx, []string{"systemctl", "disable", "--now", name})
	case OpenRC:
		if _, err := s.run(ctx, "rc-service", "--exists", name); err != nil {
			return nil
		}
		if err := s.each(ctx, []string{"rc-service", "--ifstarted", name, "stop"}); err != nil {
			return err
		}
		return s.leaveRunlevels(ctx)
	default:
		return nil // cron starts one if there is none; its line goes with the file
	}
}

// leaveRunlevels takes the agent out of OpenRC's runlevels. rc-update fails
// because of each in which the agent was not, so that it is asked what is left.
func (s *Service) leaveRunlevels(ctx context.Context) error {
	_, failure := s.run(ctx, "rc-update", "--all", "del", name)
	left, err := s.run(ctx, "rc-update", "show")
	if err == nil && bytes.Contains(left, []byte(" "+name+" |")) {
		err = cmp.Or(failure, errors.New("it stays in a runlevel"))
	}
	if err != nil {
		return fmt.Errorf("%s as a service of %s: %w", name, s.manager, err)
	}
	return nil
}

// Forget tells the manager that the service's file is gone.
func (s *Service) Forget(ctx context.Context) error {
	if s.manager != Systemd {
		return nil
	}
	return s.each(ctx, []string{"systemctl", "daemon-reload"})
}

func (s *Service) each(ctx context.Context, commands ...[]string) error {
	for _, command := range commands {
		if _, err := s.run(ctx, command[0], command[1:]...); err != nil {
			return fmt.Errorf("%s as a service of %s: %w", name, s.manager, err)
		}
	}
	return nil
}

func (s *Service) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return s.runner.Run(ctx, nil, program, args...)
}
