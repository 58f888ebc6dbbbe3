// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/client"
)

func newAudit(p *program) *cobra.Command {
	var (
		cloud  cloudFlags
		output format
		query  client.AuditQuery
		since  string
	)
	cmd := &cobra.Command{
		Use: "audit", Short: "List who did what", Args: cobra.NoArgs,
		Long: `List what was issued, refused, revoked and administered, the newest first: in
your project, or, for the cloud's operator, in another one or all. Times are in
UTC.

` + loginHelp,
		Example: `  muster audit --since 24h
  muster audit --all-projects --action usercert:create -o json | jq -r .[].actor_name`,
	}
	flags := cmd.Flags()
	flags.BoolVar(&query.AllProjects, "all-projects", false, "list all projects")
	flags.StringVar(&query.ProjectID, "project", "", "list the project of this `ID` (default: the token's)")
	flags.StringVar(&query.Action, "action", "", "list only this `ACTION`, such as usercert:create")
	flags.StringVar(&query.Actor, "actor", "", "list only what the user of this `ID` did")
	flags.StringVar(&since, "since", "", "list only what happened since this `TIME`: 24h, 7d, 2026-11-22 or 2026-11-22T13:00:00Z")
	output.add(cmd)
	cloud.add(cmd)
	cmd.MarkFlagsMutuallyExclusive("all-projects", "project")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if query.Since, err = parseSince(since, time.Now()); err != nil {
			return err
		}
		return p.audit(cmd.Context(), cloud, query, output)
	}
	return cmd
}

func (p *program) audit(ctx context.Context, cloud cloudFlags, query client.AuditQuery, output format) error {
	muster, err := p.login(ctx, cloud)
	if err != nil {
		return err
	}
	show, end := writeAuditTable(p.stdout)
	if output == asJSON {
		show, end = writeAuditJSON(p.stdout)
	}
	for page, err := range muster.Audit(ctx, query) {
		if err != nil {
			return err
		}
		if err := show(page); err != nil {
			return err
		}
	}
	return end()
}

// writeAuditTable writes a row for each entry. The columns are as wide as a
// page needs, so that the next one need not be waited for.
func writeAuditTable(w io.Writer) (show func([]client.AuditEntry) error, end func() error) {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "TIME\tWHO\tACTION\tOUTCOME\tOBJECT\tPROJECT\tREASON")
	show = func(page []client.AuditEntry) error {
		for _, e := range page {
			at, _, _ := strings.Cut(e.At, ".")
			row := []string{at, cmp.Or(e.ActorName, e.Actor), e.Action, e.Outcome,
				strings.TrimSpace(e.ObjectKind + " " + e.ObjectID), e.AuthID, e.Reason}
			for i, cell := range row {
				row[i] = printable(cmp.Or(cell, "-"))
			}
			fmt.Fprintln(table, strings.Join(row, "\t"))
		}
		return table.Flush()
	}
	return show, table.Flush
}

// writeAuditJSON writes one list, an entry on a line.
func writeAuditJSON(w io.Writer) (show func([]client.AuditEntry) error, end func() error) {
	separator := "[\n"
	show = func(page []client.AuditEntry) error {
		for _, e := range page {
			text, err := json.Marshal(e)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, "%s%s", separator, text); err != nil {
				return err
			}
			separator = ",\n"
		}
		return nil
	}
	end = func() error {
		text := "\n]"
		if separator == "[\n" {
			text = "[]"
		}
		_, err := fmt.Fprintln(w, text)
		return err
	}
	return show, end
}

// parseSince reads a time, a day, or how long ago.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	if count, isDays := strings.CutSuffix(text, "d"); isDays {
		if days, err := strconv.ParseUint(count, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(days)), nil
		}
	}
	ago, err := time.ParseDuration(text)
	if err != nil || ago < 0 {
		return time.Time{}, usageError("--since is no time; write 24h, 7d, 2026-11-22 or 2026-11-22T13:00:00Z")
	}
	return now.Add(-ago), nil
}
