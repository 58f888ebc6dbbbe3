// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/custody"
)

func newCustody(p *program) *cobra.Command {
	return group("custody", "Look after the key that seals all others", `Look after the master key, under which the authorities' private keys are sealed
in the database.`,
		newCustodyNewKey(p),
	)
}

func newCustodyNewKey(p *program) *cobra.Command {
	return &cobra.Command{
		Use: "new-key", Short: "Print a new master key", Args: cobra.NoArgs,
		Long: `Print a new master key as a line for the file of [custody] master_key_file, or
for the systemd credential custody.master_key. All replicas need the same. Keep
a copy in a safe place: without it, no authority can sign again.

To replace a key, put the new one above it and keep the old: the first line
seals, and every line opens what it sealed. Where there are several replicas,
put it below first, so that each can open what the others seal:
docs/operations.md has the steps.`,
		Example: `  (umask 077; muster custody new-key > /etc/muster/master.key)
  muster custody new-key | systemd-creds encrypt --name=custody.master_key - /etc/credstore.encrypted/custody.master_key`,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.stdout, custody.NewMasterKey())
			return err
		},
	}
}
