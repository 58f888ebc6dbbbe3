// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/client"
	"github.com/muster-cloud/muster/internal/sshca/sshkey"
)

func newRevoke(p *program) *cobra.Command {
	var (
		cloud       cloudFlags
		output      format
		order       client.Revocation
		keyFile     string
		allProjects bool
	)
	cmd := &cobra.Command{
		Use: "revoke", Short: "End certificates before their time", Args: cobra.NoArgs,
		Long: `End certificates before their time: one by its serial or key ID, all of a public
key or of a user, or all that a generation of an authority's key has signed.
Instances refuse them within seconds. It cannot be undone; repeating it changes
nothing.

` + loginHelp,
		Example: `  muster revoke --serial 1234 --reason "laptop lost"
  muster revoke --user 5f3c... --all-projects --reason "left the company"
  muster revoke --key stolen.pub
  ssh-keygen -yf stolen | muster revoke --key -`,
	}
	flags := cmd.Flags()
	flags.Uint64Var(&order.Serial, "serial", 0, "the certificate with this serial `NUMBER`")
	flags.StringVar(&order.UserID, "user", "", "all certificates of the user of this `ID`")
	flags.StringVar(&keyFile, "key", "", "all certificates of the public key in this `FILE` (- for standard input)")
	flags.StringVar(&order.KeyID, "key-id", "", "the certificates with this key `ID`")
	flags.StringVar(&order.GenerationID, "generation", "", "all that the authority's key of this `ID` has signed")
	flags.StringVar(&order.ProjectID, "project", "", "in the project of this `ID` (default: the token's)")
	flags.BoolVar(&allProjects, "all-projects", false, "in all projects; with --user")
	flags.StringVar(&order.Reason, "reason", "", "why: a `TEXT` for the records")
	output.add(cmd)
	cloud.add(cmd)
	what := []string{"serial", "user", "key", "key-id", "generation"}
	cmd.MarkFlagsOneRequired(what...)
	cmd.MarkFlagsMutuallyExclusive(what...)
	cmd.MarkFlagsMutuallyExclusive("all-projects", "project")
	_ = cmd.MarkFlagFilename("key", "pub") // fails only without the flag
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := p.checkOrder(&order, keyFile, allProjects, flags.Changed); err != nil {
			return err
		}
		return p.revoke(cmd.Context(), cloud, order, allProjects, output)
	}
	return cmd
}

// checkOrder refuses what would mean something else to Muster, and reads the key.
func (p *program) checkOrder(order *client.Revocation, keyFile string, allProjects bool, given func(flag string) bool) error {
	for _, f := range []struct {
		flag  string
		empty bool
	}{
		{"serial", order.Serial == 0}, {"user", order.UserID == ""}, {"key", keyFile == ""}, {"key-id", order.KeyID == ""},
		{"generation", order.GenerationID == ""}, {"project", order.ProjectID == ""},
	} {
		if f.empty && given(f.flag) {
			return usageError("--" + f.flag + " is empty")
		}
	}
	if allProjects && order.UserID == "" {
		return usageError("--all-projects goes with --user only; serials, keys and authorities belong to one project")
	}
	if keyFile == "" {
		return nil
	}
	var err error
	order.PublicKey, err = p.readPublicKey(keyFile)
	return err
}

// maxPublicKey is above that of any line that Muster takes.
const maxPublicKey = 64 << 10

// anyKey takes what Muster may ever have certified, and what is too weak for it
// by now.
var anyKey = sshkey.Policy{MinRSABits: 1024, AllowSecurityKeys: true}

// readPublicKey returns the key in a file, without its comment. Nothing else
// leaves the machine: a private key comes in many forms.
func (p *program) readPublicKey(path string) (string, error) {
	in := p.stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxPublicKey+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read the public key: %w", err)
	case len(text) > maxPublicKey:
		return "", fmt.Errorf("%s is too long for a public key", path)
	case bytes.HasPrefix(text, []byte("\xff\xfe")), bytes.HasPrefix(text, []byte("\xfe\xff")):
		return "", fmt.Errorf("%s is written in UTF-16, as PowerShell does; nothing was sent; save it as UTF-8 or ASCII", path)
	}
	key, err := anyKey.Parse(string(text))
	var rejected *sshkey.RejectedError
	switch {
	case errors.As(err, &rejected) && rejected.PrivateKey:
		return "", fmt.Errorf("%s holds a PRIVATE key; it was not sent; give the public key, which ssh-keygen -y (or PuTTYgen) shows", path)
	case errors.As(err, &rejected):
		return "", fmt.Errorf("%s: %s; nothing was sent", path, rejected.Reason)
	case err != nil:
		return "", err
	}
	return key.Line, nil
}

func (p *program) revoke(ctx context.Context, cloud cloudFlags, order client.Revocation, allProjects bool, output format) error {
	muster, err := p.login(ctx, cloud)
	if err != nil {
		return err
	}
	if order.ProjectID == "" && !allProjects {
		if order.ProjectID = muster.ProjectID(); order.ProjectID == "" {
			return usageError("your token is not for a project: name one with --project")
		}
	}
	outcome, err := muster.Revoke(ctx, order)
	if err != nil {
		return err
	}
	return writeOutcome(p.stdout, output, "Revoked", outcome)
}

// writeOutcome says what came of a revocation that was done, in a word, so.
func writeOutcome(w io.Writer, output format, done string, outcome client.Outcome) error {
	if output == asJSON {
		return json.NewEncoder(w).Encode(outcome)
	}
	text := fmt.Sprintf("%s; certificates that end by it: %d.", done, outcome.Certificates)
	if outcome.Already {
		text = done + " before; nothing has changed."
	}
	_, err := fmt.Fprintln(w, text)
	return err
}
