// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// rules judge settings that are right one by one but not together, and files
// that they name.
type rules struct {
	cfg      *Config
	failed   map[name]bool // their fields hold nothing to judge
	problems *Problems
}

func (r *rules) check(problems *Problems) {
	r.problems = problems
	r.lifetimes()
	r.accounts()
	r.authentication("keystone_authtoken", &r.cfg.KeystoneAuthToken.Auth)
	r.authentication("service_credentials", &r.cfg.ServiceCredentials)
	r.database()
	r.files()
	r.enrolment()
	r.agent()
	r.messaging()
	r.listeners()
}

// refuse adds a problem at the first of the options, unless one of them has a
// problem already.
func (r *rules) refuse(section string, options []string, message, hint string) {
	for _, o := range options {
		if r.failed[name{section, o}] {
			return
		}
	}
	p := r.cfg.problem(section, options[0], message, hint)
	if !slices.Contains(*r.problems, p) { // inherited options are judged twice
		*r.problems = append(*r.problems, p)
	}
}

func (r *rules) lifetimes() {
	s := r.cfg.SSH
	if s.UserCertLifetime > s.UserCertMaxLifetime {
		r.refuse("ssh", []string{"user_cert_lifetime", "user_cert_max_lifetime"},
			"longer than user_cert_max_lifetime", "shorten it or raise the maximum")
	}
	if s.HostCertLifetime < s.ClockSkew {
		r.refuse("ssh", []string{"host_cert_lifetime", "clock_skew"}, "shorter than clock_skew, so that most of its life is over at once",
			"raise it, or lower clock_skew")
	}
	for _, role := range r.cfg.Roles {
		if role.Lifetime > s.UserCertMaxLifetime {
			r.refuse("role:"+role.Name, []string{"lifetime"},
				"longer than [ssh] user_cert_max_lifetime", "shorten it or raise the maximum")
		}
		r.extensions("role:"+role.Name, role.Extensions)
	}
	r.extensions("ssh", s.Extensions)
}

// extensions takes OpenSSH's own and, as PROTOCOL.certkeys has it, others as
// name@domain.
func (r *rules) extensions(section string, names []string) {
	for _, n := range names {
		if !slices.Contains(extensions, n) && strings.Index(n, "@") < 1 {
			r.refuse(section, []string{"extensions"}, "an extension that OpenSSH does not know",
				didYouMean(n, extensions, "choose from "+strings.Join(extensions, ", ")+", or write name@domain"))
		}
	}
}

// AnyAdmin stands in [vendordata] sudo_roles for each role with "admin" in its
// name, which was Tatu's rule.
const AnyAdmin = "*admin*"

// accountShape is what useradd takes everywhere.
var accountShape = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

const accountHint = "at most 32 of a-z, 0-9, _ and -, the first a letter or _"

func (r *rules) accounts() {
	for _, account := range r.cfg.SSH.RoleAccounts {
		if !accountShape.MatchString(account) {
			r.refuse("ssh", []string{"role_accounts"}, "not an account's name", accountHint)
		}
	}
	if prefix := r.cfg.SSH.AccountPrefix; prefix != "" && (!accountShape.MatchString(prefix) || len(prefix) > 16) {
		r.refuse("ssh", []string{"account_prefix"}, "not the beginning of an account's name",
			"at most 16 of a-z, 0-9, _ and -, the first a letter or _")
	}
	for _, role := range r.cfg.Vendordata.SudoRoles {
		if role != AnyAdmin && strings.Contains(role, "*") {
			r.refuse("vendordata", []string{"sudo_roles"}, "a pattern", "name the roles; the only pattern is "+AnyAdmin)
		}
	}
	for _, role := range r.cfg.Roles {
		section := "role:" + role.Name
		if role.Account != "" && !accountShape.MatchString(role.Account) {
			r.refuse(section, []string{"account"}, "not an account's name", accountHint)
		}
		other := r.cfg.SSH.RoleAccounts[role.Name]
		if role.Account != "" && other != "" && other != role.Account {
			r.refuse(section, []string{"account"}, "[ssh] role_accounts names another account for this role",
				"keep one of them")
		}
		if strings.ContainsAny(role.ForceCommand, "\n\x00") {
			r.refuse(section, []string{"force_command"}, "more than one line", "write one command")
		}
	}
}

func (r *rules) authentication(section string, a *Auth) {
	set := func(values ...string) bool {
		return slices.ContainsFunc(values, func(v string) bool { return v != "" })
	}
	credential := set(a.ApplicationCredentialID, a.ApplicationCredentialName, string(a.ApplicationCredentialSecret))
	switch {
	case a.AuthType == "v3applicationcredential" && a.Password != "":
		r.refuse(section, []string{"password", "auth_type"},
			"a password is set, but auth_type is v3applicationcredential", "remove it or change auth_type")
	case a.AuthType != "v3applicationcredential" && credential:
		r.refuse(section, []string{"auth_type"}, "an application credential is set, but auth_type is "+a.AuthType,
			"set auth_type = v3applicationcredential, or remove the application_credential options")
	}
	pairs := [][2]string{{"username", "user_id"}, {"user_domain_name", "user_domain_id"},
		{"project_name", "project_id"}, {"project_domain_name", "project_domain_id"},
		{"application_credential_name", "application_credential_id"}}
	values := [][2]string{{a.Username, a.UserID}, {a.UserDomainName, a.UserDomainID},
		{a.ProjectName, a.ProjectID}, {a.ProjectDomainName, a.ProjectDomainID},
		{a.ApplicationCredentialName, a.ApplicationCredentialID}}
	for i, v := range values {
		if v[0] != "" && v[1] != "" {
			r.refuse(section, pairs[i][:], pairs[i][1]+" is set too", "keep one of them")
		}
	}
	if a.Insecure && r.cfg.isSet(section, "insecure") {
		w := r.cfg.problem(section, "insecure", "Keystone's certificate is not verified", "set cafile instead")
		if !slices.Contains(r.cfg.Warnings, w) {
			r.cfg.Warnings = append(r.cfg.Warnings, w)
		}
	}
	if a.Insecure && a.CAFile != "" {
		r.refuse(section, []string{"insecure", "cafile"}, "cafile is set, but insecure ignores it",
			"set insecure = false")
	}
}

var databaseShape = regexp.MustCompile(`^(?:sqlite|postgresql|postgres|mysql|mariadb)(?:\+[a-z0-9_]+)?://`)

func (r *rules) database() {
	if !databaseShape.MatchString(string(r.cfg.Database.Connection)) {
		r.refuse("database", []string{"connection"}, "not the URL of a database that Muster knows",
			"write sqlite:////path, postgresql://user:password@host/name or mysql+pymysql://user:password@host/name")
	}
}

func (r *rules) files() {
	c := r.cfg
	r.readable("keystone_authtoken", "cafile", c.KeystoneAuthToken.CAFile)
	r.readable("service_credentials", "cafile", c.ServiceCredentials.CAFile)
	r.readable("oslo_messaging_rabbit", "ssl_ca_file", c.Rabbit.CAFile)
	r.readable("oslo_messaging_rabbit", "ssl_cert_file", c.Rabbit.CertFile)
	r.readable("oslo_messaging_rabbit", "ssl_key_file", c.Rabbit.KeyFile)
	if c.Policy.Optional = !c.isSet("oslo_policy", "policy_file"); !c.Policy.Optional {
		r.readable("oslo_policy", "policy_file", c.Policy.PolicyFile)
	}
	if c.LogFile == "" {
		return
	}
	if info, err := os.Stat(filepath.Dir(c.LogFile)); err != nil || !info.IsDir() {
		r.refuse("DEFAULT", []string{"log_file"}, "its folder is not there", "create it, or correct the path")
	}
}

func (r *rules) messaging() {
	rabbit := r.cfg.Rabbit
	if (rabbit.CertFile == "") != (rabbit.KeyFile == "") {
		r.refuse("oslo_messaging_rabbit", []string{"ssl_cert_file", "ssl_key_file"}, "ssl_cert_file and ssl_key_file belong together",
			"set both or none")
	}
	// The URL may name the certificate instead; it goes before these options.
	inURL := strings.Contains(string(r.cfg.TransportURL), "ssl_cert_file=")
	if rabbit.LoginMethod == "EXTERNAL" && !inURL && (!rabbit.SSL || rabbit.CertFile == "") {
		r.refuse("oslo_messaging_rabbit", []string{"rabbit_login_method"}, "EXTERNAL logs in by a certificate, and there is none",
			"set ssl, ssl_cert_file and ssl_key_file")
	}
	if r.cfg.TransportURL != "" && len(r.cfg.Notifications.Topics) == 0 {
		r.refuse("notifications", []string{"topics"}, "no topic to listen to", "name one, or remove [DEFAULT] transport_url")
	}
}

// readable refuses a file that is named but can't be opened.
func (r *rules) readable(section, option, path string) {
	if path == "" {
		return
	}
	if _, _, err := readBounded(path, maxFile); err != nil {
		r.refuse(section, []string{option}, err.message, err.hint)
	}
}

func (r *rules) listeners() {
	var bound []*Listener
	for _, l := range r.cfg.Listeners {
		section := "listen:" + l.Name
		r.tls(section, l)
		if len(l.Faces) == 0 {
			r.refuse(section, []string{"faces"}, "a listener that serves nothing",
				"name at least one of "+strings.Join(faces, ", "))
		}
		if message := addressFault(l.Address); message != "" {
			r.refuse(section, []string{"address"}, message, "write host:port, [IPv6]:port, :port or unix:/path")
			continue
		}
		for _, other := range bound {
			if overlap(l.Address, other.Address) {
				r.refuse(section, []string{"address"}, fmt.Sprintf("the address of [listen:%s] too", shownMember(other.Name)),
					"give each listener its own, or put their faces into one")
			}
		}
		bound = append(bound, l)
	}
}

func shownMember(member string) string {
	if nameShape.MatchString("listen:" + member) {
		return member
	}
	return "..."
}

func (r *rules) tls(section string, l *Listener) {
	switch {
	case l.TLSCert != "" && l.TLSKey == "":
		r.refuse(section, []string{"tls_cert", "tls_key"}, "a certificate without tls_key", "set tls_key too")
	case l.TLSKey != "" && l.TLSCert == "":
		r.refuse(section, []string{"tls_key", "tls_cert"}, "a key without tls_cert", "set tls_cert too")
	case l.ClientCA != "" && l.TLSCert == "":
		r.refuse(section, []string{"client_ca", "tls_cert"}, "clients have certificates only with TLS",
			"set tls_cert and tls_key")
	}
	r.readable(section, "tls_cert", l.TLSCert)
	r.readable(section, "client_ca", l.ClientCA)
	if l.TLSKey != "" {
		r.private(section, "tls_key", l.TLSKey)
	}
}

// private refuses a file with keys that can't be opened, or by everybody.
func (r *rules) private(section, option, path string) {
	if _, mode, err := readBounded(path, maxFile); err != nil {
		r.refuse(section, []string{option}, err.message, err.hint)
	} else if mode.Perm()&0o007 != 0 {
		r.refuse(section, []string{option}, "the file can be opened by every user of the machine",
			"chmod 0600 or 0640 the file")
	}
}

// addressFault says what is wrong with a listener's address.
func addressFault(address string) string {
	if path, unix := strings.CutPrefix(address, "unix:"); unix {
		if !filepath.IsAbs(path) || len(path) > 107 { // sun_path, unix(7)
			return "a socket's path must be absolute and at most 107 bytes long"
		}
		return ""
	}
	if address == "" {
		return "a listener needs an address"
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return "not an address with a port"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return "the port is not a number up to 65535"
	}
	return ""
}

// overlap tells whether two valid addresses can't both be bound. Port 0 means
// any free one.
func overlap(a, b string) bool {
	if a == b {
		return !strings.HasSuffix(a, ":0") || strings.HasPrefix(a, "unix:")
	}
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" ||
		strings.HasPrefix(a, "unix:") || strings.HasPrefix(b, "unix:") {
		return false
	}
	return covers(hostA, hostB) || covers(hostB, hostA)
}

// covers tells whether wide is the wildcard of all addresses that host can be.
func covers(wide, host string) bool {
	if wide == "" || strings.EqualFold(wide, host) {
		return true
	}
	w, errWide := netip.ParseAddr(wide)
	h, errHost := netip.ParseAddr(host)
	if errWide != nil {
		return false
	}
	if errHost != nil { // a name: may be any address
		return w.IsUnspecified()
	}
	return w == h || (w.IsUnspecified() && (w.Is6() || h.Is4()))
}

// isSet tells whether an option has another source than its default.
func (c *Config) isSet(section, option string) bool {
	return slices.ContainsFunc(c.settings, func(s setting) bool {
		return s.section == section && s.option.name == option && s.origin.file != ""
	})
}
