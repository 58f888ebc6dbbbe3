// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/client"
)

func newEnrolment(p *program) *cobra.Command {
	return group("enrolment", "Look after instances in FreeIPA", `See how far the enrolment of instances in FreeIPA is, and help it on.

States: wanted (FreeIPA does not have all of it yet), created (the instance has
not joined yet), enrolled, failed, leaving, gone.`,
		newEnrolmentList(p),
		newEnrolmentShow(p),
		newEnrolmentRetry(p),
		newEnrolmentRebuild(p),
		newEnrolmentAdopt(p),
	)
}

func newEnrolmentList(p *program) *cobra.Command {
	var (
		cloud  cloudFlags
		output format
		query  client.EnrolmentQuery
	)
	cmd := &cobra.Command{
		Use: "list", Short: "List enrolments", Args: cobra.NoArgs,
		Long: `List the enrolments of your project's instances or, for the cloud's operator, of
another project's or all.

` + loginHelp,
		Example: `  muster enrolment list
  muster enrolment list --all-projects --state failed`,
	}
	flags := cmd.Flags()
	flags.BoolVar(&query.AllProjects, "all-projects", false, "list all projects")
	flags.StringVar(&query.ProjectID, "project", "", "list the project of this `ID` (default: the token's)")
	flags.StringVar(&query.State, "state", "", "list only what is in this `STATE`")
	output.add(cmd)
	cloud.add(cmd)
	cmd.MarkFlagsMutuallyExclusive("all-projects", "project")
	_ = cmd.RegisterFlagCompletionFunc("state", // fails only without the flag
		cobra.FixedCompletions([]string{"wanted", "created", "enrolled", "failed", "leaving", "gone"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		muster, err := p.login(cmd.Context(), cloud)
		if err != nil {
			return err
		}
		return show(p.stdout, output, muster.Enrolments(cmd.Context(), query), enrolmentTable)
	}
	return cmd
}

// enrolmentTable has a row for each enrolment.
var enrolmentTable = table[client.Enrolment]{
	head: []string{"INSTANCE", "FQDN", "STATE", "PROJECT", "SINCE", "ERROR"},
	row: func(e client.Enrolment) []string {
		return []string{e.InstanceID, e.FQDN, e.State, cmp.Or(e.ProjectName, e.ProjectID), second(e.CreatedAt), e.Error}
	},
}

func newEnrolmentShow(p *program) *cobra.Command {
	return p.oneEnrolment(&cobra.Command{
		Use: "show INSTANCE", Short: "Show an instance's enrolment",
		Long: `Show how far an instance's enrolment is, and what went wrong.

` + loginHelp,
		Example: "  muster enrolment show 3f0c5ba1-4cd5-4f07-8ae4-0c5b5be0ba7f",
	}, (*client.Client).Enrolment)
}

func newEnrolmentRetry(p *program) *cobra.Command {
	return p.oneEnrolment(&cobra.Command{
		Use: "retry INSTANCE", Short: "Try an enrolment again at once",
		Long: `Try an enrolment again at once that failed, or that waits for its next attempt.

` + loginHelp,
		Example: "  muster enrolment retry 3f0c5ba1-4cd5-4f07-8ae4-0c5b5be0ba7f",
	}, (*client.Client).RetryEnrolment)
}

func newEnrolmentRebuild(p *program) *cobra.Command {
	return p.oneEnrolment(&cobra.Command{
		Use: "rebuild INSTANCE", Short: "Let an instance join again that was built anew",
		Long: `Let an instance join again that was built anew: its old keytab is made invalid,
and its vendordata hold a new one-time password. An instance that was not built
anew is cut off by this.

` + loginHelp,
		Example: "  muster enrolment rebuild 3f0c5ba1-4cd5-4f07-8ae4-0c5b5be0ba7f",
	}, (*client.Client).RebuildEnrolment)
}

func newEnrolmentAdopt(p *program) *cobra.Command {
	return p.oneEnrolment(&cobra.Command{
		Use: "adopt INSTANCE", Short: "Give an instance the host entry that was there before",
		Long: `Give an instance the host entry that was in FreeIPA under its name before, and
try its enrolment again. Without this, Muster leaves alone what it did not make.
From then on the entry is the instance's, and goes when the instance goes. See
before that no living machine uses it.

` + loginHelp,
		Example: "  muster enrolment adopt 3f0c5ba1-4cd5-4f07-8ae4-0c5b5be0ba7f",
	}, (*client.Client).AdoptEnrolment)
}

// oneEnrolment completes a command that is about one instance, and shows what
// there is after it.
func (p *program) oneEnrolment(cmd *cobra.Command, ask func(*client.Client, context.Context, string) (client.Enrolment, error)) *cobra.Command {
	var (
		cloud  cloudFlags
		output format
	)
	output.add(cmd)
	cloud.add(cmd)
	cmd.Args = cobra.ExactArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		muster, err := p.login(cmd.Context(), cloud)
		if err != nil {
			return err
		}
		found, err := ask(muster, cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if output == asJSON {
			return json.NewEncoder(p.stdout).Encode(found)
		}
		return writeEnrolment(p.stdout, found)
	}
	return cmd
}

func writeEnrolment(w io.Writer, e client.Enrolment) error {
	return writeFields(w, [][2]string{
		{"instance", e.InstanceID}, {"project", e.ProjectID}, {"project name", e.ProjectName}, {"FQDN", e.FQDN}, {"state", e.State},
		{"error", e.Error}, {"failed attempts", strconv.Itoa(e.Attempts)}, {"next attempt", second(e.NextAt)},
		{"created", second(e.CreatedAt)}, {"updated", second(e.UpdatedAt)},
	})
}
