// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write docs/commands.md anew")

const commandsPage = "../../docs/commands.md"

// TestCommandsPage holds the documentation against the commands' own help.
func TestCommandsPage(t *testing.T) {
	var page bytes.Buffer
	fmt.Fprint(&page, "# Commands\n\nThis page is made from the program's own help; `muster help COMMAND` prints the same.\n")
	writeCommand(&page, newRoot(&program{stdout: io.Discard, stderr: io.Discard}))
	if *update {
		if err := os.WriteFile(commandsPage, page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(commandsPage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(written), page.String()); diff != "" {
		t.Errorf("docs/commands.md is not current; go test ./cmd/muster -update writes it anew\n%s", diff)
	}
}

func writeCommand(page io.Writer, cmd *cobra.Command) {
	fmt.Fprintf(page, "\n## %s\n\n%s\n", cmd.CommandPath(), strings.TrimSpace(cmd.Long))
	block := func(text string) { fmt.Fprintf(page, "```\n%s\n```\n", strings.TrimRight(text, "\n")) }
	if !cmd.HasAvailableSubCommands() {
		fmt.Fprintln(page)
		block(cmd.UseLine())
	}
	if flags := cmd.NonInheritedFlags(); flags.HasAvailableFlags() {
		fmt.Fprint(page, "\nFlags:\n\n")
		block(flags.FlagUsages())
	}
	if cmd.HasExample() {
		fmt.Fprint(page, "\nExamples:\n\n")
		block(cmd.Example)
	}
	if cmd.Name() == "completion" {
		fmt.Fprintln(page)
	}
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() && cmd.Name() == "completion" {
			fmt.Fprintf(page, "- `%s`\n", sub.UseLine())
		} else if sub.IsAvailableCommand() {
			writeCommand(page, sub)
		}
	}
}

// TestHelp: every command explains itself, in lines that fit a terminal.
func TestHelp(t *testing.T) {
	var check func(*cobra.Command)
	check = func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.Long == "" || (cmd.Parent() != nil && strings.HasSuffix(cmd.Short, ".")) {
			t.Errorf("%s: the help is missing or has a full stop in its short form", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Long) {
			if len(line) > len("\n")+80 && !strings.Contains(cmd.CommandPath(), "completion") {
				t.Errorf("%s: a line of the help is too long: %s", cmd.CommandPath(), line)
			}
		}
		for _, sub := range cmd.Commands() {
			check(sub)
		}
	}
	check(newRoot(&program{stdout: io.Discard, stderr: io.Discard}))
}

// TestUnit: the service's unit runs commands that are there.
func TestUnit(t *testing.T) {
	unit, err := os.ReadFile("../../contrib/systemd/muster.service")
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile(`(?m)^Exec\w+=/usr/bin/muster (.*)$|muster (\w+ [\w-]+)[ )]`).FindAllSubmatch(unit, -1)
	if len(commands) < 4 {
		t.Fatalf("found only %d commands", len(commands))
	}
	root := newRoot(&program{stdout: io.Discard, stderr: io.Discard})
	for _, match := range commands {
		line := string(match[1]) + string(match[2])
		cmd, rest, err := root.Find(strings.Fields(line))
		if err != nil || len(rest) > 0 || cmd.HasSubCommands() {
			t.Errorf("there is no command %q", line)
		}
	}
}
