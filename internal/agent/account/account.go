// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package account keeps the accounts of a machine that Muster's roles become,
// and what they may do with sudo.
//
// An account is made with its own group, a home folder and a password that
// nobody can have, so that certificates are the only way in. When its role
// goes, the account expires: sshd, su, cron and sudo refuse it, with and
// without PAM. It comes back as it was. What runs in sessions that are open
// goes on; only new logins and sudo are refused.
//
// The package never touches an account that it did not make: each is noted in
// the state folder before it is made, with its number, and one whose name,
// number, group or home is somebody else's is left out with a reason. It never
// gives an account a group that exists already.
package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"

	"github.com/muster-cloud/muster/internal/agent/files"
	"github.com/muster-cloud/muster/internal/agentapi"
)

// stateName is the state file with the accounts that Muster made.
const stateName = "accounts.json"

// Config describes Accounts.
type Config struct {
	Tree   *files.Tree
	Runner files.Runner
	Log    *slog.Logger // default: dropped
}

// Accounts are the accounts that Muster made on a machine. They are not safe
// for use by several goroutines.
type Accounts struct {
	tree   *files.Tree
	runner files.Runner
	log    *slog.Logger
	made   map[string]made
	warned map[string]string // the reasons that were logged already
}

// made is what the state folder knows about an account.
type made struct {
	// UID is the account's number; -1 while it is being made.
	UID  int    `json:"uid"`
	Home string `json:"home"`
	// HomeWasThere: the home folder is older than the account.
	HomeWasThere bool `json:"home_was_there,omitempty"`
}

// owns tells whether an account is the one that Muster made. After a kill its
// number may not be known; then its mark says that.
func (m made) owns(u user) bool { return u.uid == m.UID || m.UID < 0 && u.comment == comment }

// Skipped is an account that was not made, or is no longer Muster's.
type Skipped struct {
	Name, Reason string
}

// Result tells what Apply did.
type Result struct {
	Changed bool
	// Active are the accounts that are there and not locked, sorted.
	Active []string
	// Made are all accounts that Muster has made here and that are still there
	// and its own, locked ones too, sorted.
	Made    []string
	Skipped []Skipped
}

// New returns the accounts of a machine.
func New(cfg Config) (*Accounts, error) {
	if cfg.Tree == nil || cfg.Runner == nil {
		return nil, errors.New("accounts need a tree and a runner")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a := &Accounts{
		tree: cfg.Tree, runner: cfg.Runner, log: cfg.Log, made: map[string]made{}, warned: map[string]string{},
	}
	content, err := a.tree.LoadState(stateName)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &a.made)
	}
	if err != nil {
		return nil, fmt.Errorf("the list of Muster's accounts, %s in the state folder, cannot be read: %w", stateName, err)
	}
	return a, nil
}

// Apply makes, locks and unlocks accounts, and writes the rules of sudo: with
// pamSudo sudo asks PAM, where package sudo decides; without it asks nothing.
// What fails for one account does not keep the others from theirs.
func (a *Accounts) Apply(ctx context.Context, wanted []agentapi.Account, pamSudo bool) (Result, error) {
	var result Result
	var failed []error
	want := map[string]agentapi.Account{}
	for _, account := range wanted {
		want[account.Name] = account
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		changed, err := a.ensure(ctx, name)
		result.Changed = result.Changed || changed && err == nil
		var clash clashError
		switch {
		case errors.As(err, &clash):
			result.Skipped = append(result.Skipped, Skipped{Name: name, Reason: string(clash)})
			delete(want, name)
		case err != nil:
			failed = append(failed, fmt.Errorf("account %s: %w", name, err))
			delete(want, name)
		default:
			result.Active = append(result.Active, name)
		}
	}
	a.warn(result.Skipped)
	// Rights go before accounts are locked, so that a failure leaves too few.
	changed, err := a.writeSudoers(ctx, want, pamSudo)
	result.Changed = result.Changed || changed
	failed = append(failed, err)
	for _, name := range a.names() {
		if slices.ContainsFunc(wanted, func(w agentapi.Account) bool { return w.Name == name }) {
			continue
		}
		changed, err := a.lock(ctx, name)
		result.Changed = result.Changed || changed
		if err != nil {
			failed = append(failed, fmt.Errorf("locking account %s: %w", name, err))
		}
	}
	result.Made, err = a.present()
	return result, errors.Join(append(failed, err)...)
}

// present are the accounts that are there and Muster's, sorted.
func (a *Accounts) present() ([]string, error) {
	users, err := a.readUsers()
	if err != nil {
		return a.names(), err
	}
	return slices.DeleteFunc(a.names(), func(name string) bool {
		user, exists := users[name]
		return !exists || !a.made[name].owns(user)
	}), nil
}

// warn logs each reason once, not at every round.
func (a *Accounts) warn(skipped []Skipped) {
	reasons := map[string]string{}
	for _, s := range skipped {
		reasons[s.Name] = s.Reason
		if a.warned[s.Name] != s.Reason {
			a.log.Warn("an account is left out", "account", s.Name, "reason", s.Reason)
		}
	}
	a.warned = reasons
}

// names of the accounts that Muster made, sorted.
func (a *Accounts) names() []string { return slices.Sorted(maps.Keys(a.made)) }

func (a *Accounts) save() error {
	content, err := json.MarshalIndent(a.made, "", " ")
	if err != nil {
		return err
	}
	return a.tree.SaveState(stateName, content)
}

// ensure makes an account be there and usable.
func (a *Accounts) ensure(ctx context.Context, name string) (changed bool, err error) {
	if reason := unusable(name); reason != "" {
		return false, clashError(reason)
	}
	users, err := a.readUsers()
	if err != nil {
		return false, err
	}
	known, ours := a.made[name]
	user, exists := users[name]
	switch {
	case exists && !ours:
		return false, clashError("an account of this name is there already, and Muster did not make it")
	case exists && known.UID < 0:
		return true, a.finish(ctx, name, user)
	case exists && user.uid != known.UID:
		return false, clashError(fmt.Sprintf("it had number %d when Muster made it and now has %d: somebody else made it anew",
			known.UID, user.uid))
	case exists:
		locked, err := a.locked(name)
		if err != nil || !locked {
			return false, err
		}
		return true, a.unlock(ctx, name)
	}
	return true, a.create(ctx, name, users)
}

// finish goes on where the making of an account was cut short, by a kill or
// since the program for it failed. What is only half there is made anew.
func (a *Accounts) finish(ctx context.Context, name string, user user) error {
	known := a.made[name]
	if !known.owns(user) {
		delete(a.made, name)
		if err := a.save(); err != nil {
			return err
		}
		return clashError("an account of this name is there already, and Muster did not make it")
	}
	_, unknown := a.locked(name)
	grouped, err := a.hasGroup(name)
	if err != nil {
		return err
	}
	if unknown != nil || !grouped || !a.tree.Exists(known.Home) {
		if err := errors.Join(a.removeUser(ctx, name), a.removeGroup(ctx, name)); err != nil {
			return err
		}
		users, err := a.readUsers()
		if err != nil {
			return err
		}
		return a.create(ctx, name, users)
	}
	known.UID = user.uid
	a.made[name] = known
	if err := a.save(); err != nil {
		return err
	}
	return a.unlock(ctx, name)
}

// lock makes an account unusable that is Muster's.
func (a *Accounts) lock(ctx context.Context, name string) (changed bool, err error) {
	users, err := a.readUsers()
	if err != nil {
		return false, err
	}
	if user, exists := users[name]; !exists || !a.made[name].owns(user) {
		return false, nil
	}
	if locked, err := a.locked(name); err != nil || locked {
		return false, err
	}
	return true, a.setLocked(ctx, name, true)
}

func (a *Accounts) unlock(ctx context.Context, name string) error {
	return a.setLocked(ctx, name, false)
}

// clashError is why an account is left out.
type clashError string

func (e clashError) Error() string { return string(e) }
