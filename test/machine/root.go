// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"fmt"
	"os"

	_ "embed"

	"github.com/muster-cloud/muster/test/debian"
	"github.com/muster-cloud/muster/test/services"
)

// EnvRelease names the release of the machines; empty: that of the machine on
// which the tests run.
const EnvRelease = "MUSTER_TEST_RELEASE"

// packages are what Debian's cloud image has of what the tests meet, and two
// guests: busybox, the shell of small images, and faketime.
var packages = []string{
	"busybox-static", "ca-certificates", "cloud-init", "cron", "curl", "dbus", "e2fsprogs", "faketime", "iproute2", "libkmod2",
	"libpam-systemd", "openssh-client", "openssh-server", "procps", "sudo", "systemd-sysv",
}

// spare are packages that Install can add, in the folder kept of every machine's
// disk: machines have no network to fetch them.
var spare = []string{"sudo-rs"}

const kept = "/usr/share/muster-test"

//go:embed finish.sh
var finish string

// Debian returns the folder of the Debian that all machines share, of a release
// (empty: this machine's), from this machine's mirrors. It is installed once.
func Debian(ctx context.Context, release string) (string, error) {
	root, err := debian.Root(ctx, debian.Config{
		Kind: "machine", Release: release, Packages: packages, Finish: finish, Spare: spare, Kept: kept,
	})
	if errors.Is(err, debian.ErrMissing) {
		return "", fmt.Errorf("%w: %w", err, services.ErrMissing)
	}
	return root, err
}

func release() string { return os.Getenv(EnvRelease) }
