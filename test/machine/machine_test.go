// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// patience is for how many seconds an answer is waited for that comes at once,
// unless the machine is busy.
const patience = "60"

// A machine boots, has the services of one, and keeps its disk when it is cut off.
func TestMachine(t *testing.T) {
	m := New(t, Config{Name: "vm-1", Prepare: func(root string) error {
		return exec.Command("ssh-keygen", "-A", "-f", root).Run()
	}})
	m.Boot(t)
	if got := strings.TrimSpace(m.Must(t, "hostname")); got != "vm-1" {
		t.Errorf("it is called %q", got)
	}
	if got := strings.TrimSpace(m.Must(t, "systemctl", "is-active", "ssh.service")); got != "active" {
		t.Errorf("sshd is %q", got)
	}
	if got := m.Must(t, "systemctl", "--failed", "--no-legend"); got != "" {
		t.Errorf("failed: %s", got)
	}
	m.Must(t, "sh", "-c", "echo kept >/etc/kept")
	if err := m.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if output, err := m.Run(t.Context(), "true"); err == nil {
		t.Errorf("a program ran in a machine that is off: %q", output)
	}
	m.Boot(t)
	if got := m.Must(t, "cat", "/etc/kept"); got != "kept\n" {
		t.Errorf("its disk has %q", got)
	}
}

// Machines reach the tests and one another, and the metadata service's address
// stays when the tests' own is out of reach.
func TestNetwork(t *testing.T) {
	keys := func(root string) error { return exec.Command("ssh-keygen", "-A", "-f", root).Run() }
	one, other := New(t, Config{Name: "one", Prepare: keys}), New(t, Config{Name: "other", Prepare: keys})
	one.Boot(t)
	other.Boot(t)
	greet := func(address string) error {
		_, err := one.Run(t.Context(), "busybox", "nc", "-w", patience, address, "22")
		return err
	}
	if err := greet(other.Address.String()); err != nil {
		t.Error(err)
	}
	if _, err := one.Run(t.Context(), "busybox", "ping", "-c1", "-W", patience, Outside().String()); err != nil {
		t.Error(err)
	}
	one.Unplug(t)
	if _, err := one.Run(t.Context(), "busybox", "ping", "-c1", "-W", patience, Outside().String()); err == nil {
		t.Error("the tests' address answers, though it is gone")
	}
	if _, err := one.Run(t.Context(), "busybox", "ping", "-c1", "-W", patience, Metadata().String()); err != nil {
		t.Error(err)
	}
	one.Plug(t)
	if _, err := one.Run(t.Context(), "busybox", "ping", "-c1", "-W", patience, Outside().String()); err != nil {
		t.Error(err)
	}
}

// A machine that goes takes nothing of the others' network along, whatever its
// address on the wire was.
func TestAnotherMachineGoes(t *testing.T) {
	one := New(t, Config{Name: "one"})
	one.Boot(t)
	ping := func() error {
		_, err := one.Run(t.Context(), "busybox", "ping", "-c1", "-W", patience, Metadata().String())
		return err
	}
	for _, line := range []string{
		"link add lowest address 02:00:00:00:00:00 type veth peer name unused",
		"link set lowest master " + cable + " up",
	} {
		if err := ip(line); err != nil {
			t.Fatal(err)
		}
	}
	one.Must(t, "ip", "neigh", "flush", "all")
	if err := ping(); err != nil {
		t.Fatal(err)
	}
	if err := ip("link delete lowest"); err != nil {
		t.Fatal(err)
	}
	if err := ping(); err != nil {
		t.Errorf("since another one is gone: %v", err)
	}
}

// A machine finds a disk by its label and mounts it.
func TestAttach(t *testing.T) {
	m := New(t, Config{Name: "vm-1"})
	folder, image := t.TempDir(), filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(filepath.Join(folder, "greeting"), []byte("hello\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-L", "greetings", "-d", folder, image, "1m").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	device := m.Attach(t, image)
	m.Boot(t)
	if got := strings.TrimSpace(m.Must(t, "blkid", "-t", "LABEL=greetings", "-o", "device")); got != device {
		t.Errorf("the disk is %q, want %s", got, device)
	}
	if got := m.Must(t, "sh", "-c", "mount -o ro "+device+" /mnt && cat /mnt/greeting && umount /mnt"); got != "hello\n" {
		t.Errorf("the disk holds %q", got)
	}
}
