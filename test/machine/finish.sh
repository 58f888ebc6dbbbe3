# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
#
# Makes a machine's disk of the Debian that was just installed in $root.

# What a cloud image is delivered without.
rm -rf "$root"/var/lib/apt/lists/* "$root"/etc/ssh/ssh_host_* "$root/usr/sbin/policy-rc.d"
: >"$root/etc/machine-id"
: >"$root/etc/resolv.conf"
printf '127.0.0.1\tlocalhost\n' >"$root/etc/hosts"
# There are no terminals to log in at, and the network is set up from outside, without DHCP.
rm -f "$root/usr/sbin/dhclient" "$root/usr/sbin/dhcpcd"
chroot "$root" systemctl -q mask console-getty.service getty.target
printf 'network: {config: disabled}\n' >"$root/etc/cloud/cloud.cfg.d/90_network.cfg"
# From OpenSSH 9.8 on sshd drops an address for a while whose log-ins failed. All people of the tests have one address. The
# line is the file's last, and stands alone, so that a test can take it away.
if chroot "$root" sshd -G -f /dev/null -o PerSourcePenalties=no >/dev/null 2>&1; then
    echo 'PerSourcePenalties no' >>"$root/etc/ssh/sshd_config"
fi
