// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/client"
)

const loginHelp = `Who asks is known by OS_CLOUD and clouds.yaml, or by the OS_* variables of an
openrc file. Muster's address stands in Keystone's catalogue (type ssh), or is
given with --url.`

// cloudFlags are those of commands that ask a Muster over its API.
type cloudFlags struct{ cloud, url string }

func (f *cloudFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.cloud, "os-cloud", "", "the `CLOUD` of clouds.yaml (default $OS_CLOUD)")
	flags.StringVar(&f.url, "url", "", "Muster's `URL` (default: from Keystone's catalogue)")
}

func (p *program) login(ctx context.Context, f cloudFlags) (*client.Client, error) {
	return client.Login(ctx, client.Config{Environ: p.environ, Cloud: f.cloud, URL: f.url})
}

// format is how results are written: for people or for programs.
type format string

const (
	asTable format = "table"
	asJSON  format = "json"
)

func (f *format) add(cmd *cobra.Command) {
	*f = asTable
	cmd.Flags().VarP(f, "output", "o", "`FORMAT` of the output: table or json")
	_ = cmd.RegisterFlagCompletionFunc("output", // fails only without the flag
		cobra.FixedCompletions([]string{string(asTable), string(asJSON)}, cobra.ShellCompDirectiveNoFileComp))
}

// String implements pflag.Value.
func (f *format) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *format) Type() string { return "FORMAT" }

// Set implements pflag.Value.
func (f *format) Set(text string) error {
	if format(text) != asTable && format(text) != asJSON {
		return usageError("choose table or json")
	}
	*f = format(text)
	return nil
}

// printable keeps foreign text from driving the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}
