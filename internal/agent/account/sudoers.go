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

// replaceSudoers writes rules that visudo accepts. Rules that are in
// place and good stay, though a newer sudo might know more of the settings.
func (a *Accounts) replaceSudoers(ctx context.Context, able []string, pamSudo bool) (changed bool, err error) {
	visudo, err := a.visudo(ctx)
	if err != nil {
		return false, err
	}
	if !a.sudoReadsFolder(visudo) {
		return false, fmt.Errorf("%w: /etc/sudoers lacks the line: @includedir %s", ErrSudoers, sudoersFolder)
	}
	change := a.tree.Begin()
	if err := change.Write(SudoersFile, a.sudoers(able, pamSudo, a.inPlace(pamSudo)), sudoersAttr); err != nil {
		return false, err
	}
	differs, err := change.Changed()
	if err != nil || !differs && a.refusal(ctx, visudo, SudoersFile) == nil {
		return false, err
	}
	settings, err := a.accepted(ctx, visudo, able, pamSudo)
	if err != nil {
		return false, err
	}
	change = a.tree.Begin()
	if err := change.Write(SudoersFile, a.sudoers(able, pamSudo, settings), sudoersAttr); err != nil {
		return false, err
	}
	return a.install(ctx, visudo, change)
}

// visudo is the program that tells which rules sudo accepts: visudo, whosever
// that is here, or sudo-rs's, where that alone is installed under its own names.
// sudo-rs knows fewer settings than the original. Beside that, it warns of those
// that it does not know, and goes by the others.
func (a *Accounts) visudo(ctx context.Context) (string, error) {
	for _, name := range []string{"visudo", "visudo-rs"} {
		if _, err := a.runner.Run(ctx, nil, name, "--version"); !files.Missing(err) {
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: sudo is not installed, neither visudo nor visudo-rs is here", ErrSudoers)
}

// optional are settings by which nothing of the image's keeps the accounts from
// sudo. One that a sudo does not know can't be in its way.
func optional(pamSudo bool) []string {
	if !pamSudo {
		return []string{"!requiretty"}
	}
	// noninteractive_auth is of sudo 1.9.10 and sudo-rs 0.2.6; before, "sudo -n" may fail.
	return []string{"!requiretty", "authenticate", "!targetpw", "!rootpw", "!runaspw", "noninteractive_auth"}
}

// inPlace are those settings that the rules in place have.
func (a *Accounts) inPlace(pamSudo bool) []string {
	content, err := a.tree.Read(SudoersFile)
	if err != nil {
		return optional(pamSudo)
	}
	words := strings.FieldsFunc(string(content), func(c rune) bool { return c == ' ' || c == '\n' })
	return slices.DeleteFunc(optional(pamSudo), func(setting string) bool { return !slices.Contains(words, setting) })
}

// accepted finds out which of the settings visudo accepts. It judges all rules
// with these settings at last.
func (a *Accounts) accepted(ctx context.Context, visudo string, able []string, pamSudo bool) ([]string, error) {
	settings := optional(pamSudo)
	refused, err := a.judge(ctx, visudo, a.sudoers(able, pamSudo, settings))
	if err != nil || refused == nil {
		return settings, err
	}
	var good []string
	for _, setting := range settings {
		refused, err := a.judge(ctx, visudo, []byte("Defaults "+setting+"\n"))
		if err != nil {
			return nil, err
		}
		if refused == nil {
			good = append(good, setting)
		}
	}
	refused, err = a.judge(ctx, visudo, a.sudoers(able, pamSudo, good))
	if refused != nil {
		err = fmt.Errorf("%w: %w", ErrSudoers, refused)
	}
	return good, err
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
func (a *Accounts) install(ctx context.Context, visudo string, change *files.Change) (changed bool, err error) {
	before := a.refusal(ctx, visudo, "")
	if changed, err = change.Apply(ctx); err != nil || !changed {
		return changed, err
	}
	if err := a.refusal(ctx, visudo, ""); err != nil && before == nil {
		return false, errors.Join(fmt.Errorf("%w: %w", ErrSudoers, err), change.Rollback())
	}
	return true, change.Commit()
}

// judge lets visudo check rules in the state folder. That they could not be
// written there is another error.
func (a *Accounts) judge(ctx context.Context, visudo string, content []byte) (refused, err error) {
	if err := a.tree.SaveState(sudoersCandidate, content); err != nil {
		return nil, err
	}
	refused = a.refusal(ctx, visudo, path.Join(a.tree.StateFolder(), sudoersCandidate))
	return refused, a.tree.DropState(sudoersCandidate)
}

// refusal is what visudo has against a file; without a name against all rules of
// sudo.
func (a *Accounts) refusal(ctx context.Context, visudo, file string) error {
	args := []string{"-c", "-q"}
	if file != "" {
		args = append(args, "-f", file)
	}
	_, err := a.runner.Run(ctx, nil, visudo, args...)
	return err
}

// sudoReadsFolder tells whether sudo would see Muster's file. sudo-rs has a file
// that counts in the place of the original's.
func (a *Accounts) sudoReadsFolder(visudo string) bool {
	read := []string{"/etc/sudoers", "/usr/etc/sudoers"}
	if own := "/etc/sudoers-rs"; visudo == "visudo-rs" && a.tree.Exists(own) {
		read = []string{own}
	}
	return slices.ContainsFunc(read, func(file string) bool {
		content, err := a.tree.Read(file)
		return err == nil && includesFolder.Match(content)
	})
}

// sudoers are the rules. Accounts are given by their number: a name such as
// ALL would mean something else. Without passwords PAM has the say, each time
// and for the account itself, whatever the image sets for everybody. A sudo that
// does not know a setting passes over its line.
func (a *Accounts) sudoers(able []string, pamSudo bool, settings []string) []byte {
	tag := "NOPASSWD"
	if pamSudo {
		settings, tag = append([]string{"timestamp_timeout=0"}, settings...), "PASSWD"
	}
	text := &strings.Builder{}
	text.WriteString("# Made by muster-agent: changes here are lost.\n")
	for _, name := range able {
		who := "#" + strconv.Itoa(a.made[name].UID)
		fmt.Fprintf(text, "\n# %s\n", name)
		for _, setting := range settings {
			fmt.Fprintf(text, "Defaults:%s %s\n", who, setting)
		}
		fmt.Fprintf(text, "%s ALL=(ALL:ALL) %s: ALL\n", who, tag)
	}
	return []byte(text.String())
}
