// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package files changes the files of a machine so that nothing is ever half
// done and everything can be taken back.
//
// A file is replaced by renaming a finished, synced copy over it, with the
// owner, mode and SELinux label that it should have. Several files change
// together as a Change: all copies are made first, so that a full disk or a
// read-only folder stops the change before it began; then they are renamed in
// the order given. What the change is about to do stands in a journal in the
// state folder. When the program is killed in between, the next OpenTree puts
// back what was there before. The journal also keeps the first state of each
// file that was ever changed, which is what Undo gives back.
//
// It never follows a symbolic link out of its root, never runs in parallel
// with itself on one state folder, and never writes where other users could
// place links: callers name folders that belong to root.
package files

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Errors that callers tell apart. Messages around them name the file and what
// to do.
var (
	// ErrReadOnly says that the file system is mounted read-only.
	ErrReadOnly = errors.New("the file system is read-only: mount it for writing")
	// ErrNoSpace says that the disk or the quota is full.
	ErrNoSpace = errors.New("the disk is full: make room")
	// ErrBusy says that another process holds the state folder.
	ErrBusy = errors.New("another muster-agent is at work on this machine: wait for it, or stop it")
	// ErrJournal says that the journal cannot be read.
	ErrJournal = errors.New("the agent's journal cannot be read")
	// ErrEscapes says that a path leads out of the root.
	ErrEscapes = errors.New("the path leads nowhere inside the root")
)

// Attr is who owns a file or folder, and its permission bits. Only root can
// give files away: for other users, as in tests, owners are left alone.
type Attr struct {
	Mode     fs.FileMode
	UID, GID int
}

// Usual attributes, all owned by root.
var (
	Public = Attr{Mode: 0o644} // a file that everybody may read
	Folder = Attr{Mode: 0o755} // a folder that everybody may enter
)

// Config describes a Tree.
type Config struct {
	// Root is where the machine's tree begins: "/" (the default), or a folder in tests. All
	// paths given to the Tree are absolute inside it.
	Root string
	// State is the folder of the journal, inside Root. It is made if missing.
	State string
	// Runner runs restorecon where SELinux is on; without one, labels of new
	// files are what the kernel gives them.
	Runner Runner
	// Log gets warnings; the default drops them.
	Log *slog.Logger
	// Crash, for tests, is called before each step that changes something on
	// disk, with the step's name. A test ends the process there.
	Crash func(point string)
}

// Tree is a machine's files. Several goroutines may use it; each Change belongs
// to one of them.
type Tree struct {
	root, state string
	runner      Runner
	log         *slog.Logger
	crash       func(string)
	selinux     bool
	lock        *os.File

	mu      sync.Mutex // held while a change is applied, until it is committed or rolled back
	journal journal
}

// OpenTree opens the tree and puts right what a killed process left. It
// returns ErrBusy while another process has the same state folder open.
func OpenTree(ctx context.Context, cfg Config) (*Tree, error) {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if !filepath.IsAbs(cfg.Root) || !filepath.IsAbs(cfg.State) {
		return nil, errors.New("the root and the state folder must be absolute paths")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Crash == nil {
		cfg.Crash = func(string) {}
	}
	t := &Tree{root: filepath.Clean(cfg.Root), runner: cfg.Runner, log: cfg.Log, crash: cfg.Crash}
	_, err := os.Stat(filepath.Join(t.root, "sys/fs/selinux/enforce"))
	t.selinux = err == nil
	if err := t.openState(cfg.State); err != nil {
		return nil, err
	}
	if err := t.recover(ctx); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// openState makes and locks the state folder and reads the journal.
func (t *Tree) openState(state string) error {
	if err := os.MkdirAll(filepath.Join(t.root, state), 0o700); err != nil {
		return explain("making the state folder "+state, err)
	}
	real, err := t.resolve(state)
	if err != nil {
		return err
	}
	t.state = real
	lock, err := os.OpenFile(t.host(filepath.Join(t.state, "lock")), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return explain("opening the state folder "+state, err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return ErrBusy
		}
		return fmt.Errorf("locking the state folder %s: %w", state, err)
	}
	t.lock = lock
	content, err := t.LoadState(journalName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(content, &t.journal)
	}
	if err != nil {
		_ = lock.Close()
		return fmt.Errorf("%w: %s: %w; put back a copy of it, or remove it, which makes it impossible to undo "+
			"what was changed before", ErrJournal, filepath.Join(state, journalName), err)
	}
	return nil
}

// Close lets others open the state folder.
func (t *Tree) Close() error { return t.lock.Close() }

// Root is where the tree begins.
func (t *Tree) Root() string { return t.root }

// StateFolder is the state folder's path inside the root.
func (t *Tree) StateFolder() string { return t.state }

// Read returns what the file holds.
func (t *Tree) Read(path string) ([]byte, error) {
	real, err := t.resolve(path)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(t.host(real))
}

// Stat describes the file that path leads to.
func (t *Tree) Stat(path string) (fs.FileInfo, error) {
	real, err := t.resolve(path)
	if err != nil {
		return nil, err
	}
	return os.Lstat(t.host(real))
}

// Exists tells whether path leads to something.
func (t *Tree) Exists(path string) bool {
	_, err := t.Stat(path)
	return err == nil
}

// List returns the names in a folder, sorted by bytes; a missing folder has none.
func (t *Tree) List(path string) ([]string, error) {
	real, err := t.resolve(path)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(t.host(real))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	slices.Sort(names)
	return names, err
}

// Write makes one file hold the content, as a Change of its own, and tells
// whether that changed anything.
func (t *Tree) Write(ctx context.Context, path string, content []byte, attr Attr) (bool, error) {
	change := t.Begin()
	if err := change.Write(path, content, attr); err != nil {
		return false, err
	}
	return change.Do(ctx)
}

// Undo gives back everything in the reverse order of its first change, and
// forgets it. What other programs wrote meanwhile into files that Muster only
// edited is kept, without Muster's block. The file last, if Muster made it, goes
// when all else is back: the program that would have to undo the rest after a kill.
func (t *Tree) Undo(ctx context.Context, last string) error {
	var paths []string
	t.mu.Lock()
	for _, made := range slices.Backward(t.journal.Records) {
		paths = append(paths, made.Path)
	}
	t.mu.Unlock()
	if real, err := t.resolve(last); err == nil {
		last = real
	}
	isLast := func(path string) bool { return path == last }
	for _, some := range [][]string{slices.DeleteFunc(slices.Clone(paths), isLast), {last}} {
		change := t.Begin()
		for _, path := range some {
			if !slices.Contains(paths, path) {
				continue
			}
			if err := change.Restore(path); err != nil {
				return err
			}
		}
		if _, err := change.Do(ctx); err != nil {
			return err
		}
	}
	for _, name := range []string{journalName, originalsName} {
		t.crash("remove " + name)
		if err := os.RemoveAll(t.host(filepath.Join(t.state, name))); err != nil {
			return explain("removing the journal", err)
		}
	}
	return nil
}

// Step names a step that changes the machine otherwise than through the tree,
// just before it: tests end the process there, as they do before the tree's own.
func (t *Tree) Step(name string) { t.crash(name) }

// Made tells whether Muster made or changed the file or folder.
func (t *Tree) Made(path string) bool {
	real, err := t.resolve(path)
	t.mu.Lock()
	defer t.mu.Unlock()
	return err == nil && t.journal.find(real) != nil
}

// SaveState writes a file of the state folder atomically, for root only. It
// is not part of what Undo gives back.
func (t *Tree) SaveState(name string, content []byte) error {
	path := filepath.Join(t.state, name)
	if err := t.replace(path, content, Attr{Mode: 0o600, UID: os.Geteuid(), GID: os.Getegid()}, ""); err != nil {
		return explain("saving the state in "+path, err)
	}
	return nil
}

// LoadState reads a file of the state folder; fs.ErrNotExist if there is none.
func (t *Tree) LoadState(name string) ([]byte, error) {
	return os.ReadFile(t.host(filepath.Join(t.state, name)))
}

// DropState removes a file of the state folder, if it is there.
func (t *Tree) DropState(name string) error {
	t.crash("remove " + name)
	err := os.Remove(t.host(filepath.Join(t.state, name)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// explain adds what was attempted, and names the two causes that an operator
// can end.
func explain(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%s: %w (%w)", what, ErrReadOnly, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s: %w (%w)", what, ErrNoSpace, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// MakeVolatile makes a folder below /run, which is gone after the next start
// of the machine and so is nothing to undo.
func (t *Tree) MakeVolatile(path string, attr Attr) error {
	real, err := t.resolve(path)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(real, "/run/") {
		return fmt.Errorf("%s: %w: it is not below /run", path, ErrEscapes)
	}
	return explain("making "+path, makeFolder(t.host(real), attr))
}
