// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/sshca/krl"
	"github.com/muster-cloud/muster/test/deployment"
)

// programs is a folder with something like the agent for one architecture.
func programs(t testing.TB) string {
	t.Helper()
	folder := t.TempDir()
	writeProgram(t, folder, "first version")
	return folder
}

func writeProgram(t testing.TB, folder, content string) {
	t.Helper()
	path := filepath.Join(folder, agentapi.Programs["amd64"])
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func newSigner(t testing.TB, private crypto.Signer, err error) ssh.Signer {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// hostKeys are those that sshd makes.
func hostKeys(t testing.TB) []ssh.Signer {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	edKey := newSigner(t, ed, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ecKey := newSigner(t, ec, err)
	private, err := rsa.GenerateKey(rand.Reader, 3072)
	return []ssh.Signer{edKey, ecKey, newSigner(t, private, err)}
}

func lines(keys []ssh.Signer) []string {
	all := make([]string, len(keys))
	for i, key := range keys {
		all[i] = line(key.PublicKey())
	}
	return all
}

// machine is an instance with its host keys.
type machine struct {
	w    *world
	id   string
	keys []ssh.Signer
}

// booted makes an instance that has no certificate yet.
func (w *world) booted(keys ...ssh.Signer) (*machine, string) {
	w.t.Helper()
	if keys == nil {
		_, ed, err := ed25519.GenerateKey(rand.Reader)
		keys = []ssh.Signer{newSigner(w.t, ed, err)}
	}
	id, token := w.instance()
	return &machine{w: w, id: id, keys: keys}, token
}

// certified makes an instance whose host key is certified.
func (w *world) certified(keys ...ssh.Signer) *machine {
	w.t.Helper()
	m, token := w.booted(keys...)
	m.certify(token).want(200)
	return m
}

func (m *machine) certify(token string) reply {
	m.w.t.Helper()
	return m.w.do("none", "POST", agentapi.PathHostCerts, object("token", token, "host_id", m.id, "pub_keys", lines(m.keys)))
}

func (w *world) challenge() string {
	w.t.Helper()
	return w.do("none", "POST", agentapi.PathChallenges, "{}").want(200).json()["challenge"].(string)
}

// ask is a signed request.
func (m *machine) ask(path string, fields ...any) ask {
	m.w.t.Helper()
	body := object(append(fields, "challenge", m.w.challenge(), "host_id", m.id)...)
	return ask{"POST", path, body, []string{agentapi.SignatureHeader + ": " + m.sign(path, body)}}
}

func (m *machine) sign(path, body string) string {
	m.w.t.Helper()
	header, err := agentapi.SignRequest(m.keys[0], path, []byte(body))
	if err != nil {
		m.w.t.Fatal(err)
	}
	return header
}

func (m *machine) do(path string, fields ...any) reply {
	m.w.t.Helper()
	a := m.ask(path, fields...)
	return m.w.do("none", a.method, a.path, a.body, a.headers...)
}

// state asks for the state.
func (m *machine) state() agentapi.State {
	m.w.t.Helper()
	return decode[agentapi.State](m.w.t, m.do(agentapi.PathState).want(200))
}

func decode[T any](t testing.TB, r reply) (value T) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Text), &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func certificate(t testing.TB, line string) *ssh.Certificate {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ssh.Certificate)
}

// An instance gets certificates for all of its keys, whatever their types, and
// each of them speaks for it afterwards.
func TestCertificatesForAllHostKeys(t *testing.T) { everywhere(t, testCertificatesForAllHostKeys) }

func testCertificatesForAllHostKeys(t *testing.T, w *world) {
	keys := hostKeys(t)
	m, token := w.booted(keys...)
	first := decode[agentapi.HostCertsAnswer](t, m.certify(token).want(200))
	if len(first.Certs) != len(keys) {
		t.Fatalf("%d certificates for %d keys", len(first.Certs), len(keys))
	}
	for i, got := range first.Certs {
		cert := certificate(t, got.Cert)
		if got.PubKey != line(keys[i].PublicKey()) || line(cert.Key) != got.PubKey || cert.Serial != got.Serial ||
			got.Fingerprint != ssh.FingerprintSHA256(cert.Key) || got.ExpiresAt.Unix() != int64(cert.ValidBefore) {
			t.Errorf("certificate %d: %+v", i, got)
		}
		if !slices.Equal(cert.ValidPrincipals, []string{"web1"}) || cert.CertType != ssh.HostCert {
			t.Errorf("certificate %d is for %v", i, cert.ValidPrincipals)
		}
	}
	again := decode[agentapi.HostCertsAnswer](t, m.certify(token).want(200))
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("the same keys again:\n%s", diff)
	}
	for i := range keys {
		m.keys = keys[i:]
		m.state()
	}
	m.keys = keys[:1]
	m.certify(token).want(409)
	w.do("none", "POST", "/noauth/hostcerts", object("token_id", token, "host_id", m.id, "pub_key", line(newKey(t)))).want(409)
	other, _ := w.booted()
	other.certify(token).want(409)
	other.certify(newID()).want(404)
	// Tatu's call and this one agree about a single key.
	single, token := w.booted()
	cert := decode[agentapi.HostCertsAnswer](t, single.certify(token).want(200)).Certs[0].Cert
	tatu := w.do("none", "POST", "/noauth/hostcerts", object("token_id", token, "host_id", single.id, "pub_key", line(single.keys[0].PublicKey()))).want(200).json()
	if tatu["cert"] != cert {
		t.Error("Tatu's call gave another certificate")
	}
}

func TestHostCertsRefused(t *testing.T) { everywhere(t, testHostCertsRefused) }

func testHostCertsRefused(t *testing.T, w *world) {
	_, token := w.booted()
	id := newID()
	key := line(newKey(t))
	nine := make([]string, 9)
	for i := range nine {
		nine[i] = line(newKey(t))
	}
	for name, tt := range map[string]struct {
		body   string
		status int
		reason string
	}{
		"no body":        {"", 400, "JSON body"},
		"no token":       {object("host_id", id, "pub_keys", []string{key}), 400, "token: is missing"},
		"no host":        {object("token", token, "pub_keys", []string{key}), 400, "host_id: is missing"},
		"no keys":        {object("token", token, "host_id", id), 400, "pub_keys: holds 0"},
		"too many":       {object("token", token, "host_id", id, "pub_keys", nine), 400, "pub_keys: holds 9"},
		"twice":          {object("token", token, "host_id", id, "pub_keys", []string{key, key}), 400, "key 2 is there twice"},
		"bad key":        {object("token", token, "host_id", id, "pub_keys", []string{key, "ssh-dss AAAA"}), 400, "key 2"},
		"too long":       {object("token", token, "host_id", id, "pub_keys", []string{strings.Repeat("a", agentapi.MaxBody)}), 413, "larger"},
		"another's":      {object("token", token, "host_id", id, "pub_keys", []string{key}), 409, "another instance"},
		"unknown token":  {object("token", newID(), "host_id", id, "pub_keys", []string{key}), 404, "unknown"},
		"list of a type": {object("token", token, "host_id", id, "pub_keys", "x"), 400, "pub_keys"},
	} {
		if got := w.do("none", "POST", agentapi.PathHostCerts, tt.body); got.Status != tt.status || !strings.Contains(got.Text, tt.reason) {
			t.Errorf("%s: %d %s", name, got.Status, got.Text)
		}
	}
}

// An operator's word gives an instance another token, in its vendordata and
// nowhere else, for whatever host keys it has then.
func TestHostTokenRenewal(t *testing.T) { everywhere(t, testHostTokenRenewal) }

func testHostTokenRenewal(t *testing.T, w *world) {
	m, token := w.booted()
	path := "/v1/hosts/" + m.id + "/token"
	vendordata := func() string {
		t.Helper()
		return w.do("service", "POST", "/v1/vendordata", object("project-id", w.demo, "instance-id", m.id, "hostname", "web1")).want(200).json()["token"].(string)
	}
	w.do("admin", "POST", path, "").want(200)
	if vendordata() != token {
		t.Error("a token that is good was replaced")
	}
	m.certify(token).want(200)
	m.state()
	old := m.keys
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	m.keys = []ssh.Signer{newSigner(t, ed, err)}
	m.do(agentapi.PathState).want(403)
	m.certify(token).want(409)

	made := w.do("admin", "POST", path, "").want(201)
	renewed := vendordata()
	if renewed == token || strings.Contains(made.Text, renewed) {
		t.Errorf("after the renewal: the same token, or shown to the operator: %s", made.Text)
	}
	if answer := made.json(); answer["host_id"] != m.id || answer["auth_id"] != w.demo || answer["hostname"] != "web1" {
		t.Errorf("%v", answer)
	}
	w.do("admin", "POST", path, "").want(200)
	m.certify(token).want(404)
	m.certify(renewed).want(200)
	m.state()
	m.keys = old
	m.certify(renewed).want(409)
	audit := w.do("admin", "GET", "/v1/audit?action=hosttoken.renew&object="+m.id, "", "X-Auth-All-Projects: True").want(200).Text
	if strings.Count(audit, "asked for") != 1 || !strings.Contains(audit, ssh.FingerprintSHA256(old[0].PublicKey())) {
		t.Errorf("recorded: %s", audit)
	}
	w.do("admin", "DELETE", "/v1/hosts/"+m.id, "").want(204)
	w.do("admin", "POST", path, "").want(404)
	w.do("admin", "POST", "/v1/hosts/x/token", "").want(400)
}

// Whoever does not prove to be a live instance with a good certificate gets nothing.
func TestSignedCallsRefused(t *testing.T) { everywhere(t, testSignedCallsRefused) }

func testSignedCallsRefused(t *testing.T, w *world) {
	m, other := w.certified(), w.certified()
	stranger, _ := w.booted()
	revoked, deleted := w.certified(), w.certified()
	w.do("manager", "POST", "/v1/revocations", object("auth_id", w.demo, "pub_key", line(revoked.keys[0].PublicKey()))).want(200)
	w.do("admin", "DELETE", "/v1/hosts/"+deleted.id, "").want(204)

	good := m.ask(agentapi.PathState)
	for name, tt := range map[string]struct {
		ask    ask
		status int
		reason string
	}{
		"no signature":         {ask{"POST", good.path, good.body, nil}, 401, "there is none"},
		"broken signature":     {ask{"POST", good.path, good.body, []string{agentapi.SignatureHeader + ": AAAA"}}, 401, "PROTOCOL.sshsig"},
		"another body":         {ask{"POST", good.path, good.body + " ", good.headers}, 401, "not of this message"},
		"another path":         {ask{"POST", agentapi.PathEnrolment, good.body, good.headers}, 401, "not of this message"},
		"no challenge":         {m.with("challenge", ""), 400, "challenge: is missing"},
		"made-up challenge":    {m.with("challenge", base64.RawURLEncoding.EncodeToString(make([]byte, 64))), 401, "not Muster's"},
		"challenge cut off":    {m.with("challenge", w.challenge()[1:]), 401, "not Muster's"},
		"no host":              {m.with("host_id", ""), 400, "host_id: is missing"},
		"another's name":       {m.with("host_id", other.id), 403, "not certified for this instance"},
		"nobody's name":        {m.with("host_id", newID()), 403, "not certified for this instance"},
		"never certified":      {stranger.ask(agentapi.PathState), 403, "not certified for this instance"},
		"revoked":              {revoked.ask(agentapi.PathState), 403, "was revoked"},
		"deleted":              {deleted.ask(agentapi.PathState), 404, "was deleted"},
		"no JSON":              {ask{"POST", good.path, "x", good.headers}, 400, "not valid JSON"},
		"renewal without keys": {m.ask(agentapi.PathRenew), 400, "pub_keys"},
		"renewal of another's": {m.ask(agentapi.PathRenew, "pub_keys", lines(other.keys)), 409, "another instance has this host key"},
		"unknown outcome":      {m.ask(agentapi.PathEnrolment, "outcome", "perhaps"), 400, "outcome"},
	} {
		got := w.do("none", tt.ask.method, tt.ask.path, tt.ask.body, tt.ask.headers...)
		if got.Status != tt.status || !strings.Contains(got.Text, tt.reason) {
			t.Errorf("%s: %d %s, want %d", name, got.Status, got.Text, tt.status)
		}
	}
	w.do("none", good.method, good.path, good.body, good.headers...).want(200)
}

// with signs a request for the state in which one field is another.
func (m *machine) with(field, value string) ask {
	m.w.t.Helper()
	fields := map[string]string{"challenge": m.w.challenge(), "host_id": m.id}
	fields[field] = value
	body := object("challenge", fields["challenge"], "host_id", fields["host_id"])
	return ask{"POST", agentapi.PathState, body, []string{agentapi.SignatureHeader + ": " + m.sign(agentapi.PathState, body)}}
}

// A host key that another live instance has too proves nothing: whoever has the
// image could pose as both. That they are in different projects changes nothing.
func TestSharedHostKeySpeaksForNobody(t *testing.T) {
	w := newWorld(t, 1, deployment.Options{Settings: deployment.Settings{"ssh": {"shared_host_keys": "allow"}}})
	m := w.certified()
	twin := &machine{w: w, id: w.boots(w.other), keys: m.keys}
	boot := w.do("service", "POST", "/v1/vendordata", object("project-id", w.other, "instance-id", twin.id, "hostname", "twin")).want(200).json()
	m.do(agentapi.PathState).want(200)
	twin.certify(boot["token"].(string)).want(200)
	for _, one := range []*machine{m, twin, m} {
		if got := one.do(agentapi.PathState).want(403); !strings.Contains(got.Text, "another instance has this host key") {
			t.Error(got.Text)
		}
		one.do(agentapi.PathRenew, "pub_keys", lines(one.keys)).want(403)
	}
	audit := w.do("admin", "GET", "/v1/audit?action=hostkey.shared", "", "X-Auth-All-Projects: True").want(200).Text
	if strings.Count(audit, "another instance has the host key that signed") != 2 {
		t.Errorf("the refusals are not recorded once each: %s", audit)
	}
	w.do("admin", "DELETE", "/v1/hosts/"+twin.id, "").want(204)
	m.do(agentapi.PathState).want(200)
}

func TestRenewal(t *testing.T) {
	w := newWorld(t, 1, deployment.Options{}) // a replica may take seconds to follow another's rotation
	keys := hostKeys(t)
	m := w.certified(keys[0])
	renew := func(keys ...ssh.Signer) []agentapi.HostCert {
		t.Helper()
		return decode[agentapi.HostCertsAnswer](t, m.do(agentapi.PathRenew, "pub_keys", lines(keys)).want(200)).Certs
	}
	first := renew(keys[0])[0]
	both := renew(keys[1], keys[0])
	if both[1] != first {
		t.Error("a good certificate was replaced")
	}
	if line(certificate(t, both[0].Cert).Key) != line(keys[1].PublicKey()) {
		t.Error("the certificates are not in the order of the keys")
	}
	m.keys = keys[1:] // what it vouched for speaks for it too
	m.state()

	// Another CA signs now: what the old one signed is replaced.
	state := m.state()
	w.do("manager", "POST", "/v1/authorities/"+w.demo+"/generations", object("role", "host", "generation", 2)).want(201)
	changed := m.state()
	if changed.Version == state.Version || changed.HostCA == state.HostCA {
		t.Error("the state does not tell of the rotation")
	}
	renewed := renew(keys[0])[0]
	if line(certificate(t, renewed.Cert).SignatureKey) != changed.HostCA {
		t.Error("the old CA signed")
	}
	audit := w.do("manager", "GET", "/v1/audit?action=hostcert.renew", "").want(200).Text
	if strings.Count(audit, `"outcome": "ok"`) != 2 || !strings.Contains(audit, m.id) {
		t.Errorf("audit: %s", audit)
	}
}

// TestPenaltyExempt: instances are told the networks that sshd should not punish.
func TestPenaltyExempt(t *testing.T) {
	w := newWorld(t, 1, deployment.Options{Settings: deployment.Settings{"agent": {"penalty_exempt": "192.0.2.10, 2001:db8:5::/64"}}})
	if got, want := w.certified().state().PenaltyExempt, []string{"192.0.2.10/32", "2001:db8:5::/64"}; !slices.Equal(got, want) {
		t.Errorf("they are told %q", got)
	}
}

func TestState(t *testing.T) {
	w := newWorld(t, 1, deployment.Options{}) // a replica may take seconds to follow another's rotation
	m := w.certified()
	state := m.state()
	want := agentapi.State{
		Version: state.Version, ProjectID: w.demo, Hostname: "web1", Names: []string{"web1"}, UserCAs: state.UserCAs, HostCA: state.HostCA,
		Accounts: []agentapi.Account{{Name: "manager"}, {Name: "member"}, {Name: "reader"}}, SSHPort: 22, PollSeconds: 60, LongPollSeconds: 300,
	}
	if diff := cmp.Diff(want, state); diff != "" || len(state.UserCAs) != 1 || state.Version == "" {
		t.Errorf("wanted -, got +:\n%s", diff)
	}
	if again := m.state(); again.Version != state.Version {
		t.Error("the version changed, and nothing else")
	}
	w.do("admin", "POST", "/v1/authorities/"+w.demo+"/generations", object("role", "user")).want(201)
	rotated := m.state()
	if len(rotated.UserCAs) != 2 || rotated.UserCAs[1] != state.UserCAs[0] || rotated.Version == state.Version {
		t.Errorf("after the rotation: %+v", rotated)
	}
	boot := w.do("service", "POST", "/v1/vendordata", object("project-id", w.demo, "instance-id", m.id, "hostname", "web1")).want(200).json()
	if boot["auth_pub_key_user"] != rotated.UserCAs[0] {
		t.Error("vendordata has not the key that signs")
	}
	w.do("admin", "DELETE", "/v1/authorities/"+w.demo+"/generations/user/1", "").want(200)
	if got := m.state().UserCAs; !slices.Equal(got, rotated.UserCAs[:1]) {
		t.Errorf("after the retirement: %v", got)
	}
}

func TestEnrolmentReport(t *testing.T) { everywhere(t, testEnrolmentReport) }

func testEnrolmentReport(t *testing.T, w *world) {
	m := w.certified()
	boot := w.do("service", "POST", "/v1/vendordata", enrolling(m.id, w.demo)).want(200).json()
	fqdn, otp := boot["hostname"].(string), boot["ipaotp"].(string)
	state := m.state()
	want := &agentapi.IPA{FQDN: fqdn, Domain: deployment.IPADomain, Realm: strings.ToUpper(deployment.IPADomain), Options: []string{}}
	if diff := cmp.Diff(want, state.IPA); diff != "" || !slices.Contains(state.Names, fqdn) {
		t.Errorf("names %v, wanted -, got +:\n%s", state.Names, diff)
	}
	report := func(outcome, reason string) string {
		t.Helper()
		return m.do(agentapi.PathEnrolment, "outcome", outcome, "reason", reason).want(200).json()["state"].(string)
	}
	if got := report("enrolled", ""); got != "created" {
		t.Errorf("a report that FreeIPA knows nothing of makes it %s", got)
	}
	if got := report("failed", "no route to host"); got != "failed" {
		t.Errorf("state %s", got)
	}
	if list := w.do("member", "GET", "/v1/enrolments?state=failed", "").want(200).Text; !strings.Contains(list, "the instance reports: no route to host") {
		t.Errorf("operators see %s", list)
	}
	shown := w.do("member", "GET", "/v1/enrolments/"+m.id, "").want(200).json()
	if shown["state"] != "failed" || shown["error"] != "the instance reports: no route to host" {
		t.Errorf("of the instance they see %v", shown)
	}
	if again := m.state(); again.Version != state.Version {
		t.Error("a failure changes what the instance should be")
	}
	if err := w.cloud.Cloud.FreeIPA.Join(fqdn, otp); err != nil {
		t.Fatal(err)
	}
	if got := report("enrolled", ""); got != "enrolled" {
		t.Errorf("state %s", got)
	}
	if done := m.state(); !done.IPA.Done || done.Version == state.Version {
		t.Errorf("%+v", done.IPA)
	}
	m.do(agentapi.PathEnrolment, "outcome", "failed", "reason", strings.Repeat("x", agentapi.MaxReason+1)).want(400)
}

// The list that an agent fetches is signed by the project's user CA.
func TestListIsSigned(t *testing.T) {
	w := newWorld(t, 1, deployment.Options{}) // a replica may take seconds to follow another's rotation
	m := w.certified()
	fetch := func() ([]byte, string) {
		t.Helper()
		got := w.do("none", "GET", agentapi.PathRevokedKeys+w.demo, "", "Accept: application/octet-stream").want(200)
		return []byte(got.Text), got.Header.Get(agentapi.SignatureHeader)
	}
	trusted := func() (keys []ssh.PublicKey) {
		t.Helper()
		for _, text := range m.state().UserCAs {
			key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, key)
		}
		return keys
	}
	check := func() *krl.KRL {
		t.Helper()
		raw, signature := fetch()
		if err := agentapi.VerifyList(signature, raw, trusted()); err != nil {
			t.Fatal(err)
		}
		list, err := krl.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if list.Comment != w.demo {
			t.Errorf("the list is of %q", list.Comment)
		}
		return list
	}
	before := check()
	_, first := fetch()
	if _, second := fetch(); first != second {
		t.Error("the same list was signed twice")
	}
	_, issued := w.userCert()
	cert := certificate(t, issued["cert"].(string))
	if before.Revoked(cert) {
		t.Error("revoked from the beginning")
	}
	w.do("manager", "POST", "/v1/authorities/"+w.demo+"/generations", object("role", "user")).want(201)
	check()
	w.do("manager", "DELETE", "/v1/authorities/"+w.demo+"/generations/user/1", "").want(200)
	if after := check(); after.Version <= before.Version || !after.Revoked(cert) {
		t.Errorf("version %d after %d", after.Version, before.Version)
	}
	if got := w.do("none", "GET", agentapi.PathRevokedKeys+w.demo, "").want(200).Header.Get(agentapi.SignatureHeader); got != "" {
		t.Error("the JSON form has a signature of something else")
	}
}

// A list that was waited for is signed, however long that took.
func TestListIsSignedAfterALongPoll(t *testing.T) {
	t.Parallel()
	const timeout = 5 * time.Second // enough for a request on a machine that is busy
	w := newWorld(t, 1, deployment.Options{Settings: deployment.Settings{
		"api": {"request_timeout": timeout.String()}, "enroll": {"answer_within": "500ms"},
	}})
	serial, _ := w.userCert()
	path := agentapi.PathRevokedKeys + w.demo
	first := w.do("none", "GET", path, "").want(200)
	waited := make(chan reply, 1)
	go func() {
		waited <- w.do("none", "GET", path+"?wait=240", "", "Accept: application/octet-stream", "If-None-Match: "+first.Header.Get("ETag"))
	}()
	// Another one, that waits for longer than other requests may take, comes to its end.
	w.do("none", "GET", path+"?wait=7", "", "Accept: application/octet-stream", "If-None-Match: "+first.Header.Get("ETag")).want(304)
	w.do("manager", "POST", "/v1/revokeduserkeys/"+w.demo, object("serial", serial)).want(200)
	if got := (<-waited).want(200); got.Header.Get(agentapi.SignatureHeader) == "" {
		t.Error("the list has no signature")
	}
}

func TestPrograms(t *testing.T) { everywhere(t, testPrograms) }

func testPrograms(t *testing.T, w *world) {
	folder := w.programs
	sum := func(content string) string {
		digest := sha256.Sum256([]byte(content))
		return hex.EncodeToString(digest[:])
	}
	boot := func() map[string]any {
		t.Helper()
		return w.do("service", "POST", "/v1/vendordata", object("project-id", w.demo, "instance-id", newID(), "hostname", "web1")).want(200).json()
	}
	const path = agentapi.PathPrograms + "muster-agent-linux-amd64"
	first := boot()
	if want := sum("first version"); first["agent_amd64_sha256"] != want || !strings.HasSuffix(first["agent_amd64"].(string), path+"?sha256="+want) {
		t.Errorf("vendordata: %v", first)
	}
	if first["agent_arm64"] != nil {
		t.Error("a program that is not there is offered")
	}
	got := w.do("none", "GET", path+"?sha256="+sum("first version"), "").want(200)
	if got.Text != "first version" || got.Header.Get("Etag") != `"`+sum("first version")+`"` || !strings.Contains(got.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("%s %v", got.Text, got.Header)
	}
	w.do("none", "GET", path, "", "If-None-Match: "+got.Header.Get("Etag")).want(304)
	if part := w.do("none", "GET", path, "", "Range: bytes=6-12").want(206); part.Text != "version" {
		t.Errorf("a part: %q", part.Text)
	}
	w.do("none", "GET", path, "", "Range: bytes=100-200").want(416)
	head, err := http.Head(w.next() + path)
	if err != nil {
		t.Fatal(err)
	}
	head.Body.Close()
	if head.StatusCode != 200 || head.ContentLength != int64(len("first version")) || head.Header.Get("Etag") != got.Header.Get("Etag") {
		t.Errorf("HEAD: %d %v", head.StatusCode, head.Header)
	}

	writeProgram(t, folder, "other version")
	if second := boot(); second["agent_amd64_sha256"] != sum("other version") {
		t.Error("the new file was not noticed")
	}
	if replaced := w.do("none", "GET", path, "").want(200); replaced.Text != "other version" || strings.Contains(replaced.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("%s %v", replaced.Text, replaced.Header)
	}
	w.do("none", "GET", path+"?sha256="+sum("first version"), "").want(404)
	for _, name := range []string{"muster-agent-linux-arm64", "muster-agent-linux-riscv64", "..%2Fmuster.conf", "muster-agent-linux-amd64.new"} {
		w.do("none", "GET", agentapi.PathPrograms+name, "").want(404)
	}
}

func TestRotation(t *testing.T) { everywhere(t, testRotation) }

func testRotation(t *testing.T, w *world) {
	path := "/v1/authorities/" + w.demo + "/generations"
	_, before := w.userCert()
	rotate := func(status int, fields ...any) map[string]any {
		t.Helper()
		return w.do("manager", "POST", path, object(append(fields, "role", "user")...)).want(status).json()
	}
	second := rotate(201, "generation", 2)
	if again := rotate(200, "generation", 2); !maps.Equal(again, second) {
		t.Errorf("the same again: %v, then %v", second, again)
	}
	rotate(409, "generation", 4)
	rotate(409, "generation", 1)
	w.do("manager", "POST", path, object("role", "both")).want(400)
	w.do("manager", "POST", path, object("role", "user", "generation", -1)).want(400)
	w.do("admin", "POST", "/v1/authorities/"+newID()+"/generations", object("role", "user")).want(404)

	states := func() map[string]string {
		t.Helper()
		all := map[string]string{}
		for _, g := range w.do("member", "GET", path, "").want(200).json()["generations"].([]any) {
			g := g.(map[string]any)
			all[fmt.Sprint(g["role"], " ", g["generation"])] = g["state"].(string)
		}
		return all
	}
	if diff := cmp.Diff(map[string]string{"user 2": "active", "user 1": "trusted", "host 1": "active"}, states()); diff != "" {
		t.Error(diff)
	}
	shown := w.do("member", "GET", "/v1/authorities/"+w.demo, "").want(200).json()
	if shown["user_pub_key"] != second["pub_key"] {
		t.Error("Tatu's authority does not show the key that signs")
	}
	_, after := w.userCert()
	if line(certificate(t, after["cert"].(string)).SignatureKey) != second["pub_key"] {
		t.Error("the old generation signed")
	}
	for _, bad := range []string{"/user/2", "/host/1"} {
		w.do("manager", "DELETE", path+bad, "").want(409)
	}
	for bad, status := range map[string]int{"/user/3": 404, "/user/0": 400, "/user/x": 400, "/both/1": 400} {
		w.do("manager", "DELETE", path+bad, "").want(status)
	}
	result := w.do("manager", "DELETE", path+"/user/1", "").want(200).json()
	if result["certificates"] != json.Number("1") || result["already"] != false {
		t.Errorf("%v", result)
	}
	if result := w.do("manager", "DELETE", path+"/user/1", "").want(200).json(); result["already"] != true {
		t.Errorf("again: %v", result)
	}
	if cert := w.do("owner", "GET", fmt.Sprint("/v1/usercerts/", before["serial"]), "").want(200).json(); cert["revoked"] != true {
		t.Error("what the retired generation signed is not revoked")
	}
	if diff := cmp.Diff(map[string]string{"user 2": "active", "user 1": "revoked", "host 1": "active"}, states()); diff != "" {
		t.Error(diff)
	}
	audit := w.do("manager", "GET", "/v1/audit", "").want(200).Text
	for _, action := range []string{"authority.rotate", "revoke.authority_key"} {
		if strings.Count(audit, action) != 1 {
			t.Errorf("%s is recorded %d times", action, strings.Count(audit, action))
		}
	}
	// After the loss of the key that signs, a rotation gives it a successor.
	w.do("admin", "POST", "/v1/revocations", object("auth_id", w.demo, "generation_id", second["id"])).want(200)
	w.do("owner", "POST", "/v1/usercerts", object("user_id", w.users["alice"], "auth_id", w.demo, "pub_key", line(newKey(t)))).want(409)
	rotate(201, "generation", 3)
	w.userCert()
}
