// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"

	"github.com/spf13/cobra"
)

func newInstance(p *program) *cobra.Command {
	return group("instance", "Look after instances", "Help instances that can't help themselves.",
		newInstanceToken(p),
	)
}

func newInstanceToken(p *program) *cobra.Command {
	var (
		cloud  cloudFlags
		output format
	)
	cmd := &cobra.Command{
		Use: "token INSTANCE", Short: "Give an instance another one-time token", Args: cobra.ExactArgs(1),
		Long: `Give an instance another one-time token for host certificates. It is for one
that was off until all its certificates had ended, or whose host keys were lost:
it can't prove any more who it is, and would have to be rebuilt.

The token is not shown: the instance finds it in the metadata service, and
muster-agent looks there within a quarter of an hour, or when it is started
anew. An instance that has only a config drive never sees it. Whoever can read
the instance's metadata can use it, once, as at the first boot;
muster audit --action hostcert.issue lists who did.

A token that is neither spent nor expired stays: repeating it does no harm.

` + loginHelp,
		Example: `  muster instance token 3f0c5ba1-4cd5-4f07-8ae4-0c5b5be0ba7f
  muster instance token 3f0c5ba1-4cd5-4f07-8ae4-0c5b5be0ba7f -o json`,
	}
	output.add(cmd)
	cloud.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		muster, err := p.login(cmd.Context(), cloud)
		if err != nil {
			return err
		}
		renewed, err := muster.RenewToken(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if output == asJSON {
			return json.NewEncoder(p.stdout).Encode(renewed)
		}
		return writeFields(p.stdout, [][2]string{
			{"instance", renewed.InstanceID}, {"project", renewed.ProjectID}, {"host name", renewed.Hostname},
			{"token made", second(renewed.CreatedAt)}, {"good until", second(renewed.ExpiresAt)},
		})
	}
	return cmd
}
