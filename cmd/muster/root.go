// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/config"
)

// The exit codes of all commands.
const (
	exitOK     = 0
	exitFailed = 1 // what was asked for could not be done
	exitUsage  = 2 // the command line is wrong; nothing was tried
)

// program is what a process gets from outside.
type program struct {
	environ []string // as os.Environ returns it
	stdin   io.Reader
	stdout  io.Writer // results
	stderr  io.Writer // messages and logs
	started bool      // the command line was understood
}

// Run runs muster with the arguments (without the program's name) and returns
// the exit code. SIGINT and SIGTERM end its context; the second one kills.
func Run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	p := &program{environ: environ, stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRoot(p)
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	p.explain(err)
	var usage usageError
	if !p.started || errors.As(err, &usage) {
		fmt.Fprintf(stderr, "See: %s --help\n", command.CommandPath())
		return exitUsage
	}
	return exitFailed
}

// newRoot returns the command with all its subcommands: one line for each.
func newRoot(p *program) *cobra.Command {
	root := group("muster", "SSH certificates for OpenStack", `Muster gives OpenStack instances SSH host certificates as they boot, and people
short-lived SSH user certificates that follow their Keystone roles. Instances
that ask for it are enrolled in FreeIPA.

Exit codes: 0 done, 1 failed, 2 wrong usage. Results go to the standard output,
messages and logs to the standard error.`,
		newServer(p),
		newDB(p),
		newConfig(p),
		newPolicy(p),
		newCustody(p),
		newAudit(p),
		newRevoke(p),
		newAuthority(p),
		newInstance(p),
		newEnrolment(p),
		newQueue(p),
		newReconcile(p),
		newEvents(p),
		newVendordata(p),
		newDev(p),
		newDemo(p),
		newVersion(p),
	)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.InitDefaultCompletionCmd()
	p.prepare(root)
	return root
}

// group returns a command that only holds others.
func group(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Long: long}
	g.AddCommand(commands...)
	return g
}

// prepare goes through all commands. One without an action of its own says
// what is wrong with the command line, where cobra would say that all is well.
// The others note that they were reached, which tells their errors from those
// that cobra finds in the command line.
func (p *program) prepare(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			p.started = true
			return run(cmd, args)
		}
	} else {
		cmd.Args, cmd.RunE, cmd.DisableFlagsInUseLine = cobra.ArbitraryArgs, missingCommand, true
	}
	for _, sub := range cmd.Commands() {
		p.prepare(sub)
	}
}

func missingCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError("a command is missing")
	}
	cmd.SuggestionsMinimumDistance = 2
	message := fmt.Sprintf("unknown command %.40q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		message += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usageError(message)
}

// usageError is a wrong command line that only the command itself recognizes.
type usageError string

// Error implements error.
func (e usageError) Error() string { return string(e) }

// explain writes an error for people: problems of the configuration one on a
// line, as compilers do, and everything else behind the program's name.
func (p *program) explain(err error) {
	var problems config.Problems
	if errors.As(err, &problems) {
		fmt.Fprintln(p.stderr, problems)
		return
	}
	fmt.Fprintf(p.stderr, "muster: %v\n", err)
}
