// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/test/deployment"
)

// The bodies that strangers, users, Nova and operators send. Whatever they
// hold, the answer is JSON, and a refusal is never 500 and has the shape of
// the protocol's errors.

func FuzzVendordataBody(f *testing.F) {
	fuzzBody(f, "service", "/v1/novavendordata", []string{
		`{"project-id": "PROJECT", "instance-id": "c65eb661-4472-402e-ac3a-c112fd82693f", "image-id": "4787d9c3-9dbe-4704-a3c9-3fad9c9a0a1d", ` +
			`"user-data": "IyEvYmluL3NoCmVjaG8gaGkK", "hostname": "web1", "metadata": {"ipa_enroll": "True"}, "boot-roles": "member,reader"}`,
		object("project-id", "PROJECT", "instance-id", newID(), "hostname", "web1"),
		object("project-id", "PROJECT", "instance-id", newID(), "hostname", "web1", "user-data", nil, "image-id", "", "metadata", map[string]string{"k": "v"}),
		object("project-id", "PROJECT", "instance-id", newID(), "hostname", "web\x00\n1"),
	})
}

func FuzzUserCertBody(f *testing.F) {
	fuzzBody(f, "owner", "/v1/usercerts", []string{
		object("user_id", "USER", "auth_id", "PROJECT", "pub_key", line(newKey(f))),
		object("user_id", "USER", "auth_id", "PROJECT", "pub_key", line(newKey(f))+" a\nb", "lifetime", 60),
		object("user_id", "USER", "auth_id", "PROJECT", "pub_key", "-----BEGIN OPENSSH PRIVATE KEY-----", "lifetime", -1),
		object("user_id", "USER", "auth_id", "PROJECT", "pub_key", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ==", "lifetime", 1e300),
	})
}

func FuzzHostCertBody(f *testing.F) {
	fuzzBody(f, "none", "/noauth/hostcerts", []string{
		object("token_id", "TOKEN", "host_id", "INSTANCE", "pub_key", line(newKey(f))),
		object("token_id", "TOKEN", "host_id", newID(), "pub_key", line(newKey(f))),
		object("token_id", newID(), "host_id", "INSTANCE", "pub_key", "ecdsa-sha2-nistp256 AAAA"),
	})
}

func FuzzHostCertsBody(f *testing.F) {
	fuzzBody(f, "none", agentapi.PathHostCerts, []string{
		object("token", "TOKEN", "host_id", "INSTANCE", "pub_keys", []string{line(newKey(f)), line(newKey(f))}),
		object("token", newID(), "host_id", "INSTANCE", "pub_keys", []string{"ssh-ed25519 AAAA", ""}),
		`{"token": "TOKEN", "host_id": "INSTANCE", "pub_keys": [null]}`, `{"token": "TOKEN", "host_id": "INSTANCE", "pub_keys": {}}`,
	})
}

func FuzzSignedBody(f *testing.F) {
	fuzzBody(f, "none", agentapi.PathRenew, []string{
		object("challenge", "x", "host_id", "INSTANCE", "pub_keys", []string{line(newKey(f))}),
		`{"challenge": null, "host_id": "INSTANCE"}`, `{"challenge": {}, "host_id": "INSTANCE"}`,
	})
}

func FuzzGenerationBody(f *testing.F) {
	fuzzBody(f, "admin", "/v1/authorities/PROJECT/generations", []string{
		object("role", "user"), object("role", "host", "generation", 2), object("role", "both"), `{"role": "user", "generation": 1e9}`,
		`{"role": "user", "generation": 9223372036854775807}`, `{"role": ["user"]}`,
	})
}

func FuzzRevokedKeysBody(f *testing.F) {
	fuzzBody(f, "manager", "/v1/revokeduserkeys/PROJECT", []string{
		`{"serial": SERIAL}`, object("serial", "SERIAL", "reason", "lost"), `{"serial": 9223372036854775808}`,
		`{"serial": 9223372036854775807}`, `{"serial": -1, "reason": "\u0000"}`, object("serial", "SERIAL", "reason", strings.Repeat("x", 501)),
	})
}

func FuzzRevocationBody(f *testing.F) {
	fuzzBody(f, "admin", "/v1/revocations", []string{
		object("auth_id", "PROJECT", "serial", "SERIAL"), object("auth_id", "PROJECT", "user_id", "USER", "reason", "left"),
		object("auth_id", "PROJECT", "pub_key", line(newKey(f))), object("auth_id", "PROJECT", "key_id", "alice_1\x00"),
		object("auth_id", "PROJECT", "fingerprint", "SHA256:"+strings.Repeat("B", 43)), object("auth_id", "PROJECT", "fingerprint", "SHA256:"+strings.Repeat("A", 43)),
		object("auth_id", "PROJECT", "generation_id", newID()), object("user_id", newID()), object("auth_id", "PROJECT", "serial", 1, "key_id", "x"),
		`{"auth_id": "PROJECT", "serial": 9223372036854775807}`,
	})
}

func fuzzBody(f *testing.F, caller, path string, seeds []string) {
	w := newWorld(f, 1, deployment.Options{})
	w.client = http.DefaultClient
	w.do("admin", "POST", "/v1/authorities", object("auth_id", w.demo)).want(201)
	// Each process that fuzzes has a world of its own, with IDs of its own.
	id, token := w.instance()
	serial, _ := w.userCert()
	names := strings.NewReplacer("PROJECT", w.demo, "USER", w.users["alice"], "INSTANCE", id, "TOKEN", token, "SERIAL", serial.String())
	for _, seed := range append(seeds, "", "{}", "[]", "null", "{", `{"serial": {}}`, `{"auth_id": 1}`, "\xff\xfe") {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		asker := *w
		asker.t = t
		got := asker.do(caller, "POST", names.Replace(path), names.Replace(body))
		answer := got.json()
		switch {
		case got.Status >= 500:
			t.Errorf("answered with %d: %s", got.Status, got.Text)
		case got.Status >= 400:
			title, _ := answer["title"].(string)
			description, _ := answer["description"].(string)
			if len(answer) != 3 || title == "" || description == "" || answer["message"] != description {
				t.Errorf("%d has another shape than errors: %s", got.Status, got.Text)
			}
		}
	})
}
