// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Matrix runs the tests of a target of make on a release of Debian, and notes
// in docs/compatibility.md what came of it: make test, e2e and test-instance
// do so when they are given a RELEASE.
//
// The services of test and e2e are that release's, and so is all that they run
// in, a Debian in a folder; the machines of test-instance are, and nothing else.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	_ "embed"

	"golang.org/x/sys/unix"

	"github.com/muster-cloud/muster/test/debian"
	"github.com/muster-cloud/muster/test/machine"
)

//go:embed enter.sh
var enter string

// tools are what the tests need of a machine besides what
// scripts/services-install.sh adds.
var tools = []string{"ca-certificates", "e2fsprogs", "git", "kmod", "make", "netbase", "procps", "tzdata"}

// patience is how long an interrupted run may take to clean up.
const patience = 5 * time.Minute

func main() {
	target := flag.String("target", "", "of make: test, e2e or test-instance")
	release := flag.String("release", "", "as debootstrap calls it, such as trixie or sid")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: matrix -target TARGET -release RELEASE [VARIABLE=VALUE of make]...")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *target, *release, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, target, release string, settings []string) error {
	t, known := targets[target]
	if !known || release == "" {
		return fmt.Errorf("there is no target %q, or no release", target)
	}
	p, err := findPlace(ctx, t, release)
	if err != nil {
		return err
	}
	settings = slices.DeleteFunc(settings, func(setting string) bool { return strings.HasSuffix(setting, "=") })
	command, err := p.command(ctx, append([]string{"make", target, "RELEASE=", "TESTFLAGS=-json"}, settings...))
	if err != nil {
		return err
	}
	under := commit(ctx) // before anybody goes on working here
	output, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	found := follow(output, os.Stdout, t)
	err = command.Wait()
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), err) // it says nothing about the release
	}
	if len(found.Passed)+len(found.Failed) == 0 {
		return errors.Join(errors.New("no test ran: nothing is noted"), err)
	}
	found.Target, found.Release, found.Settings = target, release, strings.Join(settings, " ")
	found.Date, found.Commit = time.Now().UTC().Format(time.DateOnly), under
	if found.Versions, err = versions(ctx, p.root, t.packages); err != nil {
		return err
	}
	if err := note(found); err != nil {
		return err
	}
	fmt.Printf("matrix: %s on %s: %s; noted in %s\n", target, release, found.outcome(), page)
	if len(found.Failed) > 0 {
		return errors.New("not all passed")
	}
	return nil
}

// place is where a run takes place.
type place struct {
	root string // whose packages count; empty: this machine's own
	// inside: all of it runs there.
	inside bool
	env    []string
}

func findPlace(ctx context.Context, t target, release string) (p place, err error) {
	own, err := debian.Own(ctx)
	if err != nil {
		return p, err
	}
	if t.machines {
		p.env = []string{machine.EnvRelease + "=" + release}
		p.root, err = machine.Debian(ctx, release)
		return p, err
	}
	if release == own {
		return p, nil
	}
	fmt.Printf("matrix: Debian %s is installed in a folder, unless it is there already\n", release)
	p.inside = true
	p.root, err = debian.Root(ctx, debian.Config{Kind: "host", Release: release, Packages: tools})
	return p, err
}

// command prepares make in the place. The folders that it sees are this one's,
// Go's own and its caches, and the temporary ones.
func (p place) command(ctx context.Context, arguments []string) (*exec.Cmd, error) {
	env := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		// What a make above this one has to say is not for the one below.
		return strings.HasPrefix(variable, "MAKE") || strings.HasPrefix(variable, "MFLAGS=")
	})
	env = append(env, p.env...)
	folder, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	if !p.inside {
		command := exec.CommandContext(ctx, arguments[0], arguments[1:]...)
		return p.prepare(command, env), nil
	}
	folders := []string{folder, os.TempDir()}
	for _, name := range []string{"GOROOT", "GOMODCACHE", "GOCACHE", "GOPROXY", "GOFLAGS", "GOSUMDB", "GOTOOLCHAIN"} {
		value, err := exec.CommandContext(ctx, "go", "env", name).Output()
		if err != nil {
			return nil, fmt.Errorf("go env %s: %w", name, err)
		}
		setting := strings.TrimSpace(string(value))
		switch name {
		case "GOROOT":
			env = append(env, "PATH="+filepath.Join(setting, "bin")+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
			folders = append(folders, setting)
		case "GOMODCACHE", "GOCACHE":
			folders = append(folders, setting)
			fallthrough
		default:
			env = append(env, name+"="+setting)
		}
	}
	args := slices.Concat([]string{"-euc", enter, "enter", p.root}, folders, []string{"--"}, arguments)
	command := exec.CommandContext(ctx, "sh", args...)
	command = p.prepare(command, env)
	command.SysProcAttr.Cloneflags, command.SysProcAttr.Unshareflags = unix.CLONE_NEWPID, unix.CLONE_NEWNS
	command.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return command, nil
}

// prepare lets an interrupted command clean up.
func (p place) prepare(command *exec.Cmd, env []string) *exec.Cmd {
	command.Env, command.Stderr = env, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{}
	command.Cancel = func() error { return nil } // who interrupts this interrupts the whole process group
	command.WaitDelay = patience
	return command
}

// commit is what git calls the version under test.
func commit(ctx context.Context) string {
	name, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(name))
}
