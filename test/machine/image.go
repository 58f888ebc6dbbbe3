// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// OnlySudoRS puts sudo-rs in the place of sudo, by the names that people know.
// It is a step of Config.Prepare. ErrNoPackage: the release does not have it.
func OnlySudoRS(root string) error {
	if err := Install(root, "sudo-rs"); err != nil {
		return err
	}
	// Its files of configuration stay: sudo-rs reads the same, and has none of its own.
	if err := Chroot(root, "dpkg", "--remove", "--force-depends", "sudo"); err != nil {
		return err
	}
	for link, programs := range map[string][]string{
		"usr/bin/sudo":    {"/usr/lib/cargo/bin/sudo", "/usr/bin/sudo-rs"},
		"usr/sbin/visudo": {"/usr/lib/cargo/bin/visudo", "/usr/bin/visudo-rs", "/usr/sbin/visudo-rs"},
	} {
		for _, program := range programs {
			if _, err := os.Stat(filepath.Join(root, program)); err != nil {
				continue
			}
			if err := os.Symlink(program, filepath.Join(root, link)); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	return nil
}

// Install adds a spare package to the files, sudo-rs alone today. ErrNoPackage:
// the release does not have it.
func Install(root, name string) error {
	files, err := filepath.Glob(filepath.Join(root, kept, name, "*.deb"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%s: %w", name, ErrNoPackage)
	}
	args := []string{"dpkg", "--install"}
	for _, file := range files {
		args = append(args, filepath.Join(kept, name, filepath.Base(file)))
	}
	return Chroot(root, args...)
}

// Has reports whether Install can add the package, for tables of tests: not each
// release has it. It is known once Main runs the tests.
func Has(name string) bool {
	files, err := filepath.Glob(filepath.Join(os.Getenv(envBase), kept, name, "*.deb"))
	return err == nil && len(files) > 0
}

// ErrNoPackage: the machines' release has no such package.
var ErrNoPackage = errors.New("the release has no such package")

// Chroot runs a program of the machine on its files, before it boots.
func Chroot(root string, command ...string) error {
	c := exec.Command("chroot", append([]string{root, "/usr/bin/env", "-i", path, "HOME=/root", "LC_ALL=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive", "SUDO_FORCE_REMOVE=yes"}, command...)...)
	if output, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, output[max(0, len(output)-2000):])
	}
	return nil
}
