// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Tree is what a machine's disk holds: a description for each path.
type Tree map[string]string

// asInstalled describes a content that nobody changed, or that is again as it was.
const asInstalled = " as installed"

// Tree reads the disk. Files that nobody changed since the installation are
// described without reading them.
func (m *Machine) Tree(t testing.TB) Tree {
	t.Helper()
	tree := Tree{}
	err := filepath.WalkDir(m.Root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since its folder was read
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, m.Root)
		text, err := m.describe(path, name, entry)
		if err == nil && text != "" {
			tree[name] = text
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func (m *Machine) describe(path, name string, entry fs.DirEntry) (string, error) {
	info, err := entry.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	owner := info.Sys().(*syscall.Stat_t)
	text := fmt.Sprintf("%v %d:%d", info.Mode(), owner.Uid, owner.Gid)
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		return text + " -> " + target, err
	case info.Mode().IsRegular():
		if _, err := os.Lstat(filepath.Join(m.folder, "written", name)); errors.Is(err, fs.ErrNotExist) {
			return text + asInstalled, nil
		}
		now, err := digest(path)
		if err != nil {
			return "", err
		}
		if installed, err := digest(filepath.Join(m.base, name)); err == nil && installed == now {
			return text + asInstalled, nil
		}
		return text + " " + now, nil
	}
	return text, nil
}

func digest(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, file)
	return fmt.Sprintf("%x", hash.Sum(nil)), err
}

// Differences lists the paths that are not as in the other tree, without those
// that are in one of the folders, with what they were and what they are.
func (tree Tree) Differences(later Tree, without ...string) []string {
	var found []string
	both := maps.Clone(tree)
	maps.Copy(both, later)
	for _, name := range slices.Sorted(maps.Keys(both)) {
		excepted := slices.ContainsFunc(without, func(folder string) bool {
			return name == folder || strings.HasPrefix(name, folder+"/")
		})
		if tree[name] != later[name] && !excepted {
			found = append(found, fmt.Sprintf("%s: was %q, is %q", name, tree[name], later[name]))
		}
	}
	return found
}
