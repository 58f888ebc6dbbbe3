// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/muster-cloud/muster/internal/agent"
	"github.com/muster-cloud/muster/internal/agent/files"
	"github.com/muster-cloud/muster/internal/agent/machine"
	"github.com/muster-cloud/muster/internal/agent/service"
)

// installed is where install puts the program.
const installed = "/usr/local/sbin/muster-agent"

// programFolders are those in which a program is left where it is.
var programFolders = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// stopTimeout is how long an agent that was told to end may take: it lets a
// program for accounts come to its end.
const stopTimeout = 90 * time.Second

var installCommand = command{
	name: "install", short: "Make this program a service, and start it",
	long: `Copies this program to ` + installed + `, unless it lies in a folder
of the system's programs already, and makes it a service of systemd, of OpenRC,
or else of cron. Then it starts it; an agent that runs already is replaced.`,
	examples: []string{"muster-agent install"},
	flags: func(p *program, set *flag.FlagSet) func(context.Context) error {
		at := placeFlags(set, false)
		start := set.Bool("start", true, "start it now; --start=false is for making images")
		return func(ctx context.Context) error { return p.install(ctx, at, *start) }
	},
}

var uninstallCommand = command{
	name: "uninstall", short: "Undo everything that the agent did, and take it away",
	long: `Ends the agent, and gives back what was before: sshd's configuration, sudo's,
and every other file; accounts that it made go, except for home folders in which
somebody left something. Sessions that are open go on. FreeIPA stays joined
(ipa-client-install --uninstall leaves it).

Before you end your session, see that you can get in otherwise.`,
	examples: []string{"muster-agent uninstall"},
	flags: func(p *program, set *flag.FlagSet) func(context.Context) error {
		at := placeFlags(set, false)
		return func(ctx context.Context) error { return p.uninstall(ctx, at) }
	},
}

func (p *program) install(ctx context.Context, at *place, start bool) error {
	exists := func(path string) bool {
		_, err := os.Stat(filepath.Join(at.root, path))
		return err == nil
	}
	manager, err := service.Find(exists, at.programs())
	if err != nil {
		return err
	}
	if err := p.stopAgent(ctx, at, manager); err != nil {
		return err
	}
	target, err := p.place(ctx, at, manager)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "muster-agent: %s is a service of %s\n", target, manager.Manager())
	if !start {
		return nil
	}
	return manager.Start(ctx, target)
}

// place puts the program and the service's file where they belong, and returns
// the program's path.
func (p *program) place(ctx context.Context, at *place, manager *service.Service) (string, error) {
	tree, err := files.OpenTree(ctx, files.Config{
		Root: at.root, State: stateFolder, Runner: at.programs(), Log: p.newLog(false), Crash: crashPoint,
	})
	if err != nil {
		return "", err
	}
	defer tree.Close()
	target := programPath(at)
	if !isHere(at, target) {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		content, err := os.ReadFile(self)
		if err != nil {
			return "", err
		}
		if _, err := tree.Write(ctx, target, content, files.Folder); err != nil {
			return "", err
		}
	}
	return target, manager.Write(ctx, tree, target)
}

// programPath is the program's place on the machine, now or once installed.
func programPath(at *place) string {
	self, err := os.Executable()
	if err == nil && isHere(at, self) && slices.Contains(programFolders, filepath.Dir(self)) {
		return self
	}
	return installed
}

// isHere tells whether the running program is the machine's file at path.
func isHere(at *place, path string) bool {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	other, err := os.Stat(filepath.Join(at.root, path))
	return err == nil && os.SameFile(self, other)
}

// stopAgent ends an agent that runs, whoever started it.
func (p *program) stopAgent(ctx context.Context, at *place, manager *service.Service) error {
	if manager != nil {
		if err := manager.Stop(ctx); err != nil {
			return err
		}
	}
	status, err := agent.ReadStatus(at.running())
	if err != nil || status.PID <= 1 {
		return nil
	}
	if !isAgent(status.PID) {
		return nil
	}
	if err := syscall.Kill(status.PID, syscall.SIGTERM); err != nil {
		return fmt.Errorf("ending the agent that runs, process %d: %w", status.PID, err)
	}
	for deadline := time.Now().Add(stopTimeout); isAgent(status.PID); {
		if time.Now().After(deadline) {
			return fmt.Errorf("the agent that runs, process %d, does not end", status.PID)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// isAgent tells whether a process is an agent that runs; the number may be
// another process's meanwhile.
func isAgent(pid int) bool {
	if pid == os.Getpid() {
		return false
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	words := strings.Split(string(line), "\x00")
	return err == nil && len(words) > 1 && strings.HasPrefix(filepath.Base(words[0]), "muster-agent") && words[1] == "run"
}

func (p *program) uninstall(ctx context.Context, at *place) error {
	exists := func(path string) bool {
		_, err := os.Stat(filepath.Join(at.root, path))
		return err == nil
	}
	manager, err := service.Find(exists, at.programs())
	if err != nil && !errors.Is(err, service.ErrNoManager) {
		return err
	}
	if err := p.stopAgent(ctx, at, manager); err != nil {
		return err
	}
	kept, err := p.undo(ctx, at)
	if err != nil {
		return fmt.Errorf("not all is undone; correct what is wrong and run it again: %w", err)
	}
	if manager != nil {
		if err := manager.Forget(ctx); err != nil {
			return err
		}
	}
	for _, folder := range kept {
		fmt.Fprintf(p.stdout, "muster-agent: %s is kept, since somebody left files in it\n", folder)
	}
	return errors.Join(removeAll(at.running()), removeAll(at.state()), p.removeSelf(at))
}

// undo gives the machine back as it was.
func (p *program) undo(ctx context.Context, at *place) ([]string, error) {
	log := p.newLog(false)
	tree, err := files.OpenTree(ctx, files.Config{
		Root: at.root, State: stateFolder, Runner: at.programs(), Log: log, Crash: crashPoint,
	})
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	m, err := machine.New(machine.Config{Tree: tree, Runner: at.programs(), Program: installed, Log: log})
	if err != nil {
		return nil, err
	}
	return m.Undo(ctx)
}

// removeSelf removes a program that was put in place by hand, and is in no
// journal.
func (p *program) removeSelf(at *place) error {
	crashPoint("remove " + installed)
	err := os.Remove(filepath.Join(at.root, installed))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func removeAll(folder string) error {
	crashPoint("remove " + folder)
	return os.RemoveAll(folder)
}
