// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

func authTokenOptions() []option {
	at := of[KeystoneAuthToken]
	own := []option{
		{name: "www_authenticate_uri", field: at(func(k *KeystoneAuthToken) any { return &k.WWWAuthenticateURI }),
			deprecated: []oldName{{"keystone_authtoken", "auth_uri"}}, example: "https://keystone.example.com:5000",
			help: "Keystone's public URL, told to clients that come without a valid token. Empty: auth_url."},
		{name: "token_cache_time", initial: "300", min: "1s", max: "300",
			field: at(func(k *KeystoneAuthToken) any { return &k.TokenCacheTime }),
			help: "How long a validated token is not validated again. A token that is revoked meanwhile " +
				"works for at most this long."},
		{name: "role_cache_time", initial: "5", min: "1s", max: "30",
			field: at(func(k *KeystoneAuthToken) any { return &k.RoleCacheTime }),
			help:  "How old the roles may be that a certificate is issued on."},
	}
	shared := authOptions(func(k *KeystoneAuthToken) *Auth { return &k.Auth })
	for i := range shared {
		shared[i].deprecated = append(shared[i].deprecated, tatuNames[shared[i].name]...)
	}
	return append(shared, own...)
}

// tatuNames are the options of Tatu's configuration that mean the same.
var tatuNames = map[string][]oldName{
	"auth_url":   {{"tatu", "auth_url"}},
	"user_id":    {{"tatu", "user_id"}},
	"password":   {{"tatu", "password"}},
	"project_id": {{"tatu", "project_id"}},
}

// authOptions are keystoneauth's options, for a section whose struct T holds
// an Auth.
func authOptions[T any](auth func(*T) *Auth) []option {
	at := func(field func(*Auth) any) func(any) any {
		return func(s any) any { return field(auth(s.(*T))) }
	}
	return []option{
		{name: "auth_url", field: at(func(a *Auth) any { return &a.AuthURL }),
			example: "https://keystone.example.com:5000/v3", help: "Keystone's URL, with or without /v3."},
		{name: "auth_type", initial: "password", field: at(func(a *Auth) any { return &a.AuthType }),
			choices: []string{"password", "v3password", "v3applicationcredential"},
			help:    "Log in with a user's password, or with an application credential."},
		{name: "username", field: at(func(a *Auth) any { return &a.Username }), example: "muster",
			help: "The service user's name; needs its domain too."},
		{name: "user_id", field: at(func(a *Auth) any { return &a.UserID }),
			help: "The service user's ID, instead of name and domain."},
		{name: "password", field: at(func(a *Auth) any { return &a.Password }), help: "The service user's password."},
		{name: "user_domain_name", field: at(func(a *Auth) any { return &a.UserDomainName }), example: "Default",
			help: "The name of the service user's domain."},
		{name: "user_domain_id", field: at(func(a *Auth) any { return &a.UserDomainID }), example: "default",
			help: "The ID of the service user's domain, instead of its name."},
		{name: "project_name", field: at(func(a *Auth) any { return &a.ProjectName }), example: "service",
			help: "The project to log in to; needs its domain too."},
		{name: "project_id", field: at(func(a *Auth) any { return &a.ProjectID }),
			help: "The ID of the project to log in to, instead of name and domain."},
		{name: "project_domain_name", field: at(func(a *Auth) any { return &a.ProjectDomainName }), example: "Default",
			help: "The name of the project's domain."},
		{name: "project_domain_id", field: at(func(a *Auth) any { return &a.ProjectDomainID }), example: "default",
			help: "The ID of the project's domain, instead of its name."},
		{name: "application_credential_id", field: at(func(a *Auth) any { return &a.ApplicationCredentialID }),
			help: "The application credential's ID."},
		{name: "application_credential_name", field: at(func(a *Auth) any { return &a.ApplicationCredentialName }),
			help: "The application credential's name, instead of its ID; needs its user too."},
		{name: "application_credential_secret",
			field: at(func(a *Auth) any { return &a.ApplicationCredentialSecret }),
			help:  "The application credential's secret."},
		{name: "cafile", path: true, field: at(func(a *Auth) any { return &a.CAFile }),
			help: "A PEM file with the authorities that may sign Keystone's certificate. Empty: the system's."},
		{name: "insecure", initial: "false", field: at(func(a *Auth) any { return &a.Insecure }),
			help: "Accept any certificate. Whoever sits between can then take Muster's password: never in production."},
		{name: "region_name", field: at(func(a *Auth) any { return &a.RegionName }), example: "RegionOne",
			help: "The region whose endpoints are used. Needed if the catalog holds several."},
		{name: "http_connect_timeout", initial: "5", min: "1s", max: "60",
			field: at(func(a *Auth) any { return &a.HTTPConnectTimeout }),
			help:  "How long one request may take. Keep it below Nova's own limit for vendordata."},
	}
}

func sshOptions() []option {
	at := of[SSH]
	return []option{
		{name: "ca_algorithm", initial: "ed25519", field: at(func(s *SSH) any { return &s.CAAlgorithm }),
			choices: []string{"ed25519", "ecdsa-p256", "ecdsa-p384", "rsa-3072", "rsa-4096"},
			help: "The kind of key that new authorities get. RSA signs with rsa-sha2-512. sshd and ssh refuse certificates of a kind that is not in " +
				"their CASignatureAlgorithms: where they follow FIPS, that is ed25519. Authorities that are there get another kind when they are rotated."},
		{name: "ca_lifetime", initial: "0", min: "0", field: at(func(s *SSH) any { return &s.CALifetime }),
			help: "How long a generation of an authority's keys may sign; no certificate outlives it. 0: without end."},
		{name: "user_cert_lifetime", initial: "12h", min: "1m", field: at(func(s *SSH) any { return &s.UserCertLifetime }),
			help: "How long a user certificate is valid."},
		{name: "user_cert_max_lifetime", initial: "24h", min: "1m", max: "365d",
			field: at(func(s *SSH) any { return &s.UserCertMaxLifetime }),
			help:  "The longest that a role's section, or a request, may ask for."},
		{name: "clock_skew", initial: "5m", max: "1h", field: at(func(s *SSH) any { return &s.ClockSkew }),
			help: "Certificates are valid from this long before their issue, for machines whose clock is slow."},
		{name: "min_rsa_bits", initial: "2048", min: "2048", max: "16384",
			field: at(func(s *SSH) any { return &s.MinRSABits }), help: "RSA keys with fewer bits are refused."},
		{name: "role_accounts", field: at(func(s *SSH) any { return &s.RoleAccounts }),
			example: "admin:cloud-admin,Project Member:member",
			help:    "Account names for roles whose name is not to be the account's, as ROLE:ACCOUNT."},
		{name: "account_prefix", field: at(func(s *SSH) any { return &s.AccountPrefix }), example: "os-",
			help: "Put before the name of each role that has no account name of its own."},
		{name: "extra_system_accounts", field: at(func(s *SSH) any { return &s.ExtraSystemAccounts }),
			example: "backup-agent, monitor",
			help:    "Names that never become an account, besides the usual system accounts such as root."},
		{name: "extensions", initial: usualExtensions, field: at(func(s *SSH) any { return &s.Extensions }),
			help: "The extensions of user certificates. Default: the five that OpenSSH gives."},
		{name: "host_cert_lifetime", initial: "365d", min: "1m", max: "3650d",
			field: at(func(s *SSH) any { return &s.HostCertLifetime }),
			help:  "How long a host certificate is valid. Instances with the agent renew theirs; others keep the one that they got at boot."},
		{name: "host_domains", field: at(func(s *SSH) any { return &s.HostDomains }),
			example: "example.com, <project_id>.cloud.example.com",
			help: "Domains under which people reach instances: host certificates also hold HOSTNAME.DOMAIN for each. <project_id> " +
				"stands for the ID of the instance's project, as in Neutron's dns_domain. Without it two projects may have " +
				"instances of one name, which only their CAs tell apart."},
		{name: "host_cert_principals", initial: "names", choices: []string{"names", "none"},
			field: at(func(s *SSH) any { return &s.HostCertPrincipals }),
			help: "What host certificates that are asked for through Tatu's API name. names: the instance's names and " +
				"addresses that are known by then, as in the agent's certificates; none: nothing, as Tatu did. Beware of none: " +
				"older clients take such a certificate for every name there is, and OpenSSH 10.3 and later for no host at all."},
		{name: "host_token_lifetime", initial: "24h", min: "1m", max: "30d",
			field: at(func(s *SSH) any { return &s.HostTokenLifetime }),
			help:  "How long after its boot an instance may fetch its first certificate."},
		{name: "shared_host_keys", initial: "project", choices: []string{"allow", "project", "refuse"},
			field: at(func(s *SSH) any { return &s.SharedHostKeys }),
			help: "What to do for a second instance with the same host key, the sign of an image that was built " +
				"badly. allow: issue, with an audit record and a warning; refuse: 409; project: allow if both are of " +
				"the same project, else refuse."},
	}
}

func roleOptions() []option {
	at := of[Role]
	return []option{
		{name: "account", field: at(func(r *Role) any { return &r.Account }), example: "ops",
			help: "The account's name. Empty: from role_accounts, or the role's name with account_prefix."},
		{name: "lifetime", initial: "0", field: at(func(r *Role) any { return &r.Lifetime }), example: "1h",
			help: "The longest that a certificate with this role is valid. 0: as [ssh] says."},
		{name: "extensions", field: at(func(r *Role) any { return &r.Extensions }), example: "permit-pty",
			help: "The extensions of certificates with this role. Empty: those of [ssh]."},
		{name: "source_address", field: at(func(r *Role) any { return &r.SourceAddress }),
			example: "192.0.2.0/24, 2001:db8::/32",
			help:    "The networks that certificates with this role can be used from. Empty: any."},
		{name: "force_command", field: at(func(r *Role) any { return &r.ForceCommand }),
			example: "/usr/bin/backup-receive",
			help:    "The only command that certificates with this role run. Empty: any."},
	}
}
