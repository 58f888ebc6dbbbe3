// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package join makes a machine a member of a FreeIPA domain with FreeIPA's own
// ipa-client-install.
//
// ipa-client-install takes the one-time password as an argument and hands it on
// as an argument, where every user of the machine can read it. So it is run by
// a few lines of Python, in the process that has the password from its standard
// input, and the one step that needs it is done there (enrol.py).
//
// The package never writes the password down, and leaves a machine alone that
// is a member already, of whatever domain.
package join

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/agent/files"
)

// Errors that callers tell apart. Their texts hold no secret.
var (
	// ErrNoClient says that FreeIPA's client is not installed, and was not to be.
	ErrNoClient = errors.New("FreeIPA's client is not installed: install freeipa-client (Debian, Ubuntu, SUSE) or " +
		"ipa-client (RHEL, Fedora)")
	// ErrInstall says that the distribution's tool did not install the client.
	ErrInstall = errors.New("FreeIPA's client could not be installed")
	// ErrTooOld says that the client cannot keep the password to itself.
	ErrTooOld = errors.New("FreeIPA's client is older than 4.8, and would show the one-time password to every user: update it")
	// ErrBroken says that the client is there and does not work: a part of it, or of what it needs, is missing.
	ErrBroken = errors.New("FreeIPA's client is installed, but Python cannot load it: install what it lacks")
	// ErrPassword says that FreeIPA refuses the one-time password: it was used, or the host was set up anew.
	ErrPassword = errors.New("FreeIPA does not accept the one-time password")
	// ErrUnreachable says that no FreeIPA server answers; to try again may help.
	ErrUnreachable = errors.New("no FreeIPA server of the domain answers")
	// ErrRequest says that the request itself is wrong.
	ErrRequest = errors.New("this is no request to join a domain")
	// ErrFailed is any other failure of ipa-client-install, whose log is /var/log/ipaclient-install.log.
	ErrFailed = errors.New("ipa-client-install failed; see /var/log/ipaclient-install.log")
)

const (
	installer = "/usr/sbin/ipa-client-install"
	// joinTimeout covers time synchronisation and a slow server.
	joinTimeout = 10 * time.Minute
	// installTimeout covers a download of some hundred megabytes.
	installTimeout = 20 * time.Minute
	// maxReason is how much of a program's complaint an error repeats.
	maxReason = 300
)

//go:embed enrol.py
var program string

// Config describes a Client.
type Config struct {
	Tree   *files.Tree
	Runner files.Runner
	Log    *slog.Logger // default: dropped
}

// Client is the machine's FreeIPA client.
type Client struct {
	tree   *files.Tree
	runner files.Runner
	log    *slog.Logger
}

// New returns the machine's FreeIPA client.
func New(cfg Config) (*Client, error) {
	if cfg.Tree == nil || cfg.Runner == nil {
		return nil, errors.New("joining needs a tree and a runner")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{tree: cfg.Tree, runner: cfg.Runner, log: cfg.Log}, nil
}

// Request says what to join.
type Request struct {
	FQDN, Domain, Realm string
	Server              string // empty: found by DNS
	OTP                 string
	// Options are further ones of ipa-client-install, each "--name" or "--name=value".
	Options []string
	// InstallClient lets the distribution's tool install the client.
	InstallClient bool
}

// Result tells what Join did.
type Result struct {
	Already   bool // the machine was a member before
	Installed bool // the client was installed
}

// Joined tells whether the machine is a member of a domain.
func (c *Client) Joined() bool {
	return c.tree.Exists("/etc/ipa/default.conf") && c.tree.Exists("/etc/krb5.keytab") &&
		c.tree.Exists("/var/lib/ipa-client/sysrestore/sysrestore.index")
}

// Join makes the machine a member, unless it is one. It may be repeated while
// the password holds.
func (c *Client) Join(ctx context.Context, request Request) (Result, error) {
	if c.Joined() {
		return Result{Already: true}, nil
	}
	if err := request.check(); err != nil {
		return Result{}, err
	}
	var result Result
	if !c.tree.Exists(installer) {
		if !request.InstallClient {
			return Result{}, ErrNoClient
		}
		if err := c.install(ctx); err != nil {
			return Result{}, err
		}
		result.Installed = true
	}
	return result, c.enrol(ctx, request)
}

// name is what a host, domain or realm may look like.
var name = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,253}[A-Za-z0-9])?$`)

// own are the options that the request itself decides.
var own = []string{
	"--hostname", "--domain", "--realm", "--server", "--password", "--principal", "--keytab", "--unattended", "--uninstall",
	"--on-master", "--prompt-password",
}

// check refuses what could become another option, or none.
func (r Request) check() error {
	for _, value := range []string{r.FQDN, r.Domain, r.Realm} {
		if !name.MatchString(value) {
			return fmt.Errorf("%w: %.100q is no name of a host, domain or realm", ErrRequest, value)
		}
	}
	if r.Server != "" && !name.MatchString(r.Server) {
		return fmt.Errorf("%w: %.100q is no name of a server", ErrRequest, r.Server)
	}
	if len(r.OTP) < 8 || len(r.OTP) > 256 || strings.ContainsAny(r.OTP, "\n\r\x00") {
		return fmt.Errorf("%w: the one-time password has not 8 to 256 printable characters", ErrRequest)
	}
	for _, option := range r.Options {
		key, _, _ := strings.Cut(option, "=")
		// Options may be shortened as long as they are unambiguous.
		ours := slices.ContainsFunc(own, func(name string) bool { return len(key) > 2 && strings.HasPrefix(name, key) })
		if !strings.HasPrefix(option, "--") || len(key) < 3 || ours || strings.ContainsAny(option, "\n\r\x00") {
			return fmt.Errorf("%w: the option %.100q is not allowed", ErrRequest, option)
		}
	}
	return nil
}

// enrol runs ipa-client-install inside Python.
func (c *Client) enrol(ctx context.Context, request Request) error {
	python, err := c.interpreter()
	if err != nil {
		return err
	}
	args := []string{
		"-I", "-c", program, "--unattended",
		"--hostname", request.FQDN, "--domain", request.Domain, "--realm", request.Realm,
	}
	if request.Server != "" {
		args = append(args, "--server", request.Server)
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	_, err = c.runner.Run(ctx, []byte(request.OTP+"\n"), python, append(args, request.Options...)...)
	if err != nil {
		return reason(err, request.OTP)
	}
	if !c.Joined() {
		return fmt.Errorf("%w: it says that all went well, but the machine is no member", ErrFailed)
	}
	return nil
}

// interpreter is the Python for which the installer was made.
func (c *Client) interpreter() (string, error) {
	content, err := c.tree.Read(installer)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrFailed, err)
	}
	first, _, _ := bytes.Cut(content, []byte("\n"))
	words := strings.Fields(strings.TrimPrefix(string(first), "#!"))
	if len(words) == 0 || !strings.Contains(path.Base(words[0]), "python") {
		return "", fmt.Errorf("%w: %s is no Python program", ErrTooOld, installer)
	}
	return words[0], nil
}

// signs are words in the installer's output that tell why it failed.
var signs = []struct {
	text string
	err  error
}{
	{"older than 4.8", ErrTooOld},
	{"cannot be loaded", ErrBroken},
	{"does not accept the one-time password", ErrPassword},
	{"does not answer", ErrUnreachable},
	{"Unable to discover domain", ErrUnreachable},
	{"Failed to verify that", ErrUnreachable},
	{"Unable to find IPA Server", ErrUnreachable},
	{"Cannot obtain CA certificate", ErrUnreachable},
	{"Unable to download CA cert", ErrUnreachable},
}

// reason turns the installer's output into an error without the password.
func reason(err error, password string) error {
	var failed *files.ProgramError
	if !errors.As(err, &failed) {
		return fmt.Errorf("%w: %s", ErrFailed, strings.ReplaceAll(err.Error(), password, "***"))
	}
	said := strings.ReplaceAll(failed.Stderr, password, "***")
	kind := ErrFailed
	for _, sign := range signs {
		if strings.Contains(said, sign.text) {
			kind = sign.err
			break
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: it took longer than %v", ErrFailed, joinTimeout)
	}
	said = strings.Join(strings.Fields(said), " ")
	return fmt.Errorf("%w (%v: %s)", kind, failed.Err, said[max(0, len(said)-maxReason):])
}

// packages are the distributions' tools, and what the client is called there.
var packages = []struct {
	tool     string
	commands [][]string
}{
	{"apt-get", [][]string{aptGet("update"), aptGet("install", "-y", "freeipa-client")}},
	{"dnf", [][]string{{"dnf", "-q", "-y", "install", "ipa-client"}}},
	{"yum", [][]string{{"yum", "-q", "-y", "install", "ipa-client"}}},
	{"zypper", [][]string{{"zypper", "-q", "-n", "install", "freeipa-client"}}},
}

// aptGet asks nothing, and waits for other runs of it, as there are at boot.
func aptGet(args ...string) []string {
	return append([]string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=600"}, args...)
}

// mend ends what a kill of apt-get left half done, such as the machine's own in
// the midst of it. Without that no package can be installed any more.
func (c *Client) mend(ctx context.Context, failure error) error {
	if !strings.Contains(failure.Error(), "dpkg --configure -a") { // apt-get's advice
		return nil
	}
	_, err := c.runner.Run(ctx, nil, "env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--configure", "-a")
	return err
}

// install installs the client by the first tool that is there.
func (c *Client) install(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	for _, p := range packages {
		if _, err := c.runner.Run(ctx, nil, p.tool, "--version"); errors.Is(err, exec.ErrNotFound) {
			continue
		}
		for _, command := range p.commands {
			if _, err := c.runner.Run(ctx, nil, command[0], command[1:]...); err != nil {
				return errors.Join(fmt.Errorf("%w: %w", ErrInstall, err), c.mend(ctx, err))
			}
		}
		if !c.tree.Exists(installer) {
			return fmt.Errorf("%w: its package has no %s", ErrInstall, installer)
		}
		c.log.Info("FreeIPA's client was installed", "by", p.tool)
		return nil
	}
	return fmt.Errorf("%w: none of apt-get, dnf, yum and zypper is here", ErrInstall)
}
