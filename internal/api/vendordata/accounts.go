// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package vendordata

import (
	"context"
	"slices"
	"strings"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/sshca"
)

// Directory tells which roles anyone holds in a project, as it remembers them
// until they are forgotten.
type Directory interface {
	ProjectRoles(ctx context.Context, projectID string) ([]string, error)
	ForgetProjectRoles(projectID string)
}

// AccountNames turns roles into the names of accounts.
type AccountNames interface {
	Accounts(roles []string) (accounts []string, leftOut []sshca.LeftOut)
}

// Accounts are those that the instances of a project have: one for each role
// that anyone holds there.
type Accounts struct {
	Names     AccountNames
	Directory Directory
	SudoRoles []string // whose accounts may use sudo
	// SudoAdmins adds all roles with admin in their name, as Tatu does.
	SudoAdmins bool
}

// Of returns a project's accounts by name.
func (a *Accounts) Of(ctx context.Context, projectID string) ([]agentapi.Account, error) {
	roles, err := a.Directory.ProjectRoles(ctx, projectID)
	if err != nil {
		return nil, err
	}
	names, _ := a.Names.Accounts(roles)
	var admins []string
	for _, role := range roles {
		if a.maySudo(role) {
			admins = append(admins, role)
		}
	}
	sudoers, _ := a.Names.Accounts(admins)
	accounts := make([]agentapi.Account, len(names))
	for i, name := range names {
		accounts[i] = agentapi.Account{Name: name, Sudo: slices.Contains(sudoers, name)}
	}
	return accounts, nil
}

// Forget makes the next answer one that was looked up after it.
func (a *Accounts) Forget(projectID string) { a.Directory.ForgetProjectRoles(projectID) }

func (a *Accounts) maySudo(role string) bool {
	return slices.Contains(a.SudoRoles, role) || a.SudoAdmins && strings.Contains(strings.ToLower(role), "admin")
}
