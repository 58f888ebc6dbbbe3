// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// maxEvents is more than a replica remembers.
const maxEvents = 1000

func newEvents(p *program) *cobra.Command {
	return group("events", "See what the other services announce",
		`Keystone, Nova and Neutron announce what changes in them by notifications, which
Muster listens to.`, newEventsTail(p))
}

func newEventsTail(p *program) *cobra.Command {
	var (
		cloud  cloudFlags
		output format
		lines  int
	)
	cmd := &cobra.Command{
		Use: "tail", Short: "Show the last notifications that came", Args: cobra.NoArgs,
		Long: `Show the notifications of Keystone, Nova and Neutron that came last, the newest
at the end, and the keys that they became: what Muster then looks at. A
notification without keys does not concern Muster; one that cannot be read shows
why. Payloads are not kept.

Of several replicas behind one address, that which happens to answer shows what
came to it. Only the cloud's operator may see this. Times are in UTC.

` + loginHelp,
		Example: `  muster events tail -n 50
  muster events tail -o json | jq '.[] | select(.outcome == "unreadable")'`,
	}
	flags := cmd.Flags()
	flags.IntVarP(&lines, "lines", "n", 20, "show the last `NUMBER` of notifications")
	output.add(cmd)
	cloud.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if lines < 1 || lines > maxEvents {
			return usageError(fmt.Sprintf("--lines is not a number from 1 to %d", maxEvents))
		}
		return p.eventsTail(cmd.Context(), cloud, lines, output)
	}
	return cmd
}

func (p *program) eventsTail(ctx context.Context, cloud cloudFlags, lines int, output format) error {
	muster, err := p.login(ctx, cloud)
	if err != nil {
		return err
	}
	events, err := muster.Events(ctx, lines)
	if err != nil {
		return err
	}
	slices.Reverse(events)
	if output == asJSON {
		encoder := json.NewEncoder(p.stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(events)
	}
	table := tabwriter.NewWriter(p.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "TIME\tSENDER\tEVENT\tKEYS\tSTATE")
	for _, e := range events {
		at, _, _ := strings.Cut(e.At, ".")
		var keys []string
		for _, h := range e.Hints {
			keys = append(keys, h.Kind+" "+h.ID)
		}
		row := []string{at, e.Publisher, e.Type, strings.Join(keys, ", "), eventState(e.Outcome, e.AcknowledgedAt, e.Problem)}
		for i, cell := range row {
			row[i] = printable(cmp.Or(cell, "-"))
		}
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	return table.Flush()
}

// eventState says what became of a notification.
func eventState(outcome, acknowledged, problem string) string {
	switch {
	case problem != "":
		return problem
	case outcome != "hinted":
		return outcome
	case acknowledged == "":
		return "under way"
	}
	return "done"
}
