// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
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
UTC. What somebody is refused again within the same minute adds to one entry,
which tells of the first time, and how often it was.

` + loginHelp,
		Example: `  muster audit --since 24h
  muster audit --all-projects --action usercert.issue -o json | jq -r .[].actor_name`,
	}
	flags := cmd.Flags()
	flags.BoolVar(&query.AllProjects, "all-projects", false, "list all projects")
	flags.StringVar(&query.ProjectID, "project", "", "list the project of this `ID` (default: the token's)")
	flags.StringVar(&query.Action, "action", "", "list only this `ACTION`, such as usercert.issue")
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
	return show(p.stdout, output, muster.Audit(ctx, query), auditTable)
}

// auditTable has a row for each entry.
var auditTable = table[client.AuditEntry]{
	head: []string{"TIME", "WHO", "ACTION", "OUTCOME", "OBJECT", "PROJECT", "REASON"},
	row: func(e client.AuditEntry) []string {
		outcome := e.Outcome
		if e.Times > 1 {
			outcome = fmt.Sprintf("%s ×%d", outcome, e.Times)
		}
		return []string{second(e.At), cmp.Or(e.ActorName, e.Actor), e.Action, outcome,
			strings.TrimSpace(e.ObjectKind + " " + e.ObjectID), e.AuthID, e.Reason}
	},
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
