// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Command muster gives OpenStack instances SSH host certificates and people
// short-lived SSH user certificates, and is the tool of those who run it.
//
// Each subcommand has a file of its own and decides little: the rooms below
// internal do the work. See docs/commands.md.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(Run(context.Background(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}
