// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package account

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/muster-cloud/muster/internal/agent/files"
)

// byproducts are files in a home that programs make without the person's doing.
var byproducts = []string{".cache/motd.legal-displayed", ".sudo_as_admin_successful"}

// Remove takes away the rules of sudo and the accounts that Muster made. A
// home folder goes too if nobody has left anything in it; others are kept,
// and returned.
func (a *Accounts) Remove(ctx context.Context) (kept []string, err error) {
	change := a.tree.Begin()
	if err := change.Restore(SudoersFile); err != nil {
		return nil, err
	}
	if _, err := change.Do(ctx); err != nil {
		return nil, err
	}
	users, err := a.readUsers()
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, name := range a.names() {
		gone, err := a.removeOne(ctx, name, users)
		if err != nil {
			failed = append(failed, fmt.Errorf("removing account %s: %w", name, err))
			continue
		}
		if !gone {
			kept = append(kept, a.made[name].Home)
		}
		delete(a.made, name)
		failed = append(failed, a.save())
	}
	if err := errors.Join(failed...); err != nil {
		return kept, err
	}
	return kept, errors.Join(a.restoreTraces(ctx), a.tree.DropState(stateName))
}

// removeOne removes an account that is still Muster's, and tells whether its
// home is gone. Where the account is gone already, as after a kill in here or if
// somebody removed it, what is left of it goes.
func (a *Accounts) removeOne(ctx context.Context, name string, users map[string]user) (gone bool, err error) {
	known := a.made[name]
	user, exists := users[name]
	switch {
	case exists && known.owns(user):
		known.UID = user.uid
		if err := a.removeUser(ctx, name); err != nil {
			return false, err
		}
	case exists || known.UID < 0:
		return true, nil // somebody else's, or it was never made
	}
	if err := a.removeGroup(ctx, name); err != nil {
		return false, err
	}
	return a.removeHome(known)
}

// restoreTraces gives back the copies that the programs for accounts made.
func (a *Accounts) restoreTraces(ctx context.Context) error {
	change := a.tree.Begin()
	for _, trace := range traces {
		if err := change.Restore(trace); err != nil {
			return err
		}
	}
	_, err := change.Do(ctx)
	return err
}

// removeUser takes the account out of the system's files, even if it is the one
// that asked for it.
func (a *Accounts) removeUser(ctx context.Context, name string) error {
	err := a.program(ctx, "", "userdel", "--force", name)
	if files.Missing(err) {
		err = a.program(ctx, "", "deluser", name)
	}
	return err
}

// removeGroup removes the account's own group, which userdel leaves where the
// distribution has no groups per user.
func (a *Accounts) removeGroup(ctx context.Context, name string) error {
	if there, err := a.hasGroup(name); err != nil || !there {
		return err
	}
	err := a.program(ctx, "", "groupdel", name)
	if files.Missing(err) {
		err = a.program(ctx, "", "delgroup", name)
	}
	return err
}

// hasGroup tells whether there is a group of the account's name.
func (a *Accounts) hasGroup(name string) (bool, error) {
	groups, err := a.tree.Read("/etc/group")
	return bytes.Contains(append([]byte("\n"), groups...), []byte("\n"+name+":")), err
}

// removeHome removes a home folder, and an empty mail box, that hold nothing
// of anybody's.
func (a *Accounts) removeHome(known made) (gone bool, err error) {
	for _, spool := range []string{"/var/mail", "/var/spool/mail"} {
		box := filepath.Join(a.tree.Root(), spool, filepath.Base(known.Home))
		if info, err := os.Lstat(box); err == nil && info.Mode().IsRegular() && info.Size() == 0 && files.OwnerOf(info) == known.UID {
			a.tree.Step("remove " + box)
			if err := os.Remove(box); err != nil {
				return false, err
			}
		}
	}
	home := filepath.Join(a.tree.Root(), known.Home)
	if info, err := os.Lstat(home); err != nil || known.HomeWasThere || !info.IsDir() || files.OwnerOf(info) != known.UID {
		return errors.Is(err, fs.ErrNotExist), nil
	}
	if a.used(home) {
		return false, nil
	}
	a.tree.Step("remove " + home)
	return true, os.RemoveAll(home)
}

// used tells whether a home holds anything but copies of the skeleton. The
// account is gone already, so nobody changes it meanwhile but its last processes.
func (a *Accounts) used(home string) bool {
	skeleton := filepath.Join(a.tree.Root(), "/etc/skel")
	err := filepath.WalkDir(home, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		inside := strings.TrimPrefix(name, home+"/")
		for _, byproduct := range byproducts {
			if info, err := entry.Info(); inside == byproduct && err == nil && info.Size() == 0 {
				return nil
			}
		}
		if entry.Type() == fs.ModeSocket {
			return nil // such as OpenSSH 10.1 and later leave in .ssh/agent; there is nothing in one
		}
		if !entry.Type().IsRegular() {
			return fs.ErrExist
		}
		model, err := os.ReadFile(filepath.Join(skeleton, inside))
		if err != nil {
			return err
		}
		content, err := os.ReadFile(name)
		if err == nil && !bytes.Equal(content, model) {
			err = fs.ErrExist
		}
		return err
	})
	return err != nil
}
