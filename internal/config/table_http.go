// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

func vendordataOptions() []option {
	at := of[Vendordata]
	return []option{
		{name: "ssh_port", initial: "22", min: "1", max: "65535", field: at(func(v *Vendordata) any { return &v.SSHPort }),
			deprecated: []oldName{{"tatu", "ssh_port"}},
			help:       "The port that sshd of the instances listens on, besides 22."},
		{name: "pam_sudo", initial: "false", field: at(func(v *Vendordata) any { return &v.PAMSudo }),
			deprecated: []oldName{{"tatu", "pam_sudo"}},
			help:       "sudo asks the user's SSH agent for a certificate, instead of for nothing. Tatu's boot script needs pam-ussh for that."},
		{name: "api_endpoint", field: at(func(v *Vendordata) any { return &v.APIEndpoint }),
			deprecated: []oldName{{"tatu", "api_endpoint_for_vms"}}, example: "https://muster.example.com:18322",
			help: "The URL that instances reach Muster at. Needed."},
		{name: "sudo_roles", initial: "admin", field: at(func(v *Vendordata) any { return &v.SudoRoles }), example: "admin, manager",
			help: "The roles whose accounts may use sudo, by their whole names. *admin* stands for Tatu's rule: each role with admin " +
				"in its name, such as ResellerAdmin. Empty: none."},
	}
}

func apiOptions() []option {
	at := of[API]
	return []option{
		{name: "public_url", field: at(func(a *API) any { return &a.PublicURL }),
			deprecated: []oldName{{"tatu", "api_base_uri"}}, example: "https://ssh.example.com",
			help: "The base of the links in answers. Empty: from the Host of each request."},
		{name: "max_body", initial: "1MiB", min: "64KiB", max: "16MiB", field: at(func(a *API) any { return &a.MaxBody }),
			help: "Longer request bodies are refused. Nova's hold the user data, up to 88 KiB."},
		{name: "max_page", initial: "1000", min: "1", max: "1000", field: at(func(a *API) any { return &a.MaxPage }),
			help: "The most records in one answer; the rest follows by links.next."},
		{name: "trusted_proxies", field: at(func(a *API) any { return &a.TrustedProxies }),
			example: "192.0.2.10, 192.0.2.11",
			help: "The networks of load balancers whose X-Forwarded-For and X-Forwarded-Proto are believed. " +
				"Empty: nobody's."},
		{name: "request_timeout", initial: "30s", min: "1s", max: "10m",
			field: at(func(a *API) any { return &a.RequestTimeout }),
			help:  "How long a request may take, waiting requests excepted."},
		{name: "long_poll_max", initial: "300s", min: "1s", max: "1h", field: at(func(a *API) any { return &a.LongPollMax }),
			help: "The longest that a request with ?wait= waits. Keep it below the load balancer's limit."},
		{name: "max_long_polls", initial: "20000", min: "0", max: "1000000",
			field: at(func(a *API) any { return &a.MaxLongPolls }),
			help:  "How many requests may wait at once, on each listener; more are refused with 503. 0: none may wait."},
		{name: "user_rate_limit", initial: "50", min: "0", max: "1000000", field: at(func(a *API) any { return &a.UserRateLimit }),
			help: "Requests with a token per second and user, on each replica; more are refused with 429. 0: no limit. Who may ask for " +
				"vendordata by the policy, as Nova's user and operators do, is never limited."},
		{name: "user_rate_burst", initial: "500", min: "1", max: "1000000", field: at(func(a *API) any { return &a.UserRateBurst }),
			help: "How many such requests may come at once."},
	}
}

func listenOptions() []option {
	at := of[Listener]
	return []option{
		{name: "address", field: at(func(l *Listener) any { return &l.Address }), example: "192.0.2.1:18322",
			help: "host:port, or unix:/path of a socket. An empty host is every address of the machine."},
		{name: "faces", initial: "tatu, vendordata, join, instance, operator, health", choices: faces,
			field: at(func(l *Listener) any { return &l.Faces }),
			help: "What is served here: tatu (its API for people), vendordata (for Nova), join (for Nova, as novajoin; " +
				"if [enroll] is enabled), instance (for instances, /noauth), operator (Muster's own), health, metrics."},
		{name: "tls_cert", path: true, field: at(func(l *Listener) any { return &l.TLSCert }),
			help: "A PEM file with the certificate and its chain. Empty: plain HTTP. Read again on SIGHUP."},
		{name: "tls_key", path: true, field: at(func(l *Listener) any { return &l.TLSKey }),
			help: "A PEM file with the certificate's private key."},
		{name: "client_ca", path: true, field: at(func(l *Listener) any { return &l.ClientCA }),
			help: "A PEM file with the authorities that clients must have a certificate of. Empty: none is asked for. " +
				"Read again on SIGHUP."},
		{name: "rate_limit", initial: "50", min: "0", max: "1000000", field: at(func(l *Listener) any { return &l.RateLimit }),
			help: "Requests without a token (/noauth) per second and client address. 0: no limit. Who comes by a unix socket " +
				"counts as one address."},
		{name: "rate_burst", initial: "200", min: "1", max: "1000000", field: at(func(l *Listener) any { return &l.RateBurst }),
			help: "How many such requests may come at once."},
	}
}

// standingListeners serve everything on Tatu's port, enrolment on novajoin's
// too, and the metrics to the machine itself only.
func standingListeners() []standing {
	return []standing{
		{"join", map[string]string{"address": ":9090", "faces": "join"}},
		{"local", map[string]string{"address": "127.0.0.1:18323", "faces": "health, metrics"}},
		{"main", map[string]string{"address": ":18322"}},
	}
}

func auditOptions() []option {
	at := of[Audit]
	return []option{
		{name: "retention", initial: "365d", min: "1d", field: at(func(a *Audit) any { return &a.Retention }),
			help: "Audit records older than this are removed."},
	}
}

func pruneOptions() []option {
	at := of[Prune]
	return []option{
		{name: "interval", initial: "1h", min: "1m", max: "7d", field: at(func(p *Prune) any { return &p.Interval }),
			help: "How often old records are removed."},
		{name: "certificate_retention", initial: "90d", min: "1h",
			field: at(func(p *Prune) any { return &p.CertificateRetention }),
			help:  "How long certificates stay in lists after their end."},
	}
}
