// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/muster-cloud/muster/internal/agent/files"
)

// State files.
const (
	// reloadMark says that sshd has not yet read what is in its configuration.
	reloadMark = "sshd-reload"
	// candidate is a configuration for sshd to judge before it is put in place.
	candidate         = "sshd_config.candidate"
	candidateSettings = "muster.candidate"
	candidateLine     = "sshd_config.line"
)

// Apply makes sshd do what is wanted and tells whether that changed anything.
// If it fails, sshd's configuration is as before. Whom sshd trusts is written
// in any case, if Muster's settings are in place.
func (c *SSHD) Apply(ctx context.Context, want Want) (changed bool, err error) {
	if err := want.check(); err != nil {
		return false, err
	}
	if c.knows == nil {
		// A broken configuration is judged below: the broken part may be ours.
		if _, err := c.settings(ctx); errors.Is(err, ErrMissing) {
			return false, err
		}
	}
	blind := c.knows == nil
	p, err := c.plan(ctx, want)
	if err != nil {
		return false, err
	}
	trust := false
	if c.present() {
		// Whom sshd trusts must not wait until somebody has mended what else
		// is in its configuration. It reads these files at each login.
		if trust, err = c.writeTrust(ctx, p); err != nil {
			return false, err
		}
	}
	change, err := c.stage(p)
	if err != nil {
		return trust, err
	}
	if changed, err = change.Changed(); err != nil {
		return trust, err
	}
	var found *Finding
	if changed {
		found, err = c.tryChange(ctx, p, change)
	} else {
		found, err = c.inForce(ctx, p) // others may have changed what is around Muster's part
	}
	if err != nil {
		return trust, err
	}
	if blind && changed {
		// What this sshd knows could not be asked before.
		_, err = c.Apply(ctx, want)
		return true, err
	}
	c.openPort(ctx, p.port)
	c.warn(slices.Concat(p.limits, found.Notes, c.forwardingLimits(found, want.ForwardAgent)))
	err = c.keepSocket(ctx, p.port)
	if errors.Is(err, errSocket) && p.port != "" {
		// Better without the second port than without any.
		c.refused = p.port
		return c.Apply(ctx, want)
	}
	return changed || trust, errors.Join(err, c.reloadIfDue(ctx), found.Err())
}

// Warnings are what the last Apply found in the image's part of the
// configuration and left as it is, since it is somebody's decision, and what
// does not work for it.
func (c *SSHD) Warnings() []string { return slices.Clone(c.warnings) }

// warn keeps the warnings, and logs those that are new.
func (c *SSHD) warn(found []string) {
	for _, text := range found {
		if !slices.Contains(c.warnings, text) {
			c.log.Warn(text)
		}
	}
	c.warnings = found
}

// writeTrust writes the user authorities alone.
func (c *SSHD) writeTrust(ctx context.Context, p *plan) (changed bool, err error) {
	change := c.tree.Begin()
	if err := c.stageTrust(p, change); err != nil {
		return false, err
	}
	return change.Do(ctx)
}

func (c *SSHD) stageTrust(p *plan, change *files.Change) error {
	err := errors.Join(change.Folder(Folder, files.Folder), change.Write(UserCAsFile, p.cas, files.Public))
	if p.all != nil {
		err = errors.Join(err, change.Write(allCAsFile, p.all, files.Public))
	}
	return err
}

// tryChange lets sshd judge the change before and after it is made.
func (c *SSHD) tryChange(ctx context.Context, p *plan, change *files.Change) (*Finding, error) {
	healthy := c.test(ctx, "")
	if errors.Is(healthy, ErrMissing) {
		return nil, healthy
	}
	// If it is broken, and has a part of ours, only the change itself can tell
	// whether that part is what breaks it.
	if healthy == nil || !c.present() {
		if err := c.testCandidate(ctx, p); err != nil {
			return nil, c.blame(err, healthy)
		}
	}
	if err := c.tree.SaveState(reloadMark, nil); err != nil {
		return nil, err
	}
	if _, err := change.Apply(ctx); err != nil {
		return nil, err
	}
	if err := c.test(ctx, ""); err != nil {
		return nil, c.takeBack(change, fmt.Errorf("%w: %w", ErrRefused, err), healthy)
	}
	found, err := c.inForce(ctx, p)
	switch {
	case err == nil:
		return found, change.Commit()
	case errors.Is(err, ErrBroken):
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil, c.takeBack(change, err, healthy)
}

func (c *SSHD) takeBack(change *files.Change, err, healthy error) error {
	if back := change.Rollback(); back != nil {
		return errors.Join(err, fmt.Errorf("taking the change back: %w", back))
	}
	return c.blame(fmt.Errorf("%w (the change was taken back)", err), healthy)
}

// blame returns the complaint about a new configuration, unless the present one
// is no better.
func (c *SSHD) blame(err, healthy error) error {
	if healthy != nil && errors.Is(err, ErrRefused) {
		return fmt.Errorf("%w: %w", ErrBroken, healthy)
	}
	return err
}

// present tells whether settings of Muster's are in the configuration.
func (c *SSHD) present() bool {
	if c.tree.Made(mainFile) {
		return true
	}
	return slices.ContainsFunc(dropNames, func(name string) bool { return c.tree.Exists(path.Join(dropFolder, name)) })
}

// stage collects the files in an order in which none is named before it is
// there, and none goes while it is named.
func (c *SSHD) stage(p *plan) (*files.Change, error) {
	change := c.tree.Begin()
	staged := []error{c.stageTrust(p, change), change.Create(RevokedFile, nil, files.Public)}
	for _, file := range slices.Sorted(maps.Keys(p.certs)) {
		staged = append(staged, change.Write(file, []byte(p.certs[file]), files.Public))
	}
	if len(p.principals) > 0 {
		staged = append(staged, change.Folder(principalsFolder, files.Folder))
	}
	for _, file := range slices.Sorted(maps.Keys(p.principals)) {
		staged = append(staged, change.Write(file, []byte(p.principals[file]), files.Public))
	}
	staged = append(staged, c.stageSettings(p, change))
	stale, err := c.staleFiles(p)
	staged = append(staged, err)
	for _, file := range stale {
		staged = append(staged, change.Remove(file))
	}
	return change, errors.Join(staged...)
}

// stageSettings writes Muster's settings to where they go and takes them away
// from where they were.
func (c *SSHD) stageSettings(p *plan, change *files.Change) error {
	drop := path.Dir(p.file) == dropFolder
	if drop {
		if err := change.Folder(dropFolder, files.Folder); err != nil {
			return err
		}
	}
	if p.file != "" {
		if err := change.Write(p.file, p.dropContent(), files.Public); err != nil {
			return err
		}
	}
	if drop && len(p.last) == 0 {
		return errors.Join(change.Restore(mainFile), c.stageDropsGone(change, p.file))
	}
	main, err := c.tree.Read(mainFile)
	if err != nil {
		return fmt.Errorf("reading sshd's configuration: %w", err)
	}
	return errors.Join(change.Edit(mainFile, p.mainContent(main)), c.stageDropsGone(change, p.file))
}

func (c *SSHD) stageDropsGone(change *files.Change, but string) error {
	for _, name := range dropNames {
		if drop := path.Join(dropFolder, name); drop != but {
			if err := change.Remove(drop); err != nil {
				return err
			}
		}
	}
	return nil
}

// staleFiles are in Muster's folder, but no longer named.
func (c *SSHD) staleFiles(p *plan) ([]string, error) {
	names, err := c.tree.List(Folder)
	var stale []string
	for _, name := range names {
		file := path.Join(Folder, name)
		if strings.HasSuffix(name, "-cert.pub") && p.certs[file] == "" || file == allCAsFile && p.all == nil ||
			file == settingsFile && p.file != file {
			stale = append(stale, file)
		}
	}
	accounts, accountsErr := c.tree.List(principalsFolder)
	for _, name := range accounts {
		if file := principalsFile(name); p.principals[file] == "" {
			stale = append(stale, file)
		}
	}
	return stale, errors.Join(err, accountsErr)
}

// testCandidate lets sshd judge the new configuration while the old one is
// still in place. Files that it names need not be there for that.
func (c *SSHD) testCandidate(ctx context.Context, p *plan) error {
	main, err := c.tree.Read(mainConfig(c.tree))
	if err != nil {
		return fmt.Errorf("reading sshd's configuration: %w", err)
	}
	names := []string{candidate, candidateSettings}
	content := p.mainContent(main)
	if p.file != "" {
		included := []byte(includeLine + "\n") // it may not be there yet, which is no error
		content = slices.Concat([]byte("Include "+path.Join(c.tree.StateFolder(), candidateSettings)+"\n"), bytes.ReplaceAll(content, included, nil))
		if err := c.tree.SaveState(candidateSettings, p.dropContent()); err != nil {
			return err
		}
	}
	err = c.tree.SaveState(candidate, content)
	if err == nil {
		if err = c.test(ctx, path.Join(c.tree.StateFolder(), candidate)); err != nil {
			err = fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	for _, name := range names {
		err = errors.Join(err, c.tree.DropState(name))
	}
	return err
}

// inForce asks sshd whether it follows the plan.
func (c *SSHD) inForce(ctx context.Context, p *plan) (*Finding, error) {
	found, err := c.inspector().Inspect(ctx, p.accounts)
	if err != nil {
		return nil, err
	}
	c.learn(found.Settings)
	for keyword, value := range p.inForce {
		if got := found.Settings.of(strings.ToLower(keyword)); got != value {
			found.wrong("", keyword, got, value)
		}
	}
	for file := range p.certs {
		if !slices.Contains(found.Settings["hostcertificate"], file) {
			found.Wrong = append(found.Wrong, "HostCertificate lacks "+file)
		}
	}
	if p.port != "" && !slices.Contains(found.Settings["port"], p.port) && !slices.ContainsFunc(found.Settings["listenaddress"],
		func(address string) bool { return strings.HasSuffix(address, ":"+p.port) }) {
		found.Wrong = append(found.Wrong, "it would not listen on port "+p.port)
	}
	if len(found.Wrong) > 0 {
		slices.Sort(found.Wrong)
		return nil, fmt.Errorf("%w: %s", ErrNotInForce, strings.Join(slices.Compact(found.Wrong), "; "))
	}
	return found, nil
}

// Remove gives sshd's configuration back as it was before Muster. The lists go
// once sshd has read that: it would refuse everybody without them.
func (c *SSHD) Remove(ctx context.Context) error {
	if err := c.removeSettings(ctx); err != nil {
		return err
	}
	c.openPort(ctx, "")
	if err := errors.Join(c.keepSocket(ctx, ""), c.reloadIfDue(ctx)); err != nil {
		return err
	}
	change := c.tree.Begin()
	accounts, accountsErr := c.tree.List(principalsFolder)
	names, err := c.tree.List(Folder)
	staged := []error{err, accountsErr}
	for _, name := range accounts {
		staged = append(staged, change.Restore(principalsFile(name)))
	}
	for _, name := range names {
		staged = append(staged, change.Restore(path.Join(Folder, name)))
	}
	if err := errors.Join(append(staged, change.Restore(Folder))...); err != nil {
		return err
	}
	_, err = change.Do(ctx)
	return err
}

func (c *SSHD) removeSettings(ctx context.Context) error {
	broken := c.test(ctx, "")
	change := c.tree.Begin()
	staged := []error{change.Restore(mainFile)}
	for _, name := range dropNames {
		staged = append(staged, change.Restore(path.Join(dropFolder, name)))
	}
	staged = append(staged, change.Restore(dropFolder))
	if err := errors.Join(staged...); err != nil {
		return err
	}
	if err := c.tree.SaveState(reloadMark, nil); err != nil {
		return err
	}
	if changed, err := change.Apply(ctx); err != nil || !changed {
		return err
	}
	if err := c.test(ctx, ""); err != nil && broken == nil && !errors.Is(err, ErrMissing) {
		return errors.Join(fmt.Errorf("%w: %w", ErrBroken, err), change.Rollback())
	}
	return change.Commit()
}
