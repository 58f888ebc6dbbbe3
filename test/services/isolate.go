// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// envIsolated tells the process inside which folder is its own.
const envIsolated = "MUSTER_TEST_ISOLATED"

// Isolate runs the tests of a package in a network that has nothing but loopback, with an /etc/hosts of their own and all ports
// free, and returns the exit code: the kernel ends whatever they start with them, killed or not. Call it from TestMain. Where that
// takes rights that we do not have, and where the tests are to be short, it runs them as they are.
func Isolate(run func() int) int {
	flag.Parse()
	if os.Getenv(envIsolated) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "the tests' namespaces:", err)
			return 1
		}
		return run()
	}
	if os.Getuid() != 0 || testing.Short() {
		return run()
	}
	code, err := runInside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "the tests' namespaces:", err)
		return max(code, 1)
	}
	return code
}

// runInside runs this program again in new namespaces.
func runInside() (int, error) {
	folder, err := os.MkdirTemp("", "muster-isolated-")
	if err != nil {
		return 1, err
	}
	command := exec.Command("/proc/self/exe", os.Args[1:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.Env = append(os.Environ(), envIsolated+"="+folder)
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
		Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	err = command.Run()
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code, err = max(exit.ExitCode(), 1), nil
	}
	return code, errors.Join(err, os.RemoveAll(folder))
}

// furnish makes the new namespaces habitable. What is mounted goes with them.
func furnish() error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	hosts := filepath.Join(os.Getenv(envIsolated), "hosts")
	lines := []string{"127.0.0.1 localhost", "::1 localhost"}
	// All at once: whoever has read the file may take it for the same for some seconds.
	for number := range mostFronts {
		lines = append(lines, frontAddress(number)+" "+frontName(number))
	}
	if err := os.WriteFile(hosts, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("/etc/hosts: %w", err)
	}
	if output, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, output)
	}
	return nil
}

// FrontDomain is the domain of the fronts.
const FrontDomain = "example.test"

// mostFronts is how many a process may have.
const mostFronts = 100

func frontName(number int) string    { return fmt.Sprintf("ipa%d.%s", number+1, FrontDomain) }
func frontAddress(number int) string { return fmt.Sprintf("127.77.0.%d", number+1) }

// fronts counts them.
var fronts atomic.Int64

// newFrontName gives a front a name and an address of loopback where all ports are free.
func newFrontName(t testing.TB) (name, address string) {
	t.Helper()
	if os.Getenv(envIsolated) == "" {
		Need(t, fmt.Errorf("a network of its own, which takes root and a call of services.Isolate from TestMain: %w", ErrMissing))
	}
	number := int(fronts.Add(1)) - 1
	if number >= mostFronts {
		t.Fatalf("there are only %d names for fronts", mostFronts)
	}
	return frontName(number), frontAddress(number)
}
