# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
#
# Process 1 of new mount and process namespaces: runs the command that follows -- in the Debian in the folder $1, in the folder
# that this one is in. It sees the folders between at the same places, and the devices, network and kernel of this machine.

root=$1 folder=$PWD
shift
# Tests that have mounts of their own want / to be one.
mount --bind "$root" "$root"
while [ "$1" != -- ]; do
    mkdir -p "$1" "$root$1"
    mount --bind "$1" "$root$1"
    shift
done
shift
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
cp /etc/resolv.conf /etc/hosts "$root/etc/"

mkdir "$root/run/outside"
cd "$root"
pivot_root . run/outside
cd "$folder"
umount -l /run/outside
rmdir /run/outside

# This stays process 1, and so the parent of whoever loses the own one. It ends after the command, whoever is interrupted.
trap : INT TERM
status=0
"$@" || status=$?
exit "$status"
