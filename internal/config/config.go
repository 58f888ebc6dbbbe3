// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package config reads, checks, explains and documents Muster's
// configuration: INI files in the way of oslo.config, environment variables,
// secrets in files of their own and systemd credentials.
//
// One table (see table.go) declares every option. From it come the typed
// Config, the errors with their suggestions, the commented sample, the
// documentation page and the list of what is in force.
//
// The files are parsed by hand and not with gopkg.in/ini.v1. That one keeps no
// line numbers, which every message here needs, and can't be set up to read
// what oslo.config reads: it ends multi-line values by other rules, gives
// back-quotes and triple quotes a meaning, and lets pass what oslo.config
// refuses (text behind a section, options before the first). The judge is
// oslo.config itself: the tests compare with it.
//
// The package connects to nothing and writes no file. No value that was read
// appears in an error; secrets have a type of their own that prints as ****.
package config

import (
	"log/slog"
	"net/netip"
	"net/url"
	"time"
)

// DefaultPath is the file that is read when no other is named.
const DefaultPath = "/etc/muster/muster.conf"

// Config is the configuration in force. Paths in it are absolute; fields of
// options that are not set hold the defaults of the table.
type Config struct {
	Debug           bool
	LogLevel        slog.Level // debug already taken into account
	LogFormat       string     // "text" or "json"
	LogFile         string     // empty: standard error
	Host            string     // this replica's name
	ShutdownTimeout time.Duration
	TransportURL    Secret // of oslo.messaging; empty: no notifications are listened to

	Database           Database
	KeystoneAuthToken  KeystoneAuthToken
	ServiceCredentials Auth // complete: what was unset is taken from KeystoneAuthToken
	Policy             Policy
	Custody            Custody
	SSH                SSH
	Roles              []*Role // sorted by name
	Vendordata         Vendordata
	Agent              Agent
	IPA                IPA
	Enroll             Enroll
	Projects           []*Project // sorted by name
	Glance             Glance
	Converge           Converge
	Nova               Nova
	Neutron            Neutron
	DNS                DNS
	Notifications      Notifications
	Rabbit             Rabbit
	API                API
	Listeners          []*Listener // sorted by name, never empty
	Audit              Audit
	Prune              Prune

	// Warnings are settings that work but should be changed, such as old names.
	Warnings []Problem

	path     string
	settings []setting
	files    []namedFile // those of the configuration, and secrets' own
}

// Database is [database], with the option names of oslo.db.
type Database struct {
	Connection            Secret // a URL as SQLAlchemy writes it
	MaxPoolSize           int    // connections kept
	MaxOverflow           int    // connections more than that, for a while
	ConnectionRecycleTime time.Duration
	PoolTimeout           time.Duration
	MaxRetries            int // at start; -1: without end
	RetryInterval         time.Duration
}

// Auth is how Muster logs in to Keystone, with the option names of
// keystoneauth.
type Auth struct {
	AuthURL                     *url.URL
	AuthType                    string // "password", "v3password" or "v3applicationcredential"
	Username                    string
	UserID                      string
	Password                    Secret
	UserDomainName              string
	UserDomainID                string
	ProjectName                 string
	ProjectID                   string
	ProjectDomainName           string
	ProjectDomainID             string
	ApplicationCredentialID     string
	ApplicationCredentialName   string
	ApplicationCredentialSecret Secret
	CAFile                      string
	Insecure                    bool
	RegionName                  string
	HTTPConnectTimeout          time.Duration
}

// Same tells whether both log in at the same place as the same user.
func (a Auth) Same(b Auth) bool {
	if a.AuthURL != nil && b.AuthURL != nil && a.AuthURL.String() == b.AuthURL.String() {
		b.AuthURL = a.AuthURL
	}
	return a == b
}

// KeystoneAuthToken is [keystone_authtoken]: how tokens are validated.
type KeystoneAuthToken struct {
	Auth
	WWWAuthenticateURI *url.URL // for clients, in WWW-Authenticate
	TokenCacheTime     time.Duration
	RoleCacheTime      time.Duration
}

// Policy is [oslo_policy].
type Policy struct {
	PolicyFile string
	Optional   bool // the file may be missing: it is the default, which nobody set
}

// Custody is [custody]: who holds the authorities' private keys.
type Custody struct {
	Backend   string // "sealed"
	MasterKey Secret // the exact bytes of master_key_file or of the credential
}

// SSH is [ssh]: authorities and certificates.
type SSH struct {
	CAAlgorithm         string
	CALifetime          time.Duration // zero: without end
	UserCertLifetime    time.Duration
	UserCertMaxLifetime time.Duration
	ClockSkew           time.Duration
	MinRSABits          int
	RoleAccounts        map[string]string // role name to account name
	AccountPrefix       string
	ExtraSystemAccounts []string
	Extensions          []string
	HostCertLifetime    time.Duration
	HostCertPrincipals  string   // "names" or "none"
	HostDomains         []string // put after host names; may hold <project_id>
	HostTokenLifetime   time.Duration
	SharedHostKeys      string // "allow", "project" or "refuse"
}

// Role is one [role:NAME]: what certificates get for a Keystone role. A zero
// field leaves the general setting of SSH in force.
type Role struct {
	Name          string
	Account       string
	Lifetime      time.Duration
	Extensions    []string
	SourceAddress []netip.Prefix
	ForceCommand  string
}

// Vendordata is [vendordata]: what instances are told at boot.
type Vendordata struct {
	SSHPort     int
	PAMSudo     bool
	APIEndpoint *url.URL // where instances reach Muster
	SudoRoles   []string // AnyAdmin is one for all with "admin" in their name
}

// Agent is [agent]: the program inside the instances, and what it is told.
type Agent struct {
	Directory              string // the programs; may be missing
	CAFile                 string // empty: as the image has it
	PollInterval           time.Duration
	PasswordAuthentication bool
	PenaltyExempt          []netip.Prefix
	IPAServer              string // empty: found by DNS
	IPAClientOptions       []string
	InstallIPAClient       bool
}

// IPA is [ipa]: how Muster reaches FreeIPA, and who it is there.
type IPA struct {
	Servers      []string // empty: from ClientConf, else from the DNS
	Domain       string
	Realm        string
	Principal    string // empty: the first in the keytab
	Keytab       string
	Username     string // empty: log in by Kerberos
	Password     Secret
	CAFile       string
	ClientConf   string
	KerberosConf string
	Timeout      time.Duration
	MaxInFlight  int // for each server
}

// Enroll is [enroll]: what instances get in FreeIPA.
type Enroll struct {
	Enabled          bool
	Domain           string // empty: FreeIPA's
	ProjectSubdomain bool
	NormalizeProject bool
	Protected        []string // host names and patterns
	AnswerWithin     time.Duration
	OnFailure        string // "empty" or "error"
	RemoveDNS        bool   // with the host, what it registered itself
	// RemoveUnnamedServices: those that the metadata names no longer.
	RemoveUnnamedServices bool
}

// Project is one [project:NAME]: what its instances may ask for.
type Project struct {
	Name           string
	DomainID       string
	AllowedClasses []string // "*": any
	ServiceHosts   []string // names and patterns
	AnyServiceHost bool
}

// Glance is [glance]: how images are asked for.
type Glance struct {
	EndpointOverride *url.URL // nil: from the catalog
	Interface        string   // "public", "internal" or "admin"
	CacheTime        time.Duration
}

// Converge is [converge]: how Muster follows what changes in the cloud.
type Converge struct {
	Enabled           bool
	CreateAuthorities bool          // for every project, before anybody asks
	Grace             time.Duration // from a project's end to its authority's
	Interval          time.Duration // from one whole comparison to the next
	GuardPercent      int           // a comparison takes away no more than this share of a kind
	GuardCount        int           // unless it is less than this many
	CallsPerSecond    int           // to Keystone, Nova and Neutron
	Workers           int
}

// Nova is [nova]: how instances are asked for.
type Nova struct {
	EndpointOverride *url.URL // nil: from the catalog
	Interface        string   // "public", "internal" or "admin"
	Timeout          time.Duration
}

// Neutron is [neutron]: how addresses, and names that go with them, are asked for.
type Neutron struct {
	TrustedDomains   []string // domains whose names are believed, or "*": any
	Enabled          bool
	EndpointOverride *url.URL // nil: from the catalog
	Interface        string   // "public", "internal" or "admin"
	Timeout          time.Duration
}

// DNS is [dns]: which addresses get records.
type DNS struct {
	Enabled          bool
	FloatingNetworks []string          // IDs, or "*": any
	FixedNetworks    []string          // IDs, or "*": any
	Reverse          string            // "required", "optional" or "off"
	ReverseZones     map[string]string // zone to the network whose PTR records are in it
}

// Notifications is [notifications]: what Muster listens to.
type Notifications struct {
	Topics     []string
	Priorities []string
	Exchanges  []string
	Prefetch   int
}

// Rabbit is [oslo_messaging_rabbit], with the option names of oslo.messaging.
// What transport_url says behind its question mark goes before it.
type Rabbit struct {
	LoginMethod    string // "AMQPLAIN", "PLAIN" or "EXTERNAL"
	SSL            bool
	CAFile         string
	CertFile       string
	KeyFile        string
	VerifyHostname bool
	Heartbeat      time.Duration
	RetryInterval  time.Duration
	MaxInterval    time.Duration
}

// API is [api]: limits and links of the HTTP server.
type API struct {
	PublicURL      *url.URL // nil: from each request's Host
	MaxBody        Bytes
	MaxPage        int
	TrustedProxies []netip.Prefix
	RequestTimeout time.Duration
	LongPollMax    time.Duration
	MaxLongPolls   int
	UserRateLimit  float64
	UserRateBurst  int
}

// Listener is one [listen:NAME].
type Listener struct {
	Name      string
	Address   string // "host:port", or "unix:" and a path
	Faces     []string
	TLSCert   string
	TLSKey    string
	ClientCA  string
	RateLimit float64 // requests per second and client address; 0: no limit
	RateBurst int
}

// Audit is [audit].
type Audit struct {
	Retention time.Duration
}

// Prune is [prune].
type Prune struct {
	Interval             time.Duration
	CertificateRetention time.Duration // after a certificate's end
}

// origin is where a setting's value comes from.
type origin struct {
	file string // empty: the default
	line int
}

// setting is one option in force, for Show and for placing problems.
type setting struct {
	section string
	option  option
	text    string // as set, with references replaced
	masked  bool   // it holds, or was made from, a secret
	origin  origin
}
