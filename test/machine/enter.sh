# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
#
# Process 1 of new mount, process, host name, IPC and network namespaces: makes them look like a machine whose files are
# below $1, in the control group $2, with address $3 behind router $4, host name $5, product name $6, and a console that is
# the file $7, and the block devices that follow. Then it becomes the machine's init.

root=$1 group=$2 address=$3 router=$4 name=$5 product=$6 console=$7
shift 7

# Standard input ends when the network cable is plugged in.
cat
exec </dev/null

echo 0 >"$group/cgroup.procs"
hostname "$name"
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
ip route add default via "$router"

mount --rbind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755,size=64m tmpfs run
mount -t tmpfs -o mode=1777,size=64m tmpfs tmp
mount -t tmpfs -o mode=755,size=1m tmpfs dev
# The machine's own ones: what a program does to them (chmod, chown) does not reach those out here.
while read -r node major minor; do
    mknod -m 666 "dev/$node" c "$major" "$minor"
done <<NODES
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
NODES
for node in "$@"; do
    : >"$root$node"
    mount --bind "$node" "$root$node"
done
: >dev/console
mount --bind "$console" dev/console
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777,size=16m tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr

mkdir -p run/outside
pivot_root . run/outside
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umount -l /run/outside
rmdir /run/outside
exec env -i "PATH=$PATH" container=muster-test "product_name=$product" \
    unshare --cgroup sh -c 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec /sbin/init --show-status=no'
