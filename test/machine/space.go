// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/muster-cloud/muster/test/services"
)

// What the process outside tells the one inside.
const (
	envBase   = "MUSTER_TEST_MACHINE_BASE"   // the installed Debian
	envFolder = "MUSTER_TEST_MACHINE_FOLDER" // an empty folder
)

// Main runs the tests of a package in namespaces of their own, and returns the
// exit code. Call it from TestMain. Where machines can't be had, and where the
// tests are to be short, it runs them without; New then skips or fails them.
func Main(m *testing.M) int {
	flag.Parse()
	if os.Getenv(envFolder) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "the tests' namespaces:", err)
			return 1
		}
		return m.Run()
	}
	if testing.Short() {
		return m.Run()
	}
	base, err := Debian(context.Background(), release())
	if err != nil {
		missing = err
		return m.Run()
	}
	code, err := inside(base)
	if err != nil {
		fmt.Fprintln(os.Stderr, "the tests' namespaces:", err)
		return max(code, 1)
	}
	return code
}

// missing is why there are no machines.
var missing error

// Need skips the test where machines can't be had, or fails it where they must be.
func Need(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it boots a machine")
	}
	services.Need(t, missing)
	if workFolder() == "" {
		t.Fatal("call machine.Main from TestMain")
	}
}

// TempDir makes a folder that is gone when the tests of the package have ended,
// for what they share.
func TempDir() (string, error) { return os.MkdirTemp(workFolder(), "shared-") }

func workFolder() string { return os.Getenv(envFolder) }

// groups is the control group of the tests, in which each machine has one. It
// is outside of the tests' file system, which goes before it.
func groups() string { return filepath.Join(workFolder(), "groups", groupName(os.Getenv(envFolder))) }

// groupName is that of the tests' control group. The folder is theirs alone.
func groupName(folder string) string { return filepath.Base(folder) }

// inside runs this program again in new namespaces, and cleans up after it. The
// kernel ends what is left in them with their first process, and undoes their
// mounts and networks; only control groups stay.
func inside(base string) (int, error) {
	folder, err := os.MkdirTemp("", "muster-machines-")
	if err != nil {
		return 1, err
	}
	command := exec.Command("/proc/self/exe", os.Args[1:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.Env = append(os.Environ(), envBase+"="+base, envFolder+"="+folder)
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	err = command.Run()
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code, err = max(exit.ExitCode(), 1), nil
	}
	return code, errors.Join(err, sweep(folder), os.RemoveAll(folder))
}

// furnish makes the new namespaces habitable: its own /proc, a file system for
// the machines' disks that is gone with the namespace, and the network.
func furnish() error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", workFolder(), "tmpfs", 0, "mode=700"); err != nil {
		return err
	}
	if err := mountGroups(workFolder()); err != nil {
		return err
	}
	return buildNetwork()
}

// mountGroups mounts the hierarchy of control groups of version 2, which every
// kernel has beside whatever the machine uses, in the folder.
func mountGroups(folder string) error {
	mounted := filepath.Join(folder, "groups")
	if err := os.MkdirAll(mounted, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("cgroup2", mounted, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("control groups: %w", err)
	}
	err := os.Mkdir(filepath.Join(mounted, groupName(folder)), 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// sweep removes what the machines of the tests left of control groups.
func sweep(folder string) error {
	if err := mountGroups(folder); err != nil {
		return err
	}
	mounted := filepath.Join(folder, "groups")
	return errors.Join(removeGroup(filepath.Join(mounted, groupName(folder))), unix.Unmount(mounted, 0))
}

// removeGroup removes a control group that has no processes any more, with
// those below it.
func removeGroup(group string) error {
	var found []string
	err := filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			found = append(found, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	for _, path := range slices.Backward(found) {
		if removed := os.Remove(path); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
			err = errors.Join(err, removed)
		}
	}
	return err
}
