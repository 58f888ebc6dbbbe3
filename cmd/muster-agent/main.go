// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Command muster-agent sets up SSH and FreeIPA inside an instance as Muster
// says, and keeps them right. See docs/agent.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// version is set when a release is built.
var version = "unknown"

// Exit codes of all commands.
const (
	exitOK     = 0
	exitFailed = 1 // what was asked for could not be done, or something is wrong
	exitUsage  = 2 // the command line is wrong; nothing was tried
)

// errWrong: what is wrong was already said.
var errWrong = errors.New("something is wrong")

// usageError is a wrong command line.
type usageError string

// Error implements error.
func (e usageError) Error() string { return string(e) }

// program is what a process gets from outside.
type program struct {
	stdout, stderr io.Writer
	environ        func(name string) string
}

// command is one of the program's.
type command struct {
	name, short, long string
	examples          []string
	// flags declares the command's own flags, and returns what runs it.
	flags func(p *program, set *flag.FlagSet) func(ctx context.Context) error
}

// commands are all that there are.
func commands() []command {
	return []command{
		runCommand, onceCommand, statusCommand, doctorCommand, installCommand, uninstallCommand, sudoCheckCommand, versionCommand,
	}
}

func main() {
	p := &program{stdout: os.Stdout, stderr: os.Stderr, environ: os.Getenv}
	os.Exit(p.run(context.Background(), os.Args[1:]))
}

// run runs the program with its arguments and returns the exit code. SIGINT and
// SIGTERM end the context.
func (p *program) run(ctx context.Context, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := p.dispatch(ctx, args)
	usage := usageError("")
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(p.stderr, "muster-agent: %s\nSee: muster-agent help\n", usage)
		return exitUsage
	case !errors.Is(err, errWrong):
		fmt.Fprintf(p.stderr, "muster-agent: %v\n", err)
	}
	return exitFailed
}

// dispatch finds the command and runs it.
func (p *program) dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return usageError("a command is missing")
	}
	name, args := args[0], args[1:]
	switch name {
	case "help", "-h", "-help", "--help":
		return p.help(args)
	case "-version", "--version":
		name = "version"
	}
	for _, c := range commands() {
		if c.name != name {
			continue
		}
		set := flag.NewFlagSet(name, flag.ContinueOnError)
		set.SetOutput(io.Discard)
		do := c.flags(p, set)
		if err := set.Parse(args); errors.Is(err, flag.ErrHelp) {
			return p.explain(c)
		} else if err != nil {
			return usageError(err.Error())
		}
		if set.NArg() > 0 {
			return usageError(fmt.Sprintf("%s takes no argument %.40q", name, set.Arg(0)))
		}
		return do(ctx)
	}
	return usageError(fmt.Sprintf("unknown command %.40q", name))
}

// help lists the commands, or explains one.
func (p *program) help(args []string) error {
	if len(args) > 0 {
		for _, c := range commands() {
			if c.name == args[0] {
				return p.explain(c)
			}
		}
		return usageError(fmt.Sprintf("unknown command %.40q", args[0]))
	}
	var text strings.Builder
	text.WriteString("muster-agent sets up SSH and FreeIPA inside an OpenStack instance as Muster says,\nand keeps them right.\n\n")
	for _, c := range commands() {
		fmt.Fprintf(&text, "  %-12s %s\n", c.name, c.short)
	}
	text.WriteString("\nmuster-agent help COMMAND explains one.\n" +
		"Exit codes: 0 done, 1 failed or something is wrong, 2 wrong usage.\n")
	_, err := io.WriteString(p.stdout, text.String())
	return err
}

// explain tells all about a command.
func (p *program) explain(c command) error {
	var text strings.Builder
	fmt.Fprintf(&text, "muster-agent %s: %s.\n\n%s\n", c.name, c.short, c.long)
	set := flag.NewFlagSet(c.name, flag.ContinueOnError)
	c.flags(p, set)
	header := "\nFlags:\n"
	set.VisitAll(func(f *flag.Flag) {
		kind, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(&text, "%s  --%s\n", header, strings.TrimSpace(f.Name+" "+kind))
		fmt.Fprintf(&text, "        %s\n", usage)
		header = ""
	})
	if len(c.examples) > 0 {
		fmt.Fprintf(&text, "\nExamples:\n  %s\n", strings.Join(c.examples, "\n  "))
	}
	_, err := io.WriteString(p.stdout, text.String())
	return err
}

var versionCommand = command{
	name: "version", short: "Print the version", long: "Prints the version of this program.",
	flags: func(p *program, _ *flag.FlagSet) func(context.Context) error {
		return func(context.Context) error {
			_, err := fmt.Fprintln(p.stdout, "muster-agent", version)
			return err
		}
	},
}
