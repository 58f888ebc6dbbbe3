// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// labels are those of a config drive: ISO 9660 keeps the small letters, VFAT
// does not (Nova, "Config drives").
var labels = []string{"config-2", "CONFIG-2"}

// fromDrive reads the config drive, where it is mounted or by mounting it for
// that long.
func (f *Finder) fromDrive(ctx context.Context) (Instance, error) {
	device := f.driveDevice(ctx)
	if device == "" {
		return Instance{}, fmt.Errorf("%w: there is no disk with the label %s", ErrNone, labels[0])
	}
	if folder := f.mountedAt(device); folder != "" {
		return f.readDrive(filepath.Join(f.cfg.Root, folder))
	}
	if f.cfg.Runner == nil {
		return Instance{}, fmt.Errorf("%w: the config drive %s is not mounted", ErrNone, device)
	}
	folder, err := os.MkdirTemp("", "muster-config-drive-")
	if err != nil {
		return Instance{}, fmt.Errorf("mounting the config drive: %w", err)
	}
	defer os.Remove(folder)
	ctx, cancel := context.WithTimeout(ctx, mountTimeout)
	defer cancel()
	if _, err := f.cfg.Runner.Run(ctx, nil, "mount", "-o", "ro,nosuid,nodev,noexec", device, folder); err != nil {
		return Instance{}, fmt.Errorf("mounting the config drive: %w", err)
	}
	defer f.unmount(ctx, folder)
	return f.readDrive(folder)
}

// unmount gives the drive back, even if time is over.
func (f *Finder) unmount(ctx context.Context, folder string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mountTimeout)
	defer cancel()
	if _, err := f.cfg.Runner.Run(ctx, nil, "umount", folder); err != nil {
		f.cfg.Log.Warn("Cannot unmount the config drive", "folder", folder, "reason", err)
	}
}

func (f *Finder) readDrive(folder string) (Instance, error) {
	var documents [2][]byte
	for i, name := range []string{"meta_data.json", "vendor_data2.json"} {
		path := filepath.Join(folder, "openstack/latest", name)
		file, err := os.Open(path)
		if err != nil {
			return Instance{}, fmt.Errorf("config drive: %w", errors.Join(ErrNoMuster, err))
		}
		documents[i], err = readBounded(file, path)
		file.Close()
		if err != nil {
			return Instance{}, fmt.Errorf("config drive: %w", err)
		}
	}
	return combine(documents[0], documents[1], "config drive")
}

// driveDevice is the block device with the label, or empty. udev makes links by
// label; where there is none, blkid looks at all disks.
func (f *Finder) driveDevice(ctx context.Context) string {
	for _, label := range labels {
		link := filepath.Join("/dev/disk/by-label", label)
		if target, err := os.Readlink(filepath.Join(f.cfg.Root, link)); err == nil {
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(link), target)
			}
			return target
		}
	}
	if f.cfg.Runner == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, mountTimeout)
	defer cancel()
	for _, label := range labels {
		out, err := f.cfg.Runner.Run(ctx, nil, "blkid", "-t", "LABEL="+label, "-o", "device")
		device, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		if err == nil && device != "" { // blkid exits with 2 if there is none
			return device
		}
	}
	return ""
}

// mountedAt is where a device is mounted, or empty.
func (f *Finder) mountedAt(device string) string {
	mounts, err := f.readFile("/proc/self/mounts")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(mounts)) {
		// proc(5): device, folder, type, options; blanks in names are \040.
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == device {
			return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[1])
		}
	}
	return ""
}
