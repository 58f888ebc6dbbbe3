// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package account

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/muster-cloud/muster/internal/agent/files"
	"github.com/muster-cloud/muster/internal/agentapi"
)

const (
	sudoersFolder = "/etc/sudoers.d"
	// SudoersFile sorts after others: the last rule that matches counts.
	SudoersFile      = sudoersFolder + "/zz-muster-agent"
	sudoersCandidate = "sudoers.candidate"
)

// ErrSudoers says that the rules of sudo could not be put in place; nobody
// got more rights than before.
var ErrSudoers = errors.New("sudo refuses the rules, so they were not put in place")

// sudoersAttr is what sudo insists on.
var sudoersAttr = files.Attr{Mode: 0o440}

// includesFolder finds the line with which sudo reads the folder.
var includesFolder = regexp.MustCompile(`(?m)^[@#]includedir\s+"?/etc/sudoers\.d"?\s*$`)

// writeSudoers writes the rules of the accounts that may use sudo. Each set of
// rules is judged by visudo before sudo can see it.
func (a *Accounts) writeSudoers(ctx context.Context, want map[string]agentapi.Account, pamSudo bool) (changed bool, err error) {
	var able []string
	for _, name := range a.names() {
		if want[name].Sudo && a.made[name].UID >= firstUID {
			able = append(able, name)
		}
	}
	change := a.tree.Begin()
	if len(able) == 0 {
		if err := change.Remove(SudoersFile); err != nil {
			return false, err
		}
		return change.Do(ctx)
	}
	changed, err = a.replaceSudoers(ctx, able, pamSudo)
	if err != nil && a.grantsTooMuch(able, pamSudo) {
		// Better nobody than somebody who must not.
		if err := change.Remove(SudoersFile); err != nil {
			return false, err
		}
		gone, removed := change.Do(ctx)
		return gone, errors.Join(err, removed)
	}
	return changed, err
}

// replaceSudoers writes rules that visudo has accepted. Before sudo 1.9.10
// there is no noninteractive_auth; "sudo -n" fails there.
func (a *Accounts) replaceSudoers(ctx context.Context, able []string, pamSudo bool) (changed bool, err error) {
	if !a.sudoReadsFolder() {
		return false, fmt.Errorf("%w: sudo is not installed, or /etc/sudoers lacks the line: @includedir %s",
			ErrSudoers, sudoersFolder)
	}
	variants := [][]byte{a.sudoers(able, pamSudo, true), a.sudoers(able, pamSudo, false)}
	var changes []*files.Change
	for _, content := range variants {
		change := a.tree.Begin()
		if err := change.Write(SudoersFile, content, sudoersAttr); err != nil {
			return false, err
		}
		if differs, err := change.Changed(); err != nil || !differs {
			return false, err
		}
		changes = append(changes, change)
	}
	var refused error
	for n, content := range variants {
		err := a.judge(ctx, content)
		if err == nil {
			return a.install(ctx, changes[n])
		}
		refused = errors.Join(refused, err)
	}
	return false, fmt.Errorf("%w: %w", ErrSudoers, refused)
}

// grantsTooMuch tells whether the rules in place name an account that must not
// use sudo any more, or ask nothing although PAM should be asked.
func (a *Accounts) grantsTooMuch(able []string, pamSudo bool) bool {
	present, err := a.tree.Read(SudoersFile)
	if err != nil {
		return false
	}
	return pamSudo && bytes.Contains(present, []byte(" NOPASSWD: ")) || slices.ContainsFunc(a.names(), func(name string) bool {
		return !slices.Contains(able, name) && bytes.Contains(present, []byte("\n# "+name+"\n"))
	})
}

// install puts the judged rules in place and takes them back if sudo's rules
// as a whole were good before and are not any more.
func (a *Accounts) install(ctx context.Context, change *files.Change) (changed bool, err error) {
	_, before := a.runner.Run(ctx, nil, "visudo", "-c", "-q")
	if changed, err = change.Apply(ctx); err != nil || !changed {
		return changed, err
	}
	if _, err := a.runner.Run(ctx, nil, "visudo", "-c", "-q"); err != nil && before == nil {
		return false, errors.Join(fmt.Errorf("%w: %w", ErrSudoers, err), change.Rollback())
	}
	return true, change.Commit()
}

// judge lets visudo check rules in the state folder.
func (a *Accounts) judge(ctx context.Context, content []byte) error {
	if err := a.tree.SaveState(sudoersCandidate, content); err != nil {
		return err
	}
	_, err := a.runner.Run(ctx, nil, "visudo", "-c", "-q", "-f", path.Join(a.tree.StateFolder(), sudoersCandidate))
	return errors.Join(err, a.tree.DropState(sudoersCandidate))
}

// sudoReadsFolder tells whether sudo would see Muster's file.
func (a *Accounts) sudoReadsFolder() bool {
	return slices.ContainsFunc([]string{"/etc/sudoers", "/usr/etc/sudoers"}, func(file string) bool {
		content, err := a.tree.Read(file)
		return err == nil && includesFolder.Match(content)
	})
}

// sudoers are the rules. Accounts are given by their number: a name such as
// ALL would mean something else. Without passwords PAM has the say, each time
// and for the account itself, whatever the image sets for everybody.
func (a *Accounts) sudoers(able []string, pamSudo, noninteractive bool) []byte {
	text := &strings.Builder{}
	text.WriteString("# Made by muster-agent: changes here are lost.\n")
	for _, name := range able {
		who := "#" + strconv.Itoa(a.made[name].UID)
		settings, tag := "!requiretty", "NOPASSWD"
		if pamSudo {
			settings += ", authenticate, timestamp_timeout=0, !targetpw, !rootpw, !runaspw"
			if noninteractive {
				settings += ", noninteractive_auth"
			}
			tag = "PASSWD"
		}
		fmt.Fprintf(text, "\n# %s\nDefaults:%s %s\n%s ALL=(ALL:ALL) %s: ALL\n", name, who, settings, who, tag)
	}
	return []byte(text.String())
}
