// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// attachTries bounds how often another loop device is tried when somebody else
// took the free one.
const attachTries = 10

// Attach gives the machine, which is off, a second disk: a file with a file
// system that it can read and not write. It returns the path of the device.
func (m *Machine) Attach(t testing.TB, image string) string {
	t.Helper()
	backing, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	for range attachTries {
		var device *os.File
		if device, err = loop(backing); err == nil {
			// The device is free again when it is closed, at the latest with this process.
			m.disks = append(m.disks, device)
			return device.Name()
		}
		if !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	t.Fatalf("attaching %s: %v", image, err)
	return ""
}

// loop makes a block device of a file.
func loop(backing *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("looking for a free loop device: %w", err)
	}
	device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	err = unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{
		Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},
	})
	if err != nil {
		return nil, errors.Join(err, device.Close())
	}
	return device, nil
}
