// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/cloudinit"
	"github.com/muster-cloud/muster/internal/config"
)

func newVendordata(p *program) *cobra.Command {
	return group("vendordata", "Make what Nova hands to every instance", `Make the static vendordata that Nova hands to every instance, by which
cloud-init fetches and starts muster-agent. docs/agent.md tells how it works.`,
		newVendordataCloudInit(p),
		newVendordataConvert(p),
	)
}

func newVendordataCloudInit(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "cloud-init", Short: "Print the static vendordata that starts muster-agent", Args: cobra.NoArgs,
		Long: `Print the file for [api] vendordata_jsonfile_path of nova.conf. Its script finds
the agent's address and checksum in what Muster tells Nova of each instance, so
that the file is the same for all, holds no secret, and need not change with a
new agent. It runs beside whatever an instance's user-data has, and before it.

muster.conf is read to see whether instances will find an agent; what they would
miss is told on the standard error.

With --merge the script is added to what you hand out already, in either form:
static vendordata (a JSON object, or a text or a list of texts for cloud-init),
or what cloud-init takes as user-data. An older script of Muster's is replaced,
all else stays as it is. A cloud-config keeps its comments, and runs Muster's
script before its own runcmd.`,
		Example: `  muster vendordata cloud-init > /etc/nova/vendordata.json
  muster vendordata cloud-init --merge /etc/nova/vendordata.json > vendordata.json.new
  muster vendordata cloud-init --cloud-config > user-data.yaml`,
	}
	file := configFlag(cmd)
	asConfig := cmd.Flags().Bool("cloud-config", false, "print the cloud-config alone, to paste as an instance's user-data")
	merge := cmd.Flags().String("merge", "", "add to what this `FILE` holds (- is the standard input)")
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, err := p.loadConfig(*file)
		if err != nil {
			return err
		}
		for _, warning := range missingForAgents(cfg) {
			fmt.Fprintln(p.stderr, "warning:", warning)
		}
		text, err := p.bootData(*merge, *asConfig)
		if err != nil {
			return err
		}
		_, err = p.stdout.Write(text)
		return err
	}
	return cmd
}

// missingForAgents tells what instances would look for in vain.
func missingForAgents(cfg *config.Config) []string {
	var missing []string
	for _, name := range agentapi.Programs {
		if _, err := os.Stat(filepath.Join(cfg.Agent.Directory, name)); err != nil {
			missing = append(missing, fmt.Sprintf("%s is not in [agent] directory, %s: images of that kind must contain muster-agent",
				name, cfg.Agent.Directory))
		}
	}
	slices.Sort(missing)
	if cfg.Vendordata.APIEndpoint == nil {
		missing = append(missing, "[vendordata] api_endpoint is not set: instances are told the address by which Nova reaches Muster")
	}
	return missing
}

// bootData makes the file in the form that is wanted, alone or merged.
func (p *program) bootData(merge string, asConfig bool) ([]byte, error) {
	switch {
	case merge == "" && asConfig:
		config, err := cloudinit.CloudConfig()
		return []byte(config), err
	case merge == "":
		return cloudinit.Vendordata()
	}
	theirs, err := p.readInput(merge)
	if err != nil {
		return nil, err
	}
	text, err := mergeBootData(theirs, asConfig)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", merge, err)
	}
	return text, nil
}

// mergeBootData merges with a file of either form, into the one that is wanted.
func mergeBootData(theirs []byte, asConfig bool) ([]byte, error) {
	isVendordata := cloudinit.IsVendordata(theirs)
	if asConfig {
		config := string(theirs)
		if isVendordata {
			var err error
			if config, err = cloudinit.FromVendordata(theirs); err != nil {
				return nil, err
			}
		}
		merged, err := cloudinit.MergeConfig([]byte(config))
		return []byte(merged), err
	}
	if !isVendordata {
		var err error
		if theirs, err = cloudinit.ToVendordata(theirs); err != nil {
			return nil, err
		}
	}
	return cloudinit.Merge(theirs)
}

func newVendordataConvert(p *program) *cobra.Command {
	return &cobra.Command{
		Use: "convert FILE", Short: "Turn vendordata into a cloud-config, and back", Args: cobra.ExactArgs(1),
		Long: `Print the other form of a file: of a cloud-config, or anything else that
cloud-init takes as user-data, the static vendordata that holds it; of static
vendordata, what it holds for cloud-init. Other keys of vendordata are not in
the result. - is the standard input.`,
		Example: `  muster vendordata convert user-cloud-config > /etc/nova/vendordata.json
  muster vendordata convert /etc/nova/vendordata.json > user-cloud-config`,
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := p.readInput(args[0])
			if err != nil {
				return err
			}
			if cloudinit.IsVendordata(data) {
				text, err := cloudinit.FromVendordata(data)
				if err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
				_, err = io.WriteString(p.stdout, text)
				return err
			}
			text, err := cloudinit.ToVendordata(data)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			_, err = p.stdout.Write(text)
			return err
		},
	}
}

// readInput reads a file, or the standard input if its name is -.
func (p *program) readInput(name string) ([]byte, error) {
	from := p.stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		from = file
	}
	data, err := io.ReadAll(io.LimitReader(from, cloudinit.MaxSize+1))
	if err == nil && len(data) == 0 {
		err = errors.New("the file is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}
