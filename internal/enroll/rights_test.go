// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/store"
)

// TestDocumentedRights: what docs/enrolment.md has FreeIPA's administrator type
// lets Muster do its work, from the boot to the end of an instance. The shell
// reads the commands.
func TestDocumentedRights(t *testing.T) {
	block := strings.ReplaceAll(commandsOfThePage(t), "muster/muster.example.com", nova)
	script := `ipa() { printf '%s\n' "$@"; echo; }` + "\n" + block
	said, err := exec.CommandContext(t.Context(), "sh", "-euc", script).Output()
	must(t, err)

	w := newBareWorld(t)
	must(t, w.ipa.AddHost(strings.TrimPrefix(nova, "nova/"), ""))
	for _, zone := range []string{"example.test", "10.in-addr.arpa"} {
		must(t, w.ipa.AddZone(zone))
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.ipa.CA())
	admin, err := ipa.New(ipa.Config{Servers: []string{w.address}, RootCAs: pool, Password: &ipa.Password{User: "admin", Password: adminPassword},
		DialTimeout: patience, LoginTimeout: patience, Timeout: patience})
	must(t, err)
	t.Cleanup(admin.Close)
	for line := range strings.SplitSeq(strings.TrimSpace(string(said)), "\n\n") {
		must(t, typeIn(t, admin, strings.Split(line, "\n")))
	}

	r := w.replica(t)
	answer := r.enrol(t, request(1, "web", "a", "ipa_hostclass", "frontend", "managed_service_x", "HTTP/vip-1.example.test"))
	must(t, r.dns.Set(t.Context(), id(1), "a.example.test", []netip.Addr{address(t, "10.1.1.1")}))
	must(t, w.ipa.Join("a.example.test", answer.OTP))
	r.joined(t, 1)
	must(t, r.Rebuild(t.Context(), operator, id(1), w.now()))
	r.reach(t, 1, store.EnrolmentCreated)
	r.leave(t, 1)
	hosts, services := w.entries()
	equal(t, len(hosts)+len(services), 0)
}

// commandsOfThePage are those that an administrator of FreeIPA is to type.
func commandsOfThePage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/enrolment.md")
	must(t, err)
	_, block, _ := strings.Cut(string(page), "```sh\n")
	block, _, found := strings.Cut(block, "```\n")
	if !found {
		t.Fatal("the page has no block of commands")
	}
	return block
}

// typeIn does what FreeIPA's own client would.
func typeIn(t *testing.T, admin *ipa.Client, words []string) error {
	name, options := words[1], map[string][]string{}
	for _, word := range words[2:] {
		option, value, ok := strings.Cut(strings.TrimPrefix(word, "--"), "=")
		if !ok {
			return fmt.Errorf("%v: no option: %s", words, word)
		}
		options[option] = append(options[option], value)
	}
	only := func(names ...string) {
		for _, name := range names {
			if len(options[name]) == 0 {
				t.Errorf("%v: lacks %s", words, name)
			}
		}
		if len(options) != len(names) {
			t.Errorf("%v: more than %v", words, names)
		}
	}
	ctx := t.Context()
	switch words[0] {
	case "service-add":
		only()
		return admin.Run(ctx, ipa.ServiceAdd(name))
	case "permission-add":
		only("right", "type", "attrs")
		return admin.PermissionAdd(ctx, ipa.Permission{Name: name, Rights: options["right"], Type: options["type"][0], Attributes: options["attrs"]})
	case "privilege-add":
		only()
		return admin.PrivilegeAdd(ctx, name, "")
	case "privilege-add-permission":
		only("permissions")
		return admin.PrivilegeAddPermission(ctx, name, options["permissions"]...)
	case "role-add":
		only()
		return admin.RoleAdd(ctx, name, "")
	case "role-add-privilege":
		only("privileges")
		return admin.RoleAddPrivilege(ctx, name, options["privileges"]...)
	case "role-add-member":
		only("services")
		return admin.RoleAddMember(ctx, name, ipa.RoleMembers{Services: options["services"]})
	}
	return fmt.Errorf("%v: what is that?", words)
}
