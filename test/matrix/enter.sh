# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
#
# Process 1 of new mount and process namespaces: runs the command that follows -- in the Debian in the folder $1, in the folder
# that this one is in. It sees the folders between at the same places, and the devices, network and kernel of this machine.

root=$1
shift
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

# This stays process 1, and so the parent of whoever loses the own one. It ends after the command, whoever is interrupted.
trap : INT TERM
status=0
# shellcheck disable=SC2016 # it is the inner shell that expands them
chroot "$root" sh -c 'cd "$0" && exec "$@"' "$PWD" "$@" || status=$?
exit "$status"
