# Copyright The Muster Authors
# SPDX-License-Identifier: Apache-2.0

"""Runs ipa-client-install with a one-time password that no other user can see.

ipa-client-install hands the password to ipa-join as an argument, and ipa-join
to ipa-getkeytab, so that everybody on the machine can read it in /proc. Here
ipa-client-install runs inside this process, with a password from standard
input, and what ipa-join does is done here instead: an LDAP bind, FreeIPA's
extended operation "join", and ipa-getkeytab, which gets the password on its
standard input.
"""

import runpy
import sys
from types import SimpleNamespace

INSTALLER = "/usr/sbin/ipa-client-install"
JOIN_OID = "2.16.840.1.113730.3.8.10.3"
TIMEOUT = 60

# Exit codes of ipa-join.
REFUSED, UNREACHABLE, NOT_ALLOWED = 15, 14, 13


def failed(code, text):
    print("muster: " + text, file=sys.stderr)
    return SimpleNamespace(returncode=code, output="", raw_output=b"", error_output=text, raw_error_output=text.encode())


def option(args, name):
    return args[args.index(name) + 1]


def join(args, password, run, env):
    import ldap
    import ldap.extop
    from ipaplatform.paths import paths

    server, host, keytab = option(args, "-s"), option(args, "-h"), option(args, "-k")
    name = "fqdn=%s,cn=computers,cn=accounts,%s" % (host, option(args, "-b"))
    connection = ldap.initialize("ldaps://%s:636" % server)
    for key, value in (
        (ldap.OPT_PROTOCOL_VERSION, 3),
        (ldap.OPT_NETWORK_TIMEOUT, TIMEOUT),
        (ldap.OPT_TIMEOUT, TIMEOUT),
        (ldap.OPT_X_TLS_CACERTFILE, paths.IPA_CA_CRT),
        (ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND),
        (ldap.OPT_X_TLS_NEWCTX, 0),
    ):
        connection.set_option(key, value)
    try:
        connection.simple_bind_s(name, password)
        request = ldap.extop.ExtendedRequest(JOIN_OID, host.encode())
        principal = connection.extop_s(request)[1].rstrip(b"\0").decode()
    except (ldap.INVALID_CREDENTIALS, ldap.INAPPROPRIATE_AUTH):
        return failed(REFUSED, "FreeIPA does not accept the one-time password")
    except (ldap.SERVER_DOWN, ldap.TIMEOUT, ldap.CONNECT_ERROR) as e:
        return failed(UNREACHABLE, "the LDAP server %s does not answer: %s" % (server, type(e).__name__))
    except ldap.LDAPError as e:
        return failed(NOT_ALLOWED, "FreeIPA does not let the host join: %s" % type(e).__name__)
    finally:
        connection.unbind_ext()
    return run(
        [paths.IPA_GETKEYTAB, "-s", server, "-p", principal, "-k", keytab, "-D", name, "-W"],
        stdin=password + "\n", raiseonerr=False, capture_error=True, env=env,
    )


def main():
    password = sys.stdin.readline().rstrip("\n")
    try:
        from ipaclient.install import client
        from ipaplatform.paths import paths
        from ipapython import ipautil

        run = client.run
        can_prompt = "-W" in run([paths.IPA_GETKEYTAB, "--help"], raiseonerr=False, capture_output=True).output
    except AttributeError:
        can_prompt = False
    except Exception as e:
        # Such as a module of somebody else's that its package does not depend on. Old clients lack modules of their own.
        can_prompt = False
        if not (getattr(e, "name", None) or "").startswith("ipa"):
            sys.exit("muster: FreeIPA's client cannot be loaded: %s: %s" % (type(e).__name__, e))
    if not can_prompt:
        sys.exit("muster: FreeIPA's client is incomplete, or older than 4.8 and cannot keep the password to itself")

    def careful_run(args, *rest, **options):
        if args[0] == paths.SBIN_IPA_JOIN and "-w" in args:
            return join(args, password, run, options.get("env"))
        if any(password in str(arg) for arg in args):
            raise RuntimeError("a program would get the one-time password as an argument")
        return run(args, *rest, **options)

    client.run = careful_run
    if hasattr(ipautil, "run"):
        ipautil.run = careful_run
    sys.argv = [INSTALLER] + sys.argv[1:] + ["--password", password]
    runpy.run_path(INSTALLER, run_name="__main__")


main()
