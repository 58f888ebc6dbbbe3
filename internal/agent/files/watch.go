// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package files

import "os"

// Watch lets a program of the distribution change files, such as the backups
// that useradd makes, so that Restore gives back what they held before, unless
// others change them later. Files that are not there may come to be.
func (t *Tree) Watch(paths []string, run func() error) error {
	if err := t.watchAll(paths); err != nil {
		return err
	}
	failed := run()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, path := range paths {
		if real, err := t.resolve(path); err == nil {
			if made := t.journal.find(real); made != nil && made.Watched {
				made.Left = t.digestOf(real)
			}
		}
	}
	if err := t.save(); err != nil && failed == nil {
		failed = err
	}
	return failed
}

func (t *Tree) watchAll(paths []string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, path := range paths {
		if err := t.watch(path); err != nil {
			return err
		}
	}
	return t.save()
}

// watch notes what is there now, unless that is Muster's doing already.
func (t *Tree) watch(path string) error {
	real, err := t.resolve(path)
	if err != nil {
		return err
	}
	made := t.journal.find(real)
	if made != nil && t.digestOf(real) == made.Left {
		return nil
	}
	t.journal.drop(real)
	info, err := t.look(real)
	if err != nil {
		return err
	}
	was := before{Kind: absent}
	if info != nil {
		if was, err = t.keep(real, info); err != nil {
			return err
		}
	}
	t.journal.Records = append(t.journal.Records, record{Path: real, Before: was, Watched: true})
	return nil
}

// digestOf is the digest of what a file holds; a word that is none if there is
// no file.
func (t *Tree) digestOf(real string) string {
	content, err := os.ReadFile(t.host(real))
	if err != nil {
		return string(absent)
	}
	return digest(content)
}
