// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/policy"
)

func newPolicy(p *program) *cobra.Command {
	return group("policy", "Explain and check the rules of who may do what", `Explain and check the rules of who may do what, which are written in the
language of oslo.policy.`,
		newPolicySample(p),
		newPolicyCheck(p),
	)
}

func newPolicySample(p *program) *cobra.Command {
	return &cobra.Command{
		Use: "sample", Short: "Print a policy.yaml with every rule", Args: cobra.NoArgs,
		Long: `Print a policy.yaml with every rule, what it guards and its default, all
commented out.`,
		Example: "  muster policy sample > /etc/muster/policy.yaml",
		RunE: func(*cobra.Command, []string) error {
			rules, err := policy.Load("", policy.Defaults())
			if err != nil {
				return err
			}
			return rules.Sample(p.stdout)
		},
	}
}

func newPolicyCheck(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "check [POLICY-FILE]", Short: "Find mistakes in a policy file", Args: cobra.MaximumNArgs(1),
		Long: `Find rules that cannot be read, that refer to rules which are not there, or that
refer to themselves, in the file, or in the one that [oslo_policy] policy_file
names. Fails if there is one. Rules that Muster never asks for are warnings.`,
		Example: `  muster policy check
  muster policy check ./policy.yaml.new`,
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault),
	}
	file := configFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		path, optional := "", false
		if len(args) == 1 {
			path = args[0]
		} else {
			cfg, err := p.loadConfig(*file)
			if err != nil {
				return err
			}
			path, optional = cfg.Policy.PolicyFile, cfg.Policy.Optional
		}
		rules, err := policy.Load(path, policy.Defaults())
		if optional && errors.Is(err, fs.ErrNotExist) {
			_, err = fmt.Fprintf(p.stdout, "There is no %s; the defaults are in force.\n", path)
			return err
		}
		if err != nil {
			return err
		}
		for _, warning := range rules.Warnings() {
			fmt.Fprintln(p.stderr, "warning:", warning)
		}
		_, err = fmt.Fprintf(p.stdout, "The rules of %s are in order.\n", path)
		return err
	}
	return cmd
}
