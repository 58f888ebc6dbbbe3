// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"

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

To root, who reads all, it also says which of the files user muster can't read,
as whom the service runs: by their owner, group and mode.

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
		for _, warning := range unreadableToService(cfg) {
			fmt.Fprintln(p.stderr, "warning:", printable(warning.String()))
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

// serviceUser is as whom the unit of contrib/systemd runs the server.
const serviceUser = "muster"

// unreadableToService tells root, who reads all, what the server's user can't.
// It says nothing where that user is not there.
func unreadableToService(cfg *config.Config) []config.Problem {
	if os.Geteuid() != 0 {
		return nil
	}
	found, err := user.Lookup(serviceUser)
	if err != nil {
		return nil
	}
	groups, err := found.GroupIds()
	if err != nil {
		return nil
	}
	who := config.Identity{Name: serviceUser}
	uid, err := strconv.ParseUint(found.Uid, 10, 32)
	if err != nil {
		return nil
	}
	who.UID = uint32(uid)
	for _, group := range groups {
		gid, err := strconv.ParseUint(group, 10, 32)
		if err != nil {
			return nil
		}
		who.Groups = append(who.Groups, uint32(gid))
	}
	return cfg.Unreadable(who)
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
