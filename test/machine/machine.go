// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package machine runs Debian machines for tests: real ones from systemd up,
// with sshd, sudo and cloud-init, in namespaces of the kernel that the tests
// run on. Only the kernel is missing.
//
// The tests of a package that uses it run in a network of their own, in which
// the machines are, and in which nothing else is. Whatever they mount, start or
// listen on ends with them, however they end. It needs root, and debootstrap
// (scripts/services-install.sh test).
package machine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "embed"

	"golang.org/x/sys/unix"
)

const (
	bootTimeout = 5 * time.Minute
	// awaitPause is how long Await waits before it asks again.
	awaitPause = 50 * time.Millisecond
	// diskSize is how much a machine can write, in tmpfs's notation.
	diskSize = "256m"
	// path is what a login shell of root has.
	path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// enter is what becomes the machine's init.
//
//go:embed enter.sh
var enter string

// Config says what differs from a machine that was just installed.
type Config struct {
	// Name is the host name before anybody sets another.
	Name string
	// Prepare changes the machine's files, below root, before the first boot.
	Prepare func(root string) error
	// DMIProduct is the name of the product that the hardware calls itself.
	// What the kernel of a container can't tell is told as an LXC host of
	// OpenStack does: by the environment of process 1.
	DMIProduct string
}

// Machine is a Debian that can be booted, cut off and booted again.
type Machine struct {
	Name    string
	Address netip.Addr
	// Root is where its files are seen from the tests, without what it mounts
	// itself, such as /run and /tmp.
	Root string

	product string
	base    string // the Debian that all machines share
	folder  string
	number  int
	boots   int
	console *console
	disks   []*os.File

	mu     sync.Mutex
	init   *exec.Cmd
	exited chan struct{}
}

// New makes a machine that has not been booted yet. It goes with the test.
func New(t testing.TB, cfg Config) *Machine {
	t.Helper()
	Need(t)
	m := &Machine{Name: cfg.Name, product: cfg.DMIProduct, base: os.Getenv(envBase)}
	m.number, m.Address = nextAddress()
	t.Cleanup(func() {
		if err := m.remove(); err != nil {
			t.Error(err)
		}
	})
	if err := m.install(); err != nil {
		t.Fatal(err)
	}
	if cfg.Prepare != nil {
		if err := cfg.Prepare(m.Root); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// install lays an empty disk over the Debian that all machines share.
func (m *Machine) install() error {
	var err error
	if m.folder, err = os.MkdirTemp(workFolder(), "machine-"); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", m.folder, "tmpfs", 0, "mode=755,size="+diskSize); err != nil {
		return fmt.Errorf("the disk of %s: %w", m.Name, err)
	}
	m.Root = filepath.Join(m.folder, "root")
	for _, name := range []string{"root", "written", "work"} {
		if err := os.Mkdir(filepath.Join(m.folder, name), 0o755); err != nil {
			return err
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/written,workdir=%s/work", m.base, m.folder, m.folder)
	if err := unix.Mount("overlay", m.Root, "overlay", 0, layers); err != nil {
		return fmt.Errorf("the disk of %s: %w", m.Name, err)
	}
	if m.console, err = newConsole(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(m.Root, "etc/hostname"), []byte(m.Name+"\n"), 0o644)
}

func (m *Machine) remove() error {
	err := m.PowerOff()
	for _, disk := range m.disks {
		err = errors.Join(err, disk.Close())
	}
	if m.console != nil {
		err = errors.Join(err, m.console.close())
	}
	if m.Root != "" {
		err = errors.Join(err, unmount(m.Root))
	}
	if m.folder == "" {
		return err
	}
	return errors.Join(err, unmount(m.folder), os.Remove(m.folder))
}

func unmount(folder string) error {
	err := unix.Unmount(folder, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) {
		return nil // nothing is mounted there
	}
	return err
}

// PowerOn starts the machine, without waiting for it to have booted.
func (m *Machine) PowerOn() error {
	group := filepath.Join(groups(), fmt.Sprintf("machine-%d", m.number))
	if err := os.MkdirAll(group, 0o755); err != nil {
		return err
	}
	args := []string{"-euc", enter, "enter", m.Root, group, m.Address.String(), router.String(), m.Name, m.product, m.console.path}
	for _, disk := range m.disks {
		args = append(args, disk.Name())
	}
	command := exec.Command("sh", args...)
	command.Stdout, command.Stderr = m.console.slave, m.console.slave
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		Setsid:     true,
		Pdeathsig:  syscall.SIGKILL,
	}
	start, err := command.StdinPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", m.Name, err)
	}
	exited := make(chan struct{})
	m.mu.Lock()
	m.init, m.exited = command, exited
	m.mu.Unlock()
	go func() {
		_ = command.Wait() // how it ended stands on the console
		close(exited)
	}()
	// The other end of the cable; then init may go on.
	m.boots++
	if err := plugIn(fmt.Sprintf("port%d-%d", m.number, m.boots), command.Process.Pid); err != nil {
		return errors.Join(err, m.PowerOff())
	}
	return start.Close()
}

// PowerOff cuts the machine off, as a power failure does: none of its
// processes can say another word. The disk stays.
func (m *Machine) PowerOff() error {
	m.mu.Lock()
	command, exited := m.init, m.exited
	m.init = nil
	m.mu.Unlock()
	if command == nil {
		return nil
	}
	err := command.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-exited // process 1 of the namespace: all others are gone before it
	return errors.Join(err, removeGroup(filepath.Join(groups(), fmt.Sprintf("machine-%d", m.number))))
}

// Boot starts the machine, and returns when its services have started, but for
// what cloud-init does at last.
func (m *Machine) Boot(t testing.TB) {
	t.Helper()
	if err := m.PowerOn(); err != nil {
		t.Fatal(err)
	}
	m.Await(t, bootTimeout, "systemctl", "is-active", "multi-user.target")
}

// Await returns when the program succeeds in the machine, which is on or about
// to be, and fails the test if it never did in that time.
func (m *Machine) Await(t testing.TB, limit time.Duration, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		output, err := m.Run(ctx, name, args...)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %v: %v: %s\n%s", limit, err, output, m.Console())
		case <-time.After(awaitPause):
		}
	}
}

// Console is all that the machine wrote to its console.
func (m *Machine) Console() string {
	return m.console.text()
}

// Command prepares a program in the machine, as root and with nothing of the
// tests' environment. The machine must be on.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	m.mu.Lock()
	pid := 0
	if m.init != nil {
		pid = m.init.Process.Pid
	}
	m.mu.Unlock()
	inside := []string{"--target", fmt.Sprint(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd",
		"--", "/usr/bin/env", "-i", path, "HOME=/root", "LANG=C.UTF-8", name}
	command := exec.CommandContext(ctx, "nsenter", append(inside, args...)...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	command.WaitDelay = 5 * time.Second
	return command
}

// Run runs a program in the machine to its end, and returns what it wrote to
// its standard output. The error shows what it complained of.
func (m *Machine) Run(ctx context.Context, name string, args ...string) (string, error) {
	var complaint strings.Builder
	command := m.Command(ctx, name, args...)
	command.Stderr = &complaint
	output, err := command.Output()
	if err != nil {
		err = fmt.Errorf("%s: %s %s: %w: %s", m.Name, name, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return string(output), err
}

// Must is Run for what must succeed.
func (m *Machine) Must(t testing.TB, name string, args ...string) string {
	t.Helper()
	output, err := m.Run(t.Context(), name, args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return output
}

// Unplug puts the tests' own address out of the machine's reach, and leaves it
// the metadata service and other machines; Plug undoes it.
func (m *Machine) Unplug(t testing.TB) {
	t.Helper()
	m.Must(t, "ip", "route", "add", "unreachable", outside.String())
}

// Plug undoes Unplug.
func (m *Machine) Plug(t testing.TB) {
	t.Helper()
	m.Must(t, "ip", "route", "del", "unreachable", outside.String())
}

// Process is where the files about a process of the machine are, by its number
// inside; nowhere if the machine is off.
func (m *Machine) Process(inside string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.init == nil {
		return os.DevNull
	}
	return fmt.Sprintf("/proc/%d/root/proc/%s", m.init.Process.Pid, inside)
}
