// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRoleRequests compares what is sent with what a real FreeIPA took (testdata/answers.jsonl has its answers).
func TestRoleRequests(t *testing.T) {
	t.Parallel()
	for want, command := range map[string]Command{
		`{"method":"permission_add","params":[["Modify host password"],{"ipapermright":["write"],"type":"host","attrs":["userpassword"],"version":"2.251"}],"id":7}`: PermissionAdd(
			Permission{Name: "Modify host password", Rights: []string{"write"}, Type: "host", Attributes: []string{"userpassword"}}),
		`{"method":"privilege_add","params":[["Nova Host Management"],{"description":"Nova Host Management","version":"2.251"}],"id":7}`: PrivilegeAdd(
			"Nova Host Management", "Nova Host Management"),
		`{"method":"privilege_add_permission","params":[["Nova Host Management"],{"permission":["System: Add Hosts"],"version":"2.251"}],"id":7}`: PrivilegeAddPermission(
			"Nova Host Management", "System: Add Hosts"),
		`{"method":"role_add","params":[["Nova Host Manager"],{"version":"2.251"}],"id":7}`: RoleAdd("Nova Host Manager", ""),
		`{"method":"role_add_privilege","params":[["Nova Host Manager"],{"privilege":["Nova Host Management"],"version":"2.251"}],"id":7}`: RoleAddPrivilege(
			"Nova Host Manager", "Nova Host Management"),
		`{"method":"role_add_member","params":[["Nova Host Manager"],{"service":["nova/undercloud.example.test"],"version":"2.251"}],"id":7}`: RoleAddMember(
			"Nova Host Manager", RoleMembers{Services: []string{"nova/undercloud.example.test"}}),
	} {
		got, err := command.request(7)
		if err != nil {
			t.Fatal(err)
		}
		var wanted, sent any
		if err := errors.Join(json.Unmarshal([]byte(want), &wanted), json.Unmarshal(got, &sent)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wanted, sent); diff != "" {
			t.Errorf("%s: wanted -, sent +:\n%s", command, diff)
		}
	}
}

// TestRecordedMembers reads who was left out, and why, in what a real FreeIPA answered.
func TestRecordedMembers(t *testing.T) {
	t.Parallel()
	want := map[string][]Member{
		"privilege_add_permission-060": {{"modify hosts", "permission not found"}, {"System: revoke certificate", "permission not found"},
			{"System: write host certificate", "permission not found"}, {"System: retrieve certificates from the ca", "permission not found"}},
		"privilege_add_permission-again-061": {{"no such permission", "permission not found"}},
		"role_add_privilege-066":             nil,
		"role_add_privilege-again-067":       nil,
		"role_add_member-068":                nil,
		"role_add_member-again-069":          {{"nova/nosuch.example.test@EXAMPLE.TEST", "no such entry"}},
	}
	for _, a := range recordedAnswers(t) {
		failed, ok := want[a.Name]
		if !ok {
			continue
		}
		delete(want, a.Name)
		command := Command{name: a.Command}
		raw, err := readAnswer(a.Answer, 0, command)
		if err != nil {
			t.Fatal(err)
		}
		members, err := decodeMembership(raw)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(failed, members.Failed); diff != "" {
			t.Errorf("%s: wanted -, got +:\n%s", a.Name, diff)
		}
		var left *MemberError
		if errors.As(members.Err(command), &left) != (failed != nil) {
			t.Errorf("%s: %v", a.Name, members.Err(command))
		}
	}
	for name := range want {
		t.Errorf("the recording lacks %s", name)
	}
}
