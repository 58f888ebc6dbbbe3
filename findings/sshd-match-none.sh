#!/bin/sh
# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
#
# OpenSSH 9.2: in a Match block, "AuthorizedPrincipalsFile none" is not what it is outside of one. sshd looks for a file of that
# name and refuses a certificate that is good, while "sshd -T -C" says "none" for both. Outside of Match the same line lets it in.
# OpenSSH 10.0 (Debian 13) does the same; 10.6 takes the word in both places. So a block that sets aside an image's principals
# file must name a file that lists the account, and "sshd -T" alone does not tell whether people get in.
#
# Needs root (for namespaces), unshare, ip, and apt's own sources on Debian 12 (amd64). Nothing of the machine is changed, and
# sshd listens in a network of its own. Ends with 0 while sshd behaves so.
set -eu

self=$(readlink -f "$0")
version=1:9.2p1-2+deb12u10
if [ "${1:-}" != inside ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    chmod 755 "$folder"
    cd "$folder"
    apt-get download -q "openssh-server=$version" "openssh-client=$version" >apt.log 2>&1 || { cat apt.log; exit 1; }
    for package in *.deb; do dpkg-deb -x "$package" root; done
    cd /
    unshare --mount --net --pid --fork --mount-proc sh "$self" inside "$folder" && exit 0
    exit 1
fi

cd "$2"
bin=$PWD/root
ip link set lo up
mount -t tmpfs none /run
mkdir /run/sshd
"$bin/usr/bin/ssh" -V
for key in ca user host; do "$bin/usr/bin/ssh-keygen" -q -t ed25519 -N '' -f $key; done
"$bin/usr/bin/ssh-keygen" -q -s ca -I somebody -n root user.pub
echo somebody-else >principals

port=2200
# login NAME LINE...: what sshd says that it would do, and what it does.
login() {
    name=$1
    port=$((port + 1))
    shift
    {
        printf '%s\n' "Port $port" "ListenAddress 127.0.0.1" "HostKey $PWD/host" "TrustedUserCAKeys $PWD/ca.pub" "PidFile $PWD/pid" \
            "UsePAM no" "StrictModes no" "PermitRootLogin yes" "AuthorizedKeysFile none" "$@"
    } >config
    says=$("$bin/usr/sbin/sshd" -T -f "$PWD/config" -C user=root,host=x,addr=127.0.0.1,laddr=127.0.0.1,lport=$port |
        sed -n 's/^authorizedprincipalsfile //ip')
    rm -f pid log
    "$bin/usr/sbin/sshd" -f "$PWD/config" -E "$PWD/log"
    until [ -s pid ]; do sleep 0.1; done
    does=refused
    if "$bin/usr/bin/ssh" -F none -T -p $port -l root -i "$PWD/user" -o BatchMode=yes -o IdentitiesOnly=yes -o LogLevel=ERROR \
        -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null 127.0.0.1 true 2>/dev/null; then
        does=in
    fi
    kill "$(cat pid)"
    printf '%-32s sshd -T: %-6s log-in: %s\n' "$name" "$says" "$does"
    [ "$does" = in ] || grep -o 'Certificate does not contain an authorized principal' log | head -n 1
}

login "no such line"
first=$says/$does
login "none, outside of Match" "AuthorizedPrincipalsFile none"
second=$says/$does
login "none, in Match" "Match User root" "AuthorizedPrincipalsFile none"
third=$says/$does
login "none, in Match, file outside" "AuthorizedPrincipalsFile $PWD/principals" "Match User root" "AuthorizedPrincipalsFile none"
fourth=$says/$does
[ "$first $second $third $fourth" = "none/in none/in none/refused none/refused" ]
