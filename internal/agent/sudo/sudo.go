// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package sudo lets sudo ask for a certificate: it succeeds for an account of
// Muster's only while the SSH agent that the person forwarded proves that it
// holds the key of a certificate of the project's user CA which names the
// account, is valid and not revoked.
//
// Install puts two lines before the distribution's own into /etc/pam.d/sudo.
// The first (pam_listfile) passes everybody by who is no account of Muster's,
// root among them; the second (pam_exec) runs the agent's program, which calls
// Check. If the program is missing or fails, accounts of Muster's cannot use
// sudo and everybody else can as before.
//
// Check runs as root on behalf of somebody who is not. Who that is it learns
// from PAM alone; of the caller's environment it takes only the path of the
// agent's socket, which it opens with the caller's own rights and believes only
// if the caller's own processes, of the same login, listen there.
//
// The package never keeps what the agent says, and never talks to an agent
// about anything but a list of keys and one signature at a time.
package sudo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/muster-cloud/muster/internal/agent/files"
	"github.com/muster-cloud/muster/internal/agent/sshd"
)

// Errors that callers tell apart.
var (
	// ErrNoPAM says that sudo here has no use for PAM, so that accounts which
	// have to prove something cannot use sudo.
	ErrNoPAM = errors.New("sudo does not use PAM here, so nobody can be asked for a certificate: install sudo with PAM")
	// ErrNoModule says that a module of PAM is missing. Without it sudo would
	// refuse everybody, so nothing was changed.
	ErrNoModule = errors.New("a PAM module is missing, so sudo's PAM file was not changed")
	// ErrProgram says that others than root could change the program that sudo would trust.
	ErrProgram = errors.New("sudo's PAM file was not changed, since others than root could change the agent's program")
)

// AccountsFile lists the accounts that have to prove something, one per line.
const AccountsFile = sshd.Folder + "/sudo_accounts"

// pamFolder holds one file per service; vendorFolders hold those that the
// distribution ships, for services without a file in pamFolder.
const pamFolder = "/etc/pam.d"

var (
	vendorFolders = []string{"/usr/etc/pam.d", "/usr/lib/pam.d", "/usr/share/pam.d"}
	// moduleFolders are where distributions keep PAM's modules.
	moduleFolders = []string{
		"/lib/security", "/lib64/security", "/usr/lib/security", "/usr/lib64/security",
		"/lib/*/security", "/usr/lib/*/security",
	}
	modules = []string{"pam_listfile.so", "pam_exec.so"}
	// includesSudo finds the line by which "sudo -i" has the same rules as sudo.
	includesSudo = regexp.MustCompile(`(?m)^\s*(@include\s+sudo|-?auth\s+(include|substack)\s+sudo)\s*$`)
)

// Config describes a PAM.
type Config struct {
	Tree *files.Tree
	// Program is the path of the agent's program.
	Program string
	Log     *slog.Logger // default: dropped
}

// PAM is the machine's rules about who may use sudo.
type PAM struct {
	tree    *files.Tree
	program string
	log     *slog.Logger
}

// New returns the machine's rules.
func New(cfg Config) (*PAM, error) {
	if cfg.Tree == nil || !path.IsAbs(cfg.Program) || strings.ContainsAny(cfg.Program, " \t\n[]\\") {
		return nil, errors.New("sudo's PAM rules need a tree, and a plain absolute path of the agent's program")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &PAM{tree: cfg.Tree, program: cfg.Program, log: cfg.Log}, nil
}

// Install makes sudo ask the accounts for a certificate, all others for what
// it asked before, and tells whether that changed anything.
func (p *PAM) Install(ctx context.Context, accounts []string) (changed bool, err error) {
	if err := errors.Join(p.haveModules(), p.checkProgram()); err != nil {
		return false, err
	}
	change := p.tree.Begin()
	list := []byte(strings.Join(slices.Sorted(slices.Values(accounts)), "\n") + "\n")
	err = errors.Join(change.Folder(sshd.Folder, files.Folder), change.Write(AccountsFile, list, files.Public))
	for _, service := range []string{"sudo", "sudo-i"} {
		err = errors.Join(err, p.stage(change, service))
	}
	if err != nil {
		return false, err
	}
	return change.Do(ctx)
}

// Remove gives back the rules of before.
func (p *PAM) Remove(ctx context.Context) (changed bool, err error) {
	change := p.tree.Begin()
	for _, file := range []string{pamFolder + "/sudo-i", pamFolder + "/sudo", AccountsFile} {
		err = errors.Join(err, change.Restore(file))
	}
	if err != nil {
		return false, err
	}
	return change.Do(ctx)
}

// stage puts the lines into a service's file.
func (p *PAM) stage(change *files.Change, service string) error {
	file := path.Join(pamFolder, service)
	content, err := p.tree.Read(file)
	if err == nil {
		if service == "sudo-i" && includesSudo.Match(files.Strip(content)) {
			return change.Restore(file)
		}
		return change.Edit(file, p.withBlock(content))
	}
	for _, folder := range vendorFolders {
		if content, err := p.tree.Read(path.Join(folder, service)); err == nil {
			if service == "sudo-i" && includesSudo.Match(content) {
				return nil
			}
			return change.Write(file, p.withBlock(content), files.Public)
		}
	}
	if p.isRust() {
		// It uses PAM whether or not anybody says how. These are the rules that PAM has then.
		content, err := p.others()
		if err != nil {
			return err
		}
		return change.Write(file, p.withBlock(content), files.Public)
	}
	if service == "sudo" {
		return ErrNoPAM
	}
	return nil
}

// isRust tells whether sudo-rs is here, which comes without files for PAM.
func (p *PAM) isRust() bool {
	return slices.ContainsFunc([]string{"/usr/bin/sudo-rs", "/usr/lib/cargo/bin/sudo"}, p.tree.Exists)
}

// others are PAM's rules for services without a file.
func (p *PAM) others() ([]byte, error) {
	for _, folder := range append([]string{pamFolder}, vendorFolders...) {
		if content, err := p.tree.Read(path.Join(folder, "other")); err == nil {
			return content, nil
		}
	}
	return nil, ErrNoPAM
}

// withBlock puts the lines before the distribution's own.
//
// The first line jumps over the second for everybody whom the list does not
// name, also when the list cannot be read. The second ends the matter either
// way: done with success, die with anything else.
func (p *PAM) withBlock(content []byte) []byte {
	block := files.Block(
		"auth [success=ignore default=1] pam_listfile.so item=user sense=allow onerr=fail quiet file="+AccountsFile,
		"auth [success=done default=die] pam_exec.so quiet seteuid stdout "+p.program+" sudo-check",
	)
	content = files.Strip(content)
	head := 0
	if bytes.HasPrefix(content, []byte("#%PAM")) {
		head = bytes.IndexByte(content, '\n') + 1
	}
	return slices.Concat(content[:head], block, content[head:])
}

// haveModules looks for the modules in all folders where they may be.
func (p *PAM) haveModules() error {
	for _, module := range modules {
		found := slices.ContainsFunc(moduleFolders, func(folder string) bool {
			matches, err := filepath.Glob(filepath.Join(p.tree.Root(), folder, module))
			return err == nil && len(matches) > 0
		})
		if !found {
			return fmt.Errorf("%w: %s", ErrNoModule, module)
		}
	}
	return nil
}

// checkProgram makes sure that only root can exchange what sudo will trust.
func (p *PAM) checkProgram() error {
	for name := p.program; ; name = path.Dir(name) {
		info, err := p.tree.Stat(name)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProgram, err)
		}
		if files.OwnerOf(info) != 0 || info.Mode().Perm()&0o022 != 0 {
			return fmt.Errorf("%w: %s", ErrProgram, name)
		}
		if name == "/" {
			return nil
		}
	}
}
