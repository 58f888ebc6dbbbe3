// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/dev"
)

func newDev(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "dev", Short: "Run Muster beside a small cloud, to try things out", Args: cobra.NoArgs,
		Long: `Run Muster on SQLite beside a small Keystone, Nova, Neutron, Glance and
FreeIPA, all in this process and on loopback, until Ctrl-C. Nothing has to be
set up. It prints the URLs, the users, and commands to paste into another
terminal.

The cloud forgets everything at the end. Muster's records, master key and
configuration stay in the folder, if one is given. Never use it in production.`,
		Example: `  muster dev
  muster dev --dir ./playground --listen 127.0.0.1:18322`,
	}
	cfg := dev.Config{Version: programVersion()}
	cmd.Flags().StringVar(&cfg.Dir, "dir", "", "the `folder` for Muster's records (default a temporary one)")
	cmd.Flags().StringVar(&cfg.Listen, "listen", "127.0.0.1:18322", "Muster's `address`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg.Logger = slog.New(slog.NewTextHandler(p.stderr, nil))
		env, err := dev.New(cmd.Context(), cfg)
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%w; give another one with --listen, such as 127.0.0.1:0 for a free port", err)
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(p.stdout, "%s\nTo paste into another terminal:\n\n%s\nCtrl-C ends it.\n", env.Summary(), env.Commands())
		return env.Run(cmd.Context())
	}
	return cmd
}
