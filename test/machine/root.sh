# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
#
# Process 1 of new mount and process namespaces: installs a Debian in the empty folder $1, release $2 from the mirror $3, with
# the packages that follow. Standard input is its list of package sources.

root=$1 release=$2 mirror=$3
shift 3

mount -t proc proc /proc
sources=$(cat)
debootstrap --variant=minbase "$release" "$root" "$mirror"
echo "$sources" >"$root/etc/apt/sources.list"

# Names resolve as they do out here, and no service is started.
cp /etc/resolv.conf /etc/hosts "$root/etc/"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
mount -t proc proc "$root/proc"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
chroot "$root" apt-get update -qq
chroot "$root" apt-get install -y -qq --no-install-recommends "$@"
chroot "$root" apt-get clean

# What a cloud image is delivered without.
rm -rf "$root"/var/lib/apt/lists/* "$root"/etc/ssh/ssh_host_* "$root/usr/sbin/policy-rc.d"
: >"$root/etc/machine-id"
: >"$root/etc/resolv.conf"
printf '127.0.0.1\tlocalhost\n' >"$root/etc/hosts"
# There are no terminals to log in at, and the network is set up from outside, without DHCP.
rm "$root/usr/sbin/dhclient"
chroot "$root" systemctl -q mask console-getty.service getty.target
printf 'network: {config: disabled}\n' >"$root/etc/cloud/cloud.cfg.d/90_network.cfg"
umount "$root/proc"
