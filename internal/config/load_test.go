// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// folder writes files, of mode 0600, and returns the folder's path.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func load(t *testing.T, files map[string]string, environ ...string) (*Config, string, error) {
	t.Helper()
	dir := folder(t, files)
	cfg, err := Load(Options{
		Path:     filepath.Join(dir, "muster.conf"),
		Environ:  environ,
		Hostname: func() (string, error) { return "replica-1", nil },
	})
	return cfg, dir, err
}

func mustLoad(t *testing.T, files map[string]string, environ ...string) *Config {
	t.Helper()
	cfg, _, err := load(t, files, environ...)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestDefaults(t *testing.T) {
	c, dir, err := load(t, map[string]string{"muster.conf": ""})
	if err != nil {
		t.Fatal(err)
	}
	if c.Host != "replica-1" || c.LogLevel != slog.LevelInfo || c.ShutdownTimeout != 30*time.Second {
		t.Errorf("DEFAULT: %q %v %v", c.Host, c.LogLevel, c.ShutdownTimeout)
	}
	if c.SSH.UserCertLifetime != 12*time.Hour || c.SSH.HostCertLifetime != 365*24*time.Hour ||
		len(c.SSH.Extensions) != 5 {
		t.Errorf("ssh: %+v", c.SSH)
	}
	if len(c.Listeners) != 3 || c.Listeners[0].Name != "join" || c.Listeners[1].Name != "local" ||
		c.Listeners[2].Address != ":18322" || slices.Contains(c.Listeners[2].Faces, "metrics") {
		t.Errorf("listeners: %+v %+v %+v", c.Listeners[0], c.Listeners[1], c.Listeners[2])
	}
	if c.Enroll.Enabled || c.Enroll.AnswerWithin != 4*time.Second || !c.Enroll.NormalizeProject || len(c.Projects) != 0 {
		t.Errorf("enroll: %+v %v", c.Enroll, c.Projects)
	}
	if c.Policy.PolicyFile != filepath.Join(dir, "policy.yaml") || c.API.MaxBody != 1<<20 {
		t.Errorf("policy file %q, max_body %d", c.Policy.PolicyFile, c.API.MaxBody)
	}
}

func TestSourcesLastWins(t *testing.T) {
	files := map[string]string{
		"muster.conf": "[database]\nmax_overflow = 1\nmax_pool_size = 1\npool_timeout = 1\nmax_retries = 1\n" +
			"[keystone_authtoken]\npassword = from-file\nusername = u\n",
		"muster.conf.d/10.conf":      "[Database]\nmax_pool_size = 2\npool_timeout = 2\nmax_retries = 2\n",
		"muster.conf.d/20.conf":      "[DATABASE]\npool_timeout = 3\nmax_retries = 3\n",
		"muster.conf.d/30.conf~":     "[nonsense\n",
		"cred/database.connection":   "sqlite:////from/credential\n",
		"cred/custody.master_key":    "\x00\x01bytes\n",
		"cred/tls.key":               "somebody else's",
		"secrets/password":           "from $secret file\r\n",
		"muster.conf.d/sub.d/x.conf": "[nonsense\n",
	}
	dir := folder(t, files)
	c, err := Load(Options{Path: filepath.Join(dir, "muster.conf"), CredentialsDir: filepath.Join(dir, "cred"),
		Environ: []string{"MUSTER_DATABASE__MAX_RETRIES=4", "MUSTER_KEYSTONE_AUTHTOKEN__PASSWORD_FILE=secrets/password",
			"MUSTER_DATABASE__CONNECTION=sqlite:////from/environment", "MUSTER_TEST_REQUIRE=1", "HOME=/"}})
	if err != nil {
		t.Fatal(err)
	}
	d := c.Database
	if d.MaxOverflow != 1 || d.MaxPoolSize != 2 || d.PoolTimeout != 3*time.Second || d.MaxRetries != 4 {
		t.Errorf("%+v", d)
	}
	if d.Connection != "sqlite:////from/credential" {
		t.Errorf("connection from %q", string(d.Connection))
	}
	if got := string(c.Custody.MasterKey); got != "\x00\x01bytes\n" {
		t.Errorf("master key %q", got)
	}
	if got := string(c.KeystoneAuthToken.Password); got != "from $secret file" {
		t.Errorf("password %q", got)
	}
}

func TestFamilies(t *testing.T) {
	c := mustLoad(t, map[string]string{"muster.conf": `
[role:my-role]
account = mine
source_address = 192.0.2.0/24, 2001:db8::1
lifetime = 1h
[Listen:public]
`},
		"MUSTER_LISTEN_PUBLIC__ADDRESS=:1", "MUSTER_ROLE_MY_ROLE__FORCE_COMMAND=true", "MUSTER_LISTEN_OPS__ADDRESS=unix:/run/x",
		"MUSTER_LISTEN_OPS__FACES=health")
	if len(c.Roles) != 1 || len(c.Listeners) != 2 {
		t.Fatalf("%d roles, %d listeners", len(c.Roles), len(c.Listeners))
	}
	r := c.Roles[0]
	if r.Name != "my-role" || r.Account != "mine" || r.ForceCommand != "true" || len(r.SourceAddress) != 2 ||
		r.SourceAddress[1].Bits() != 128 || r.Lifetime != time.Hour {
		t.Errorf("%+v", r)
	}
	if l := c.Listeners[0]; l.Name != "ops" || l.Address != "unix:/run/x" || !slices.Equal(l.Faces, []string{"health"}) {
		t.Errorf("%+v", l)
	}
	if l := c.Listeners[1]; l.Name != "public" || l.Address != ":1" {
		t.Errorf("%+v", l)
	}
}

func TestEnrolment(t *testing.T) {
	c := mustLoad(t, map[string]string{"muster.conf": `
[ipa]
servers = ipa1.example.test, IPA2.example.test:8443, 192.0.2.1, [2001:db8::1]:443
principal = nova/controller.example.test
keytab = nova.keytab
[enroll]
enabled = true
protected = ldap*, *.infra.example.test
on_failure = error
[project:overcloud]
allowed_classes = *
any_service_host = true
[project:Web Shop]
domain_id = customers
allowed_classes = web, "d,b"
service_hosts = *.vip.example.test
`, "nova.keytab": "\x05\x02"})
	if len(c.IPA.Servers) != 4 || !filepath.IsAbs(c.IPA.Keytab) || len(c.Enroll.Protected) != 2 {
		t.Errorf("%+v %+v", c.IPA, c.Enroll)
	}
	want := []*Project{
		{Name: "Web Shop", DomainID: "customers", AllowedClasses: []string{"web", "d,b"}, ServiceHosts: []string{"*.vip.example.test"}},
		{Name: "overcloud", DomainID: "default", AllowedClasses: []string{"*"}, AnyServiceHost: true},
	}
	if diff := cmp.Diff(want, c.Projects); diff != "" {
		t.Error(diff)
	}
}

// The keytab must not be there for everybody to read.
func TestEnrolmentRefusesAnOpenKeytab(t *testing.T) {
	dir := folder(t, map[string]string{"muster.conf": "[enroll]\nenabled = true\n[ipa]\nkeytab = k\n", "k": "x"})
	if err := os.Chmod(filepath.Join(dir, "k"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Load(Options{Path: filepath.Join(dir, "muster.conf")})
	if err == nil || !strings.Contains(err.Error(), ":4 [ipa] keytab: the file can be opened by every user") {
		t.Errorf("got %v", err)
	}
}

func TestReferences(t *testing.T) {
	c := mustLoad(t, map[string]string{"muster.conf": `
[DEFAULT]
host = one
[keystone_authtoken]
username = $host-${ssh.ca_algorithm}
password = a$$b\$c
project_name = ${username}$
region_name = $keystone_authtoken.username/
[service_credentials]
user_domain_name = $username
`}, "MUSTER_SERVICE_CREDENTIALS__USERNAME=two$$")
	k, s := c.KeystoneAuthToken, c.ServiceCredentials
	got := []string{k.Username, string(k.Password), k.ProjectName, k.RegionName, s.UserDomainName, s.ProjectName}
	want := []string{"one-ed25519", "a$b$c", "one-ed25519$", "one-ed25519/", "two$", "one-ed25519$"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestReferencesAreBounded: few short lines can't ask for endless work.
func TestReferencesAreBounded(t *testing.T) {
	many := func(ref string) string { return strings.Repeat(ref, 500) }
	_, _, err := load(t, map[string]string{"muster.conf": "[keystone_authtoken]\nusername = " + many("$user_id") +
		"\nuser_id = " + many("$project_id") + "\nproject_id = " + many("$region_name") + "\n"})
	if err == nil || !strings.Contains(err.Error(), "too many references") {
		t.Errorf("got %v", err)
	}
}

func TestServiceCredentialsFallBack(t *testing.T) {
	c := mustLoad(t, map[string]string{"muster.conf": `
[keystone_authtoken]
auth_url = https://keystone/v3
username = muster
user_domain_name = Default
password = p1
project_name = service
project_domain_id = default
[service_credentials]
user_id = 0123
password = p2
http_connect_timeout = 7
`})
	want := Auth{AuthURL: &url.URL{Scheme: "https", Host: "keystone", Path: "/v3"}, AuthType: "password",
		UserID: "0123", Password: "p2", ProjectName: "service", ProjectDomainID: "default", HTTPConnectTimeout: 7 * time.Second}
	if diff := cmp.Diff(want, c.ServiceCredentials); diff != "" {
		t.Error(diff)
	}

	c = mustLoad(t, map[string]string{"muster.conf": `
[keystone_authtoken]
username = muster
password = p1
project_name = service
[service_credentials]
auth_type = v3applicationcredential
application_credential_id = x
application_credential_secret = y
`})
	if s := c.ServiceCredentials; s.Username+string(s.Password)+s.ProjectName != "" {
		t.Errorf("the other method's options were inherited: %+v", s)
	}
}

// TestOthersOptions takes [oslo_messaging_rabbit] as another service has it: what makes no difference to Muster is said, and harms nothing.
func TestOthersOptions(t *testing.T) {
	c := mustLoad(t, map[string]string{"muster.conf": `
[oslo_messaging_rabbit]
rabbit_use_ssl = true
kombu_compression = gzip
heartbeat_in_pthread = true
rabbit_quorum_queue = true
rabbit_quorum_delivery_limit = 7
rabbit_transient_quorum_queue = true
rabbit_ha_queues = true
`})
	if r := c.Rabbit; !r.SSL || r.LoginMethod != "AMQPLAIN" {
		t.Errorf("%+v", r)
	}
	var texts []string
	for _, w := range c.Warnings {
		texts = append(texts, w.String())
	}
	all := strings.Join(texts, "\n")
	for _, want := range []string{":3 [oslo_messaging_rabbit] rabbit_use_ssl: an old name", ":4 [oslo_messaging_rabbit] kombu_compression: an option that changes nothing here",
		":5 ", ":6 [oslo_messaging_rabbit] rabbit_quorum_queue: an option that changes nothing here", ":7 ", ":8 ", ":9 [oslo_messaging_rabbit] rabbit_ha_queues: an option that changes nothing here"} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning has %q:\n%s", want, all)
		}
	}
	if len(texts) != 7 {
		t.Errorf("warnings:\n%s", all)
	}
}

func TestOldNames(t *testing.T) {
	c := mustLoad(t, map[string]string{"muster.conf": `
[tatu]
sqlalchemy_engine = mysql+pymysql://u:p@h/d
api_endpoint_for_vms = http://192.0.2.1:18322
pam_sudo = True
ssh_port = 2222
[vendordata]
ssh_port = 22
`})
	if string(c.Database.Connection) != "mysql+pymysql://u:p@h/d" || !c.Vendordata.PAMSudo ||
		c.Vendordata.SSHPort != 22 || c.Vendordata.APIEndpoint.Port() != "18322" {
		t.Errorf("%+v %+v", c.Database, c.Vendordata)
	}
	if len(c.Warnings) != 4 || !strings.Contains(c.Warnings[0].String(), "use [database] connection") {
		t.Errorf("warnings: %v", c.Warnings)
	}
}

// TestSudoRoles: who says nothing gets the operator's role alone, and who says
// nobody gets nobody.
func TestSudoRoles(t *testing.T) {
	for text, want := range map[string][]string{
		"": {"admin"}, "sudo_roles =": nil, "sudo_roles = *admin*, manager": {AnyAdmin, "manager"},
	} {
		c := mustLoad(t, map[string]string{"muster.conf": "[vendordata]\n" + text + "\n"})
		if !slices.Equal(c.Vendordata.SudoRoles, want) {
			t.Errorf("%q: %q, want %q", text, c.Vendordata.SudoRoles, want)
		}
	}
}

// TestCertificateInURL: options of the broker may stand in transport_url.
func TestCertificateInURL(t *testing.T) {
	mustLoad(t, map[string]string{"muster.conf": "[DEFAULT]\ntransport_url = rabbit://h/?ssl=1&ssl_cert_file=/c&ssl_key_file=/k\n" +
		"[oslo_messaging_rabbit]\nrabbit_login_method = EXTERNAL\n"})
}

// TestProblems: each fault is found, at its place and with its remedy.
func TestProblems(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"syntax":                {"[ssh]\nhunter2\n", ":2: neither a section, a comment nor `option = value`; indent it"},
		"section":               {"[databse]\nx=hunter2\n", ":1 [databse]: unknown section; did you mean [database]?"},
		"family":                {"[lsten:x]\n", "[lsten:x]: unknown section; did you mean [listen:NAME]?"},
		"option":                {"[ssh]\n\nclock_skw = hunter2\n", ":3 [ssh] clock_skw: unknown option; did you mean clock_skew?"},
		"odd option":            {"[ssh]\nHUNTER2hunter2==\n", "(name not shown): unknown option"},
		"integer":               {"[api]\nmax_page = hunter2\n", ":2 [api] max_page: not a whole number"},
		"boolean":               {"[DEFAULT]\ndebug = hunter2\n", "[DEFAULT] debug: not a boolean; write true or false"},
		"duration":              {"[ssh]\nclock_skew = hunter2\n", "clock_skew: not a duration"},
		"negative":              {"[ssh]\nclock_skew = -5\n", "clock_skew: not a duration"},
		"too big":               {"[keystone_authtoken]\ntoken_cache_time = 301\n", "token_cache_time: too big; write 300 or less"},
		"too small":             {"[ssh]\nmin_rsa_bits = 1024\n", "min_rsa_bits: too small; write 2048 or more"},
		"choice":                {"[ssh]\nca_algorithm = ed25591\n", "not one of ed25519, ecdsa-p256"},
		"choice's suggestion":   {"[ssh]\nca_algorithm = ed25591\n", "did you mean ed25519?"},
		"level":                 {"[DEFAULT]\nlog_level = hunter2\n", "not a log level; write debug"},
		"face":                  {"[listen:x]\naddress=:1\nfaces = tatoo\n", ":3 [listen:x] faces: not one of tatu"},
		"list":                  {"[listen:x]\naddress=:1\nfaces = \"tatu, health\n", "faces: a quote that is not closed"},
		"dict":                  {"[ssh]\nrole_accounts = hunter2\n", "role_accounts: not a list of pairs"},
		"domain":                {"[ssh]\nhost_domains = example.com, .hunter2\n", ":2 [ssh] host_domains: not a list of DNS domains"},
		"placeholder":           {"[ssh]\nhost_domains = <project_name>.example.com\n", "<project_id> may stand there too"},
		"any host domain":       {"[ssh]\nhost_domains = *\n", "host_domains: not a list of DNS domains"},
		"trusted domain":        {"[neutron]\ntrusted_domains = *.example.com\n", ":2 [neutron] trusted_domains: not a list of DNS domains"},
		"networks":              {"[api]\ntrusted_proxies = 192.0.2.1/24\n", "a network with host bits set"},
		"reverse zone":          {"[dns]\nreverse_zones = 64 26.hunter2.test:203.0.113.64/26\n", ":2 [dns] reverse_zones: not a zone before the colon"},
		"reverse zone's net":    {"[dns]\nreverse_zones = a.test:203.0.113.64/26, b.test:203.0.113.70/26\n", "reverse_zones: not a network after the colon"},
		"two reverse zones":     {"[dns]\nreverse_zones = a.test:2001:db8::/64, b.test:2001:db8::/64\n", "reverse_zones: two zones for one network"},
		"URL":                   {"[api]\npublic_url = hunter2.example\n", "public_url: not an http or https URL"},
		"URL with user":         {"[api]\npublic_url = https://a:hunter2@b/\n", "public_url: a URL with a user"},
		"database":              {"[database]\nconnection = hunter2\n", "not the URL of a database"},
		"short-lived hosts":     {"[ssh]\nhost_cert_lifetime = 1m\n", ":2 [ssh] host_cert_lifetime: shorter than clock_skew"},
		"lifetime":              {"[ssh]\nuser_cert_lifetime = 2d\n", ":2 [ssh] user_cert_lifetime: longer than"},
		"host's lifetime":       {"[ssh]\nhost_cert_lifetime = 3651d\n", "[ssh] host_cert_lifetime: "},
		"role's lifetime":       {"[role:r]\nlifetime = 2d\n", ":2 [role:r] lifetime: longer than"},
		"account":               {"[role:r]\naccount = ../x\n", "[role:r] account: not an account's name"},
		"role_accounts":         {"[ssh]\nrole_accounts = a:Hunter2\n", "role_accounts: not an account's name"},
		"two accounts":          {"[ssh]\nrole_accounts=r:a\n[role:r]\naccount=b\n", "names another account for this role"},
		"sudo roles":            {"[vendordata]\nsudo_roles = admin, *_admin\n", ":2 [vendordata] sudo_roles: a pattern; name the roles"},
		"extension":             {"[ssh]\nextensions = permit-ptty\n", "did you mean permit-pty?"},
		"no address":            {"[listen:x]\n", "[listen:x] address: a listener needs an address"},
		"address":               {"[listen:x]\naddress = 1.2.3.4\n", "address: not an address with a port"},
		"port":                  {"[listen:x]\naddress = :99999\n", "address: the port is not a number"},
		"same address":          {"[listen:x]\naddress=127.0.0.1:1\n[listen:y]\naddress=:1\n", ":4 [listen:y] address: the address of [listen:x] too"},
		"certificate alone":     {"[listen:x]\naddress=:1\ntls_cert=/dev/null\n", "tls_cert: a certificate without tls_key"},
		"key alone":             {"[listen:x]\naddress=:1\ntls_key=/dev/null\n", "tls_key: a key without tls_cert"},
		"client CA":             {"[listen:x]\naddress=:1\nclient_ca=/dev/null\n", "client_ca: clients have certificates only with TLS"},
		"unreadable":            {"[keystone_authtoken]\ncafile = nowhere.pem\n", ":2 [keystone_authtoken] cafile: the file is not there"},
		"policy file":           {"[oslo_policy]\npolicy_file = nowhere.yaml\n", "policy_file: the file is not there"},
		"device":                {"[keystone_authtoken]\npassword_file = /dev/zero\n", "password_file: not a regular file"},
		"both":                  {"[keystone_authtoken]\npassword = hunter2\npassword_file = x\n", "set both directly and by password_file"},
		"password and cred.":    {"[keystone_authtoken]\nauth_type=v3applicationcredential\npassword=hunter2\n", ":3 [keystone_authtoken] password: a password is set, but"},
		"cred. without type":    {"[keystone_authtoken]\napplication_credential_id=x\n", "[keystone_authtoken] auth_type: an application credential is set"},
		"two names of the user": {"[keystone_authtoken]\nusername=a\nuser_id=b\n", "username: user_id is set too"},
		"insecure":              {"[keystone_authtoken]\ninsecure=1\ncafile=/dev/null\n", "insecure: cafile is set"},
		"reference":             {"[keystone_authtoken]\npassword = pa$hunter2\n", ":2 [keystone_authtoken] password: $ refers to an option that is not there; write $$"},
		"circle":                {"[DEFAULT]\nhost = $log_file\nlog_file = ${DEFAULT.host}\n", "refers to itself"},
		"IPA server":            {"[ipa]\nservers = https://hunter2/\n", ":2 [ipa] servers: not a list of servers"},
		"IPA server's port":     {"[ipa]\nservers = ipa.hunter2.test:x\n", "servers: not a list of servers; write HOST or HOST:PORT"},
		"IPA domain":            {"[ipa]\ndomain = .hunter2.test\n", ":2 [ipa] domain: not a DNS domain"},
		"instances' domain":     {"[enroll]\ndomain = hunter2_test\n", ":2 [enroll] domain: not a DNS domain"},
		"principal":             {"[ipa]\nprincipal = hunter2@REALM\n", ":2 [ipa] principal: not the principal of a service"},
		"protected":             {"[enroll]\nprotected = hunter2 ldap\n", ":2 [enroll] protected: not a list of host names"},
		"service hosts":         {"[project:p]\nservice_hosts = a,[hunter2\n", ":2 [project:p] service_hosts: not a list of host names"},
		"nameless class":        {"[project:p]\nallowed_classes = a,,hunter2\n", "allowed_classes: a class without a name"},
		"keytab":                {"[enroll]\nenabled = true\n[ipa]\nkeytab = nowhere\n", ":4 [ipa] keytab: the file is not there"},
		"user without password": {"[enroll]\nenabled = true\n[ipa]\nusername = hunter2\n", "[ipa] password: not set"},
		"password without user": {"[enroll]\nenabled = true\n[ipa]\npassword = hunter2\n", "[ipa] username: a password without its username"},
		"slow answers": {"[enroll]\nenabled = true\nanswer_within = 30s\n[ipa]\nusername = a\npassword = b\n",
			":3 [enroll] answer_within: not shorter than [api] request_timeout"},
		"login":      {"[oslo_messaging_rabbit]\nrabbit_login_method = EXTERNAL\n", ":2 [oslo_messaging_rabbit] rabbit_login_method: EXTERNAL logs in by a certificate"},
		"log folder": {"[DEFAULT]\nlog_file = nowhere/x\n", "log_file: its folder is not there"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, dir, err := load(t, map[string]string{"muster.conf": tt.text})
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want Problems", err)
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), dir) {
				t.Errorf("got\n%v\nwant one with %q", err, tt.want)
			}
			if strings.Contains(strings.ToLower(err.Error()), "hunter2") {
				t.Errorf("a value is repeated: %v", err)
			}
		})
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, _, err := load(t, map[string]string{
		"muster.conf":          "[api]\nmax_page = x\n[ssh]\nclock_skew = x\nfoo = 1\n[bar]\n",
		"muster.conf.d/1.conf": "x",
	}, "MUSTER_SSH__CLOK_SKEW=1", "MUSTER_SHH__CLOCK_SKEW=1", "MUSTER_API__MAX_BODY=x")
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != 8 {
		t.Fatalf("%d problems:\n%v", len(problems), err)
	}
	for _, want := range []string{
		"environment MUSTER_SSH__CLOK_SKEW: unknown option in section ssh; did you mean clock_skew?",
		"environment MUSTER_SHH__CLOCK_SKEW: unknown section in the variable's name; did you mean SSH?",
		"environment [api] max_body: not a size",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
}

func TestOverlap(t *testing.T) {
	tests := []struct {
		a, b string
		want bool
	}{
		{":1", ":1", true}, {":1", ":2", false}, {":0", ":0", false}, {":1", "127.0.0.1:1", true},
		{"0.0.0.0:1", "127.0.0.1:1", true}, {"[::]:1", "127.0.0.1:1", true}, {"0.0.0.0:1", "[::1]:1", false},
		{"127.0.0.1:1", "127.0.0.2:1", false}, {"[::1]:1", "[0:0::1]:1", true}, {"localhost:1", "LOCALHOST:1", true},
		{"unix:/a", "unix:/a", true}, {"unix:/a", "unix:/b", false}, {"unix:/a:1", ":1", false},
	}
	for _, tt := range tests {
		if overlap(tt.a, tt.b) != tt.want || overlap(tt.b, tt.a) != tt.want {
			t.Errorf("%s and %s: want %v", tt.a, tt.b, tt.want)
		}
	}
}

func TestTwoSectionsWithOneVariable(t *testing.T) {
	_, _, err := load(t, map[string]string{"muster.conf": "[role:a-b]\n[role:a_b]\n"}, "MUSTER_ROLE_A_B__ACCOUNT=x")
	const want = "MUSTER_ROLE_A_B__ACCOUNT: several sections have this name in the environment; " +
		"set the option in the file: role:a-b, role:a_b"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
}

func TestDefaultFileMayBeMissing(t *testing.T) {
	l := newLoader(filepath.Join(t.TempDir(), "muster.conf"))
	if l.readFiles(false); len(l.problems) != 0 {
		t.Error(l.problems)
	}
}

func TestOpenFiles(t *testing.T) {
	dir := folder(t, map[string]string{
		"muster.conf": "[keystone_authtoken]\npassword = hunter2\n[custody]\nmaster_key_file = key\n",
		"key":         "0123456789abcdef",
	})
	for _, f := range []string{"muster.conf", "key"} {
		if err := os.Chmod(filepath.Join(dir, f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Load(Options{Path: filepath.Join(dir, "muster.conf")})
	for _, want := range []string{
		"muster.conf:2 [keystone_authtoken] password: a secret in a file that every user of the machine can open",
		"muster.conf:4 [custody] master_key_file: the file can be opened by every user of the machine; chmod",
	} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("no %q in\n%v", want, err)
		}
	}
}

func TestMissingFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "x.conf")
	for name, o := range map[string]Options{
		"--config":      {Path: missing},
		"MUSTER_CONFIG": {Environ: []string{"MUSTER_CONFIG=" + missing}},
	} {
		if _, err := Load(o); err == nil || !strings.HasPrefix(err.Error(), missing+": the file is not there") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzLoad: no file makes Load panic, hang, or repeat a value in an error.
func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		"[ssh]\nclock_skew = 1d2h\nrole_accounts = a:b,c:\"d,e\"\n", "[role:x]\nsource_address=::/0,1.2.3.4\nlifetime=.5\n",
		"[DEFAULT]\nhost=$debug${ssh.extensions}$$\ndebug=$host\n[listen:a]\naddress=[::]:0\nfaces='tatu','health\n",
		"[api]\nmax_body=1 MiB\npublic_url=http://[::1]/\nrequest_timeout=9999999999999\n[Tatu]\npam_sudo=1\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		const secret = "hunter2-is-the-password"
		if strings.Contains(text, "_file") || strings.Contains(text, "cafile") || len(text) > 1<<14 {
			return // it would open foreign files
		}
		l := newLoader("/nowhere/muster.conf")
		l.readText("muster.conf", text+"\n[keystone_authtoken]\npassword = "+secret+"$x\n", 0o600)
		cfg := l.build()
		for i, listener := range cfg.Listeners {
			for _, other := range cfg.Listeners[:i] {
				if overlap(listener.Address, other.Address) != overlap(other.Address, listener.Address) {
					t.Errorf("overlap of %q and %q depends on their order", listener.Address, other.Address)
				}
			}
		}
		if strings.Contains(l.problems.Error(), secret) {
			t.Errorf("the password is repeated: %v", l.problems)
		}
	})
}

// TestPolicyFileIsOptional: only the default may be missing.
func TestPolicyFileIsOptional(t *testing.T) {
	if c := mustLoad(t, map[string]string{"muster.conf": ""}); !c.Policy.Optional {
		t.Error("the default file is not optional")
	}
	set := map[string]string{"muster.conf": "[oslo_policy]\npolicy_file = policy.yaml\n"}
	if _, _, err := load(t, set); err == nil {
		t.Error("a file that was set may be missing")
	}
	set["policy.yaml"] = ""
	if c := mustLoad(t, set); c.Policy.Optional {
		t.Error("a file that was set is optional")
	}
}

// TestSameLogin: what is inherited is the same login, whatever its pointers.
func TestSameLogin(t *testing.T) {
	file := "[keystone_authtoken]\nauth_url = https://keystone/v3\nusername = muster\n"
	if c := mustLoad(t, map[string]string{"muster.conf": file}); !c.ServiceCredentials.Same(c.KeystoneAuthToken.Auth) {
		t.Error("an inherited login is another one")
	}
	for _, other := range []string{"auth_url = https://other/v3", "username = other"} {
		c := mustLoad(t, map[string]string{"muster.conf": file + "[service_credentials]\n" + other + "\n"})
		if c.ServiceCredentials.Same(c.KeystoneAuthToken.Auth) {
			t.Errorf("%s: the same login", other)
		}
	}
}
