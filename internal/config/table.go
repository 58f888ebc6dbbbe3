// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

// option declares one option. Its type follows from the Go type of the field
// that it fills.
type option struct {
	name       string
	help       string
	initial    string // the default, as one would write it in a file
	field      func(section any) any
	choices    []string // of the value, or of each item of a list
	min, max   string   // as one would write them; of numbers, durations and sizes
	deprecated []oldName
	example    string
	path       bool // a file's path; made absolute from the configuration's folder
	exactBytes bool // read from a file, nothing is trimmed
}

// secret tells whether the option's value must not be seen.
func (o option) secret(section any) bool {
	_, is := o.field(section).(*Secret)
	return is
}

// oldName is where an option was called differently: in earlier versions, in
// oslo's libraries or in Tatu's configuration.
type oldName struct{ section, option string }

// section declares a section, or a family of sections such as [role:NAME].
type section struct {
	name    string
	family  bool // name is only what stands before the colon
	help    string
	options []option
	// target returns the struct that the options fill; for a family it makes
	// and adds one. Only families use instance, the name behind the colon.
	target func(c *Config, instance string) any
	// standing are the members of a family that are there when none is configured.
	standing []standing
	// inherits is the section that unset options are taken from.
	inherits string
	// idle are options of other programs that the section may have been copied
	// from, and why they change nothing here: they are warned of.
	idle map[string]string
}

// standing is a member of a family that needs no configuration, with the
// values that differ from the options' defaults.
type standing struct {
	name   string
	values map[string]string
}

// title is the section's name as documentation writes it.
func (s section) title() string {
	if s.family {
		return s.name + ":NAME"
	}
	return s.name
}

func (s section) option(name string) (option, bool) {
	for _, o := range s.options {
		if o.name == name {
			return o, true
		}
	}
	return option{}, false
}

// of turns an accessor of T's fields into one that the table can hold.
func of[T any](field func(*T) any) func(any) any {
	return func(s any) any { return field(s.(*T)) }
}

// Faces are the parts of the HTTP API that a listener can serve.
var faces = []string{"tatu", "vendordata", "join", "instance", "operator", "health", "metrics"}

// extensions are OpenSSH's certificate extensions (PROTOCOL.certkeys).
var extensions = []string{"permit-X11-forwarding", "permit-agent-forwarding", "permit-port-forwarding",
	"permit-pty", "permit-user-rc", "no-touch-required"}

const usualExtensions = "permit-X11-forwarding, permit-agent-forwarding, permit-port-forwarding, " +
	"permit-pty, permit-user-rc"

// table is every section and option there is, in the order of documentation.
func table() []section {
	return []section{
		{name: "DEFAULT", help: "The process itself.", options: defaultOptions(),
			target: func(c *Config, _ string) any { return c }},
		{name: "database", help: "Where records are kept. The option names are those of oslo.db.",
			options: databaseOptions(),
			target:  func(c *Config, _ string) any { return &c.Database }},
		{name: "keystone_authtoken", help: "How Muster logs in to Keystone to validate tokens and to read roles.",
			options: authTokenOptions(),
			target:  func(c *Config, _ string) any { return &c.KeystoneAuthToken }},
		{name: "service_credentials",
			help: "How Muster logs in to the other services. " +
				"What is not set here is taken from [keystone_authtoken].",
			options: authOptions(func(a *Auth) *Auth { return a }), inherits: "keystone_authtoken",
			target: func(c *Config, _ string) any { return &c.ServiceCredentials }},
		{name: "oslo_policy", help: "Who may do what.", options: policyOptions(),
			target: func(c *Config, _ string) any { return &c.Policy }},
		{name: "custody", help: "Who holds the private keys of the authorities.", options: custodyOptions(),
			target: func(c *Config, _ string) any { return &c.Custody }},
		{name: "ssh", help: "Authorities and certificates.", options: sshOptions(),
			target: func(c *Config, _ string) any { return &c.SSH }},
		{name: "role", family: true, options: roleOptions(),
			help: "What certificates get for the Keystone role NAME. One section for each role that needs it; " +
				"unset options leave the settings of [ssh] in force.",
			target: func(c *Config, name string) any {
				c.Roles = append(c.Roles, &Role{Name: name})
				return c.Roles[len(c.Roles)-1]
			}},
		{name: "vendordata", help: "What instances are told when they boot.", options: vendordataOptions(),
			target: func(c *Config, _ string) any { return &c.Vendordata }},
		{name: "agent", help: "The program inside the instances (muster-agent), and what it is told.", options: agentOptions(),
			target: func(c *Config, _ string) any { return &c.Agent }},
		{name: "ipa", help: "FreeIPA: where it is, and who Muster is there.", options: ipaOptions(),
			target: func(c *Config, _ string) any { return &c.IPA }},
		{name: "enroll", help: "Instances in FreeIPA: their names, and what happens when FreeIPA does not answer.",
			options: enrollOptions(),
			target:  func(c *Config, _ string) any { return &c.Enroll }},
		{name: "project", family: true, options: projectOptions(),
			help: "What instances of the project NAME, a name or an ID, may ask for in FreeIPA. One section for each " +
				"project whose instances may have host classes, or manage services of other hosts than their own.",
			target: func(c *Config, name string) any {
				c.Projects = append(c.Projects, &Project{Name: name})
				return c.Projects[len(c.Projects)-1]
			}},
		{name: "glance", help: "The image service, whose images may ask for enrolment in place of the instance.",
			options: glanceOptions(),
			target:  func(c *Config, _ string) any { return &c.Glance }},
		{name: "converge", help: "How Muster follows what changes in the cloud: roles, projects, instances.",
			options: convergeOptions(),
			target:  func(c *Config, _ string) any { return &c.Converge }},
		{name: "nova", help: "The compute service, which is asked whether instances are still there.",
			options: novaOptions(),
			target:  func(c *Config, _ string) any { return &c.Nova }},
		{name: "neutron", help: "The network service, which is asked which addresses instances have.",
			options: neutronOptions(),
			target:  func(c *Config, _ string) any { return &c.Neutron }},
		{name: "dns", help: "Which addresses of instances get DNS records. Only with [enroll], [converge] and [neutron].",
			options: dnsOptions(),
			target:  func(c *Config, _ string) any { return &c.DNS }},
		{name: "notifications", help: "What Muster listens to of what the other services announce. Only with transport_url.",
			options: notificationsOptions(),
			target:  func(c *Config, _ string) any { return &c.Notifications }},
		{name: "oslo_messaging_rabbit",
			help:    "How the broker is used. The option names are those of oslo.messaging: set them as the other services have them.",
			options: rabbitOptions(),
			idle:    idleRabbitOptions(),
			target:  func(c *Config, _ string) any { return &c.Rabbit }},
		{name: "api", help: "Limits and links of the HTTP server.", options: apiOptions(),
			target: func(c *Config, _ string) any { return &c.API }},
		{name: "listen", family: true, options: listenOptions(), standing: standingListeners(),
			help: "A listener. When no section of this kind is there, those below are, as shown; the first section " +
				"that is there replaces them all.",
			target: func(c *Config, name string) any {
				c.Listeners = append(c.Listeners, &Listener{Name: name})
				return c.Listeners[len(c.Listeners)-1]
			}},
		{name: "audit", help: "The record of who did what.", options: auditOptions(),
			target: func(c *Config, _ string) any { return &c.Audit }},
		{name: "prune", help: "Removal of records that are no longer needed.", options: pruneOptions(),
			target: func(c *Config, _ string) any { return &c.Prune }},
	}
}

func defaultOptions() []option {
	at := of[Config]
	return []option{
		{name: "debug", initial: "false", field: at(func(c *Config) any { return &c.Debug }),
			help: "Log at level debug, whatever log_level says."},
		{name: "log_level", initial: "info", field: at(func(c *Config) any { return &c.LogLevel }),
			choices: []string{"debug", "info", "warning", "error"},
			help:    "The least important messages that are logged. Read again on SIGHUP."},
		{name: "log_format", initial: "text", field: at(func(c *Config) any { return &c.LogFormat }),
			choices: []string{"text", "json"},
			help:    "How a log record is written: key=value text, or one JSON object on a line."},
		{name: "log_file", path: true, field: at(func(c *Config) any { return &c.LogFile }),
			example: "/var/log/muster/muster.log",
			help:    "The file that logs go to. Empty: standard error, which systemd keeps in its journal."},
		{name: "host", field: at(func(c *Config) any { return &c.Host }), example: "controller-1",
			help: "The name of this replica, unique among the replicas. Empty: the machine's host name."},
		{name: "shutdown_timeout", initial: "30s", max: "1h",
			field: at(func(c *Config) any { return &c.ShutdownTimeout }),
			help:  "How long requests that are running may go on after the process was told to stop."},
		{name: "transport_url", field: at(func(c *Config) any { return &c.TransportURL }),
			example: "rabbit://muster:PASSWORD@rabbit1:5672,muster:PASSWORD@rabbit2:5672/",
			help: "The broker that Keystone, Nova and Neutron send notifications through, as oslo.messaging writes it: " +
				"rabbit://user:password@host:port,.../virtual_host. User, password and virtual host are percent-encoded. " +
				"Empty: Muster listens to none."},
	}
}

func databaseOptions() []option {
	at := of[Database]
	return []option{
		{name: "connection", initial: "sqlite:////var/lib/muster/muster.db",
			field:      at(func(d *Database) any { return &d.Connection }),
			deprecated: []oldName{{"DEFAULT", "sql_connection"}, {"tatu", "sqlalchemy_engine"}},
			example:    "postgresql://muster:PASSWORD@db.example.com/muster",
			help: "The database, as a URL of SQLAlchemy: sqlite, postgresql or mysql (MariaDB), " +
				"with or without a driver's name. SQLite is for one replica only."},
		{name: "max_pool_size", initial: "10", min: "1", max: "1000",
			field: at(func(d *Database) any { return &d.MaxPoolSize }),
			help:  "How many connections are kept open."},
		{name: "max_overflow", initial: "20", min: "0", max: "1000",
			field: at(func(d *Database) any { return &d.MaxOverflow }),
			help:  "How many connections more than max_pool_size may be opened under load."},
		{name: "connection_recycle_time", initial: "3600", min: "1s",
			field:      at(func(d *Database) any { return &d.ConnectionRecycleTime }),
			deprecated: []oldName{{"database", "idle_timeout"}},
			help:       "Connections older than this are replaced. Keep it below the database's own limit."},
		{name: "pool_timeout", initial: "30", min: "1s", max: "10m",
			field: at(func(d *Database) any { return &d.PoolTimeout }),
			help:  "How long one call of the database may take, the wait for a free connection included."},
		{name: "max_retries", initial: "10", min: "-1", field: at(func(d *Database) any { return &d.MaxRetries }),
			help: "How often connecting is tried again at start. 0: not at all; -1: without end."},
		{name: "retry_interval", initial: "10", min: "1s", max: "10m",
			field: at(func(d *Database) any { return &d.RetryInterval }),
			help:  "The pause between two tries to connect at start."},
	}
}

func policyOptions() []option {
	at := of[Policy]
	return []option{
		{name: "policy_file", initial: "policy.yaml", path: true,
			field: at(func(p *Policy) any { return &p.PolicyFile }),
			help: "Rules that replace the documented defaults, from the configuration's folder if relative. " +
				"The default file may be missing. Read again on SIGHUP."},
	}
}

func custodyOptions() []option {
	at := of[Custody]
	return []option{
		{name: "backend", initial: "sealed", choices: []string{"sealed"},
			field: at(func(c *Custody) any { return &c.Backend }),
			help:  "sealed: in the database, encrypted under the master key."},
		{name: "master_key", exactBytes: true, field: at(func(c *Custody) any { return &c.MasterKey }),
			help: "The key that seals all others; the same in every replica. Whoever has it and the database " +
				"has every authority: keep it in a file of its own (master_key_file) or, better, " +
				"in the systemd credential custody.master_key, and keep a copy in a safe place."},
	}
}
