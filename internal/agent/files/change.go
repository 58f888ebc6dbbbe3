// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// modeBits are what Attr.Mode may hold.
const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// Change is several changes of files that happen together: stage them, Apply
// them, look whether the machine likes them, then Commit or Rollback. Commit
// or Rollback must follow an Apply that succeeded.
type Change struct {
	tree    *Tree
	steps   []step
	applied bool
}

// step is what a change does to one path.
type step struct {
	real    string
	target  kind // what is to be there
	content []byte
	attr    Attr
	block   bool
	fresh   bool // only if nothing is there
	restore bool // back to the first state: the record goes
	was     before
}

// Begin begins a change; nothing happens before Apply.
func (t *Tree) Begin() *Change { return &Change{tree: t} }

// Write stages that a file holds the content. The file is Muster's own:
// Restore removes it, or gives back what stood there before Muster.
func (c *Change) Write(path string, content []byte, attr Attr) error {
	return c.stage(path, step{target: file, content: content, attr: attr})
}

// Create stages a file of Muster's own that is written only if nothing is there
// when the change is applied.
func (c *Change) Create(path string, content []byte, attr Attr) error {
	return c.stage(path, step{target: file, content: content, attr: attr, fresh: true})
}

// Edit stages new content of a file that is not Muster's. Owner and mode stay
// as they are. Everything of Muster's in it stands in a Block.
func (c *Change) Edit(path string, content []byte) error {
	info, err := c.tree.Stat(path)
	if err != nil {
		return explain("editing "+path, err)
	}
	return c.stage(path, step{target: file, content: content, attr: attrOf(info), block: true})
}

// Folder stages that a folder is there. One that is there already keeps its
// owner and mode.
func (c *Change) Folder(path string, attr Attr) error {
	if info, err := c.tree.Stat(path); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s is not a folder: move it away", path)
		}
		return nil
	}
	return c.stage(path, step{target: folder, attr: attr})
}

// Remove stages that a file of Muster's goes. Without a record it was never
// Muster's, and stays.
func (c *Change) Remove(path string) error {
	real, err := c.tree.resolve(path)
	if err != nil || !c.tree.Made(real) {
		return err
	}
	return c.stage(path, step{target: absent})
}

// Restore stages that a path is again what it was before Muster's first
// change of it. Paths that Muster never changed are left alone.
func (c *Change) Restore(path string) error {
	t := c.tree
	real, err := t.resolve(path)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	made := t.journal.find(real)
	if made == nil {
		return nil
	}
	if made.Watched && t.digestOf(real) != made.Left {
		t.journal.drop(real) // others have changed it since
		return nil
	}
	back := step{target: made.Before.Kind, restore: true}
	switch made.Before.Kind {
	case folder:
		return nil
	case file:
		back.attr = Attr{Mode: made.Before.Mode, UID: made.Before.UID, GID: made.Before.GID}
		back.content, err = t.original(made)
	}
	if err != nil {
		return err
	}
	return c.stage(real, back)
}

// original is the content that a record's file should get back.
func (t *Tree) original(made *record) ([]byte, error) {
	now, err := os.ReadFile(t.host(made.Path))
	if made.Block && err == nil && digest(now) != made.Left {
		return Strip(now), nil
	}
	content, err := t.LoadState(filepath.Join(originalsName, made.Before.Original))
	if err == nil && digest(content) != made.Before.Original {
		err = errors.New("it was changed")
	}
	return content, explain("reading the kept original of "+made.Path, err)
}

// stage notes a step; a later one for the same path replaces an earlier one.
func (c *Change) stage(path string, s step) error {
	if c.applied {
		return errors.New("the change is under way: begin another one")
	}
	real, err := c.tree.resolve(path)
	if err != nil {
		return err
	}
	s.real = real
	s.attr.Mode &= modeBits
	c.steps = slices.DeleteFunc(c.steps, func(other step) bool { return other.real == real })
	c.steps = append(c.steps, s)
	return nil
}

// Do applies and commits, for changes that need no look in between.
func (c *Change) Do(ctx context.Context) (changed bool, err error) {
	if changed, err = c.Apply(ctx); err != nil || !changed {
		return changed, err
	}
	return true, c.Commit()
}

// Apply makes the staged changes in the order of their staging and tells
// whether there were any. If it fails, nothing has changed.
//
// Until Commit or Rollback every other change of the tree waits.
func (c *Change) Apply(ctx context.Context) (changed bool, err error) {
	t := c.tree
	t.mu.Lock()
	defer func() {
		if !c.applied {
			t.mu.Unlock()
		}
	}()
	if err := c.inspect(); err != nil {
		return false, err
	}
	if len(c.steps) == 0 || ctx.Err() != nil {
		return false, ctx.Err()
	}
	t.journal.Open = nil
	for _, s := range c.steps {
		t.journal.Open = append(t.journal.Open, openStep{Path: s.real, Kind: s.was.Kind})
	}
	if err := t.save(); err != nil {
		t.journal.Open = nil
		return false, err
	}
	if err = c.prepare(); err == nil {
		err = c.perform()
	}
	if err != nil {
		return false, errors.Join(err, c.takeBack())
	}
	c.applied = true
	t.relabel(ctx, c.steps)
	return true, nil
}

// Commit keeps what Apply did.
func (c *Change) Commit() error {
	if !c.applied {
		return nil
	}
	defer c.done()
	t := c.tree
	t.journal.Untidy = nil
	for _, s := range c.steps {
		t.journal.Untidy = append(t.journal.Untidy, s.real)
		if !s.dropsFolder() {
			t.journal.note(s)
		}
	}
	t.journal.Open = nil
	if err := t.save(); err != nil {
		return err
	}
	for _, s := range c.steps {
		if err := t.tidy(s.real); err != nil {
			return err
		}
	}
	return t.dropFolders(c.steps)
}

// Rollback takes back what Apply did.
func (c *Change) Rollback() error {
	if !c.applied {
		return nil
	}
	defer c.done()
	return c.takeBack()
}

// done lets other changes go on.
func (c *Change) done() {
	c.applied = false
	c.tree.mu.Unlock()
}

func (c *Change) takeBack() error {
	t := c.tree
	if err := t.putBack(t.journal.Open); err != nil {
		return err
	}
	t.journal.Open = nil
	return t.save()
}

// Changed tells whether the staged content differs from what is there.
func (c *Change) Changed() (bool, error) {
	c.tree.mu.Lock()
	defer c.tree.mu.Unlock()
	err := c.inspect()
	return len(c.steps) > 0, err
}

// inspect looks at what is there, keeps originals, and drops steps that would
// change nothing.
func (c *Change) inspect() error {
	var needed []step
	for _, s := range c.steps {
		info, err := c.tree.look(s.real)
		if err != nil {
			return explain("looking at "+s.real, err)
		}
		if s.was, err = c.tree.present(s.real, info, s); err != nil {
			return err
		}
		if c.differs(s, info) && (!s.fresh || info == nil) {
			needed = append(needed, s)
		} else if s.restore {
			c.tree.journal.drop(s.real)
		}
	}
	c.steps = needed
	return nil
}

// present describes what is at the path before the step.
func (t *Tree) present(real string, info fs.FileInfo, s step) (before, error) {
	switch {
	case info == nil:
		return before{Kind: absent}, nil
	case info.IsDir():
		if s.target == file {
			return before{}, fmt.Errorf("%s is a folder where a file should be: move it away", real)
		}
		return before{Kind: folder}, nil
	case !info.Mode().IsRegular():
		return before{}, fmt.Errorf("%s is no ordinary file: move it away", real)
	case t.journal.find(real) != nil:
		return before{Kind: file}, nil
	default:
		return t.keep(real, info)
	}
}

func (c *Change) differs(s step, info fs.FileInfo) bool {
	if s.target != file || info == nil {
		return s.target != s.was.Kind
	}
	has, wants := attrOf(info), s.attr
	if os.Geteuid() != 0 {
		wants.UID, wants.GID = has.UID, has.GID
	}
	if has != wants {
		return true
	}
	content, err := os.ReadFile(c.tree.host(s.real))
	return err != nil || !bytes.Equal(content, s.content)
}

func attrOf(info fs.FileInfo) Attr {
	uid, gid := owner(info)
	return Attr{Mode: info.Mode() & modeBits, UID: uid, GID: gid}
}

// dropsFolder tells whether the step takes away a folder. That waits for the
// end of the commit, since the files in it keep a second name till then.
func (s step) dropsFolder() bool { return s.target == absent && s.was.Kind == folder }

// dropFolders removes folders that Muster made. One that holds files of others
// stays.
func (t *Tree) dropFolders(steps []step) error {
	dropped := false
	for _, s := range steps {
		if !s.dropsFolder() {
			continue
		}
		t.crash("remove " + s.real)
		err := os.Remove(t.host(s.real))
		switch {
		case errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EBUSY):
			t.log.Warn("a folder stays, since others use it", "folder", s.real)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return explain("removing "+s.real, err)
		}
		t.journal.drop(s.real)
		dropped = true
	}
	if !dropped {
		return nil
	}
	return t.save()
}

// note records what a committed step did.
func (j *journal) note(s step) {
	made := j.find(s.real)
	switch {
	case s.restore, s.target == absent && made != nil && made.Before.Kind == absent:
		j.drop(s.real)
		return
	case made == nil:
		j.Records = append(j.Records, record{Path: s.real, Before: s.was})
		made = &j.Records[len(j.Records)-1]
	}
	if made.Block = s.block && made.Before.Kind == file; made.Block {
		made.Left = digest(s.content)
	}
}
