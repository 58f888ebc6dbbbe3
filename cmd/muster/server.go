// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/server"
)

func newServer(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "server", Short: "Serve instances, people and Nova", Args: cobra.NoArgs,
		Long: `Serve the listeners of the configuration until SIGTERM or SIGINT: then no new
requests are taken, and those that run are finished (up to shutdown_timeout).

SIGHUP reads the policy file, the TLS certificates and the log level again, and
opens the log file anew; what cannot be read stays as it was. All else needs a
restart. Under systemd it tells when it is ready, reloading, stopping and alive.

It does not touch the database's tables: run muster db upgrade before.`,
		Example: `  muster db upgrade && muster server
  muster server --config ./muster.conf`,
	}
	file := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return p.serve(cmd.Context(), *file) }
	return cmd
}

func (p *program) serve(ctx context.Context, file string) (err error) {
	// From here on, for a SIGHUP during the start would kill.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)

	cfg, err := p.loadConfig(file)
	if err != nil {
		return err
	}
	if err := cfg.Complete(); err != nil {
		return err
	}
	log, err := newServerLog(cfg, p.stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.close()) }()
	log.Info("Starting", "version", programVersion(), "host", cfg.Host)
	for _, warning := range cfg.Warnings {
		log.Warn("Configuration", "warning", warning.String())
	}
	s, err := server.New(ctx, cfg, log.Logger, programVersion())
	if err != nil {
		return err
	}
	return p.supervise(ctx, s, log, hangups, file)
}

// supervise runs the server and what belongs to its process: signals and systemd.
func (p *program) supervise(ctx context.Context, s *server.Server, log *serverLog, hangups <-chan os.Signal, file string) error {
	manager := serviceManager{log.Logger}
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return s.Run(running) })
	group.Go(func() error { return manager.watchdog(running) })
	group.Go(func() error {
		for {
			select {
			case <-running.Done():
				log.Info("Stopping")
				manager.stopping()
				return nil
			case <-hangups:
				manager.reloading()
				p.reload(s, log, file)
				manager.ready()
			}
		}
	})
	manager.ready()
	err := group.Wait()
	if err == nil {
		log.Info("Stopped")
	}
	return err
}

// reload takes over what may change while the server runs, each thing for itself.
func (p *program) reload(s *server.Server, log *serverLog, file string) {
	cfg, err := p.loadConfig(file)
	if err == nil {
		log.level.Set(cfg.LogLevel)
	}
	if err := errors.Join(err, s.Reload(), log.reopen()); err != nil {
		log.Error("Reloaded in part; what could not be read stays as it was", "error", err)
		return
	}
	log.Log(context.Background(), max(slog.LevelInfo, cfg.LogLevel), "Reloaded", "log_level", cfg.LogLevel)
}

// loadConfig reads the configuration as the flag and the environment say.
func (p *program) loadConfig(file string) (*config.Config, error) {
	return config.Load(config.Options{Path: file, Environ: p.environ})
}

func configFlag(cmd *cobra.Command) *string {
	file := cmd.Flags().StringP("config", "c", "", "the configuration `FILE` (default $MUSTER_CONFIG, or "+config.DefaultPath+")")
	_ = cmd.MarkFlagFilename("config", "conf") // fails only without the flag
	return file
}
