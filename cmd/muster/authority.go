// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/client"
)

// caRoles are a project's two CAs.
var caRoles = []string{"user", "host"}

func newAuthority(p *program) *cobra.Command {
	return group("authority", "Look after a project's CAs", `See the generations of a project's user CA and host CA, add a new one, and end
the trust in an old one.

States: active (signs, and is trusted), trusted (no longer signs), revoked.`,
		newAuthorityShow(p),
		newAuthorityRotate(p),
		newAuthorityRetire(p),
	)
}

// authorityFlags are those of commands about one project's authority.
type authorityFlags struct {
	cloud   cloudFlags
	output  format
	project string
}

func (f *authorityFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.project, "project", "", "the project of this `ID` (default: the token's)")
	f.output.add(cmd)
	f.cloud.add(cmd)
}

// open logs in, and settles which project is meant.
func (f *authorityFlags) open(cmd *cobra.Command, p *program) (*client.Client, error) {
	muster, err := p.login(cmd.Context(), f.cloud)
	if err != nil {
		return nil, err
	}
	if f.project == "" {
		f.project = muster.ProjectID()
	}
	if f.project == "" {
		return nil, usageError("your token is not for a project: name one with --project")
	}
	return muster, nil
}

func newAuthorityShow(p *program) *cobra.Command {
	var flags authorityFlags
	cmd := &cobra.Command{
		Use: "show", Short: "Show the generations of a project's CAs", Args: cobra.NoArgs,
		Long: `Show all generations of a project's user CA and host CA with their public keys.

` + loginHelp,
		Example: `  muster authority show
  muster authority show --project 6ef4f4fe7cbc467f9cea4ac6428173a5 -o json`,
	}
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		muster, err := flags.open(cmd, p)
		if err != nil {
			return err
		}
		generations, err := muster.Generations(cmd.Context(), flags.project)
		if err != nil {
			return err
		}
		return show(p.stdout, flags.output, onePage(generations), generationTable)
	}
	return cmd
}

// onePage is a list that comes whole.
func onePage[T any](list []T) iter.Seq2[[]T, error] {
	return func(yield func([]T, error) bool) { yield(list, nil) }
}

// generationTable has a row for each generation.
var generationTable = table[client.Generation]{
	head: []string{"CA", "GENERATION", "STATE", "ALGORITHM", "SINCE", "PUBLIC KEY"},
	row: func(g client.Generation) []string {
		return []string{g.Role, strconv.Itoa(g.Generation), g.State, g.Algorithm, second(g.CreatedAt), g.PublicKey}
	},
}

func newAuthorityRotate(p *program) *cobra.Command {
	var flags authorityFlags
	cmd := &cobra.Command{
		Use: "rotate user|host", Short: "Let a new key pair sign", Args: cobra.ExactArgs(1), ValidArgs: caRoles,
		Long: `Add a generation to a project's user CA or host CA. It signs from now on, on all
replicas. The generation before is trusted, and what it signed is good, until it
is retired.

Instances with muster-agent learn of a new user CA with their next question (see
[agent] poll_interval); those without it only when they are built anew. Clients
need the new host CA in their known_hosts.

` + loginHelp,
		Example: `  muster authority rotate user
  muster authority rotate host --project 6ef4f4fe7cbc467f9cea4ac6428173a5`,
	}
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		role, err := readCARole(args[0])
		if err != nil {
			return err
		}
		muster, err := flags.open(cmd, p)
		if err != nil {
			return err
		}
		generations, err := muster.Generations(cmd.Context(), flags.project)
		if err != nil {
			return err
		}
		next := 1
		for _, g := range generations {
			if g.Role == role {
				next = max(next, g.Generation+1)
			}
		}
		added, err := muster.Rotate(cmd.Context(), flags.project, role, next)
		if err != nil {
			return err
		}
		if flags.output == asJSON {
			return json.NewEncoder(p.stdout).Encode(added)
		}
		_, err = fmt.Fprintf(p.stdout, "Generation %d of the %s CA signs now:\n%s\n", added.Generation, role, printable(added.PublicKey))
		return err
	}
	return cmd
}

func newAuthorityRetire(p *program) *cobra.Command {
	var flags authorityFlags
	cmd := &cobra.Command{
		Use: "retire user|host GENERATION", Short: "End the trust in an old key pair", Args: cobra.ExactArgs(2),
		Long: `End the trust in a generation that no longer signs. It is revoked in the
project's list, so that instances without muster-agent stop trusting it too, and
with it all certificates that it signed. It cannot be undone; repeating it
changes nothing.

Before retiring a generation of the host CA, see that all instances have
renewed, as muster-agent does by itself: what it signed is no longer good. An
instance that was off meanwhile renews when it is back.

` + loginHelp,
		Example: `  muster authority retire user 1
  muster authority retire host 1 --project 6ef4f4fe7cbc467f9cea4ac6428173a5`,
	}
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return caRoles, cobra.ShellCompDirectiveNoFileComp
	}
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		role, err := readCARole(args[0])
		if err != nil {
			return err
		}
		generation, err := strconv.Atoi(args[1])
		if err != nil || generation < 1 {
			return usageError("GENERATION is a number from 1 on; muster authority show lists them")
		}
		muster, err := flags.open(cmd, p)
		if err != nil {
			return err
		}
		outcome, err := muster.Retire(cmd.Context(), flags.project, role, generation)
		if err != nil {
			return err
		}
		return writeOutcome(p.stdout, flags.output, "Retired", outcome)
	}
	return cmd
}

func readCARole(text string) (string, error) {
	if !slices.Contains(caRoles, text) {
		return "", usageError("choose the user CA or the host CA: user or host")
	}
	return text, nil
}
