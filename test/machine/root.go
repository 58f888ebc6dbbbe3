// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package machine

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

	"github.com/muster-cloud/muster/test/services"
)

// packages are what Debian's cloud image has of what the tests meet, and two
// guests: busybox, the shell of small images, and faketime.
var packages = []string{
	"busybox-static", "ca-certificates", "cloud-init", "cron", "curl", "dbus", "e2fsprogs", "faketime", "iproute2", "libpam-systemd",
	"openssh-client", "openssh-server", "procps", "sudo", "systemd-sysv",
}

// rootTimeout bounds the installation, most of which is waiting for a mirror.
const rootTimeout = 20 * time.Minute

//go:embed root.sh
var rootScript string

// source is a line of the machine's own list of package sources.
type source struct{ site, release, component string }

// debian returns a folder with an installed Debian of this machine's release,
// from this machine's mirrors. It is installed once, and kept in the user's
// folder for caches.
func debian(ctx context.Context) (string, error) {
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("machines need root: %w", services.ErrMissing)
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		return "", fmt.Errorf("debootstrap is %w", services.ErrMissing)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "muster-test")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	release, sources, err := packageSources(ctx)
	if err != nil {
		return "", err
	}
	key := sha256.Sum256(fmt.Append(nil, rootScript, release, sources, packages))
	root := filepath.Join(cache, fmt.Sprintf("debian-%.8x", key))
	// Whoever comes second waits for the first.
	unlock, err := lock(root + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		return root, err
	}
	return root, install(ctx, root, release, sources)
}

// install makes the folder, in one step.
func install(ctx context.Context, root, release string, sources []source) error {
	ctx, cancel := context.WithTimeout(ctx, rootTimeout)
	defer cancel()
	half := root + ".half"
	if err := errors.Join(os.RemoveAll(half), os.Mkdir(half, 0o755)); err != nil {
		return err
	}
	var list strings.Builder
	for _, s := range sources {
		fmt.Fprintf(&list, "deb %s %s %s\n", s.site, s.release, s.component)
	}
	args := append([]string{"-euc", rootScript, "root", half, release, sources[0].site}, packages...)
	command := exec.CommandContext(ctx, "sh", args...)
	command.Stdin = strings.NewReader(list.String())
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	output, err := command.CombinedOutput()
	if err != nil {
		return errors.Join(fmt.Errorf("installing a Debian: %w:\n%s", err, output[max(0, len(output)-4000):]), os.RemoveAll(half))
	}
	return os.Rename(half, root)
}

// packageSources asks apt where this machine gets its packages from. The first
// source is the release itself.
func packageSources(ctx context.Context) (release string, sources []source, err error) {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", nil, err
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "VERSION_CODENAME="); ok {
			release = strings.Trim(strings.TrimSpace(name), `"`)
		}
	}
	answer, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)",
		"Identifier: Packages").Output()
	if err != nil {
		return "", nil, fmt.Errorf("asking apt for its sources: %w", err)
	}
	for line := range strings.Lines(string(answer)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[2] == "main" {
			sources = append(sources, source{fields[0], fields[1], fields[2]})
		}
	}
	suites := []string{release, release + "-updates", release + "-security"}
	sources = slices.DeleteFunc(sources, func(s source) bool { return !slices.Contains(suites, s.release) })
	slices.SortFunc(sources, func(a, b source) int {
		return slices.Index(suites, a.release) - slices.Index(suites, b.release)
	})
	if len(sources) == 0 || sources[0].release != release {
		return "", nil, fmt.Errorf("apt knows no source of the release %q: run apt-get update", release)
	}
	return release, sources, nil
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
