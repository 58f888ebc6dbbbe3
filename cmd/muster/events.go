// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/client"
)

const (
	// maxEvents is more than a replica remembers.
	maxEvents = 1000
	// followEvery is how often --follow asks.
	followEvery = time.Second
	// maxFollowed bounds the events that are known to have been shown.
	maxFollowed = 20_000
)

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
		follow bool
	)
	cmd := &cobra.Command{
		Use: "tail", Short: "Show the last notifications that came", Args: cobra.NoArgs,
		Long: `Show the notifications of Keystone, Nova and Neutron that came last, the newest
at the end, and the keys that they became: what Muster then looks at. A
notification without keys does not concern Muster; one that cannot be read shows
why, and with -o json its form: the names of its fields, without values that
could be secrets. Other payloads are not kept.

Of several replicas behind one address, that which happens to answer shows what
came to it. Each remembers the last hundred that became keys, that did not
concern it, and that could not be read; where more of them come in a second,
--follow leaves some out. Only the cloud's operator may see this. Times are in
UTC.

` + loginHelp,
		Example: `  muster events tail -n 50
  muster events tail --follow
  muster events tail -o json | jq '.[] | select(.outcome == "unreadable")'`,
	}
	flags := cmd.Flags()
	flags.IntVarP(&lines, "lines", "n", 20, "show the last `NUMBER` of notifications")
	flags.BoolVarP(&follow, "follow", "f", false, "go on with what comes, until interrupted; with -o json, one object in each line")
	output.add(cmd)
	cloud.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if lines < 1 || lines > maxEvents {
			return usageError(fmt.Sprintf("--lines is not a number from 1 to %d", maxEvents))
		}
		if follow {
			return p.followEvents(cmd.Context(), cloud, lines, output)
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
		fmt.Fprintln(table, strings.Join(eventRow(e), "\t"))
	}
	return table.Flush()
}

func eventRow(e client.Event) []string {
	at, _, _ := strings.Cut(e.At, ".")
	var keys []string
	for _, h := range e.Hints {
		keys = append(keys, h.Kind+" "+h.ID)
	}
	row := []string{at, e.Publisher, e.Type, strings.Join(keys, ", "), eventState(e.Outcome, e.AcknowledgedAt, e.Problem)}
	for i, cell := range row {
		row[i] = printable(cmp.Or(cell, "-"))
	}
	return row
}

// followEvents shows each event once, until the context ends. A server that is
// away for a while is asked again.
func (p *program) followEvents(ctx context.Context, cloud cloudFlags, lines int, output format) error {
	muster, err := p.login(ctx, cloud)
	if err != nil {
		return err
	}
	events, err := muster.Events(ctx, maxEvents)
	if err != nil {
		return err
	}
	shown := newFollowed(events[min(lines, len(events)):])
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for away := false; ; {
		if err == nil {
			err = shown.writeNew(p.stdout, events, output)
			if err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if events, err = muster.Events(ctx, maxEvents); err != nil && !away && ctx.Err() == nil {
			fmt.Fprintf(p.stderr, "muster: %v (asking again)\n", err)
		}
		away = err != nil
	}
}

// followed are the IDs of events that are not to be shown again.
type followed map[string]bool

func newFollowed(events []client.Event) followed {
	shown := make(followed)
	for _, e := range events {
		shown[e.ID] = true
	}
	return shown
}

// writeNew writes what was not shown before, the oldest first. Of what is known
// no more than maxFollowed are remembered.
func (f followed) writeNew(w io.Writer, events []client.Event, output format) error {
	for _, e := range slices.Backward(events) {
		if f[e.ID] {
			continue
		}
		f[e.ID] = true
		var err error
		if output == asJSON {
			err = json.NewEncoder(w).Encode(e)
		} else {
			_, err = fmt.Fprintln(w, strings.Join(eventRow(e), "  "))
		}
		if err != nil {
			return err
		}
	}
	if len(f) > maxFollowed {
		clear(f)
		maps.Copy(f, newFollowed(events))
	}
	return nil
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
