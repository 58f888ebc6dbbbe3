// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package sshd configures a machine's OpenSSH server for Muster: host
// certificates, the authorities whose users may log in, the revocation list, a
// second port, and no passwords.
//
// The settings stand in one file of /etc/ssh/sshd_config.d, if sshd reads it
// before anything else sets the same, or else in one that the first line of
// sshd_config includes: for sshd the first value wins, and one in a Match block
// that applies wins over all that is in none. So what says who gets into Muster's
// accounts stands in Match blocks of their own (see rules). An sshd before 8.2
// knows no Include: there the settings are marked blocks at the top and at the
// end of sshd_config. Everything else is in /etc/ssh/muster. A change is judged
// by "sshd -t" before it becomes visible and again after, and by "sshd -T", for
// each account, whether it is in force; otherwise it is taken back. So sshd
// always has a configuration with which it would start, and a configuration that
// was broken before is not touched.
//
// It never stops or restarts sshd, never touches host keys, and never takes
// away what lets others in: authorities that the image trusts stay trusted,
// and passwords are only ever switched off, not on.
package sshd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent/files"
)

// Errors that callers tell apart. The messages around them say what sshd said.
var (
	// ErrBroken says that sshd refuses its configuration as it was before Muster came.
	ErrBroken = errors.New("sshd refuses its own configuration, which Muster did not make: correct it, then Muster goes on")
	// ErrRefused says that sshd refuses the configuration with Muster's part.
	ErrRefused = errors.New("sshd refuses the configuration with Muster's settings")
	// ErrNotInForce says that something else sets the same.
	ErrNotInForce = errors.New("sshd does not follow Muster's settings: the agent has not set it up yet, or another line that it reads first says otherwise")
	// ErrShut says that all is set up, but that sshd uses none of the algorithms of Muster's certificates.
	ErrShut = errors.New("sshd is set up, but its algorithms do not fit Muster's certificates")
	// ErrForeignRevokedKeys says that the image has a revocation list of its own, and sshd knows only one.
	ErrForeignRevokedKeys = errors.New("sshd_config names another RevokedKeys, and sshd reads only one: " +
		"remove that line, so that Muster's list can be used")
	// ErrMissing says that there is no OpenSSH server.
	ErrMissing = errors.New("there is no OpenSSH server on this machine: install openssh-server")
)

// Folder holds everything of Muster's that sshd reads.
const Folder = "/etc/ssh/muster"

// Files in Folder. sshd and the check of sudo read them.
const (
	UserCAsFile = Folder + "/user_ca_keys" // Muster's user authorities, one public key per line
	RevokedFile = Folder + "/revoked_keys" // the project's revocation list
	// allCAsFile has also the authorities that the image itself trusts. It is
	// there only if the image names some.
	allCAsFile = Folder + "/all_user_ca_keys"
	// principalsFolder has a file for each account, of the principals that get in.
	principalsFolder = Folder + "/principals"
	// settingsFile holds Muster's settings where no file in dropFolder would be read
	// first, and sshd_config includes it.
	settingsFile = Folder + "/sshd_config"
)

// principalsFile names the principals that get into an account: its own name, as
// if there were no such file.
func principalsFile(account string) string { return principalsFolder + "/" + account }

// Config describes an SSHD.
type Config struct {
	Tree   *files.Tree
	Runner files.Runner
	Log    *slog.Logger // default: dropped
}

// SSHD is the machine's OpenSSH server. It is not safe for use by several
// goroutines, but for SetRevoked, which never waits for the others for long.
type SSHD struct {
	tree   *files.Tree
	runner files.Runner
	log    *slog.Logger
	// knows are the keywords of this sshd; nil before the first "sshd -T".
	knows map[string]bool
	// accepted remembers which lines this sshd takes.
	accepted map[string]bool
	// warnings are what the last Apply left to the image, and what comes of it.
	warnings []string
	// portDone is the second port that this process has opened; "-" before the first.
	portDone string
	// leftOut are the host keys that were left out, and why, as was logged.
	leftOut map[string]string
	// refused is a second port with which systemd's socket does not start, so
	// that this process does without.
	refused string
}

// New returns the machine's OpenSSH server.
func New(cfg Config) (*SSHD, error) {
	if cfg.Tree == nil || cfg.Runner == nil {
		return nil, errors.New("sshd needs a tree and a runner")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &SSHD{tree: cfg.Tree, runner: cfg.Runner, log: cfg.Log, portDone: "-"}, nil
}

// HostKey is one of sshd's host keys.
type HostKey struct {
	Path      string // of the private key, which stays where it is
	PublicKey string // authorized_keys line
}

// HostKeys returns the host keys that sshd uses and that exist.
func (c *SSHD) HostKeys(ctx context.Context) ([]HostKey, error) {
	settings, err := c.settings(ctx)
	if err != nil {
		return nil, err
	}
	var keys []HostKey
	leftOut := map[string]string{}
	for _, file := range settings["hostkey"] {
		key, reason := c.hostKey(ctx, file)
		if reason != "" {
			leftOut[file] = reason
		}
		if key != "" {
			keys = append(keys, HostKey{Path: file, PublicKey: key})
		}
	}
	c.warnOfKeys(leftOut)
	if len(keys) == 0 {
		return nil, errors.New("sshd has no host keys: make them with ssh-keygen -A")
	}
	return keys, nil
}

// Want is what sshd should do.
type Want struct {
	// HostCerts are the certificates of host keys by HostKey.Path.
	HostCerts map[string]string
	// UserCAs are authorized_keys lines of the authorities whose user
	// certificates are good. None: nobody's are.
	UserCAs []string
	// Accounts accept Muster's certificates that name them, whatever the image
	// says, and nothing else.
	Accounts []string
	// ForwardAgent are accounts of no use without their forwarded SSH agent.
	// Where sshd does not forward it, Warnings says so. sshd tells their sessions
	// by which certificate somebody logged in (ExposeAuthInfo).
	ForwardAgent []string
	// Port is a second port beside those that sshd has; 0 and 22 mean none.
	Port int
	// PenaltyExempt are addresses and networks whose refused log-ins sshd does not
	// punish, where it would.
	PenaltyExempt []string
	// PasswordAuthentication leaves passwords as the image has them. Without
	// it nobody gets in by password.
	PasswordAuthentication bool
}

// check refuses what could not be written into a configuration file.
func (w Want) check() error {
	if w.Port < 0 || w.Port > 65535 {
		return fmt.Errorf("%d is no port", w.Port)
	}
	for _, line := range w.UserCAs {
		if _, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line)); err != nil || len(rest) > 0 {
			return errors.New("a user authority is no public key")
		}
	}
	for _, network := range w.PenaltyExempt {
		if _, err := netip.ParsePrefix(network); err != nil {
			if _, err := netip.ParseAddr(network); err != nil {
				return fmt.Errorf("%q is neither an address nor a network", network)
			}
		}
	}
	for _, account := range w.Accounts {
		if strings.Trim(account, ".") == "" || strings.ContainsAny(account, " \t\r\n\"',*?!#\\/%") {
			return fmt.Errorf("%q is no account name", account)
		}
	}
	for file, line := range w.HostCerts {
		if !path.IsAbs(file) || strings.ContainsAny(file, "\n\"") {
			return fmt.Errorf("%q is no path of a host key", file)
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if cert, ok := key.(*ssh.Certificate); err != nil || !ok || cert.CertType != ssh.HostCert {
			return fmt.Errorf("what should be the certificate of %s is none", file)
		}
	}
	return nil
}

// SetRevoked exchanges the revocation list. sshd reads it at each login, so
// nothing is reloaded. An empty list is allowed, a missing one makes sshd
// refuse everybody.
func (c *SSHD) SetRevoked(ctx context.Context, list []byte) error {
	change := c.tree.Begin()
	if err := change.Folder(Folder, files.Folder); err != nil {
		return err
	}
	if err := change.Write(RevokedFile, list, files.Public); err != nil {
		return err
	}
	_, err := change.Do(ctx)
	return err
}

// settings is what "sshd -T" says. The keywords that it has are those that this
// sshd knows, but for some lists that are empty.
func (c *SSHD) settings(ctx context.Context) (Settings, error) {
	settings, err := c.inspector().settings(ctx)
	if err != nil {
		return nil, err
	}
	c.learn(settings)
	return settings, nil
}

func (c *SSHD) learn(settings Settings) {
	c.knows = map[string]bool{}
	for key := range settings {
		c.knows[key] = true
	}
}

func (c *SSHD) inspector() Inspector {
	return Inspector{Runner: prepared{c}, Read: c.tree.Read}
}

// prepared runs sshd with the folder that it wants.
type prepared struct{ *SSHD }

// Run implements files.Runner.
func (p prepared) Run(ctx context.Context, _ []byte, _ string, args ...string) ([]byte, error) {
	return p.sshd(ctx, args...)
}

// accepts reports whether this sshd takes a line, which need not make sense on
// this machine. It complains about lines by the name of their file.
func (c *SSHD) accepts(ctx context.Context, line string) bool {
	if known, asked := c.accepted[line]; asked {
		return known
	}
	if err := c.tree.SaveState(candidateLine, []byte(line+"\n")); err != nil {
		return false
	}
	err := c.test(ctx, path.Join(c.tree.StateFolder(), candidateLine))
	if dropped := c.tree.DropState(candidateLine); dropped != nil {
		c.log.Warn("a file that sshd has judged stays", "error", dropped)
	}
	refused := err != nil && strings.Contains(err.Error(), candidateLine)
	if err != nil && !refused {
		// It has no host keys, say, or did not answer: what comes of the line is judged later.
		return true
	}
	if c.accepted == nil {
		c.accepted = map[string]bool{}
	}
	c.accepted[line] = !refused
	return !refused
}

// test lets sshd judge a configuration file; without a name its own.
func (c *SSHD) test(ctx context.Context, file string) error {
	args := []string{"-t"}
	if file != "" {
		args = append(args, "-f", file)
	}
	_, err := c.sshd(ctx, args...)
	if files.Missing(err) {
		return ErrMissing
	}
	return err
}

// privilegeFolder is made at each start of the ssh service on Debian, whose
// sshd refuses even to test without it.
const privilegeFolder = "/run/sshd"

func (c *SSHD) sshd(ctx context.Context, args ...string) ([]byte, error) {
	output, err := c.runner.Run(ctx, nil, "sshd", args...)
	if err != nil && strings.Contains(err.Error(), privilegeFolder) {
		if made := c.tree.MakeVolatile(privilegeFolder, files.Folder); made != nil {
			return nil, errors.Join(err, made)
		}
		output, err = c.runner.Run(ctx, nil, "sshd", args...)
	}
	return output, err
}

// lines joins lines, each with its end.
func lines(all []string) []byte {
	var b bytes.Buffer
	for _, line := range all {
		b.WriteString(strings.TrimSpace(line) + "\n")
	}
	return b.Bytes()
}

// portOf is the second port, or nothing.
func (w Want) portOf() string {
	if w.Port == 0 || w.Port == 22 {
		return ""
	}
	return strconv.Itoa(w.Port)
}
