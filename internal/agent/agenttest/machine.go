// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package agenttest gives tests a machine to change: this machine's own tree
// with everything written kept in memory, so that the real sshd, useradd and
// sudo work on real files. It needs root for its mounts and for a network of
// its own, with nothing but a loopback interface, which only the test's own
// processes see. Nothing of the machine itself changes. It makes keys for them, too.
package agenttest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/muster-cloud/muster/internal/agent/files"
)

// inside marks the process that has mounts of its own.
const inside = "MUSTER_AGENTTEST_INSIDE"

// Main runs the tests of a package in a process with mounts of its own, so
// that even a killed test leaves none behind. Use it as
//
//	func TestMain(m *testing.M) { os.Exit(agenttest.Main(m)) }
func Main(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	if os.Getenv(inside) != "" {
		if err := hideDisks(); err != nil {
			fmt.Fprintln(os.Stderr, "agenttest:", err)
			return 1
		}
		return m.Run()
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the process
	command := exec.Command(os.Args[0], os.Args[1:]...)
	command.Env = append(os.Environ(), inside+"=1")
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
	}
	err := command.Run()
	if command.ProcessState == nil {
		// No mounts here, as in many containers: the tests that need them say so.
		fmt.Fprintln(os.Stderr, "agenttest: no mounts of its own:", err)
		return m.Run()
	}
	return command.ProcessState.ExitCode()
}

// hideDisks keeps blkid from finding any: among the disks of this machine may be
// the config drive of another test's.
func hideDisks() error {
	for _, folder := range []string{"/sys/block", "/run/blkid"} { // the latter is its cache
		err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "mode=0755")
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("hiding %s: %w", folder, err)
		}
	}
	return nil
}

// Machine returns the root of a fresh machine that has the programs. If that
// cannot be had the test is skipped, or fails where nothing may be skipped.
func Machine(t testing.TB, programs ...string) string {
	t.Helper()
	root, err := mount(t)
	if err == nil {
		err = loopback()
	}
	if err != nil {
		Missing(t, "a machine of its own needs root and the right to mount: "+err.Error())
	}
	for _, name := range programs {
		if _, err := (files.Programs{Root: root}).Find(name); err != nil {
			Missing(t, err.Error())
		}
	}
	return root
}

// Missing skips a test that cannot be run here, or fails it where nothing may
// be skipped.
func Missing(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1" {
		t.Fatal(reason)
	}
	t.Skip("SKIPPED, nothing was tested: ", reason)
}

func mount(t testing.TB) (string, error) {
	if os.Getenv(inside) == "" {
		return "", os.ErrPermission
	}
	// Names of tests, as in TempDir, could hold what separates mount options.
	base, err := os.MkdirTemp("", "machine")
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { _ = os.Remove(base) })
	if err := syscall.Mount("tmpfs", base, "tmpfs", 0, "mode=0755"); err != nil {
		return "", fmt.Errorf("tmpfs: %w", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(base, syscall.MNT_DETACH) })
	for _, name := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			return "", err
		}
	}
	root := filepath.Join(base, "root")
	options := "lowerdir=/,upperdir=" + base + "/upper,workdir=" + base + "/work"
	if err := syscall.Mount("overlay", root, "overlay", 0, options); err != nil {
		return "", fmt.Errorf("overlay: %w", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(root, syscall.MNT_DETACH) })
	for _, name := range []string{"proc", "dev"} {
		target := filepath.Join(root, name)
		if err := syscall.Mount("/"+name, target, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return "", fmt.Errorf("%s: %w", target, err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(target, syscall.MNT_DETACH) })
	}
	for _, name := range []string{"run", "tmp"} {
		target := filepath.Join(root, name)
		if err := syscall.Mount("tmpfs", target, "tmpfs", 0, "mode=0755"); err != nil {
			return "", fmt.Errorf("%s: %w", target, err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(target, syscall.MNT_DETACH) })
	}
	return root, tidy(root)
}

// loopback switches the network's only interface on (netdevice(7)).
func loopback() error {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(socket)
	request := struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}{flags: syscall.IFF_UP}
	copy(request.name[:], "lo")
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(socket), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return fmt.Errorf("switching the loopback interface on: %w", errno)
	}
	return nil
}

// tidy takes away what this machine's own services and settings have left in
// the folders that tests look at.
func tidy(root string) error {
	for _, name := range []string{"etc/ssh/sshd_config.d", "etc/sudoers.d", "etc/ssh/muster", "var/lib/muster-agent"} {
		if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
			return err
		}
	}
	for name, mode := range map[string]os.FileMode{
		"run/sshd": 0o755, "tmp": 0o777 | os.ModeSticky, "etc/ssh/sshd_config.d": 0o755, "etc/sudoers.d": 0o750,
	} {
		if err := os.MkdirAll(filepath.Join(root, name), mode.Perm()); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(root, name), mode); err != nil {
			return err
		}
	}
	return nameItself(root)
}

// nameItself makes the machine know its own name, which sudo asks for, whatever
// this one has for that: there is no other network in there.
func nameItself(root string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "etc/hosts"), []byte("127.0.0.1\tlocalhost "+name+"\n"), 0o644)
}

// Write makes a file of the machine.
func Write(t testing.TB, root, path, content string) {
	t.Helper()
	name := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Run runs a program of the machine, which must succeed, and returns what it
// wrote.
func Run(t testing.TB, root, name string, args ...string) string {
	t.Helper()
	output, err := files.Programs{Root: root}.Run(t.Context(), nil, name, args...)
	if err != nil {
		t.Fatal(name, " ", strings.Join(args, " "), ": ", err)
	}
	return string(output)
}

// Guards adds firewalld, OpenRC and SELinux's tools to a machine, from where
// scripts/services-install.sh has unpacked them. If one of the programs is
// missing after that, the test is skipped, or fails where nothing may be skipped.
func Guards(t testing.TB, root string, programs ...string) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	unpacked := filepath.Join(cache, "muster-test", "guards")
	if _, err := os.Stat(unpacked); err == nil {
		if out, err := exec.CommandContext(t.Context(), "cp", "-a", unpacked+"/.", root).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, name := range programs {
		if _, err := (files.Programs{Root: root}).Find(name); err != nil {
			Missing(t, err.Error()+"; scripts/services-install.sh test unpacks it")
		}
	}
}

// Start starts a program of the machine that goes on until the test ends.
func Start(t testing.TB, root, name string, args ...string) {
	t.Helper()
	path, err := files.Programs{Root: root}.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(path, args...)
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Pdeathsig: syscall.SIGKILL}
	command.Dir = "/"
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the process
	defer runtime.UnlockOSThread()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, said.String())
		}
	})
}
