// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/server"
)

func newConfig(p *program) *cobra.Command {
	return group("config", "Explain and check the configuration", `Explain and check the configuration. docs/configuration.md tells all options,
and where they are read from.`,
		newConfigSample(p),
		newConfigCheck(p),
		newConfigShow(p),
	)
}

func newConfigSample(p *program) *cobra.Command {
	return &cobra.Command{
		Use: "sample", Short: "Print a file with every option", Args: cobra.NoArgs,
		Long: `Print a configuration file with every option, its help, type and default, all
commented out.`,
		Example: "  muster config sample > /etc/muster/muster.conf",
		RunE:    func(*cobra.Command, []string) error { return config.Sample(p.stdout) },
	}
}

func newConfigCheck(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "check", Short: "Find mistakes, and services that do not answer", Args: cobra.NoArgs,
		Long: `Find unknown options, wrong types, unreadable files, contradictions, and what is
missing. If the file can be read so far, try the services too: the database and
its schema, Keystone's login, the master key, the policy, addresses and TLS
files. It changes nothing, and may run beside a server.

Where instances are enrolled, it says of each right that Muster needs in FreeIPA
whether it has it, as far as FreeIPA shows that, and what an administrator of
FreeIPA types to give one that lacks.

Each problem is on a line of its own:

  FILE:LINE [section] option: what is wrong; what to do

Fails if there is one. Warnings alone are no failure.`,
		Example: "  muster config check --config /etc/muster/muster.conf.new",
	}
	file := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := p.loadConfig(*file)
		if err != nil {
			return err
		}
		for _, warning := range cfg.Warnings {
			fmt.Fprintln(p.stderr, "warning:", warning)
		}
		problems, notes := checkConfig(cmd.Context(), cfg)
		for _, note := range notes {
			fmt.Fprintln(p.stderr, printable(note))
		}
		if len(problems) > 0 {
			return problems
		}
		_, err = fmt.Fprintln(p.stdout, "The configuration is complete, and the services that it names answer.")
		return err
	}
	return cmd
}

// checkConfig returns what is missing, what the probes of complete sections find,
// and what they tell besides.
func checkConfig(ctx context.Context, cfg *config.Config) (problems config.Problems, notes []string) {
	errors.As(cfg.Complete(), &problems)
	probes := slices.DeleteFunc(server.Probes(cfg), func(probe config.Probe) bool {
		return slices.ContainsFunc(problems, func(missing config.Problem) bool { return missing.Section == probe.Section })
	})
	found, notes := cfg.Check(ctx, probes...)
	return append(problems, found...), notes
}

func newConfigShow(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "show", Short: "Print what is in force, and where it comes from", Args: cobra.NoArgs,
		Long: `Print every option that is in force in the form of a file, each with its source:
default, FILE:LINE, environment or credentials. Secrets appear as ****.`,
		Example: "  muster config show | grep -A1 'from environment'",
	}
	file := configFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := p.loadConfig(*file)
		if err != nil {
			return err
		}
		return config.Show(p.stdout, cfg)
	}
	return cmd
}
