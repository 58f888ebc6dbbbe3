// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/client"
)

func newQueue(p *program) *cobra.Command {
	return group("queue", "See what keeps failing", `See what Muster could not bring into agreement with the cloud.`,
		newQueueList(p),
	)
}

func newQueueList(p *program) *cobra.Command {
	var (
		cloud  cloudFlags
		output format
	)
	cmd := &cobra.Command{
		Use: "list", Short: "List what is tried again", Args: cobra.NoArgs,
		Long: `List the users, projects, instances and so on that Muster could not bring into
agreement with the cloud, why, and when it tries again. Those without failures
are only looked at once more. Before that it says on stderr which neighbours
(keystone, nova, neutron, glance, ipa, rabbitmq, database, custody) are ill now.

` + loginHelp,
		Example: "  muster queue list",
	}
	output.add(cmd)
	cloud.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		muster, err := p.login(cmd.Context(), cloud)
		if err != nil {
			return err
		}
		away, err := muster.Away(cmd.Context())
		if err != nil {
			return err
		}
		for _, neighbour := range away {
			fmt.Fprintf(p.stderr, "%s is ill, and what it is needed for waits: %s\n", printable(neighbour.Name), printable(neighbour.Error))
		}
		return show(p.stdout, output, muster.Queue(cmd.Context()), queueTable)
	}
	return cmd
}

// queueTable has a row for each key.
var queueTable = table[client.QueuedKey]{
	head: []string{"KIND", "ID", "FAILURES", "SINCE", "NEXT", "ERROR"},
	row: func(k client.QueuedKey) []string {
		return []string{k.Kind, k.ID, strconv.Itoa(k.Attempts), second(k.Since), second(k.NextAt), k.Error}
	},
}

func newReconcile(p *program) *cobra.Command {
	var (
		cloud       cloudFlags
		output      format
		dryRun, yes bool
	)
	cmd := &cobra.Command{
		Use: "reconcile", Short: "Compare everything with the cloud", Args: cobra.NoArgs,
		Long: `Compare all projects, users' certificates and instances with the cloud at once.
Muster does so by itself every hour, but takes nothing away when more is gone
than its guard allows ([converge] guard_percent, guard_count): see then with
--dry-run what it is, and let it go with --yes.

` + loginHelp,
		Example: `  muster reconcile --dry-run
  muster reconcile --yes`,
	}
	flags := cmd.Flags()
	flags.BoolVar(&dryRun, "dry-run", false, "only show what is gone")
	flags.BoolVar(&yes, "yes", false, "take away what is gone, however much it is")
	output.add(cmd)
	cloud.add(cmd)
	cmd.MarkFlagsOneRequired("dry-run", "yes")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "yes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !dryRun && !yes {
			return usageError("say --dry-run or --yes")
		}
		muster, err := p.login(cmd.Context(), cloud)
		if err != nil {
			return err
		}
		found, err := muster.Reconcile(cmd.Context(), dryRun)
		if err != nil {
			return err
		}
		if output == asJSON {
			return json.NewEncoder(p.stdout).Encode(found)
		}
		return writeReconciliation(p.stdout, found)
	}
	return cmd
}

func writeReconciliation(w io.Writer, found client.Reconciliation) error {
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(out, "KIND\tKEPT\tGONE\tOTHERS LOOKED AT\tGUARD")
	for _, kind := range found.Kinds {
		guard := "-"
		if kind.Refused {
			guard = "refuses"
		}
		fmt.Fprintf(out, "%s\t%d\t%d\t%d\t%s\n", printable(kind.Kind), kind.Total, kind.Gone, kind.Look, guard)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	for _, kind := range found.Kinds {
		for _, s := range kind.Suspects {
			if _, err := fmt.Fprintf(w, "%s %s: %s\n", printable(s.Kind), printable(s.ID), printable(s.Reason)); err != nil {
				return err
			}
		}
		if more := kind.Gone - len(kind.Suspects); more > 0 {
			if _, err := fmt.Fprintf(w, "... and %d more of kind %s\n", more, printable(kind.Kind)); err != nil {
				return err
			}
		}
	}
	return nil
}
