#!/bin/sh
# muster-boot: fetches muster-agent, checks and installs it. It needs a POSIX shell, sed, sha256sum, and
# curl, wget or python3. cloud-init runs it at the first boot; to run it again by hand does no harm.
set -u
umask 022
metadata='http://169.254.169.254'
folder='/usr/local/sbin'
console='/dev/console'
tries=60
pause=5

agent="$folder/muster-agent"
work=
drive=

say() {
    echo "muster: $*" >&2
    if [ -w "$console" ]; then echo "muster: $*" >>"$console"; fi 2>/dev/null
    return 0
}
clean() {
    [ -z "$drive" ] || umount "$work/drive" 2>/dev/null
    drive=
    [ -z "$work" ] || rm -rf "$work"
    work=
}
stop() {
    say "$*"
    clean
    exit 1
}

# fetch URL FILE: the checksum decides whether a program is the right one, and came through Nova. So neither a
# list of authorities nor a clock that is right is needed here.
fetch() {
    if command -v curl >/dev/null 2>&1; then
        curl -fsSLk --connect-timeout 10 --max-time 120 --max-filesize 67108864 -o "$2" "$1"
    elif command -v wget >/dev/null 2>&1; then
        # Each kind of wget knows other options: busybox's of Debian 12 crashes on -T, some have no TLS to check.
        help=$(wget --help 2>&1)
        options=-q
        case $help in *-no-check-certificate*) options="$options --no-check-certificate" ;; esac
        case $help in *[[:space:]]-T*) options="$options -T 30" ;; esac
        # shellcheck disable=SC2086 # several words are meant
        wget $options -O "$2" "$1"
    elif command -v python3 >/dev/null 2>&1; then
        python3 -c '
import shutil, ssl, sys, urllib.request
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
with urllib.request.urlopen(sys.argv[1], timeout=30, context=context) as answer, open(sys.argv[2], "wb") as file:
    shutil.copyfileobj(answer, file)' "$1" "$2"
    else
        echo "the image has neither curl nor wget nor python3; add one, or muster-agent itself" >&2
        return 1
    fi
}

# value KEY: a string of the vendordata. Keys are unique, and their values hold no quotes.
value() { sed -n 's/.*"'"$1"'": *"\([^"\\]*\)".*/\1/p' "$work/vendordata" | head -n 1; }

# named tells whether the vendordata names an agent for this machine, and takes its address and checksum.
named() {
    [ -s "$work/vendordata" ] && [ -n "$(value "agent_$arch")" ] && [ -n "$(value "agent_${arch}_sha256")" ] || return 1
    url=$(value "agent_$arch")
    expected=$(value "agent_${arch}_sha256")
}

# from_drive reads the vendordata from a config drive, which has the label config-2.
from_drive() {
    for label in config-2 CONFIG-2; do
        device=$(blkid -t LABEL="$label" -o device 2>/dev/null | head -n 1)
        [ -n "$device" ] || device=$(readlink -f "/dev/disk/by-label/$label" 2>/dev/null)
        if [ ! -e "$device" ]; then continue; fi
        mkdir -p "$work/drive"
        mount -o ro "$device" "$work/drive" 2>/dev/null || continue
        drive=yes
        cp "$work/drive/openstack/latest/vendor_data2.json" "$work/vendordata" 2>/dev/null
        umount "$work/drive" && drive=
        if named; then return 0; fi
    done
    return 1
}
from_service() {
    rm -f "$work/vendordata"
    fetch "$metadata/openstack/latest/vendor_data2.json" "$work/vendordata" 2>"$work/error" && named
}

# again waits before the next try: at first for a second, then longer, at last for $pause.
again() {
    if [ "$count" -lt "$pause" ]; then sleep "$count"; else sleep "$pause"; fi
    count=$((count + 1))
}

# An image may contain the agent.
for program in "$agent" /usr/sbin/muster-agent /usr/bin/muster-agent; do
    if [ -x "$program" ]; then
        say "starting $program, which the image contains"
        "$program" install || stop "$program install failed; its messages are above"
        exit 0
    fi
done

case $(uname -m) in
x86_64 | amd64) arch=amd64 ;;
aarch64 | arm64) arch=arm64 ;;
*) stop "there is no muster-agent for the architecture $(uname -m)" ;;
esac

mkdir -p "$folder" || stop "cannot write to $folder"
work=$(mktemp -d "$folder/.muster.XXXXXX") || stop "cannot write to $folder"
trap clean EXIT
trap 'exit 1' HUP INT TERM

count=1
until from_drive || from_service; do
    if [ "$count" -ge "$tries" ]; then
        if [ -s "$work/vendordata" ]; then
            stop "the vendordata does not name an agent for $arch; see Nova's log for its calls to Muster, and [agent] directory in muster.conf"
        fi
        stop "no vendordata, neither on a config drive nor from $metadata: $(head -n 1 "$work/error" 2>/dev/null)"
    fi
    [ "$count" -gt 1 ] || say "no vendordata with an agent yet; trying again, up to $tries times"
    again
done
until fetch "$url" "$work/agent" 2>"$work/error"; do
    [ "$count" -lt "$tries" ] || stop "cannot fetch $url: $(head -n 1 "$work/error")"
    [ "$count" -gt 1 ] || say "cannot fetch $url yet: $(head -n 1 "$work/error")"
    again
    # Muster may offer another agent since; then Nova says so, but a config drive stays as it was made.
    from_service || true
done
actual=$(sha256sum "$work/agent" | sed 's/ .*//')
if [ "$actual" != "$expected" ]; then
    stop "WRONG CHECKSUM: $url has SHA-256 $actual, Nova's vendordata says $expected; nothing was installed"
fi
# The agent puts itself in place, so that it can also take itself away.
chmod 755 "$work/agent" || stop "cannot write to $folder"
"$work/agent" install || stop "muster-agent install failed; its messages are above"
clean
say "muster-agent is installed and started"
