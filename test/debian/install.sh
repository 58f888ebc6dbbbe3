# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
#
# Process 1 of new mount and process namespaces: installs a Debian in the empty folder $1, release $2 from the mirror $3, with
# the packages $4, and runs the script $5 there at last. Of the packages $6, each with what it needs, it keeps the files in the
# folder $7, as far as the release has them. Standard input is its list of package sources.

root=$1 release=$2 mirror=$3 packages=$4 finish=$5 spare=$6 kept=$7

mount -t proc proc /proc
sources=$(cat)
debootstrap --variant=minbase "$release" "$root" "$mirror"
rm -f "$root"/etc/apt/sources.list.d/*
echo "$sources" >"$root/etc/apt/sources.list"
# A mirror that stands still has lists that are over.
echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/90valid"

# Names resolve as they do out here, and no service is started.
cp /etc/resolv.conf /etc/hosts "$root/etc/"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
mount -t proc proc "$root/proc"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
chroot "$root" apt-get update -qq
# They are lists of words on purpose.
# shellcheck disable=SC2086
chroot "$root" apt-get install -y -qq --no-install-recommends $packages
chroot "$root" apt-get clean
for package in $spare; do
    mkdir -p "$root$kept"
    chroot "$root" apt-cache show "$package" >/dev/null 2>&1 || continue
    chroot "$root" apt-get install -y -qq --no-install-recommends --download-only "$package"
    mkdir -p "$root$kept/$package"
    mv "$root"/var/cache/apt/archives/*.deb "$root$kept/$package/"
done
eval "$finish"
umount "$root/proc"
