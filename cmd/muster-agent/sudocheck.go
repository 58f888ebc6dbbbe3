// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"

	"github.com/muster-cloud/muster/internal/agent/sudo"
)

var sudoCheckCommand = command{
	name: "sudo-check", short: "Judge whether a person may use sudo (for PAM)",
	long: `PAM calls this for sudo (pam_exec in /etc/pam.d/sudo). It succeeds while the
person's forwarded SSH agent proves that it holds a certificate of a trusted
user CA that names the account, is valid, and is not revoked.

root may always use sudo. To get back in without it, log in as root, or boot
into a single-user shell, and run: muster-agent uninstall`,
	flags: func(p *program, _ *flag.FlagSet) func(context.Context) error {
		return func(ctx context.Context) error {
			request, err := sudo.FromPAM(p.environ)
			if err != nil {
				return err
			}
			log := p.newLog(true)
			proof, err := sudo.Check(ctx, request)
			if err != nil {
				log.Warn("sudo is refused", "account", request.Account, "reason", err)
				// pam_exec shows the standard output to the person.
				fmt.Fprintln(p.stdout, err)
				return errWrong
			}
			log.Info("sudo is allowed", "account", request.Account, "key_id", proof.KeyID, "serial", proof.Serial, "key", proof.Fingerprint)
			return nil
		}
	},
}
