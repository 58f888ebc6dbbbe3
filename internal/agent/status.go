// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent/muster"
)

// StatusFile is the status's name in the folder for running programs.
const StatusFile = "status.json"

// Status is what an agent has set up, and what is wrong.
type Status struct {
	Version   string    `json:"version"`
	PID       int       `json:"pid"`
	WrittenAt time.Time `json:"written_at"`

	InstanceID string `json:"instance_id,omitempty"`
	ProjectID  string `json:"project_id,omitempty"`
	Hostname   string `json:"hostname,omitempty"`
	Endpoint   string `json:"endpoint,omitempty"`
	Source     string `json:"source,omitempty"` // where the metadata was found

	LastContact time.Time     `json:"last_contact,omitzero"` // Muster's last answer
	ClockSkew   time.Duration `json:"clock_skew_ns"`         // how far this clock is ahead of Muster's

	Certificates []Certificate `json:"certificates"`
	UserCAs      []string      `json:"user_cas"` // fingerprints
	Accounts     []string      `json:"accounts"`
	Sudoers      []string      `json:"sudoers"`
	ConfiguredAt time.Time     `json:"configured_at,omitzero"` // when that was made so on the machine

	List ListStatus `json:"revocation_list"`
	IPA  IPAStatus  `json:"freeipa"`

	Problems []Problem `json:"problems"`
	// Warnings are what somebody else has set on the machine, and what does not
	// work for it.
	Warnings []string `json:"warnings"`
}

// Certificate is a host certificate.
type Certificate struct {
	Key        string    `json:"key"` // the type
	Serial     uint64    `json:"serial"`
	Principals []string  `json:"principals"`
	ValidUntil time.Time `json:"valid_until"`
	RenewAfter time.Time `json:"renew_after"`
}

// ListStatus is the revocation list that sshd reads.
type ListStatus struct {
	Version   uint64    `json:"version"`
	CheckedAt time.Time `json:"checked_at,omitzero"` // when Muster last said that it is current
}

// IPAStatus is how it stands with FreeIPA.
type IPAStatus struct {
	FQDN    string `json:"fqdn,omitempty"` // empty: not to be enrolled
	Outcome string `json:"outcome,omitempty"`
}

// ReadStatus reads what the agent last published.
func ReadStatus(runDir string) (*Status, error) {
	file, err := os.Open(filepath.Join(runDir, StatusFile))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxRecord))
	if err != nil {
		return nil, err
	}
	status := new(Status)
	if err := json.Unmarshal(data, status); err != nil {
		return nil, fmt.Errorf("%s is damaged", file.Name())
	}
	return status, nil
}

// AwaySince is since when Muster does not answer, zero if it does.
func (s *Status) AwaySince() time.Time {
	if p := s.problem(aboutMuster); p != nil {
		return p.Since
	}
	return time.Time{}
}

func (s *Status) problem(about string) *Problem {
	for i := range s.Problems {
		if s.Problems[i].About == about {
			return &s.Problems[i]
		}
	}
	return nil
}

func (s *Status) forget(about string) {
	s.Problems = slices.DeleteFunc(s.Problems, func(p Problem) bool { return p.About == about })
}

// describe takes what the record says into the status.
func (a *Agent) describe() {
	a.mu.Lock()
	s, r := &a.status, &a.record
	s.InstanceID, s.ProjectID, s.Hostname = r.Identity.ID, r.Identity.ProjectID, r.Identity.Hostname
	s.Endpoint, s.Source = r.Identity.Endpoint, r.Identity.Source
	s.Certificates = []Certificate{}
	for _, line := range r.Certs {
		if cert, err := muster.ParseCert(line); err == nil {
			s.Certificates = append(s.Certificates, Certificate{
				Key: cert.Key.Type(), Serial: cert.Serial, Principals: cert.ValidPrincipals,
				ValidUntil: validUntil(cert), RenewAfter: renewAfter(cert),
			})
		}
	}
	slices.SortFunc(s.Certificates, func(a, b Certificate) int { return a.ValidUntil.Compare(b.ValidUntil) })
	s.UserCAs, s.Accounts, s.Sudoers = []string{}, []string{}, []string{}
	for _, line := range r.State.UserCAs {
		if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err == nil {
			s.UserCAs = append(s.UserCAs, ssh.FingerprintSHA256(key))
		}
	}
	for _, account := range r.State.Accounts {
		s.Accounts = append(s.Accounts, account.Name)
		if account.Sudo {
			s.Sudoers = append(s.Sudoers, account.Name)
		}
	}
	s.IPA = IPAStatus{Outcome: r.Joined}
	if r.State.IPA != nil {
		s.IPA.FQDN = r.State.IPA.FQDN
	}
	a.mu.Unlock()
	a.publish()
}

// publish writes the status for others to read. Where that fails, nothing else
// does: the folder is in memory, and only shows what is.
func (a *Agent) publish() {
	a.publishing.Lock()
	defer a.publishing.Unlock()
	a.mu.Lock()
	a.status.WrittenAt = a.cfg.Now().UTC()
	if a.client != nil {
		a.status.ClockSkew = a.client.Skew()
	}
	status := a.status
	status.Problems, status.Warnings = slices.Clone(status.Problems), slices.Clone(status.Warnings)
	a.mu.Unlock()
	if status.Problems == nil {
		status.Problems = []Problem{}
	}
	if status.Warnings == nil {
		status.Warnings = []string{}
	}
	if err := writeJSON(filepath.Join(a.cfg.RunDir, StatusFile), status, 0o644, nil); err != nil {
		a.log.Debug("Cannot publish the status", "reason", err)
	}
}
