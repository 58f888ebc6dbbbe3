// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package limits

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

// provider is an identity provider whose people are in the groups that it says.
type provider struct {
	*site
	name string
}

func (s *site) provider(t *testing.T, name string) provider {
	t.Helper()
	domain := s.create(t, "domain", nil)
	s.ask(t, s.admin, "PUT", "/OS-FEDERATION/mappings/"+name, object{"mapping": object{"rules": []object{{
		"local":  []object{{"user": object{"name": "{0}"}}, {"groups": "{1}", "domain": object{"id": "default"}}},
		"remote": []object{{"type": "OIDC_USER"}, {"type": "OIDC_GROUPS"}},
	}}}})
	s.ask(t, s.admin, "PUT", "/OS-FEDERATION/identity_providers/"+name, object{"identity_provider": object{
		"remote_ids": []string{services.SSOIssuer}, "enabled": true, "domain_id": domain}})
	s.ask(t, s.admin, "PUT", "/OS-FEDERATION/identity_providers/"+name+"/protocols/openid", object{"protocol": object{"mapping_id": name}})
	return provider{s, name}
}

// keeps sets for how many minutes memberships outlive the log-in.
func (p provider) keeps(t *testing.T, minutes int) {
	t.Helper()
	p.ask(t, p.admin, "PATCH", "/OS-FEDERATION/identity_providers/"+p.name, object{"identity_provider": object{"authorization_ttl": minutes}})
}

// comes logs somebody in who is in the groups, for a project.
func (p provider) comes(t *testing.T, name, project string, groups ...string) (token, id string) {
	t.Helper()
	response, text := p.try(t, "", "POST", "/OS-FEDERATION/identity_providers/"+p.name+"/protocols/openid/auth", nil,
		services.SSOUser, name, services.SSOGroups, strings.Join(groups, ";"))
	if response.StatusCode != http.StatusCreated {
		t.Fatalf("single sign-on: %d %s", response.StatusCode, text)
	}
	token = p.login(t, byToken(response.Header.Get("X-Subject-Token")), inProject(project))
	shown := p.ask(t, p.admin, "GET", "/auth/tokens?nocatalog", nil, "X-Subject-Token", token)["token"].(object)
	return token, shown["user"].(object)["id"].(string)
}

// accounts are those that instances of a project have.
func (s *site) accounts(t *testing.T, project string) (names []string) {
	t.Helper()
	var answer struct{ Users string }
	s.as(s.admin).Want(t, http.StatusOK, "POST", "/v1/vendordata", object{"project-id": project, "instance-id": deployment.NewID(),
		"hostname": "web1", "image-id": deployment.NewID(), "user-data": nil, "metadata": object{}}, &answer)
	return strings.Split(answer.Users, ",")
}

func (s *site) federation(t *testing.T) {
	idp := s.provider(t, "sso")
	for _, minutes := range []int{0, 60} { // Keystone's default, and with memberships that stay
		t.Run(fmt.Sprint("authorization_ttl ", minutes), func(t *testing.T) {
			idp.keeps(t, minutes)
			idp.people(t, minutes > 0)
		})
	}
}

func (p provider) people(t *testing.T, stays bool) {
	project := p.create(t, "project", nil)
	group := func() (id, name string) {
		id = p.create(t, "group", nil)
		return id, p.ask(t, p.admin, "GET", "/groups/"+id, nil)["group"].(object)["name"].(string)
	}
	p.roles["tester"] = p.create(t, "role", nil)
	tester := p.ask(t, p.admin, "GET", "/roles/"+p.roles["tester"], nil)["role"].(object)["name"].(string)
	staff, staffName := group()
	wide, wideName := group()
	direct := "/projects/" + project + "/groups/" + staff + "/roles/" + p.roles["member"]
	p.ask(t, p.admin, "PUT", direct, nil)
	inherited := "/OS-INHERIT/domains/default/groups/" + wide + "/roles/" + p.roles["tester"] + "/inherited_to_projects"
	p.ask(t, p.admin, "PUT", inherited, nil)
	defer p.ask(t, p.admin, "DELETE", "/groups/"+wide, nil)

	token, alice := p.comes(t, "alice", project, staffName, wideName)
	own := person{alice, project}
	all := strings.Join(slices.Sorted(slices.Values([]string{"member", "reader", tester})), ",")
	first := p.certify(t, token, own, nil)
	first.want(t, all, "", p.expiry(t, token))
	bobs, bob := p.comes(t, "bob", project, staffName)
	second := p.certify(t, bobs, person{bob, project}, nil)
	second.want(t, "member,reader", "", p.expiry(t, bobs))

	// A role in the system, which Keystone adds to the token, is none in the project.
	p.ask(t, p.admin, "PUT", "/system/groups/"+staff+"/roles/"+p.roles["admin"], nil)
	systems, _ := p.comes(t, "bob", project, staffName)
	p.certify(t, systems, person{bob, project}, nil).want(t, "member,reader", "", p.expiry(t, systems))
	p.ask(t, p.admin, "DELETE", "/system/groups/"+staff+"/roles/"+p.roles["admin"], nil)

	// Nobody else is in the groups, and their roles have accounts.
	if got := p.accounts(t, project); !slices.Contains(got, "member") || !slices.Contains(got, "reader") || !slices.Contains(got, tester) {
		t.Errorf("accounts %v", got)
	}
	var robots []certificate
	if stays {
		// Their application credentials live as long as the memberships.
		r := p.robotOf(t, token, alice)
		robots = append(robots, p.certify(t, p.byRobot(t, r), own, nil))
		if robots[0].Credential != r.id || robots[0].Principals != "reader" {
			t.Errorf("with an application credential: %+v", robots[0])
		}
	}
	// With a guard that two would trip, nobody is even suspected.
	if gone := p.compare(t); gone["grant"] != 0 || gone["credential"] != 0 {
		t.Errorf("the comparison suspects %v", gone)
	}
	for _, c := range append(robots, first, second) {
		if p.revoked(t, c) {
			t.Errorf("%+v was revoked", c)
		}
	}
	// The membership ends: the next token has less, and so has what it buys.
	less, _ := p.comes(t, "alice", project, wideName)
	if !stays {
		p.certify(t, less, own, nil).want(t, tester, "", p.expiry(t, less))
	}
	// The group loses a role: whoever has it by that loses the certificate.
	p.ask(t, p.admin, "DELETE", direct, nil)
	p.compare(t)
	for _, c := range append(robots, first, second) {
		if !p.revoked(t, c) {
			t.Errorf("%+v is good though the group has lost the role", c)
		}
	}
	if got := p.accounts(t, project); slices.Contains(got, "member") {
		t.Logf("the account stays for a while: %v", got)
	}
	p.ask(t, p.admin, "DELETE", "/groups/"+staff, nil)
	third := p.certify(t, less, own, nil)
	if third.Principals != tester {
		t.Errorf("principals %s, want %s", third.Principals, tester)
	}
	// Somebody who is disabled has nothing.
	p.ask(t, p.admin, "PATCH", "/users/"+alice, object{"user": object{"enabled": false}})
	if p.compare(t); !p.revoked(t, third) {
		t.Error("a certificate of somebody who is disabled is good")
	}
	p.ask(t, p.admin, "PATCH", "/users/"+alice, object{"user": object{"enabled": true}})
	p.compare(t) // forgets that it was so
}

// robotOf makes an application credential with the token at hand.
func (p provider) robotOf(t *testing.T, token, user string) robot {
	t.Helper()
	p.named++
	made := p.ask(t, token, "POST", "/users/"+user+"/application_credentials", object{"application_credential": object{
		"name": fmt.Sprint("robot-", p.named), "roles": []object{{"name": "reader"}}}})["application_credential"].(object)
	return robot{made["id"].(string), made["secret"].(string)}
}
