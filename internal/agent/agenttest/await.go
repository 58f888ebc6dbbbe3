// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agenttest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Await returns true as soon as done does, which is asked now and whenever a
// file of the folder changes. The folder may come later than its parent. After
// the limit it returns false.
func Await(t testing.TB, limit time.Duration, folder string, done func() bool) bool {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal("inotify: ", err)
	}
	changes := os.NewFile(uintptr(fd), "inotify")
	defer changes.Close()
	if err := changes.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal("inotify: ", err)
	}
	watch := func(folder string) error {
		_, err := unix.InotifyAddWatch(fd, folder, unix.IN_CREATE|unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_DELETE)
		return err
	}
	for buffer := make([]byte, 4096); ; {
		if err := watch(folder); errors.Is(err, fs.ErrNotExist) {
			// Once more after the parent is watched: it may have come meanwhile.
			if err := errors.Join(watch(filepath.Dir(folder)), watch(folder)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal("inotify: ", err)
			}
		} else if err != nil {
			t.Fatal("inotify: ", err)
		}
		if done() {
			return true
		}
		if _, err := changes.Read(buffer); err != nil {
			return false
		}
	}
}
