#!/bin/sh
# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0
#
# What "systemctl reload ssh" does where Debian's ssh.socket listens for sshd (Accept=no, one sshd that gets the socket).
#
# sshd takes what it is given and ignores Port, while "sshd -T" goes on listing each Port. When it is told to reload, it closes
# that socket, starts itself again, no longer finds it, and binds its ports by itself; but systemd still has the first one open.
#   OpenSSH 9.2 (Debian 12) goes on if there is a second Port: that one is open then, and the first accepts connections that
#   nobody answers, for systemd waits until sshd ends.
#   OpenSSH 10.0 (Debian 13) and 10.6 (unstable) end: "Cannot bind any address". systemd starts them again for whoever connects next.
# So a new Port needs a line in the socket's unit, and a change of sshd_config a restart. A restart keeps sessions (KillMode=process)
# and answers who connects meanwhile.
#
# It installs openssh-server of the three releases below a temporary folder (debootstrap, from the machine's own mirror), and plays
# systemd's part, one listening socket that stays open. Needs root, debootstrap, python3, unshare and ip. Exits 1 if sshd does otherwise.
set -eu

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 1' HUP INT TERM

# shellcheck disable=SC2016 # apt's own variables
mirror=$(apt-get indextargets --format '$(SITE)' 'Identifier: Packages' 'Component: main' | head -n 1)

cat >"$work/play.py" <<'PYTHON'
import os, signal, socket, subprocess, sys, time

root, behaviour = sys.argv[1:]
FIRST, SECOND = 2201, 2202


def greeting(port):
    """What somebody hears who connects: a banner, silence, or nothing at all."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as s:
            s.settimeout(5)
            return "answers" if s.recv(4) == b"SSH-" else "closes"
    except ConnectionRefusedError:
        return "refuses"
    except (socket.timeout, TimeoutError):
        return "is silent"


def write(text):
    with open(root + "/etc/ssh/sshd_config", "w") as f:
        f.write(text)


def until(what, seconds=60):
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    return what()


held = socket.create_server(("127.0.0.1", FIRST))  # as systemd holds it
write("HostKey /etc/ssh/ssh_host_ed25519_key\nUsePAM no\nPort %d\n" % FIRST)
log = open(root + "/log", "w+")


def become():
    os.dup2(held.fileno(), 3)
    os.set_inheritable(3, True)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
    os.chroot(root)
    os.chdir("/")


pid = os.fork()
if pid == 0:
    os.dup2(log.fileno(), 2)
    become()
    os.execve("/usr/sbin/sshd", ["/usr/sbin/sshd", "-D", "-e"], dict(os.environ))

until(lambda: greeting(FIRST) == "answers")
print("  with the socket that it was given: port %d %s" % (FIRST, greeting(FIRST)))
write("HostKey /etc/ssh/ssh_host_ed25519_key\nUsePAM no\nPort %d\nPort %d\n" % (FIRST, SECOND))
listed = subprocess.run(["chroot", root, "/usr/sbin/sshd", "-T"], stdout=subprocess.PIPE, text=True, check=True).stdout.lower()
print("  with a second Port in sshd_config: sshd -T lists it: %s; port %d %s" % ("port %d\n" % SECOND in listed, SECOND, greeting(SECOND)))
os.kill(pid, signal.SIGHUP)

ended = None


def gone():
    global ended
    if ended is None:
        done, status = os.waitpid(pid, os.WNOHANG)
        ended = os.waitstatus_to_exitcode(status) if done else None
    return ended is not None


until(lambda: gone() or greeting(SECOND) == "answers")
log.seek(0)
said = log.read()
if gone():
    seen = "ends"
    print("  after a reload: it ended with %d: %s" % (ended, said.strip().splitlines()[-1]))
else:
    seen = "deaf at the first port" if (greeting(FIRST), greeting(SECOND)) == ("is silent", "answers") else "something else"
    print("  after a reload: it runs; port %d %s, port %d %s" % (FIRST, greeting(FIRST), SECOND, greeting(SECOND)))
    os.kill(pid, signal.SIGTERM)
sys.exit(seen != behaviour)
PYTHON

failed=0
while read -r release behaviour; do
    root=$work/$release
    debootstrap --variant=minbase --include=openssh-server "$release" "$root" "$mirror" >"$work/log" 2>&1 ||
        { tail "$work/log" >&2; exit 1; }
    mkdir -p "$root/run/sshd"
    echo "$release: $(chroot "$root" dpkg-query -W openssh-server)"
    # A network of its own: the ports are free there.
    unshare --net sh -c 'ip link set lo up && exec python3 "$@"' play "$work/play.py" "$root" "$behaviour" ||
        { echo "  THIS HAS CHANGED: it was: $behaviour"; failed=1; }
done <<RELEASES
bookworm deaf at the first port
trixie ends
sid ends
RELEASES
exit $failed
