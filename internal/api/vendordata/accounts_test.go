// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package vendordata

import (
	"context"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/sshca"
)

// roles are those that anyone holds in a project; each has an account of its name.
type roles []string

func (r roles) ProjectRoles(context.Context, string) ([]string, error) { return r, nil }
func (roles) ForgetProjectRoles(string)                                {}
func (roles) Accounts(of []string) ([]string, []sshca.LeftOut)         { return of, nil }

// TestSudoRoles: who may use sudo is in a list, and admin within a name says
// nothing: Swift's ResellerAdmin looks after accounts of object storage.
func TestSudoRoles(t *testing.T) {
	held := roles{"ResellerAdmin", "admin", "load-balancer_admin", "manager", "member"}
	for want, a := range map[string]Accounts{
		"admin":         {SudoRoles: []string{"admin"}},
		"admin,manager": {SudoRoles: []string{"manager", "admin", "adm"}},
		"":              {},
		"ResellerAdmin,admin,load-balancer_admin":         {SudoRoles: []string{"*admin*"}, SudoAdmins: true},
		"ResellerAdmin,admin,load-balancer_admin,manager": {SudoRoles: []string{"*admin*", "manager"}, SudoAdmins: true},
	} {
		a.Names, a.Directory = held, held
		accounts, err := a.Of(t.Context(), "p")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, account := range accounts {
			if account.Sudo {
				got = append(got, account.Name)
			}
		}
		if strings.Join(got, ",") != want {
			t.Errorf("%v: %v, want %s", a.SudoRoles, got, want)
		}
	}
}
