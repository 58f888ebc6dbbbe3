// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/muster-cloud/muster/internal/agent"
	"github.com/muster-cloud/muster/internal/agent/files"
	"github.com/muster-cloud/muster/internal/agent/machine"
	"github.com/muster-cloud/muster/internal/agent/metadata"
	"github.com/muster-cloud/muster/internal/agent/muster"
)

// Folders of the agent, inside the machine's tree.
const (
	stateFolder = "/var/lib/muster-agent"
	runFolder   = "/run/muster-agent"
)

// memoryLimit makes the garbage collector keep a quiet agent small. It is no
// bound: a long revocation list takes what it takes.
const memoryLimit = 12 << 20

var runCommand = command{
	name: "run", short: "Set the instance up and keep it so, until it is ended",
	long: `Finds the instance's metadata, gets certificates for sshd's host keys, and sets
up sshd, accounts, sudo and FreeIPA as Muster says. Then it keeps all of that:
it renews certificates, follows the revocation list and what changes in Muster.

It never gives up. What is wrong is in the log, and in muster-agent status. It
ends at once if another agent runs on this machine already.`,
	examples: []string{"systemctl start muster-agent     as a service (muster-agent install)", "muster-agent run"},
	flags: func(p *program, set *flag.FlagSet) func(context.Context) error {
		place := placeFlags(set, true)
		return func(ctx context.Context) error {
			debug.SetMemoryLimit(memoryLimit)
			log := p.newLog(true)
			err := p.keep(ctx, place, log)
			switch {
			case errors.Is(err, files.ErrBusy):
				return err // cron starts a second one again and again, which nobody wants to read
			case err != nil && !errors.Is(err, context.Canceled):
				log.Error("Cannot run", "reason", err)
				return err
			}
			log.Info("Ended; sshd goes on with what it has")
			return nil
		}
	},
}

var onceCommand = command{
	name: "once", short: "Set the instance up, and end",
	long: `Does what run does until everything is set up, and ends. Nothing is renewed or
revoked afterwards: use run for that. Fails if something is still missing when
the time is over.`,
	examples: []string{"muster-agent once --wait 2m"},
	flags: func(p *program, set *flag.FlagSet) func(context.Context) error {
		place := placeFlags(set, true)
		wait := set.Duration("wait", 5*time.Minute, "how long to try, a `TIME` such as 90s or 5m")
		return func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, *wait)
			defer cancel()
			work, err := p.open(ctx, place, p.newLog(false))
			if err != nil {
				return err
			}
			defer work.close()
			return work.agent.Once(ctx)
		}
	},
}

// place is where a command works.
type place struct {
	root     string // of the machine's tree
	metadata string // the metadata service; empty: where it always is
}

// placeFlags declares the flags that change the place.
func placeFlags(set *flag.FlagSet, service bool) *place {
	at := &place{}
	set.StringVar(&at.root, "root", "/", "work on the machine whose tree begins in `DIR`")
	if service {
		set.StringVar(&at.metadata, "metadata", "", "ask the metadata service at `URL`, in place of http://169.254.169.254")
	}
	return at
}

func (at *place) state() string          { return filepath.Join(at.root, stateFolder) }
func (at *place) running() string        { return filepath.Join(at.root, runFolder) }
func (at *place) programs() files.Runner { return files.Programs{Root: at.root} }

func (at *place) addresses() []string {
	if at.metadata != "" {
		return []string{at.metadata}
	}
	return nil
}

// keep runs the agent. A tree that can't be opened, such as on a disk that is
// read-only, may be better later; another agent that has it open will not.
func (p *program) keep(ctx context.Context, at *place, log *slog.Logger) error {
	const pause = 30 * time.Second
	for {
		work, err := p.open(ctx, at, log)
		if err == nil {
			defer work.close()
			log.Info("Starting", "version", version)
			return work.agent.Run(ctx)
		}
		if ctx.Err() != nil || errors.Is(err, files.ErrBusy) || errors.Is(err, os.ErrPermission) {
			return err
		}
		log.Error("Cannot begin; trying again", "reason", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// work is an agent with what it works on.
type work struct {
	agent *agent.Agent
	tree  *files.Tree
}

func (w *work) close() { _ = w.tree.Close() }

// open opens the machine's tree and makes the agent for it.
func (p *program) open(ctx context.Context, at *place, log *slog.Logger) (*work, error) {
	tree, err := files.OpenTree(ctx, files.Config{
		Root: at.root, State: stateFolder, Runner: at.programs(), Log: log, Crash: crashPoint,
	})
	if err != nil {
		return nil, err
	}
	w := &work{tree: tree}
	if err := w.fill(at, log); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *work) fill(at *place, log *slog.Logger) error {
	if err := w.tree.MakeVolatile(runFolder, files.Folder); err != nil {
		return err
	}
	m, err := machine.New(machine.Config{Tree: w.tree, Runner: at.programs(), Program: programPath(at), Log: log})
	if err != nil {
		return err
	}
	w.agent, err = agent.New(agent.Config{
		Finder:  metadata.New(metadata.Config{Root: at.root, Runner: files.Programs{}, Addresses: at.addresses(), Log: log}),
		Machine: m,
		Connect: func(identity agent.Identity) (agent.Muster, error) {
			client, err := connect(identity)
			if err != nil {
				return nil, err
			}
			if !client.Encrypted() {
				log.Warn("Muster's address is not https: whoever is on the way can set this instance up as they like; "+
					"set api_endpoint in muster.conf", "muster", identity.Endpoint)
			}
			return client, nil
		},
		StateDir: at.state(), RunDir: at.running(), Version: version, Log: log, Now: now, Step: crashPoint,
	})
	return err
}

// connect returns the client for an instance.
func connect(identity agent.Identity) (*muster.Client, error) {
	return muster.New(muster.Config{
		Endpoint: identity.Endpoint, CA: identity.CA, HostID: identity.ID, ProjectID: identity.ProjectID,
		UserAgent: fmt.Sprintf("muster-agent/%s", version),
	})
}
