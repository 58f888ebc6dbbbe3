// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Names in the state folder.
const (
	journalName   = "journal.json"
	originalsName = "originals"
)

// journal is what the state folder knows about the tree.
type journal struct {
	// Records are what was changed, in the order of the first change.
	Records []record `json:"records"`
	// Open is the change that is under way. It is empty when all is whole.
	Open []openStep `json:"open,omitempty"`
	// Untidy are the paths of the last change, beside which helper names may
	// lie.
	Untidy []string `json:"untidy,omitempty"`
}

// record is one file or folder that Muster made or changed.
type record struct {
	Path   string `json:"path"`
	Before before `json:"before"`
	// Block says that only the marked block in it is Muster's.
	Block bool `json:"block,omitempty"`
	// Left is the SHA-256 of what an edited or watched file held when Muster
	// left it.
	Left string `json:"left,omitempty"`
	// Watched says that programs of the distribution write it, on Muster's
	// behalf among others.
	Watched bool `json:"watched,omitempty"`
}

// before is what was at a path.
type before struct {
	Kind     kind        `json:"kind"`
	Mode     fs.FileMode `json:"mode,omitempty"`
	UID      int         `json:"uid,omitempty"`
	GID      int         `json:"gid,omitempty"`
	Original string      `json:"original,omitempty"` // SHA-256, the name in the folder of originals
}

type kind string

const (
	absent kind = "absent"
	file   kind = "file"
	folder kind = "folder"
)

// openStep is one path of a change that is under way.
type openStep struct {
	Path string `json:"path"`
	Kind kind   `json:"kind"` // what is there before the change
}

func (j *journal) find(real string) *record {
	for i := range j.Records {
		if j.Records[i].Path == real {
			return &j.Records[i]
		}
	}
	return nil
}

func (j *journal) drop(real string) {
	j.Records = slices.DeleteFunc(j.Records, func(r record) bool { return r.Path == real })
}

// save writes the journal. When that fails, the one on disk may still list a
// change that was taken back: to take it back again does no harm, and the next
// change writes the journal before it begins.
func (t *Tree) save() error {
	content, err := json.MarshalIndent(t.journal, "", " ")
	if err != nil {
		return err
	}
	return t.SaveState(journalName, content)
}

// keep copies a file's first state into the folder of originals.
func (t *Tree) keep(real string, info fs.FileInfo) (before, error) {
	was := before{Kind: file, Mode: info.Mode() & modeBits}
	was.UID, was.GID = owner(info)
	content, err := os.ReadFile(t.host(real))
	if err != nil {
		return before{}, explain("reading "+real, err)
	}
	was.Original = digest(content)
	if err := os.MkdirAll(t.host(filepath.Join(t.state, originalsName)), 0o700); err != nil {
		return before{}, explain("keeping the original of "+real, err)
	}
	return was, t.SaveState(filepath.Join(originalsName, was.Original), content)
}

// recover puts back what a killed process was about to change, and removes
// what it left lying.
func (t *Tree) recover(ctx context.Context) error {
	if len(t.journal.Open) > 0 {
		t.log.Warn("undoing a change that was interrupted", "files", len(t.journal.Open))
		if err := t.putBack(t.journal.Open); err != nil {
			return err
		}
		t.journal.Open = nil
		if err := t.save(); err != nil {
			return err
		}
	}
	for _, path := range t.journal.Untidy {
		if err := t.tidy(path); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// putBack undoes the steps in reverse order. It may be cut short and done
// again.
func (t *Tree) putBack(steps []openStep) error {
	var failed []error
	for _, step := range slices.Backward(steps) {
		failed = append(failed, explain("putting back "+step.Path, t.putBackOne(step)))
	}
	return errors.Join(failed...)
}

func (t *Tree) putBackOne(step openStep) error {
	name := t.host(step.Path)
	switch step.Kind {
	case absent:
		t.crash("put back, remove " + step.Path)
		err := os.Remove(name)
		// A folder into which somebody else put something stays.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	case file:
		// Without the second name the change never came to this file, or it
		// is back already. The same goes if both names hold the same; inode
		// numbers do not tell that on overlay file systems, which moreover
		// refuse to rename such a file over itself.
		if !present(oldName(name)) || alike(oldName(name), name) {
			break
		}
		t.crash("put back, rename " + step.Path)
		if err := os.Rename(oldName(name), name); err != nil {
			return err
		}
	}
	if err := t.tidy(step.Path); err != nil {
		return err
	}
	// The folder is gone if it was part of the change.
	if err := syncFolder(filepath.Dir(name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func present(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// alike tells whether two files have the same attributes and content.
func alike(one, other string) bool {
	a, errA := os.Lstat(one)
	b, errB := os.Lstat(other)
	if errA != nil || errB != nil || attrOf(a) != attrOf(b) {
		return false
	}
	contentA, errA := os.ReadFile(one)
	contentB, errB := os.ReadFile(other)
	return errA == nil && errB == nil && bytes.Equal(contentA, contentB)
}

// tidy removes the helper names beside a file.
func (t *Tree) tidy(real string) error {
	for _, name := range []string{newName(t.host(real)), oldName(t.host(real))} {
		if !present(name) {
			continue
		}
		t.crash("tidy " + real)
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return explain("removing "+name, err)
		}
	}
	return nil
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func owner(info fs.FileInfo) (uid, gid int) {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid), int(stat.Gid)
	}
	return os.Geteuid(), os.Getegid()
}

// OwnerOf is the number of the user who owns the file.
func OwnerOf(info fs.FileInfo) int {
	uid, _ := owner(info)
	return uid
}
