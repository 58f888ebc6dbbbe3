// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package limits asks a whole Muster for certificates with every kind of token
// that the real Keystone gives. docs/tokens.md has the table that this proves.
package limits

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

type object = map[string]any

// site is a Muster that believes a real Keystone, beside a Nova without instances.
type site struct {
	keystone string
	admin    string // a token
	url      string // Muster's
	roles    map[string]string
	named    int
}

func newSite(t *testing.T) *site {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED in short mode: starting Keystone takes 12 s")
	}
	// A cache is what clouds have; what Keystone has remembered it shows otherwise.
	server := services.Keystone(t, "[cache]", "enabled = true", "backend = dogpile.cache.memory",
		"[credential]", "caching = false", // Keystone 22 loses parts of what it keeps of those in memory
		"[security_compliance]", "password_expires_days = 1")
	s := &site{keystone: server.AuthURL, roles: map[string]string{}}
	nova := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"servers": []}`)
	}))
	t.Cleanup(nova.Close)
	d := deployment.New(t, deployment.Options{Settings: deployment.Settings{
		"keystone_authtoken": {"auth_url": server.AuthURL, "username": "admin", "password": server.AdminPassword, "project_name": "admin"},
		"nova":               {"endpoint_override": nova.URL},
		"converge":           {"enabled": "true", "create_authorities": "false", "guard_count": "1", "guard_percent": "1"},
		"neutron":            {"enabled": "false"},
		"ssh":                {"user_cert_max_lifetime": "96h"},
	}})
	s.url = d.Start(t).URL
	s.admin = s.login(t, object{"methods": []string{"password"}, "password": object{"user": object{
		"name": "admin", "domain": object{"id": "default"}, "password": server.AdminPassword}}}, object{"project": object{"name": "admin", "domain": object{"id": "default"}}})
	for _, role := range s.ask(t, s.admin, "GET", "/roles", nil)["roles"].([]any) {
		s.roles[role.(object)["name"].(string)] = role.(object)["id"].(string)
	}
	return s
}

// try makes a call to Keystone.
func (s *site) try(t *testing.T, token, method, path string, body any, headers ...string) (*http.Response, []byte) {
	t.Helper()
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		reader = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, s.keystone+path, reader)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Auth-Token", token)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, text
}

// ask is try for what Keystone must do.
func (s *site) ask(t *testing.T, token, method, path string, body any, headers ...string) object {
	t.Helper()
	response, text := s.try(t, token, method, path, body, headers...)
	if response.StatusCode >= 300 {
		t.Fatalf("%s %s: %d %s", method, path, response.StatusCode, text)
	}
	var answer object
	_ = json.Unmarshal(text, &answer) // some answers have no body, or no JSON
	return answer
}

func (s *site) login(t *testing.T, identity, scope object) (token string) {
	t.Helper()
	auth := object{"identity": identity}
	if scope != nil {
		auth["scope"] = scope
	}
	response, text := s.try(t, "", "POST", "/auth/tokens", object{"auth": auth})
	if response.StatusCode != http.StatusCreated {
		t.Fatalf("log-in: %d %s", response.StatusCode, text)
	}
	return response.Header.Get("X-Subject-Token")
}

func (s *site) create(t *testing.T, kind string, fields object) (id string) {
	t.Helper()
	s.named++
	all := object{"name": fmt.Sprintf("%s-%d", kind, s.named)}
	if kind != "domain" && kind != "role" {
		all["domain_id"] = "default"
	}
	maps.Copy(all, fields)
	return s.ask(t, s.admin, "POST", "/"+kind+"s", object{kind: all})[kind].(object)["id"].(string)
}

// person is a user of Keystone's own with roles in a project.
type person struct{ id, project string }

func (s *site) person(t *testing.T, roles ...string) person {
	t.Helper()
	p := person{s.create(t, "user", object{"password": "secret"}), s.create(t, "project", nil)}
	for _, role := range roles {
		s.give(t, p, role)
	}
	return p
}

func (s *site) give(t *testing.T, p person, role string) {
	t.Helper()
	s.ask(t, s.admin, "PUT", "/projects/"+p.project+"/users/"+p.id+"/roles/"+s.roles[role], nil)
}

func (s *site) take(t *testing.T, p person, role string) {
	t.Helper()
	s.ask(t, s.admin, "DELETE", "/projects/"+p.project+"/users/"+p.id+"/roles/"+s.roles[role], nil)
}

func byPassword(id string) object {
	return object{"methods": []string{"password"}, "password": object{"user": object{"id": id, "password": "secret"}}}
}

func byToken(token string) object {
	return object{"methods": []string{"token"}, "token": object{"id": token}}
}

func inProject(id string) object { return object{"project": object{"id": id}} }

func (s *site) token(t *testing.T, p person) string {
	t.Helper()
	return s.login(t, byPassword(p.id), inProject(p.project))
}

// expiry is what Keystone says of a token.
func (s *site) expiry(t *testing.T, token string) time.Time {
	t.Helper()
	shown := s.ask(t, s.admin, "GET", "/auth/tokens?nocatalog", nil, "X-Subject-Token", token)["token"].(object)
	at, err := time.Parse("2006-01-02T15:04:05", shown["expires_at"].(string)[:19])
	if err != nil {
		t.Fatal(err)
	}
	return at
}

type robot struct{ id, secret string }

func (s *site) robot(t *testing.T, p person, fields object) robot {
	t.Helper()
	s.named++
	all := object{"name": fmt.Sprint("robot-", s.named)}
	maps.Copy(all, fields)
	made := s.ask(t, s.token(t, p), "POST", "/users/"+p.id+"/application_credentials", object{"application_credential": all})["application_credential"].(object)
	return robot{made["id"].(string), made["secret"].(string)}
}

func (s *site) byRobot(t *testing.T, r robot) (token string) {
	t.Helper()
	return s.login(t, object{"methods": []string{"application_credential"}, "application_credential": object{"id": r.id, "secret": r.secret}}, nil)
}

func (s *site) as(token string) *deployment.Client {
	return deployment.As(s.url, deployment.Person{Token: token})
}

// certificate is what Muster answers.
type certificate struct {
	Serial     uint64    `json:"serial"`
	Principals string    `json:"principals"`
	ExpiresAt  time.Time `json:"-"`
	Ends       string    `json:"expires_at"`
	Credential string    `json:"credential_id"`
	Revoked    bool      `json:"revoked"`
}

func (c *certificate) read(t *testing.T) {
	t.Helper()
	var err error
	if c.ExpiresAt, err = time.Parse("2006-01-02T15:04:05", strings.TrimSuffix(c.Ends, "Z")[:19]); err != nil {
		t.Fatal(err)
	}
}

// certify asks with a token for a certificate for the person's own key.
func (s *site) certify(t *testing.T, token string, p person, fields object) (c certificate) {
	t.Helper()
	s.as(token).Want(t, http.StatusCreated, "POST", "/v1/usercerts", request(t, p, fields), &c)
	c.read(t)
	return c
}

func request(t *testing.T, p person, fields object) object {
	all := object{"user_id": p.id, "auth_id": p.project, "pub_key": deployment.NewKey(t)}
	maps.Copy(all, fields)
	return all
}

// refused asks in vain, and wants to be told why.
func (s *site) refused(t *testing.T, token string, p person, status int, reason string) {
	t.Helper()
	answer, err := s.as(token).Call(t.Context(), "POST", "/v1/usercerts", request(t, p, nil))
	if err != nil || answer.Status != status || !strings.Contains(string(answer.Body), reason) {
		t.Errorf("got %d %s %v, want %d with %q", answer.Status, answer.Body, err, status, reason)
	}
}

// want compares a certificate with what it should say. It ends at that time, or
// the two seconds before.
func (c certificate) want(t *testing.T, principals, credential string, ends time.Time) {
	t.Helper()
	if early := ends.Sub(c.ExpiresAt); c.Principals != principals || c.Credential != credential || early < 0 || early > 2*time.Second {
		t.Errorf("got %+v, want %q %q until %v", c, principals, credential, ends)
	}
}

// compare compares with the cloud and returns how much of a kind seems to be gone.
func (s *site) compare(t *testing.T) (gone map[string]int) {
	t.Helper()
	var report struct {
		Kinds []struct {
			Kind    string
			Gone    int
			Refused bool
		}
	}
	// A replica may believe what it knows of roles for as long as it is told to.
	s.as(s.admin).Want(t, http.StatusOK, "POST", "/v1/reconcile", object{"dry_run": false, "force": true}, &report)
	gone = map[string]int{}
	for _, kind := range report.Kinds {
		gone[kind.Kind] = kind.Gone
	}
	return gone
}

func (s *site) revoked(t *testing.T, c certificate) bool {
	t.Helper()
	var shown certificate
	s.as(s.admin).Want(t, http.StatusOK, "GET", fmt.Sprint("/v1/usercerts/", c.Serial), nil, &shown)
	return shown.Revoked
}

// halfDay is the default life of a certificate.
func halfDay() time.Time { return time.Now().UTC().Add(12 * time.Hour).Add(time.Second) }

func TestLimits(t *testing.T) {
	s := newSite(t)
	t.Run("own login", func(t *testing.T) {
		p := s.person(t, "member")
		s.certify(t, s.token(t, p), p, nil).want(t, "member,reader", "", halfDay())
		again := s.login(t, byToken(s.login(t, byPassword(p.id), nil)), inProject(p.project))
		s.certify(t, again, p, nil).want(t, "member,reader", "", halfDay())
	})
	t.Run("password that expires", func(t *testing.T) {
		p := s.person(t, "member")
		user := s.ask(t, s.admin, "GET", "/users/"+p.id, nil)["user"].(object)
		ends, err := time.Parse("2006-01-02T15:04:05.000000", user["password_expires_at"].(string))
		if err != nil {
			t.Fatal(err)
		}
		s.certify(t, s.token(t, p), p, object{"lifetime": 48 * 3600}).want(t, "member,reader", "", ends)
	})
	t.Run("other scopes", func(t *testing.T) {
		p := s.person(t, "member")
		s.ask(t, s.admin, "PUT", "/domains/default/users/"+p.id+"/roles/"+s.roles["member"], nil)
		s.ask(t, s.admin, "PUT", "/system/users/"+p.id+"/roles/"+s.roles["member"], nil)
		for _, scope := range []object{nil, {"domain": object{"id": "default"}}, {"system": object{"all": true}}, inProject(s.person(t).project)} {
			if project, ok := scope["project"]; ok { // another project than the one that is asked for
				s.give(t, person{p.id, project.(object)["id"].(string)}, "member")
			}
			s.refused(t, s.login(t, byPassword(p.id), scope), p, http.StatusForbidden, "does not allow")
		}
	})
	t.Run("service token", func(t *testing.T) {
		p := s.person(t, "member")
		token := s.byRobot(t, s.robot(t, p, object{"roles": []object{{"name": "reader"}}}))
		var c certificate
		s.as(token).Want(t, http.StatusCreated, "POST", "/v1/usercerts", request(t, p, nil), &c, "X-Service-Token", s.admin)
		if c.Principals != "reader" {
			t.Errorf("principals %s", c.Principals)
		}
		s.ask(t, s.admin, "DELETE", "/auth/tokens", nil, "X-Subject-Token", token)
		answer, err := s.as(token).Call(t.Context(), "POST", "/v1/usercerts", request(t, s.person(t, "member"), nil), "X-Service-Token", s.admin)
		if err != nil || answer.Status/100 != 4 {
			t.Errorf("a service token beside one that is not good: %d %v", answer.Status, err)
		}
	})
	t.Run("application credential", s.applicationCredentials)
	t.Run("access rules", s.accessRules)
	t.Run("trust", s.trusts)
	t.Run("OAuth 1", s.oauth1)
	t.Run("OAuth 2", s.oauth2)
	t.Run("EC2", s.ec2)
	t.Run("in another's name", func(t *testing.T) {
		operator := person{project: s.create(t, "project", nil), id: s.create(t, "user", object{"password": "secret"})}
		s.give(t, operator, "admin")
		p := s.person(t, "member")
		ends := time.Now().UTC().Add(3 * time.Hour).Truncate(time.Second)
		r := s.robot(t, operator, object{"expires_at": ends.Format("2006-01-02T15:04:05")})
		c := s.certify(t, s.byRobot(t, r), p, nil)
		c.want(t, "member,reader", r.id, ends)
		s.compare(t)
		if s.revoked(t, c) {
			t.Error("it was revoked while the credential is there")
		}
		s.ask(t, s.token(t, operator), "DELETE", "/users/"+operator.id+"/application_credentials/"+r.id, nil)
		if s.compare(t); !s.revoked(t, c) {
			t.Error("it is good though the credential is gone")
		}
	})
	t.Run("federation", s.federation)
}

func (s *site) applicationCredentials(t *testing.T) {
	p := s.person(t, "member", "admin")
	ends := time.Now().UTC().Add(2 * time.Hour).Truncate(time.Second)
	soon := time.Now().UTC().Add(30 * time.Minute).Truncate(time.Second)
	reader := []object{{"name": "reader"}}
	narrow := s.robot(t, p, object{"roles": reader})
	c := s.certify(t, s.byRobot(t, narrow), p, nil)
	c.want(t, "reader", narrow.id, halfDay())
	unrestricted := s.robot(t, p, object{"roles": reader, "unrestricted": true})
	s.certify(t, s.byRobot(t, unrestricted), p, nil).want(t, "reader", unrestricted.id, halfDay())
	for _, end := range []time.Time{ends, soon} { // after the token's own end, and before it
		r := s.robot(t, p, object{"roles": reader, "expires_at": end.Format("2006-01-02T15:04:05")})
		s.certify(t, s.byRobot(t, r), p, object{"lifetime": 24 * 3600}).want(t, "reader", r.id, end)
	}
	// One key, asked for with a wide token and a narrow one.
	key := object{"pub_key": deployment.NewKey(t)}
	wide, less := s.certify(t, s.token(t, p), p, key), s.certify(t, s.byRobot(t, narrow), p, key)
	again := s.certify(t, s.token(t, p), p, key)
	if wide.Serial == less.Serial || again.Serial != wide.Serial || less.Principals != "reader" || !strings.Contains(wide.Principals, "member") {
		t.Errorf("wide %+v, narrow %+v, wide again %+v", wide, less, again)
	}
	// The role goes, and comes back.
	token := s.byRobot(t, narrow)
	s.take(t, p, "member")
	s.take(t, p, "admin")
	s.compare(t)
	if !s.revoked(t, c) || !s.revoked(t, wide) {
		t.Error("certificates are good without the role")
	}
	s.give(t, p, "member")
	s.compare(t)
	if !s.revoked(t, c) || !s.revoked(t, less) {
		t.Error("they live again with the role")
	}
	eventually(t, func() error { // who was refused is for a while
		answer, err := s.as(token).Call(t.Context(), "POST", "/v1/usercerts", request(t, p, key))
		if err == nil && answer.Status != http.StatusCreated {
			err = fmt.Errorf("the credential's old token: %d %s", answer.Status, answer.Body)
		}
		return err
	})
	back := s.certify(t, token, p, key)
	if back.Serial == less.Serial {
		t.Error("the revoked certificate was given again")
	}
	// The credential goes.
	s.ask(t, s.token(t, p), "DELETE", "/users/"+p.id+"/application_credentials/"+narrow.id, nil)
	eventually(t, func() error {
		answer, err := s.as(token).Call(t.Context(), "POST", "/v1/usercerts", request(t, p, nil))
		if err == nil && answer.Status != http.StatusUnauthorized {
			err = fmt.Errorf("the token of a credential that is gone: %d %s", answer.Status, answer.Body)
		}
		return err
	})
	if gone := s.compare(t); gone["credential"] != 1 || !s.revoked(t, back) {
		t.Errorf("the comparison found %v; revoked: %v", gone, s.revoked(t, back))
	}
}

func (s *site) accessRules(t *testing.T) {
	p := s.person(t, "member")
	rule := func(service, method, path string) object {
		return object{"service": service, "method": method, "path": path}
	}
	r := s.robot(t, p, object{"access_rules": []object{rule("ssh", "POST", "/v1/usercerts")}})
	token := s.byRobot(t, r)
	s.certify(t, token, p, nil).want(t, "member,reader", r.id, halfDay())
	for _, call := range []string{"GET /v1/usercerts", "POST /usercerts", "GET /v1/hosts"} {
		method, path, _ := strings.Cut(call, " ")
		answer, err := s.as(token).Call(t.Context(), method, path, request(t, p, nil))
		if err != nil || answer.Status != http.StatusForbidden || !strings.Contains(string(answer.Body), "access rule") {
			t.Errorf("%s: %d %s %v", call, answer.Status, answer.Body, err)
		}
	}
	s.refused(t, s.byRobot(t, s.robot(t, p, object{"access_rules": []object{rule("compute", "POST", "/**")}})), p, http.StatusForbidden, "access rule")
}

func (s *site) trusts(t *testing.T) {
	p := s.person(t, "member", "admin")
	lend := func(fields object) (token, id, taker string) {
		taker = s.create(t, "user", object{"password": "secret"})
		all := object{"trustor_user_id": p.id, "trustee_user_id": taker, "project_id": p.project, "roles": []object{{"name": "reader"}}}
		maps.Copy(all, fields)
		id = s.ask(t, s.token(t, p), "POST", "/OS-TRUST/trusts", object{"trust": all})["trust"].(object)["id"].(string)
		return s.login(t, byPassword(taker), object{"OS-TRUST:trust": object{"id": id}}), id, taker
	}
	token, id, _ := lend(object{"impersonation": true})
	c := s.certify(t, token, p, nil)
	c.want(t, "reader", id, s.expiry(t, token))
	soon := time.Now().UTC().Add(20 * time.Minute).Truncate(time.Second)
	short, shortID, _ := lend(object{"impersonation": true, "expires_at": soon.Format("2006-01-02T15:04:05.000000Z")})
	s.certify(t, short, p, nil).want(t, "reader", shortID, soon)
	// Without impersonation the roles are another's.
	plain, _, taker := lend(object{"impersonation": false})
	s.refused(t, plain, person{taker, p.project}, http.StatusForbidden, "no role")
	s.refused(t, plain, p, http.StatusForbidden, "does not allow")
	// The trust goes.
	s.compare(t)
	if s.revoked(t, c) {
		t.Error("it was revoked while the trust is there")
	}
	s.ask(t, s.token(t, p), "DELETE", "/OS-TRUST/trusts/"+id, nil)
	if s.compare(t); !s.revoked(t, c) {
		t.Error("it is good though the trust is gone")
	}
	// Its giver loses the role: Keystone answers 403 about the token.
	s.take(t, p, "member")
	s.take(t, p, "admin")
	fresh, _ := s.try(t, s.admin, "GET", "/auth/tokens", nil, "X-Subject-Token", short)
	if fresh.StatusCode != http.StatusForbidden {
		t.Errorf("Keystone answers %d about the token", fresh.StatusCode)
	}
	s.compare(t) // forgets what was remembered of the token
	s.refused(t, short, p, http.StatusUnauthorized, "not valid")
}

// oauth1 gets a token by RFC 5849, with signatures in plain text.
func (s *site) oauth1(t *testing.T) {
	p := s.person(t, "member", "admin")
	own := s.token(t, p)
	consumer := s.ask(t, s.admin, "POST", "/OS-OAUTH1/consumers", object{"consumer": object{}})["consumer"].(object)
	step := func(method, path, token, secret, extra string, body any, headers ...string) (*http.Response, url.Values) {
		header := fmt.Sprintf(`OAuth oauth_consumer_key="%s", oauth_token="%s", oauth_signature_method="PLAINTEXT", oauth_signature="%s%%26%s", `+
			`oauth_timestamp="%d", oauth_nonce="%s", oauth_version="1.0"%s`, consumer["id"], token, consumer["secret"], secret, time.Now().Unix(), deployment.NewID(), extra)
		if token == "" {
			header = strings.Replace(header, `oauth_token="", `, "", 1)
		}
		response, text := s.try(t, "", method, path, body, append(headers, "Authorization", header)...)
		if response.StatusCode >= 300 {
			t.Fatalf("%s: %d %s", path, response.StatusCode, text)
		}
		values, _ := url.ParseQuery(string(text))
		return response, values
	}
	_, asked := step("POST", "/OS-OAUTH1/request_token", "", "", `, oauth_callback="oob"`, nil, "Requested-Project-Id", p.project)
	verifier := s.ask(t, own, "PUT", "/OS-OAUTH1/authorize/"+asked.Get("oauth_token"), object{"roles": []object{{"id": s.roles["reader"]}}})
	_, access := step("POST", "/OS-OAUTH1/access_token", asked.Get("oauth_token"), asked.Get("oauth_token_secret"),
		fmt.Sprintf(`, oauth_verifier="%s"`, verifier["token"].(object)["oauth_verifier"]), nil)
	id := access.Get("oauth_token")
	response, _ := step("POST", "/auth/tokens", id, access.Get("oauth_token_secret"), "",
		object{"auth": object{"identity": object{"methods": []string{"oauth1"}, "oauth1": object{}}}})
	token := response.Header.Get("X-Subject-Token")
	c := s.certify(t, token, p, nil)
	c.want(t, "reader", id, s.expiry(t, token))
	s.compare(t)
	if s.revoked(t, c) {
		t.Error("it was revoked while the access token is there")
	}
	s.ask(t, own, "DELETE", "/users/"+p.id+"/OS-OAUTH1/access_tokens/"+id, nil)
	if s.compare(t); !s.revoked(t, c) {
		t.Error("it is good though the access token is gone")
	}
}

// oauth2 gets a token for an application credential by RFC 6749, 4.4.
func (s *site) oauth2(t *testing.T) {
	p := s.person(t, "member")
	r := s.robot(t, p, object{"roles": []object{{"name": "reader"}}})
	request, err := http.NewRequestWithContext(t.Context(), "POST", s.keystone+"/OS-OAUTH2/token", strings.NewReader("grant_type=client_credentials"))
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(r.id, r.secret)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Token == "" {
		t.Fatal(response.Status, err)
	}
	s.certify(t, answer.Token, p, nil).want(t, "reader", r.id, halfDay())
}

// ec2 gets tokens by signatures of EC2 (version 2).
func (s *site) ec2(t *testing.T) {
	p := s.person(t, "member")
	sign := func(token string) (signed string) {
		made := s.ask(t, token, "POST", "/users/"+p.id+"/credentials/OS-EC2", object{"tenant_id": p.project})["credential"].(object)
		query := url.Values{"AWSAccessKeyId": {made["access"].(string)}, "SignatureVersion": {"2"}, "SignatureMethod": {"HmacSHA256"},
			"Timestamp": {time.Now().UTC().Format("2006-01-02T15:04:05Z")}, "Action": {"Test"}}
		mac := hmac.New(sha256.New, []byte(made["secret"].(string)))
		fmt.Fprintf(mac, "POST\nec2.example.com\n/\n%s", query.Encode())
		params := object{}
		for name := range query {
			params[name] = query.Get(name)
		}
		response, text := s.try(t, s.admin, "POST", "/ec2tokens", object{"credentials": object{"access": made["access"], "host": "ec2.example.com",
			"verb": "POST", "path": "/", "params": params, "signature": base64.StdEncoding.EncodeToString(mac.Sum(nil))}})
		if response.StatusCode != http.StatusOK {
			t.Fatalf("EC2: %d %s", response.StatusCode, text)
		}
		return response.Header.Get("X-Subject-Token")
	}
	token := sign(s.token(t, p))
	s.certify(t, token, p, nil).want(t, "member,reader", "", s.expiry(t, token))
	// Keystone with its security fixes makes none for a token that is lent.
	r := s.robot(t, p, object{"roles": []object{{"name": "reader"}}, "unrestricted": true})
	response, text := s.try(t, s.byRobot(t, r), "POST", "/users/"+p.id+"/credentials/OS-EC2", object{"tenant_id": p.project})
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("an EC2 credential for an application credential: %d %s", response.StatusCode, text)
	}
}

// eventually tries until it is so, for as long as caches of a few seconds may take.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if err = try(); err == nil {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	t.Fatal(err)
}
