// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package vendordata

import (
	"strings"

	"github.com/muster-cloud/muster/internal/agentapi"
)

// Programs are the agent's programs that instances may fetch.
type Programs interface {
	// Checksums returns their SHA-256 in hexadecimal, by architecture.
	Checksums() map[string]string
}

// Agent is what the boot script needs to fetch and start Muster's agent. All
// keys are flat, with plain strings: the script reads them with sed.
type Agent struct {
	ProjectID  string `json:"project_id"`
	InstanceID string `json:"instance_id"`
	AMD64      string `json:"agent_amd64,omitempty"` // where the program is
	AMD64Sum   string `json:"agent_amd64_sha256,omitempty"`
	ARM64      string `json:"agent_arm64,omitempty"`
	ARM64Sum   string `json:"agent_arm64_sha256,omitempty"`
	CA         string `json:"api_ca,omitempty"` // PEM
}

func (f *Face) agent(instance identified, endpoint string) Agent {
	agent := Agent{ProjectID: instance.project, InstanceID: instance.instance, CA: f.cfg.APICA}
	if f.cfg.Programs == nil {
		return agent
	}
	sums := f.cfg.Programs.Checksums()
	agent.AMD64, agent.AMD64Sum = program(endpoint, "amd64", sums)
	agent.ARM64, agent.ARM64Sum = program(endpoint, "arm64", sums)
	return agent
}

// program returns where a program is, with its checksum in the address too, and
// the checksum.
func program(endpoint, arch string, sums map[string]string) (url, sum string) {
	sum, ok := sums[arch]
	if !ok {
		return "", ""
	}
	return strings.TrimRight(endpoint, "/") + agentapi.PathPrograms + agentapi.Programs[arch] + "?sha256=" + sum, sum
}
