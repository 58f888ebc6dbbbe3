// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/api/instance"
	"github.com/muster-cloud/muster/internal/api/vendordata"
	"github.com/muster-cloud/muster/internal/config"
)

// maxAPICA bounds what Nova has to carry to each instance, in bytes.
const maxAPICA = 32 << 10

// buildAgent reads what instances get of the agent.
func (s *Server) buildAgent() error {
	s.programs = instance.OpenPrograms(s.cfg.Agent.Directory, s.logger)
	if s.cfg.Agent.CAFile == "" {
		return nil
	}
	content, err := os.ReadFile(s.cfg.Agent.CAFile)
	if err == nil {
		s.apiCA, err = certificates(content)
	}
	if err != nil {
		return fmt.Errorf("[agent] ca_file: %w", err)
	}
	return nil
}

// certificates returns the certificates in a PEM file, and nothing else that
// may stand there, such as a private key.
func certificates(content []byte) (string, error) {
	var kept strings.Builder
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("a certificate in it cannot be read: %w", err)
		}
		block.Headers = nil
		kept.Write(pem.EncodeToMemory(block))
	}
	switch {
	case kept.Len() == 0:
		return "", errors.New("it holds no certificate in PEM form")
	case kept.Len() > maxAPICA:
		return "", fmt.Errorf("its certificates take more than %d bytes; keep only those of the authority that signed api_endpoint's", maxAPICA)
	}
	return kept.String(), nil
}

// accounts are those that instances have.
func (s *Server) accounts() *vendordata.Accounts {
	roles := s.cfg.Vendordata.SudoRoles
	return &vendordata.Accounts{
		Names: s.authority, Directory: s.directory, SudoRoles: roles, SudoAdmins: slices.Contains(roles, config.AnyAdmin),
	}
}

func (s *Server) instanceConfig(rate *api.RateLimiter) instance.Config {
	cfg := instance.Config{
		Hosts: s.authority, Lists: s.authority.Feed(), Authenticator: s.keyring, Accounts: s.accounts(), Enrolments: s.store,
		Programs: s.programs, Rate: rate, MaxWait: s.cfg.API.LongPollMax, MaxWaiting: s.cfg.API.MaxLongPolls,
		State: s.agentState(), Logger: s.logger,
	}
	if s.enrolment != nil {
		cfg.Reports = s.enrolment.service
		cfg.IPA = agentapi.IPA{
			Domain: s.enrolment.domain, Realm: s.enrolment.realm, Server: s.cfg.Agent.IPAServer,
			Options: s.cfg.Agent.IPAClientOptions, InstallClient: s.cfg.Agent.InstallIPAClient,
		}
	}
	return cfg
}

// agentState is what is the same for all instances.
func (s *Server) agentState() agentapi.State {
	state := agentapi.State{
		SSHPort: s.cfg.Vendordata.SSHPort, PAMSudo: s.cfg.Vendordata.PAMSudo,
		PasswordAuthentication: s.cfg.Agent.PasswordAuthentication,
		PollSeconds:            int(s.cfg.Agent.PollInterval / time.Second),
	}
	for _, network := range s.cfg.Agent.PenaltyExempt {
		state.PenaltyExempt = append(state.PenaltyExempt, network.String())
	}
	if s.cfg.API.MaxLongPolls > 0 {
		state.LongPollSeconds = min(int(s.cfg.API.LongPollMax/time.Second), agentapi.MaxWaitList)
	}
	return state
}
