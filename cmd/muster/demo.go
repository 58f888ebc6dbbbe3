// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/demo"
)

// errDemo is the demo's own failure; what failed was printed where it did.
var errDemo = errors.New("the demo failed")

func newDemo(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "demo", Short: "Play Muster's main job with a real sshd", Args: cobra.NoArgs,
		Long: `Start what muster dev starts, and play the main job against it with the real
OpenSSH: an instance boots and gets its host certificate, a user gets a
certificate and logs in, others are refused, the instance joins FreeIPA, a
certificate is revoked, another goes with the role that gave it, and the
instance ends. Each step is printed with what it proves and how long it took.

It needs ssh, ssh-keygen and sshd, no privileges, and leaves nothing behind.
It fails unless every step held.`,
		Example: `  muster demo
  muster demo -o json`,
	}
	var output format
	output.add(cmd)
	var verbose bool
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show the logs of Muster and of the cloud, too")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg := demo.Config{Version: programVersion()}
		if output == asTable {
			cfg.Observe = p.printStep
		}
		if verbose {
			cfg.Logger = slog.New(slog.NewTextHandler(p.stderr, nil))
		}
		report, err := demo.Play(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		return p.printReport(report, output)
	}
	return cmd
}

func (p *program) printStep(step demo.Step) {
	outcome, lines := "ok    ", step.Found
	if !step.OK {
		outcome, lines = "FAILED", step.Error
	}
	fmt.Fprintf(p.stdout, "%s %6s  %s\n", outcome, duration(step.Seconds), step.Name)
	const margin = "                 "
	for _, line := range append([]string{"proves: " + step.Proves}, strings.Split(lines, "\n")...) {
		fmt.Fprintf(p.stdout, "%s%s\n", margin, line)
	}
}

func (p *program) printReport(report demo.Report, output format) error {
	if output == asJSON {
		encoder := json.NewEncoder(p.stdout)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(report); err != nil {
			return err
		}
	} else if report.OK {
		fmt.Fprintf(p.stdout, "\nAll %d steps held, in %s.\n", report.Planned, duration(report.Seconds))
	}
	if !report.OK {
		return fmt.Errorf("%w in step %d of %d", errDemo, len(report.Steps), report.Planned)
	}
	return nil
}

// duration is short enough for a column.
func duration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
