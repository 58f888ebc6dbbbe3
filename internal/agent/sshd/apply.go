// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
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
	p, err := c.plan(want)
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
	if changed {
		if err := c.tryChange(ctx, p, change); err != nil {
			return trust, err
		}
	}
	c.openPort(ctx, p.port)
	c.warn(append(p.limits, c.forwardingLimits(ctx, want.ForwardAgent)...))
	err = c.keepSocket(ctx, p.port)
	if errors.Is(err, errSocket) && p.port != "" {
		// Better without the second port than without any.
		c.refused = p.port
		return c.Apply(ctx, want)
	}
	return changed || trust, errors.Join(err, c.reloadIfDue(ctx))
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

// forwardingLimits asks sshd for which accounts it forwards no SSH agent.
func (c *SSHD) forwardingLimits(ctx context.Context, accounts []string) []string {
	var without []string
	for _, name := range accounts {
		output, err := c.sshd(ctx, "-T", "-C", connection(name))
		if err != nil {
			c.log.Debug("cannot find out whether sshd forwards agents", "account", name, "error", err)
			return nil
		}
		settings := "\n" + strings.ToLower(string(output))
		if strings.Contains(settings, "\nallowagentforwarding no\n") || strings.Contains(settings, "\ndisableforwarding yes\n") {
			without = append(without, name)
		}
	}
	if len(without) == 0 {
		return nil
	}
	return []string{"sshd forwards no SSH agent for " + strings.Join(without, ", ") + ", by AllowAgentForwarding or DisableForwarding in its " +
		"configuration, and sudo asks that agent (pam_sudo): sudo refuses them; allow forwarding there, or let the operator switch pam_sudo off"}
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
func (c *SSHD) tryChange(ctx context.Context, p *plan, change *files.Change) error {
	healthy := c.test(ctx, "")
	if errors.Is(healthy, ErrMissing) {
		return healthy
	}
	// If it is broken, and has a part of ours, only the change itself can tell
	// whether that part is what breaks it.
	if healthy == nil || !c.present() {
		if err := c.testCandidate(ctx, p); err != nil {
			return c.blame(err, healthy)
		}
	}
	if err := c.tree.SaveState(reloadMark, nil); err != nil {
		return err
	}
	if _, err := change.Apply(ctx); err != nil {
		return err
	}
	err := c.inForce(ctx, p)
	if err == nil {
		return change.Commit()
	}
	if back := change.Rollback(); back != nil {
		return errors.Join(err, fmt.Errorf("taking the change back: %w", back))
	}
	return c.blame(err, healthy)
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
	if p.drop != "" {
		err := errors.Join(change.Folder(dropFolder, files.Folder), change.Write(p.drop, p.dropContent(), files.Public))
		return errors.Join(err, change.Restore(mainFile), c.stageDropsGone(change, p.drop))
	}
	main, err := c.tree.Read(mainFile)
	if err != nil {
		return fmt.Errorf("reading sshd's configuration: %w", err)
	}
	return errors.Join(change.Edit(mainFile, p.blockContent(main)), c.stageDropsGone(change, ""))
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
		if strings.HasSuffix(name, "-cert.pub") && p.certs[file] == "" || file == allCAsFile && p.all == nil {
			stale = append(stale, file)
		}
	}
	return stale, err
}

// testCandidate lets sshd judge the new configuration while the old one is
// still in place. Files that it names need not be there for that.
func (c *SSHD) testCandidate(ctx context.Context, p *plan) error {
	main, err := c.tree.Read(mainConfig(c.tree))
	if err != nil {
		return fmt.Errorf("reading sshd's configuration: %w", err)
	}
	names := []string{candidate, candidateSettings}
	content := p.blockContent(main)
	if p.drop != "" {
		content = []byte("Include " + path.Join(c.tree.StateFolder(), candidateSettings) + "\n" + string(files.Strip(main)))
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

// inForce asks sshd whether it would start, and follow the plan.
func (c *SSHD) inForce(ctx context.Context, p *plan) error {
	if err := c.test(ctx, ""); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	settings, err := c.settings(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	for key, value := range p.inForce {
		if got := settings[key]; c.knows[key] && !slices.Equal(got, []string{value}) {
			return fmt.Errorf("%w: %s is %s, not %s: look for another line that sets it", ErrNotInForce, key,
				strings.Join(got, " "), value)
		}
	}
	if err := c.letsIn(ctx, p.accounts); err != nil {
		return err
	}
	for file := range p.certs {
		if !slices.Contains(settings["hostcertificate"], file) {
			return fmt.Errorf("%w: HostCertificate lacks %s", ErrNotInForce, file)
		}
	}
	if p.port != "" && !slices.Contains(settings["port"], p.port) && !slices.ContainsFunc(settings["listenaddress"],
		func(address string) bool { return strings.HasSuffix(address, ":"+p.port) }) {
		return fmt.Errorf("%w: it would not listen on port %s", ErrNotInForce, p.port)
	}
	return nil
}

// letsIn asks sshd to read its configuration as it does when somebody logs in to
// one of the accounts, which all have the same: there it may refuse what is right
// for itself. An old one that cannot tell is not asked.
func (c *SSHD) letsIn(ctx context.Context, accounts []string) error {
	if len(accounts) == 0 {
		return nil
	}
	_, err := c.sshd(ctx, "-T", "-C", connection(accounts[0]))
	if err == nil {
		return nil
	}
	if _, other := c.sshd(ctx, "-T", "-C", connection("root")); other != nil {
		return nil
	}
	return fmt.Errorf("%w: for %s: %w", ErrRefused, accounts[0], err)
}

// connection is an account's, for sshd's tests.
func connection(account string) string {
	return "user=" + account + ",host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22"
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
	names, err := c.tree.List(Folder)
	staged := []error{err}
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
