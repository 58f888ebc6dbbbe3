// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Identity is a user of the machine, by the numbers that files have.
type Identity struct {
	Name   string
	UID    uint32
	Groups []uint32 // all, the primary one too
}

// The bits of a mode that a use of a file needs.
const (
	mayRead  = 0o4
	mayWrite = 0o2
	mayEnter = 0o1
)

// namedFile is one that was read, with the place that names it.
type namedFile struct {
	path string
	at   Problem // its place alone
}

// Unreadable returns a Problem for each file that the configuration consists of
// or names, and that the user can't read; for log_file, can't write. It judges
// by owner, group and mode of the file and of its folders, for somebody who may
// read all, such as root, to find out before the service does. Files that are
// not there, and access control lists, are passed over.
func (c *Config) Unreadable(who Identity) []Problem {
	var problems []Problem
	seen := map[string]bool{}
	for _, f := range c.namedFiles() {
		if seen[f.path] { // such as by a section that inherits it
			continue
		}
		seen[f.path] = true
		message, hint := who.barred(f.path, mayRead)
		if f.at.Option == "log_file" {
			message, hint = who.barred(f.path, mayWrite)
		}
		if message != "" {
			f.at.Message, f.at.Hint = message, hint
			problems = append(problems, f.at)
		}
	}
	return problems
}

func (c *Config) namedFiles() []namedFile {
	files := slices.Clone(c.files)
	for _, s := range c.settings {
		path := s.text
		if !s.option.path || path == "" {
			continue
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(c.path), path)
		}
		files = append(files, namedFile{path, c.problem(s.section, s.option.name, "", "")})
	}
	return files
}

// barred says what keeps the user from a file, and what to do; nothing if
// nothing does, or if that can't be told.
func (who Identity) barred(path string, use fs.FileMode) (message, hint string) {
	whole, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", ""
	}
	for _, folder := range append(foldersOf(path), foldersOf(whole)...) {
		if !who.may(folder, mayEnter) {
			return "user " + who.Name + " can't enter the folder " + folder, "let that user's group enter it, such as by chgrp and chmod g+x"
		}
	}
	if info, err := os.Stat(whole); err == nil && info.IsDir() {
		use |= mayEnter
	}
	switch {
	case who.may(whole, use):
		return "", ""
	case use&mayWrite != 0:
		return "user " + who.Name + " can't write " + path, "give it to that user by chown"
	}
	return "user " + who.Name + " can't read " + path, "let that user's group read it, such as by chgrp and chmod g+r"
}

// foldersOf lists the folders above an absolute path, the outermost first.
func foldersOf(path string) []string {
	var folders []string
	for folder := filepath.Dir(path); ; folder = filepath.Dir(folder) {
		folders = append(folders, folder)
		if folder == filepath.Dir(folder) {
			break
		}
	}
	slices.Reverse(folders)
	return folders
}

// may reports whether the mode lets the user do that, as path_resolution(7)
// tells: the owner's bits count for the owner alone, the group's for its
// members alone.
func (who Identity) may(path string, use fs.FileMode) bool {
	info, err := os.Stat(path)
	if err != nil {
		return true
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || who.UID == 0 {
		return true
	}
	if _, err := unix.Getxattr(path, "system.posix_acl_access", nil); err == nil {
		return true // the mode says less than the list
	}
	mode := info.Mode().Perm()
	switch {
	case owner.Uid == who.UID:
		mode >>= 6
	case slices.Contains(who.Groups, owner.Gid):
		mode >>= 3
	}
	return mode&use == use
}
