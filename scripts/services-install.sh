#!/bin/sh
# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
#
# Installs the programs that the demo or the tests start for themselves (Debian and Ubuntu, as root):
#
#   services-install.sh demo    OpenSSH
#   services-install.sh test    that, a C compiler, and every service that the tests judge by
#   services-install.sh e2e     all that, and the rest of OpenStack
#   services-install.sh release what makes a Debian of another release, which has all the rest
#   services-install.sh galera  MariaDB and Galera
#
# It starts no service, and creates no PostgreSQL cluster; what is there already stays. Run it as often as you like.
set -eu

case ${1:-} in
demo | test | e2e | release | galera) ;;
*)
    echo "usage: $0 demo|test|e2e|release|galera" >&2
    exit 2
    ;;
esac

# One at a time: two that begin together would be in each other's way. Nothing that this starts inherits the lock (-o).
cache=${XDG_CACHE_HOME:-$HOME/.cache}/muster-test
if [ -z "${MUSTER_INSTALL_LOCKED:-}" ]; then
    mkdir -p "$cache"
    exec env MUSTER_INSTALL_LOCKED=1 flock -o "$cache/install.lock" "$0" "$@"
fi

# One line for each package: its name, and what it is for.
packages='
openssh-server      a real sshd to log in to
openssh-client      ssh and ssh-keygen, the judges of certificates and revocation lists
'
[ "$1" != release ] || packages='
debootstrap         Debians in folders
'
[ "$1" != galera ] || packages='
mariadb-server-core a node
mariadb-client-core mariadb-install-db and the command line client
galera-4            what makes one database of several nodes
rsync               how a node that joins gets the data
'
case $1 in test | e2e) packages="$packages
curl                the commands that muster dev prints, and the documentation
jq                  the same
busybox             a small shell, as of the smallest cloud images, for the boot script
shellcheck          the judge of shell scripts
gcc                 the race detector
libc6-dev           the race detector
postgresql          the records, on PostgreSQL
mariadb-server-core the records, on MariaDB
mariadb-client-core mariadb-install-db and the command line client
krb5-kdc            a real Kerberos realm, the judge of log-ins to FreeIPA
krb5-admin-server   kadmin.local, which fills it
krb5-kdc-ldap       the realm's database, which knows constrained delegation
slapd               OpenLDAP, where that is, and which FreeIPA's web server opens for its callers
ldap-utils          OpenLDAP's commands
libsasl2-modules-gssapi-mit log-in to it with Kerberos
apache2-bin         the web server before FreeIPA
libapache2-mod-auth-gssapi how it lets callers in
rabbitmq-server     the broker that notifications come through
python3-oslo.messaging the original sender of notifications, the judge of ours
python3-keystone    a real Keystone, the judge of tokens and roles
python3-oslo.policy the original policy language, the judge of ours
python3-oslo.config the original configuration reader, the judge of ours
sudo                the judge of who may use sudo, and of sudo's rules
systemd             the judge of its units; it is not started
python3-ldap        what joins FreeIPA
debootstrap         Debian machines that tests boot, in namespaces
iproute2            their network
dbus                the bus of firewalld, which tests start for themselves
python3-dbus        firewalld, which is only unpacked
python3-gi          firewalld
" ;; esac
# Nova's and Glance's daemons are started from their modules: the packages of the services would bring libvirt.
[ "$1" != e2e ] || packages="$packages
nova-common         the database and the modules of Nova
python3-nova        Nova: API, metadata service, scheduler, conductor, compute with the fake driver
glance-common       the database and the modules of Glance
placement-common    the database and the modules of Placement
python3-placement   Placement, without which Nova boots nothing
neutron-common      Neutron, its server and its modules
python3-pymysql     the services' way to MariaDB
"

# FreeIPA's client has a say in how people log in to the machine that it is installed on. So it is only unpacked, into a
# folder from where tests copy it into machines of their own.
unpack_freeipa() {
    folder=$cache/freeipa-client
    [ ! -e "$folder" ] || return 0
    echo "services-install: unpacking FreeIPA's client into $folder; it is not installed" >&2
    new=$(mktemp -d "$folder.XXXXXX")
    (
        cd "$new"
        # The libraries that its programs need, by the names that they have in this release.
        libraries=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
            freeipa-client | grep -E '^lib(ini-config|ref-array|collection|basicobjects|path-utils|popt)[0-9]' | sort -u)
        # shellcheck disable=SC2086 # they are words
        apt-get download -qq -o APT::Sandbox::User=root freeipa-client $libraries
        for package in *.deb; do dpkg-deb -x "$package" .; done
        rm -- *.deb
    )
    chmod 755 "$new"
    mv "$new" "$folder"
}

# What other distributions have in the place of Debian's usual programs, or beside them: firewalld, OpenRC, SELinux's
# tools. Installed, they would take over this machine's network or its start. So they are unpacked, too, with what they
# need and is not here yet.
unpack_guards() {
    folder=$cache/guards
    [ ! -e "$folder" ] || return 0
    echo "services-install: unpacking firewalld, OpenRC and SELinux's tools into $folder; they are not installed" >&2
    new=$(mktemp -d "$folder.XXXXXX")
    mkdir -p "$new/archives/partial"
    apt-get install -y -qq --download-only --no-install-recommends -o Debug::NoLocking=1 -o APT::Sandbox::User=root \
        -o Dir::Cache::archives="$new/archives" firewalld openrc policycoreutils-python-utils semodule-utils >&2
    for package in "$new"/archives/*.deb; do
        [ ! -e "$package" ] || dpkg-deb -x "$package" "$new"
    done
    rm -r "$new/archives"
    for name in bin lib sbin; do # these are links into /usr where /usr is merged
        if [ -L "/$name" ] && [ -d "$new/$name" ]; then
            mkdir -p "$new/usr/$name"
            cp -a "$new/$name/." "$new/usr/$name/"
            rm -r "${new:?}/$name"
        fi
    done
    chmod 755 "$new"
    mv "$new" "$folder"
}

# The script that calls rsync for a node is in the package that sets up a MariaDB for the whole machine.
unpack_mariadb() {
    folder=$cache/mariadb-server
    [ ! -e "$folder" ] || return 0
    echo "services-install: unpacking mariadb-server into $folder; it is not installed" >&2
    new=$(mktemp -d "$folder.XXXXXX")
    (
        cd "$new"
        apt-get download -qq -o APT::Sandbox::User=root mariadb-server
        for package in *.deb; do dpkg-deb -x "$package" .; done
        rm -- *.deb
    )
    chmod 755 "$new"
    mv "$new" "$folder"
}

unpack_for() {
    case $1 in
    demo | release) return 0 ;;
    galera)
        unpack_mariadb
        return 0
        ;;
    esac
    [ ! -e "$cache/freeipa-client" ] || [ ! -e "$cache/guards" ] || return 0
    # Where all else was there already, nobody may have asked the mirrors yet.
    apt-cache show freeipa-client firewalld >/dev/null 2>&1 || apt-get update -qq
    unpack_freeipa
    unpack_guards
}

missing=$(echo "$packages" | while read -r name purpose; do
    [ -n "$name" ] || continue
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null || true)" = installed ] && continue
    echo "$name: $purpose" >&2
    echo "$name"
done)

if [ -z "$missing" ]; then
    echo "services-install: everything that make $1 needs is installed"
    unpack_for "$1"
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    echo "services-install: the packages above are missing; run this as root to install them" >&2
    exit 1
fi
echo "services-install: installing the packages above; no service is started" >&2

# Packages ask policy-rc.d whether they may start their services. Where nobody has said so yet, say no while this runs.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

# The PostgreSQL package makes a cluster of its own when it is installed, unless this file, which stays, says otherwise.
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# $missing is a list of words on purpose.
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=600 -o Dpkg::Options::=--force-confold $missing
unpack_for "$1"
