// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/sshca/krl"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/internal/uuid"
)

// shape turns what differs from answer to answer into words, so that keys,
// their order and all blanks are compared.
func shape(text string) string {
	for _, r := range []struct{ pattern, word string }{
		{`http://127\.0\.0\.1:\d+`, "URL"}, {`ssh-ed25519-cert-v01@openssh\.com [A-Za-z0-9+/=]+`, "CERT"}, {`ssh-ed25519 [A-Za-z0-9+/=]+`, "KEY"},
		{`MD5:[0-9a-f:]{47}`, "MD5"}, {`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}`, "TIME"}, {`[0-9a-f]{32}`, "ID"}, {`"serial": \d+`, `"serial": N`},
		{`"revoked_keys_data": "[A-Za-z0-9+/=]+"`, `"revoked_keys_data": "KRL"`},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.word)
	}
	return text
}

// TestWire compares each of Tatu's calls with its form on the wire.
func TestWire(t *testing.T) { everywhere(t, testWire) }

func testWire(t *testing.T, w *world) {
	id, key, hostKey := w.boots(w.demo), line(newKey(t)), line(newKey(t))
	const userCert = `{"user_id": "ID", "user_name": "alice", "principals": "member,reader", "fingerprint": "MD5", "auth_id": "ID", ` +
		`"cert": "CERT", "revoked": false, "serial": N, "created_at": "TIME", "expires_at": "TIME"}`
	const hostCert = `{"host_id": "ID", "fingerprint": "MD5", "auth_id": "ID", "cert": "CERT", "hostname": "web1", "serial": N, ` +
		`"revoked": false, "created_at": "TIME", "expires_at": "TIME"}`
	const authority = `{"auth_id": "ID", "name": "demo", "user_pub_key": "KEY", "host_pub_key": "KEY"}`
	const host = `{"id": "ID", "name": "web1", "auth_id": "ID", "pat_bastions": "", "srv_url": ""}`
	const version = `{"id": "v1", "status": "CURRENT", "links": [{"href": "URL/v1", "rel": "self"}]}`

	var token string
	ask := func(caller, method, path, body string, status int, location, want string) reply {
		t.Helper()
		got := w.do(caller, method, path, body)
		if got.Status != status || shape(got.Text) != want || shape(got.Header.Get("Location")) != location {
			t.Errorf("%s %s:\n%d %s %s\nwant\n%d %s %s", method, path, got.Status, got.Header.Get("Location"), shape(got.Text), status, location, want)
		}
		if kind := got.Header.Get("Content-Type"); kind != "application/json" {
			t.Errorf("%s %s: Content-Type %q", method, path, kind)
		}
		return got
	}
	ask("none", "GET", "/", "", 200, "", `{"versions": {"values": [`+version+`]}}`)
	ask("none", "GET", "/v1", "", 200, "", `{"version": `+version+`}`)
	dashed := w.demo[:8] + "-" + w.demo[8:12] + "-" + w.demo[12:16] + "-" + w.demo[16:20] + "-" + w.demo[20:]
	ask("manager", "POST", "/v1/authorities", object("auth_id", strings.ToUpper(dashed)), 201, "/authorities/ID", authority)
	ask("manager", "POST", "/v1/authorities", object("auth_id", w.demo), 409, "",
		`{"title": "Conflict", "description": "project ID has an authority already", "message": "project ID has an authority already"}`)
	ask("admin", "POST", "/v1/authorities", object("auth_id", newID()), 404, "", `{"title": "Not Found", "description": "Keystone knows no project ID", "message": "Keystone knows no project ID"}`)
	ask("admin", "GET", "/v1/authorities/"+newID(), "", 404, "", `{"title": "Not Found", "description": "project ID has no authority", "message": "project ID has no authority"}`)
	ask("member", "GET", "/v1/authorities/"+dashed+"/", "", 200, "", authority)
	ask("member", "GET", "/authorities", "", 200, "", `{"CAs": [`+authority+`], "links": {"self": "URL/authorities"}}`)

	order := object("user_id", w.users["alice"], "auth_id", w.demo, "pub_key", "  "+key+" alice@laptop\n")
	first := ask("owner", "POST", "/v1/usercerts", order, 201, "/usercerts/ID/MD5", userCert)
	if again := ask("owner", "POST", "/usercerts/", order, 201, "/usercerts/ID/MD5", userCert); again.Text != first.Text {
		t.Errorf("the same user and key got another certificate:\n%s\n%s", first.Text, again.Text)
	}
	checkUserCert(t, first.json())
	ask("owner", "GET", first.Header.Get("Location"), "", 200, "", userCert)
	ask("owner", "GET", fmt.Sprintf("/v1/usercerts/%v", first.json()["serial"]), "", 200, "", userCert)
	ask("owner", "GET", "/v1/usercerts/999999999", "", 404, "", `{"title": "Not Found", "description": "no such user certificate", "message": "no such user certificate"}`)
	ask("owner", "GET", "/v1/usercerts", "", 200, "", `{"certs": [`+userCert+`], "links": {"self": "URL/v1/usercerts"}}`)

	made := ask("service", "POST", "/v1/hosttokens", object("host_id", id, "auth_id", w.demo, "hostname", "web1"), 201, "/hosttokens/ID",
		`{"token_id": "ID", "host_id": "ID", "auth_id": "ID", "hostname": "web1", "created_at": "TIME", "expires_at": "TIME"}`)
	token = made.json()["token_id"].(string)
	boot := ask("service", "POST", "/v1/novavendordata", object("instance-id", id, "project-id", w.demo, "hostname", "web1"), 201, "/hosttokens/ID",
		`{"token": "ID", "auth_pub_key_user": "KEY", "root_principals": "", "users": "manager,member,reader", "sudoers": "", `+
			`"ssh_port": 22, "pam_sudo": false, "api_endpoint": "http://127.0.0.1"}`)
	if boot.json()["token"] != token {
		t.Error("the same instance got two tokens")
	}
	ask("service", "POST", "/v1/novavendordata", object("instance-id", id, "project-id", w.other, "hostname", "web1"), 409, "",
		`{"title": "Conflict", "description": "instance ID belongs to another project", "message": "instance ID belongs to another project"}`)

	ask("none", "POST", "/noauth/hostcerts", object("token_id", newID(), "host_id", id, "pub_key", hostKey), 404, "",
		`{"title": "Not Found", "description": "the token is unknown", "message": "the token is unknown"}`)
	ask("none", "POST", "/noauth/hostcerts", object("token_id", token, "host_id", newID(), "pub_key", hostKey), 409, "",
		`{"title": "Conflict", "description": "the token belongs to another instance", "message": "the token belongs to another instance"}`)
	cert := ask("none", "POST", "/noauth/hostcerts", object("token_id", token, "host_id", id, "pub_key", hostKey), 200, "/hostcerts/ID/MD5", hostCert)
	for _, path := range []string{"/v1/hostcerts", "/hostcerts/", "/noauth/hostcerts/"} {
		if again := ask("none", "POST", path, object("token_id", token, "host_id", id, "pub_key", hostKey), 200, "/hostcerts/ID/MD5", hostCert); again.Text != cert.Text {
			t.Errorf("%s: the same token and key got another certificate", path)
		}
	}
	ask("none", "POST", "/v1/hostcerts", object("token_id", token, "host_id", id, "pub_key", line(newKey(t))), 409, "",
		`{"title": "Conflict", "description": "the token was used for another key", "message": "the token was used for another key"}`)
	ask("member", "GET", cert.Header.Get("Location"), "", 200, "", hostCert)
	ask("member", "GET", "/v1/hostcerts", "", 200, "", `{"certs": [`+hostCert+`], "links": {"self": "URL/v1/hostcerts"}}`)
	ask("member", "GET", "/v1/hosts", "", 200, "", `{"hosts": [`+host+`], "links": {"self": "URL/v1/hosts"}}`)
	ask("member", "GET", "/hosts/"+id+"/", "", 200, "", host)
	ask("member", "GET", "/v1/pats", "", 200, "", `{"pats": []}`)

	const list = `{"auth_id": "ID", "encoding": "base64", "revoked_keys_data": "KRL"}`
	ask("stranger", "GET", "/v1/revokeduserkeys/"+w.demo, "", 200, "", list)
	ask("none", "GET", "/noauth/revokeduserkeys/"+w.demo+"/", "", 200, "", list)
	ask("none", "GET", "/noauth/revokeduserkeys/"+newID(), "", 404, "", `{"title": "Not Found", "description": "project ID has no authority", "message": "project ID has no authority"}`)
	serial := first.json()["serial"]
	ask("owner", "POST", "/v1/revokeduserkeys/"+w.demo, object("serial", fmt.Sprint(serial)), 200, "", `{}`)
	ask("owner", "POST", "/v1/revokeduserkeys/"+w.demo, object("serial", serial), 400, "",
		fmt.Sprintf(`{"title": "Bad Request", "description": "serial: certificate %[1]v is revoked already", "message": "serial: certificate %[1]v is revoked already"}`, serial))
	ask("owner", "POST", "/v1/revokeduserkeys/"+w.demo, object("serial", 999999), 400, "",
		`{"title": "Bad Request", "description": "serial: authority ID has issued no user certificate 999999", "message": "serial: authority ID has issued no user certificate 999999"}`)
}

// checkUserCert reads the certificate as sshd would.
func checkUserCert(t *testing.T, body map[string]any) {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(body["cert"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	cert := key.(*ssh.Certificate)
	if want := fmt.Sprintf("alice_%v", body["serial"]); cert.KeyId != want || fmt.Sprint(cert.ValidPrincipals) != "[member reader]" || len(cert.Extensions) != 5 {
		t.Errorf("key ID %q (want %q), principals %v, extensions %v", cert.KeyId, want, cert.ValidPrincipals, cert.Extensions)
	}
	created, err := time.Parse("2006-01-02T15:04:05.000000", body["created_at"].(string))
	if err != nil || time.Since(created).Abs() > time.Minute {
		t.Errorf("created_at %v is not now in UTC: %v", body["created_at"], err)
	}
}

// TestFingerprints finds certificates by both forms, with the slashes that
// base64 has, encoded and not.
func TestFingerprints(t *testing.T) { everywhere(t, testFingerprints) }

func testFingerprints(t *testing.T, w *world) {
	for slashes := 0; slashes < 3; {
		key := newKey(t)
		fingerprint := ssh.FingerprintSHA256(key)
		if !strings.Contains(fingerprint, "/") || strings.Contains(fingerprint, "//") {
			continue // an empty path segment can only be sent encoded
		}
		slashes++
		w.do("owner", "POST", "/v1/usercerts", object("user_id", w.users["alice"], "auth_id", w.demo, "pub_key", line(key))).want(201)
		id, token := w.instance()
		w.do("none", "POST", "/noauth/hostcerts", object("token_id", token, "host_id", id, "pub_key", line(key))).want(200)
		for _, form := range []string{"MD5:" + ssh.FingerprintLegacyMD5(key), fingerprint, url.PathEscape(fingerprint)} {
			for _, end := range []string{"", "/"} {
				for _, path := range []string{"/v1/usercerts/" + w.users["alice"], "/hostcerts/" + id} {
					// What is not encoded is no path of the description's.
					request, err := http.NewRequest("GET", w.next()+path+"/"+form+end, nil)
					if err != nil {
						t.Fatal(err)
					}
					request.Header.Set("X-Auth-Token", w.tokens["owner"])
					response, err := http.DefaultClient.Do(request)
					if err != nil {
						t.Fatal(err)
					}
					response.Body.Close()
					if response.StatusCode != 200 {
						t.Errorf("GET %s/%s%s: %s", path, form, end, response.Status)
					}
				}
			}
		}
	}
}

// TestRefusals are the requests that are wrong by themselves.
func TestRefusals(t *testing.T) { everywhere(t, testRefusals) }

func testRefusals(t *testing.T, w *world) {
	w.do("admin", "POST", "/v1/authorities", object("auth_id", w.demo)).want(201)
	for _, call := range []struct {
		path   string
		fields []any
	}{
		{"/v1/authorities", []any{"auth_id", w.demo}},
		{"/v1/usercerts", []any{"auth_id", w.demo, "pub_key", line(newKey(t)), "user_id", w.users["alice"]}},
		{"/v1/hosttokens", []any{"auth_id", w.demo, "host_id", newID(), "hostname", "web1"}},
		{"/v1/novavendordata", []any{"project-id", w.demo, "instance-id", newID(), "hostname", "web1"}},
		{"/v1/vendordata", []any{"project-id", w.demo, "instance-id", newID(), "hostname", "web1"}},
		{"/noauth/hostcerts", []any{"token_id", newID(), "host_id", newID(), "pub_key", line(newKey(t))}},
		{"/v1/hostcerts", []any{"token_id", newID(), "host_id", newID(), "pub_key", line(newKey(t))}},
		{"/v1/revokeduserkeys/" + w.demo, []any{"serial", 1}},
		{"/v1/revocations", []any{"auth_id", w.demo, "key_id", "x_1"}},
		{"/v1/reconcile", []any{"dry_run", true}},
	} {
		refused := func(body string) {
			t.Helper()
			got := w.do("admin", "POST", call.path, body)
			if got.Status != 400 || got.json()["title"] != "Bad Request" {
				t.Errorf("POST %s %.100s: %d %s", call.path, body, got.Status, got.Text)
			}
		}
		for _, body := range []string{"", " ", "{}", "[]", "null", "1", `"x"`, "{", "not JSON", "{}{}"} {
			refused(body)
		}
		for i := 0; i < len(call.fields); i += 2 {
			refused(object(append(append([]any{}, call.fields[:i]...), call.fields[i+2:]...)...))
			for _, wrong := range []any{"", nil, 1.5, []string{"a"}, map[string]string{}} {
				fields := append([]any{}, call.fields...)
				fields[i+1] = wrong
				refused(object(fields...))
			}
			if name := call.fields[i].(string); strings.HasSuffix(name, "id") && name != "key_id" {
				for _, wrong := range []string{"x", "{" + w.demo + "}", "urn:uuid:" + w.demo, w.demo[:31], w.demo + "0", "../" + w.demo} {
					fields := append([]any{}, call.fields...)
					fields[i+1] = wrong
					refused(object(fields...))
				}
			}
		}
		large := w.do("admin", "POST", call.path, object("pad", strings.Repeat("x", 2<<20)))
		if large.Status != 413 || large.json()["title"] != "Request Entity Too Large" {
			t.Errorf("POST %s with 2 MiB: %d %s", call.path, large.Status, large.Text)
		}
	}
	for _, path := range []string{
		"/v1/authorities/x", "/v1/hosts/x", "/v1/hostcerts/x/MD5:00", "/v1/usercerts/x", "/v1/usercerts/x/MD5:00", "/v1/revokeduserkeys/x",
		"/noauth/revokeduserkeys/x", "/v1/usercerts?limit=0", "/v1/usercerts?limit=x", "/v1/usercerts?marker=x", "/v1/hostcerts?marker=x",
		"/v1/enrolments/x", "/v1/enrolments?state=lost", "/v1/enrolments?marker=%00", "/v1/revocations?marker=x", "/v1/audit?since=yesterday", "/v1/revokeduserkeys/" + w.demo + "?wait=-1",
		"/v1/revokeduserkeys/" + w.demo + "?wait=1000000", "/v1/queue?marker=instance", "/v1/queue?marker=%00+x", "/v1/queue?limit=0",
	} {
		if got := w.do("admin", "GET", path, ""); got.Status != 400 || got.json()["title"] != "Bad Request" {
			t.Errorf("GET %s: %d %s", path, got.Status, got.Text)
		}
	}
	for _, path := range []string{"/nothing", "/v1/nothing", "/v2", "/noauth", "/noauth/usercerts", "//v1", "/v1/../etc", "/v1/hosts/a/b/c"} {
		got := w.do("admin", "GET", path, "").want(404)
		if got.json()["title"] != "Not Found" || got.Header.Get("Location") != "" {
			t.Errorf("GET %s: %s %v", path, got.Text, got.Header)
		}
	}
	for path, allow := range map[string]string{
		"/v1/authorities": "GET, HEAD, POST", "/v1/hosts/" + newID(): "DELETE, GET, HEAD", "/noauth/hostcerts/": "POST", "/": "GET, HEAD",
	} {
		got := w.do("admin", "PATCH", path, "").want(405)
		if got.Header.Get("Allow") != allow || got.json()["title"] != "Method Not Allowed" {
			t.Errorf("PATCH %s: Allow %q, want %q: %s", path, got.Header.Get("Allow"), allow, got.Text)
		}
	}
	unsigned := w.do("none", "GET", "/v1/hosts", "").want(401)
	if !strings.HasPrefix(unsigned.Header.Get("WWW-Authenticate"), "Keystone uri=") {
		t.Errorf("WWW-Authenticate %q", unsigned.Header.Get("WWW-Authenticate"))
	}
}

// TestRefusalsAreOneEntry: who asks again for what is not allowed, on whatever
// replica, fills no list.
func TestRefusalsAreOneEntry(t *testing.T) { everywhere(t, testRefusalsAreOneEntry) }

func testRefusalsAreOneEntry(t *testing.T, w *world) {
	const asked = 100
	for range asked {
		w.do("member", "GET", "/v1/audit", "", "X-Auth-Sudo-Project-ID: "+newID()).want(403)
	}
	path := "/v1/audit?actor=" + w.users["bob"]
	entries := w.do("admin", "GET", path, "", "X-Auth-All-Projects: True").want(200).json()["audit"].([]any)
	var times int64
	for _, entry := range entries {
		n, err := entry.(map[string]any)["times"].(json.Number).Int64()
		if err != nil {
			t.Fatal(err)
		}
		times += n
	}
	// The loop may have met the end of a minute.
	if len(entries) < 1 || len(entries) > 2 || times != asked {
		t.Errorf("%d entries of %d refusals, want one or two of %d", len(entries), times, asked)
	}
}

// TestUnknownFilters: what is misspelt selects nothing, and is refused by name.
func TestUnknownFilters(t *testing.T) { everywhere(t, testUnknownFilters) }

func testUnknownFilters(t *testing.T, w *world) {
	for path, misspelt := range map[string]string{
		"/v1/audit": "project", "/v1/enrolments": "states", "/v1/queue": "kind", "/v1/events": "type", "/v1/revocations": "project_id",
		"/v1/usercerts": "user_id", "/v1/hostcerts": "host_id", "/hosts": "name", "/authorities": "auth_id",
	} {
		got := w.do("admin", "GET", path+"?limit=1&"+misspelt+"=x", "").want(400)
		if reason, _ := got.json()["description"].(string); !strings.HasPrefix(reason, misspelt+": is no filter of this list; there are limit, marker") {
			t.Errorf("%s: %s", path, reason)
		}
	}
	for value, status := range map[string]int{
		"True": 200, "true": 200, "1": 200, "yes": 200, "False": 200, "0": 200, "": 200, "all": 400, "Treu": 400, "2": 400, "True, True": 400,
	} {
		w.do("admin", "GET", "/v1/hosts", "", "X-Auth-All-Projects: "+value).want(status)
	}
	// A member with any spelling of yes is refused, and does not get the own project's as if that had been asked for.
	for _, value := range []string{"True", "1", "on"} {
		w.do("member", "GET", "/v1/hosts", "", "X-Auth-All-Projects: "+value).want(403)
	}
}

// TestAuditFilters: a value that no record can hold is refused under its name.
func TestAuditFilters(t *testing.T) { everywhere(t, testAuditFilters) }

func testAuditFilters(t *testing.T, w *world) {
	for _, field := range []string{"actor", "action", "object", "marker", "since", "until"} {
		for _, value := range []string{"%00", "a%00b", "%ff", "%ED%A0%80"} {
			got := w.do("admin", "GET", "/v1/audit?"+field+"="+value, "", "X-Auth-All-Projects: True").want(400)
			if reason, _ := got.json()["description"].(string); !strings.HasPrefix(reason, field+": ") {
				t.Errorf("%s = %s: %s", field, value, reason)
			}
		}
	}
	w.do("admin", "GET", "/v1/audit?actor=M%C3%BCller%20%F0%9F%94%91", "", "X-Auth-All-Projects: True").want(200)
}

// TestConvergence compares the calls about convergence with their form.
func TestConvergence(t *testing.T) { everywhere(t, testConvergence) }

func testConvergence(t *testing.T, w *world) {
	_, records := w.cloud.OpenStore(t)
	next := time.Now().Add(time.Hour)
	grant := w.users["alice"] + "/" + w.demo
	for _, key := range []store.PendingKey{
		{Kind: "instance", ID: newID(), Rebuilt: true, Attempts: 3, NextAt: next, LastError: "Nova answers with 500"},
		{Kind: "grant", ID: grant, NextAt: next},
	} {
		if err := records.DeferKey(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	const second = `{"kind": "instance", "id": "ID", "attempts": 3, "next_at": "TIME", "since": "TIME", "error": "Nova answers with 500"}`
	const first = `{"kind": "grant", "id": "ID/ID", "attempts": 0, "next_at": "TIME", "since": "TIME", "error": ""}`
	want := func(got reply, want string) {
		t.Helper()
		if got.want(200); shape(got.Text) != want {
			t.Errorf("got\n%s\nwant\n%s", shape(got.Text), want)
		}
	}
	marker := "?limit=1&marker=grant+" + url.QueryEscape(grant)
	page := w.at(0).do("admin", "GET", "/v1/queue?limit=1", "")
	want(page, `{"queue": [`+first+`], "away": [], "links": {"self": "URL/v1/queue?limit=1", "next": "URL/v1/queue?limit=1&marker=grant+ID%2FID"}}`)
	if !strings.Contains(page.Text, marker) {
		t.Errorf("links.next does not lead behind the grant: %s", page.Text)
	}
	want(w.at(1).do("admin", "GET", "/v1/queue"+marker, ""), `{"queue": [`+second+`], "away": [], "links": {"self": "URL/v1/queue?limit=1&marker=grant+ID%2FID", `+
		`"next": "URL/v1/queue?limit=1&marker=instance+ID"}}`)

	w.userCert()
	id := newID() // which Nova does not have
	token := store.HostToken{Hash: newID() + newID(), ExpiresAt: next}
	if _, _, err := records.CreateInstance(t.Context(), store.Instance{ID: id, ProjectID: w.demo, Hostname: "web1", Token: token}, store.Audit{}); err != nil {
		t.Fatal(err)
	}
	got := w.do("admin", "POST", "/v1/reconcile", object("dry_run", true))
	want(got, `{"dry_run": true, "kinds": [{"kind": "project", "total": 1, "look": 0, "gone": 0, "refused": false, "suspects": []}, `+
		`{"kind": "grant", "total": 1, "look": 0, "gone": 0, "refused": false, "suspects": []}, `+
		`{"kind": "instance", "total": 1, "look": 0, "gone": 1, "refused": false, "suspects": `+
		`[{"kind": "instance", "id": "ID", "reason": "the instance is not in Nova's list"}]}, `+
		`{"kind": "address", "total": 0, "look": 0, "gone": 0, "refused": false, "suspects": []}, `+
		`{"kind": "credential", "total": 0, "look": 0, "gone": 0, "refused": false, "suspects": []}]}`)
	w.do("member", "GET", "/v1/hosts/"+id, "").want(200)
	w.do("admin", "POST", "/v1/reconcile", object("dry_run", false)).want(200)
	w.do("member", "GET", "/v1/hosts/"+id, "").want(404)
}

// TestPaging follows links.next to the end.
func TestPaging(t *testing.T) { everywhere(t, testPaging) }

func testPaging(t *testing.T, w *world) {
	const want = 5
	_, records := w.cloud.OpenStore(t)
	later := time.Now().Add(time.Hour)
	for i := range want {
		serial, _ := w.userCert()
		w.hostCert()
		w.do("manager", "POST", "/v1/revocations", object("auth_id", w.demo, "serial", serial)).want(200)
		if err := records.DeferKey(t.Context(), store.PendingKey{Kind: "instance", ID: newID(), NextAt: later}); err != nil {
			t.Fatal(err)
		}
		e := store.Enrolment{InstanceID: newID(), ProjectID: w.demo, FQDN: fmt.Sprintf("web%d.example.test", i),
			State: store.EnrolmentFailed, OTPState: store.OTPNew, Want: "{}"}
		if _, _, err := records.BeginEnrolment(t.Context(), e, store.EnrolmentChange{}); err != nil {
			t.Fatal(err)
		}
		if i > 0 { // demo has one already
			project, err := w.cloud.Cloud.Identity.CreateProject(fmt.Sprintf("paged%d", i))
			if err != nil {
				t.Fatal(err)
			}
			w.do("admin", "POST", "/v1/authorities", object("auth_id", project)).want(201)
		}
	}
	for path, list := range map[string]string{
		"/v1/usercerts": "certs", "/v1/hostcerts/": "certs", "/hosts": "hosts", "/v1/authorities": "CAs", "/v1/enrolments": "enrolments",
		"/v1/queue": "queue", "/v1/audit?action=usercert.issue": "audit", "/v1/revocations?auth_id=" + w.demo: "revocations",
	} {
		seen, pages := map[string]bool{}, 0
		address, err := url.Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		query := address.Query()
		query.Set("limit", "2")
		address.RawQuery = query.Encode()
		for next := address.String(); next != ""; pages++ {
			page := w.do("admin", "GET", next, "", "X-Auth-All-Projects: True").want(200).json()
			for _, entry := range page[list].([]any) {
				seen[fmt.Sprint(entry)] = true
			}
			links := page["links"].(map[string]any)
			next, _ = links["next"].(string)
			if next != "" && !slices.ContainsFunc(w.urls, func(base string) bool { return strings.HasPrefix(next, base+"/") }) {
				t.Fatalf("links.next is %q", next)
			}
			for _, base := range w.urls { // as behind a load balancer, another replica may have the next page
				next = strings.TrimPrefix(next, base)
			}
			if pages > 10 {
				t.Fatal("the list has no end")
			}
		}
		if len(seen) != want || pages != 3 {
			t.Errorf("GET %s: %d entries on %d pages", path, len(seen), pages)
		}
	}
}

// TestRevokedKeys fetches the list as agents do.
func TestRevokedKeys(t *testing.T) { everywhere(t, testRevokedKeys) }

func testRevokedKeys(t *testing.T, w *world) {
	serial, _ := w.userCert()
	path := "/noauth/revokeduserkeys/" + w.demo
	first := w.do("none", "GET", path, "").want(200)
	etag := "If-None-Match: " + first.Header.Get("ETag")
	if got := w.do("none", "GET", path, "", etag).want(304); got.Text != "" || got.Header.Get("ETag") != first.Header.Get("ETag") {
		t.Errorf("304 with %q and ETag %q", got.Text, got.Header.Get("ETag"))
	}
	w.do("none", "GET", path+"?wait=1", "", etag).want(304)
	raw := w.do("none", "GET", path, "", "Accept: application/octet-stream").want(200)
	if inside, err := base64.StdEncoding.DecodeString(first.json()["revoked_keys_data"].(string)); err != nil || string(inside) != raw.Text {
		t.Errorf("the raw list is not the one in base64: %v", err)
	}
	if strong := raw.Header.Get("ETag"); first.Header.Get("ETag") != "W/"+strong || !strings.HasPrefix(strong, `"`) {
		t.Errorf("other bytes, but ETags %q and %q", first.Header.Get("ETag"), strong)
	}
	waited := make(chan reply, 1)
	go func() { waited <- w.at(0).do("none", "GET", path+"?wait=240", "", etag) }()
	w.at(1).do("owner", "POST", "/v1/revokeduserkeys/"+w.demo, object("serial", serial)).want(200)
	select {
	case got := <-waited:
		got.want(200)
		for replica := range w.urls {
			if now := w.at(replica).do("none", "GET", path, "").want(200); now.Text != got.Text {
				t.Errorf("the long poll and a plain GET of replica %d after the revocation differ", replica)
			}
		}
		data, err := base64.StdEncoding.DecodeString(got.json()["revoked_keys_data"].(string))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := krl.Parse(data); err != nil || bytes.Equal(data, []byte(raw.Text)) {
			t.Errorf("the list did not change, or cannot be read: %v", err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("the long poll did not answer when the list changed")
	}
}

// TestNova replays what a real Nova sent.
func TestNova(t *testing.T) { everywhere(t, testNova) }

func testNova(t *testing.T, w *world) {
	text, err := os.ReadFile("testdata/nova-vendordata.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct {
		RequestLine string `json:"request_line"`
		Headers     [][2]string
		Body        string
	}
	if err := json.Unmarshal(text, &recorded); err != nil {
		t.Fatal(err)
	}
	recorded.Body = strings.NewReplacer("6ef4f4fe7cbc467f9cea4ac6428173a5", w.demo,
		"c65eb661-4472-402e-ac3a-c112fd82693f", uuid.Dashed(w.boots(w.demo))).Replace(recorded.Body)
	var headers []string
	for _, header := range recorded.Headers {
		if header[0] != "X-Auth-Token" && header[0] != "Content-Length" && header[0] != "Accept-Encoding" {
			headers = append(headers, header[0]+": "+header[1])
		}
	}
	line := strings.Fields(recorded.RequestLine)
	var token any
	for range 3 { // Nova asks once per version of the metadata
		got := w.do("service", line[0], line[1], recorded.Body, headers...).want(201).json()
		if token != nil && got["token"] != token {
			t.Errorf("token %v, and before %v", got["token"], token)
		}
		token = got["token"]
	}
}
