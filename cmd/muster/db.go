// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/server"
	"github.com/muster-cloud/muster/internal/store"
)

func newDB(p *program) *cobra.Command {
	return group("db", "Look after the database", `Look after the database that [database] connection names. Nothing else of the
configuration needs to be complete, right, or readable.`,
		newDBUpgrade(p),
		newDBVersion(p),
	)
}

func newDBUpgrade(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "upgrade", Short: "Bring the database up to date", Args: cobra.NoArgs,
		Long: `Make the tables, or bring them up to date. Run it before each new version of
muster server: the previous version goes on working with the upgraded database.
Repeating it changes nothing, and of several that run at once, one does the work.`,
		Example: "  muster db upgrade",
	}
	file := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.withStore(cmd.Context(), *file, func(records *store.Store) error {
			applied, err := records.Upgrade(cmd.Context())
			for _, name := range applied {
				fmt.Fprintln(p.stdout, "applied", name)
			}
			if err != nil {
				return err
			}
			have, _, err := records.SchemaVersion(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(p.stdout, "The database has schema version %d.\n", have)
			return err
		})
	}
	return cmd
}

func newDBVersion(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version of the database's tables", Args: cobra.NoArgs,
		Long: `Print the version of the database's tables, and of those that this program was
made for. Fails if they differ, and says what to do.`,
		Example: "  muster db version",
	}
	file := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.withStore(cmd.Context(), *file, func(records *store.Store) error {
			have, want, err := records.SchemaVersion(cmd.Context())
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(p.stdout, "database %d, program %d\n", have, want); err != nil {
				return err
			}
			return records.CheckSchema(cmd.Context())
		})
	}
	return cmd
}

// withStore opens the configured database for the time of a function.
func (p *program) withStore(ctx context.Context, file string, use func(*store.Store) error) error {
	cfg, err := config.Load(config.Options{Path: file, Environ: p.environ, Section: "database"})
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	records, err := server.OpenStore(ctx, cfg, logger, nil)
	if err != nil {
		return err
	}
	return errors.Join(use(records), records.Close())
}
