// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Helper names beside a file. They begin with a dot and end with none of the
// endings that sshd, sudo or PAM would read.
func newName(name string) string { return helperName(name, ".muster-new") }
func oldName(name string) string { return helperName(name, ".muster-old") }

func helperName(name, ending string) string {
	return filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+ending)
}

// selinuxLabel is the extended attribute with a file's SELinux context.
const selinuxLabel = "security.selinux"

// prepare makes the folders and the copies that perform will rename, and gives
// the files of today a second name by which they can come back.
func (c *Change) prepare() error {
	for _, s := range c.steps {
		name := c.tree.host(s.real)
		if s.target == folder {
			c.tree.crash("make folder " + s.real)
			if err := makeFolder(name, s.attr); err != nil {
				return explain("making the folder "+s.real, err)
			}
			continue
		}
		if s.dropsFolder() {
			continue
		}
		if err := c.tree.tidy(s.real); err != nil {
			return err
		}
		if s.was.Kind == file {
			c.tree.crash("second name " + s.real)
			if err := secondName(name); err != nil {
				return explain("changing "+s.real, err)
			}
		}
		if s.target == file {
			label := ""
			if c.tree.selinux && s.was.Kind == file {
				label = labelOf(name)
			}
			c.tree.crash("copy " + s.real)
			if err := writeCopy(newName(name), s.content, s.attr, label); err != nil {
				return explain("writing "+s.real, err)
			}
		}
		if err := syncFolder(filepath.Dir(name)); err != nil {
			return explain("writing "+s.real, err)
		}
	}
	return nil
}

// perform makes the change visible, step by step.
func (c *Change) perform() error {
	for _, s := range c.steps {
		name := c.tree.host(s.real)
		var err error
		switch s.target {
		case file:
			c.tree.crash("rename " + s.real)
			err = os.Rename(newName(name), name)
		case absent:
			if s.dropsFolder() {
				continue
			}
			c.tree.crash("remove " + s.real)
			err = os.Remove(name)
		}
		if err == nil {
			err = syncFolder(filepath.Dir(name))
		}
		if err != nil {
			return explain("changing "+s.real, err)
		}
	}
	return nil
}

// replace replaces one file without the journal.
func (t *Tree) replace(real string, content []byte, attr Attr, label string) error {
	name := t.host(real)
	t.crash("copy " + real)
	if err := writeCopy(newName(name), content, attr, label); err != nil {
		return err
	}
	t.crash("rename " + real)
	if err := os.Rename(newName(name), name); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(name))
}

// writeCopy writes a whole file down to the disk, readable by nobody else
// before it is finished. On failure nothing of it stays.
func writeCopy(name string, content []byte, attr Attr, label string) (err error) {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(name))
		}
	}()
	if _, err = f.Write(content); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		err = f.Chown(attr.UID, attr.GID)
	}
	if err == nil {
		err = f.Chmod(attr.Mode)
	}
	if err == nil && label != "" {
		err = syscall.Setxattr(name, selinuxLabel, []byte(label), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return err
	}
	return f.Close()
}

func makeFolder(name string, attr Attr) error {
	if err := os.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(name, attr.UID, attr.GID); err != nil {
			return err
		}
	}
	if err := os.Chmod(name, attr.Mode); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(name))
}

// secondName links the file to its old name, or copies it where the file
// system knows no links.
func secondName(name string) error {
	err := os.Link(name, oldName(name))
	if err == nil || !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ENOTSUP) && !errors.Is(err, syscall.ENOSYS) {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return writeCopy(oldName(name), content, attrOf(info), labelOf(name))
}

func syncFolder(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) { // file systems that cannot sync folders
		err = nil
	}
	return errors.Join(err, f.Close())
}

// labelOf is a file's SELinux context; empty if it has none.
func labelOf(name string) string {
	value := make([]byte, 256)
	n, err := syscall.Getxattr(name, selinuxLabel, value)
	if err != nil || n > len(value) {
		return ""
	}
	return string(value[:n])
}

// relabel asks the machine's policy for the labels of what is new. A label
// that cannot be set is a warning: SELinux denies, it does not let in.
func (t *Tree) relabel(ctx context.Context, steps []step) {
	if !t.selinux || t.runner == nil {
		return
	}
	args := []string{}
	for _, s := range steps {
		if s.was.Kind == absent && s.target != absent {
			args = append(args, s.real)
		}
	}
	if len(args) == 0 {
		return
	}
	if _, err := t.runner.Run(ctx, nil, "restorecon", args...); err != nil {
		t.log.Warn("SELinux labels could not be set; run restorecon on these files",
			"files", fmt.Sprint(args), "error", err)
	}
}
