// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"
	"testing"
)

// callers are the kinds of people and services that ask, about a thing of user
// "owner" in project "p".
var callers = map[string]Caller{
	"nobody":        {},
	"unscoped":      {UserID: "owner"},
	"owner":         {UserID: "owner", ProjectID: "p", Roles: []string{"member", "reader"}},
	"owner away":    {UserID: "owner", ProjectID: "q", Roles: []string{"member"}},
	"member":        {UserID: "m", ProjectID: "p", Roles: []string{"member"}},
	"reader":        {UserID: "r", ProjectID: "p", Roles: []string{"reader"}},
	"manager":       {UserID: "b", ProjectID: "p", Roles: []string{"Manager", "member"}},
	"manager away":  {UserID: "b", ProjectID: "q", Roles: []string{"manager"}},
	"other":         {UserID: "o", ProjectID: "q", Roles: []string{"member"}},
	"domain member": {UserID: "d", DomainID: "default", Roles: []string{"member", "manager"}},
	"system reader": {UserID: "s", SystemScope: "all", Roles: []string{"reader"}},
	"system admin":  {UserID: "s", SystemScope: "all", Roles: []string{"admin"}},
	"domain admin":  {UserID: "d", DomainID: "default", Roles: []string{"admin"}},
	"cloud admin":   {UserID: "a", ProjectID: "q", Roles: []string{"admin"}},
	"service role":  {UserID: "n", UserName: "compute", ProjectID: "x", ProjectName: "svc", Roles: []string{"service"}},
	"nova":          novaIn("default", "service"),
	"nova plural":   novaIn("default", "services"),
	"nova away":     {UserID: "n", UserName: "nova", ProjectID: "q", ProjectName: "q", Roles: []string{"member"}},
	"nova posing":   novaIn("tenants", "service"),
	"glance":        {UserID: "g", UserName: "glance", ProjectID: "x", ProjectName: "service", Roles: []string{"member"}},
	"passed on":     {UserID: "o", ProjectID: "q", Roles: []string{"member"}, ServiceRoles: []string{"service", "admin"}},
}

// novaIn is a user nova and a project, both in the domain.
func novaIn(domain, project string) Caller {
	return Caller{
		UserID: "n", UserName: "nova", UserDomainID: domain,
		ProjectID: "x", ProjectName: project, ProjectDomainID: domain, Roles: []string{"member"},
	}
}

const (
	admins   = "cloud admin,domain admin,system admin"
	services = "nova,nova plural,service role"
	managers = admins + ",manager"
	members  = managers + ",owner,member,reader"
	owners   = managers + ",owner,owner away"
	everyone = "*" // a token is asked for before, by the API
)

// TestDefaultsByCaller says for each rule whom it allows; everybody else must
// be denied.
func TestDefaultsByCaller(t *testing.T) {
	want := map[string]string{
		"admin_required": admins, "manager": managers, "project_member": "owner,member,reader,manager",
		"owner": "owner,owner away", "service_user": services,
		AuthorityCreate: managers, AuthorityList: members, AuthorityShow: members, AuthorityRevokeGeneration: admins,
		AuthorityRotate: managers, AuthorityRetire: managers,
		UserCertCreate: admins + ",owner", UserCertList: admins + ",owner", UserCertListProject: managers,
		UserCertListAll: admins, UserCertShow: owners, UserCertRevoke: owners, RevocationCreate: managers, KRLShow: everyone,
		HostList: members, HostShow: members, HostDelete: admins + "," + services,
		HostTokenCreate: admins + "," + services, HostTokenRenew: admins, HostCertCreate: everyone, HostCertList: members, HostCertShow: members,
		VendordataCreate: admins + "," + services, JoinCreate: admins + "," + services, PATList: everyone,
		EnrolmentList: members, EnrolmentShow: members, EnrolmentRetry: managers, EnrolmentRebuild: managers, EnrolmentAdopt: admins,
		QueueList: admins, Reconcile: admins,
		AuditList: managers, AuditListAll: admins, EventList: admins, AllProjects: admins, SudoProject: admins,
	}
	e := mustLoad(t, "", Defaults())
	target := Target{"user_id": "owner", "project_id": "p"}
	for _, d := range Defaults() {
		expected, ok := want[d.Name]
		if !ok {
			t.Errorf("%s: the table does not say whom it allows", d.Name)
			continue
		}
		for name, caller := range callers {
			allowed := expected == everyone || slices.Contains(strings.Split(expected, ","), name)
			if got := e.Allow(d.Name, caller.Credentials(), target); got != allowed {
				t.Errorf("%s, %s: %v, want %v", d.Name, name, got, allowed)
			}
		}
	}
	if len(want) != len(Defaults()) {
		t.Errorf("%d rules in the table, %d defaults", len(want), len(Defaults()))
	}
}

// TestDefaultsNeedTheirTarget: a caller of this package that forgets the
// target gets a denial, but for operators, services and open calls.
func TestDefaultsNeedTheirTarget(t *testing.T) {
	e := mustLoad(t, "", Defaults())
	rules := []string{
		AuthorityShow, UserCertCreate, UserCertShow, UserCertRevoke, HostShow, HostCertShow, AuditList, EnrolmentShow, EnrolmentRetry,
	}
	targets := []Target{
		nil, {}, {"user_id": "", "project_id": ""}, {"user_id": []any{"owner"}, "project_id": []any{"p"}},
	}
	for _, name := range rules {
		for _, target := range targets {
			for _, who := range []string{"nobody", "owner", "manager", "system reader"} {
				if e.Allow(name, callers[who].Credentials(), target) {
					t.Errorf("%s, %s, target %v: allowed", name, who, target)
				}
			}
		}
	}
}

// TestDefaultsAreDocumented: the sample file must tell operators what each
// rule is for.
func TestDefaultsAreDocumented(t *testing.T) {
	for _, d := range Defaults() {
		if d.Description == "" || len(d.Scopes) == 0 {
			t.Errorf("%s has no description or scopes", d.Name)
		}
		for _, op := range d.Operations {
			if op.Method == "" || !strings.HasPrefix(op.Path, "/") {
				t.Errorf("%s: operation %v", d.Name, op)
			}
		}
	}
}
