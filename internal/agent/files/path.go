// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxLinks bounds the symbolic links on one path, as the kernel does.
const maxLinks = 40

// host is the path in the file system of this process.
func (t *Tree) host(real string) string { return filepath.Join(t.root, real) }

// resolve follows the symbolic links of a path as a process whose root is the
// tree's would, and returns a path without links. What is missing at the end
// is kept as it stands, so that the path can be made.
func (t *Tree) resolve(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q: %w: it is not absolute", path, ErrEscapes)
	}
	real := "/"
	todo := strings.Split(path, "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			real = filepath.Dir(real)
			continue
		}
		next := filepath.Join(real, name)
		target, err := os.Readlink(t.host(next))
		if err != nil { // no link, or nothing there
			real = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%q: %w: too many symbolic links", path, ErrEscapes)
		}
		if filepath.IsAbs(target) {
			real = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return real, nil
}

// look describes what is at a resolved path, nil if nothing.
func (t *Tree) look(real string) (fs.FileInfo, error) {
	info, err := os.Lstat(t.host(real))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return info, err
}
