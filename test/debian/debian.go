// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package debian installs Debians of any release in folders, for tests that
// need another one than the machine's own, or one that they may change. They
// come from the machine's own package mirrors. It needs root and debootstrap.
package debian

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	_ "embed"

	"golang.org/x/sys/unix"
)

// timeout bounds the installation, most of which is waiting for a mirror.
const timeout = 40 * time.Minute

//go:embed install.sh
var script string

// ErrMissing: debootstrap is not installed, or the caller is not root.
var ErrMissing = errors.New("a Debian in a folder needs root and debootstrap (scripts/services-install.sh)")

// Config says what is installed.
type Config struct {
	// Kind is part of the folder's name.
	Kind string
	// Release is a name that debootstrap knows, such as trixie or sid. Empty:
	// the machine's own.
	Release string
	// Packages are added to those that every Debian has.
	Packages []string
	// Finish is a script of sh that runs at last, with the folder in $root.
	Finish string
	// Spare are packages whose files, with those of what they need, lie in a
	// folder of their name below Kept. What the release does not have is left out.
	Spare []string
	Kept  string
}

// source is a line of a list of package sources.
type source struct{ site, suite, component string }

// Root returns the folder. It is installed by the first call, in minutes, and
// kept in the user's folder for caches.
func Root(ctx context.Context, cfg Config) (string, error) {
	if _, err := exec.LookPath("debootstrap"); err != nil || os.Geteuid() != 0 {
		return "", ErrMissing
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "muster-test")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	known, err := packageSources(ctx)
	if err != nil {
		return "", err
	}
	own, err := Own(ctx)
	if err != nil {
		return "", err
	}
	if cfg.Release == "" {
		cfg.Release = own
	}
	sources := sourcesOf(cfg.Release, own, known)
	if len(sources) == 0 {
		return "", fmt.Errorf("apt knows no source of the release %q: run apt-get update", own)
	}
	key := sha256.Sum256(fmt.Append(nil, script, cfg, sources))
	root := filepath.Join(cache, fmt.Sprintf("%s-%s-%.8x", cfg.Kind, cfg.Release, key))
	// Whoever comes second waits for the first.
	unlock, err := lock(root + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		return root, err
	}
	return root, install(ctx, root, cfg, sources)
}

// install makes the folder, in one step.
func install(ctx context.Context, root string, cfg Config, sources []source) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	half := root + ".half"
	if err := errors.Join(os.RemoveAll(half), os.Mkdir(half, 0o755)); err != nil {
		return err
	}
	var list strings.Builder
	for _, s := range sources {
		fmt.Fprintf(&list, "deb %s %s %s\n", s.site, s.suite, s.component)
	}
	command := exec.CommandContext(ctx, "sh", "-euc", script, "install", half, cfg.Release, sources[0].site,
		strings.Join(cfg.Packages, " "), cfg.Finish, strings.Join(cfg.Spare, " "), cfg.Kept)
	command.Stdin = strings.NewReader(list.String())
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	output, err := command.CombinedOutput()
	if err != nil {
		return errors.Join(fmt.Errorf("installing Debian %s: %w:\n%s", cfg.Release, err, output[max(0, len(output)-4000):]), os.RemoveAll(half))
	}
	return os.Rename(half, root)
}

// Own returns the name of this machine's release, as the package sources have
// it: testing and unstable call themselves by the name of the next release.
func Own(ctx context.Context) (string, error) {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	codename := ""
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "VERSION_CODENAME="); ok {
			codename = strings.Trim(strings.TrimSpace(name), `"`)
		}
	}
	known, err := packageSources(ctx)
	return ownOf(codename, known), err
}

func ownOf(codename string, known []source) string {
	for _, name := range []string{codename, "sid", "unstable", "testing"} {
		if slices.ContainsFunc(known, func(s source) bool { return s.suite == name }) {
			return name
		}
	}
	return codename
}

// packageSources asks apt where this machine gets its packages from.
func packageSources(ctx context.Context) (sources []source, err error) {
	answer, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)",
		"Identifier: Packages").Output()
	if err != nil {
		return nil, fmt.Errorf("asking apt for its sources: %w", err)
	}
	for line := range strings.Lines(string(answer)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[2] == "main" {
			sources = append(sources, source{fields[0], fields[1], fields[2]})
		}
	}
	return sources, nil
}

// sourcesOf returns where a release's packages come from: the mirrors of the
// machine's own release. The first source is the release itself. Unstable has no
// updates besides.
func sourcesOf(release, own string, known []source) (sources []source) {
	kinds := []string{"", "-updates", "-security"}
	if release == "sid" || release == "unstable" {
		kinds = kinds[:1]
	}
	for _, kind := range kinds {
		for _, s := range known {
			if s.suite == own+kind {
				sources = append(sources, source{s.site, release + kind, s.component})
			}
		}
	}
	return sources
}

func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = file.Close() }, nil
}
