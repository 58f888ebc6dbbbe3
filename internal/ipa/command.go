// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
)

// version is the API version whose answers this client was written for. Older and newer servers of major version 2
// accept it.
const version = "2.251"

// MaxBatch is the number of commands that one batch may hold.
const MaxBatch = 500

// Secret is a password. It shows itself nowhere but in the request.
type Secret string

// String hides the secret from fmt and slog.
func (Secret) String() string { return "[secret]" }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return "[secret]" }

// MarshalText hides the secret from encoders, JSON logs among them.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// Command is one FreeIPA command, ready to be sent alone or in a batch. It never shows its options, which may hold a
// password.
type Command struct {
	name    string
	args    []any
	options map[string]any
	secret  Secret // what must not come back in an error text
	repeat  bool   // see SafeToRepeat
}

// Name returns the command's name, "host_add" for example.
func (c Command) Name() string { return c.name }

// SafeToRepeat tells whether the command may be sent again although a first sending may have been carried out. It holds
// for everything that reads, and for what ends in the same state however often it is done: host_mod, host_disable,
// host_del, service_del, service_add_host and its like, dnsrecord_add and dnsrecord_del. After such a repetition the answer may be
// NotFound, EmptyModlist, AlreadyInactive or AttrValueNotFound although it was this very command that did the work: to
// one who wants that state these are no failures. It does not hold for host_add, service_add and their like, where DuplicateEntry
// decides whose entry it is.
func (c Command) SafeToRepeat() bool { return c.repeat }

// object is what the command acts on: its arguments that are names.
func (c Command) object() string {
	var names []string
	for _, arg := range c.args {
		if name, ok := arg.(string); ok {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// String returns name and arguments, without the options.
func (c Command) String() string { return fmt.Sprintf("%s%v", c.name, c.args) }

// GoString is String.
func (c Command) GoString() string { return c.String() }

// params makes what JSON-RPC carries: arguments and options.
func (c Command) params(options map[string]any) []any {
	args := c.args
	if args == nil {
		args = []any{}
	}
	if options == nil {
		options = map[string]any{}
	}
	return []any{args, options}
}

// request makes the JSON body of a call.
func (c Command) request(id int64) ([]byte, error) {
	options := maps.Clone(c.options)
	if options == nil {
		options = map[string]any{}
	}
	options["version"] = version
	return json.Marshal(map[string]any{"method": c.name, "params": c.params(options), "id": id})
}

// scrub removes the command's password from a text that came back.
func (c Command) scrub(text string) string {
	if c.secret == "" {
		return text
	}
	return strings.ReplaceAll(text, string(c.secret), "[secret]")
}

// Ping asks for the server's release.
func Ping() Command { return Command{name: "ping", repeat: true} }

// HostAttributes are the attributes of a host entry that Muster sets. An empty field is not sent.
type HostAttributes struct {
	Description string
	UserClass   string // for automember rules; ipa_hostclass
	Location    string // nshostlocation
	OSVersion   string // nsosversion
	Password    Secret // the one-time password
}

func (a HostAttributes) options() map[string]any {
	options := map[string]any{}
	for name, value := range map[string]string{
		"description": a.Description, "userclass": a.UserClass, "nshostlocation": a.Location, "nsosversion": a.OSVersion,
		"userpassword": string(a.Password),
	} {
		if value != "" {
			options[name] = value
		}
	}
	return options
}

// HostAdd adds a host entry, whether or not the DNS knows the name. The answer is a Host.
func HostAdd(fqdn string, attributes HostAttributes) Command {
	options := attributes.options()
	options["force"] = true
	return Command{name: "host_add", args: []any{fqdn}, options: options, secret: attributes.Password}
}

// HostMod changes a host entry's attributes. The answer is a Host; EmptyModlist if all was so before. A password for
// a host that has enrolled is a ValidationError.
func HostMod(fqdn string, attributes HostAttributes) Command {
	return Command{name: "host_mod", args: []any{fqdn}, options: attributes.options(), secret: attributes.Password, repeat: true}
}

// HostShow reads a host entry. The answer is a Host.
func HostShow(fqdn string) Command {
	return Command{name: "host_show", args: []any{fqdn}, options: map[string]any{"all": true}, repeat: true}
}

// HostFilter selects host entries; an empty field selects all.
type HostFilter struct {
	FQDN, UserClass, Description string
	Term                         string // anywhere in the usual attributes
	ManagedBy                    string // the FQDN of the managing host
	Limit                        int    // 0 is the server's own limit
}

// HostFind looks host entries up. The answer is Found[Host]; its entries lack what only HostShow tells: HasPassword,
// HasKeytab and ManagedBy.
func HostFind(filter HostFilter) Command {
	options := nonEmpty(map[string]string{
		"fqdn": filter.FQDN, "userclass": filter.UserClass, "description": filter.Description, "man_by_host": filter.ManagedBy,
	})
	return find("host_find", filter.Term, filter.Limit, options)
}

// HostDel deletes a host entry and its services, with updateDNS its address records too.
func HostDel(fqdn string, updateDNS bool) Command {
	return Command{name: "host_del", args: []any{fqdn}, options: map[string]any{"updatedns": updateDNS}, repeat: true}
}

// HostDisable makes the keytabs of a host and of the services on its name invalid, not those of services that it manages elsewhere.
// AlreadyInactive: it had none.
func HostDisable(fqdn string) Command {
	return Command{name: "host_disable", args: []any{fqdn}, repeat: true}
}

// ServiceDisable makes the keytab of a service invalid. AlreadyInactive: it had none.
func ServiceDisable(principal string) Command {
	return Command{name: "service_disable", args: []any{principal}, repeat: true}
}

// ServiceAdd adds the entry of a service "NAME/HOST"; HOST must be there. The answer is a Service.
func ServiceAdd(principal string) Command {
	return Command{name: "service_add", args: []any{principal}, options: map[string]any{"force": true}}
}

// ServiceAddHost lets hosts manage a service. The answer is Membership; use its Err.
func ServiceAddHost(principal string, hosts ...string) Command {
	return Command{name: "service_add_host", args: []any{principal}, options: map[string]any{"host": hosts}, repeat: true}
}

// ServiceRemoveHost takes from hosts that they manage a service. The answer is Membership; use its Err.
func ServiceRemoveHost(principal string, hosts ...string) Command {
	return Command{name: "service_remove_host", args: []any{principal}, options: map[string]any{"host": hosts}, repeat: true}
}

// ServiceShow reads a service entry. The answer is a Service.
func ServiceShow(principal string) Command {
	return Command{name: "service_show", args: []any{principal}, options: map[string]any{"all": true}, repeat: true}
}

// ServiceFilter selects service entries; an empty field selects all.
type ServiceFilter struct {
	Principal string
	Term      string
	ManagedBy string // the FQDN of the managing host
	Limit     int    // 0 is the server's own limit
}

// ServiceFind looks service entries up. The answer is Found[Service]; its entries lack ManagedBy.
func ServiceFind(filter ServiceFilter) Command {
	options := nonEmpty(map[string]string{"krbcanonicalname": filter.Principal, "man_by_host": filter.ManagedBy})
	return find("service_find", filter.Term, filter.Limit, options)
}

// ServiceDel deletes a service entry. To a caller without all rights an unknown service is an ACIError with an empty
// reason.
func ServiceDel(principal string) Command {
	return Command{name: "service_del", args: []any{principal}, repeat: true}
}

// ZoneShow reads a DNS zone. The answer is a Zone.
func ZoneShow(zone string) Command {
	return Command{name: "dnszone_show", args: []any{zone}, repeat: true}
}

// ZoneFind lists DNS zones whose name holds the term; "" lists all. The answer is Found[Zone].
func ZoneFind(term string, limit int) Command {
	return find("dnszone_find", term, limit, map[string]any{})
}

// RecordKind is a kind of DNS record that Muster writes.
type RecordKind string

// The kinds of DNS records.
const (
	RecordA    RecordKind = "arecord"
	RecordAAAA RecordKind = "aaaarecord"
	RecordPTR  RecordKind = "ptrrecord"
)

// RecordAdd adds one value to a record. EmptyModlist: it is there. The answer is a Record.
func RecordAdd(zone, name string, kind RecordKind, value string) Command {
	return record("dnsrecord_add", zone, name, map[string]any{string(kind): []string{value}})
}

// RecordDel deletes one value of a record. AttrValueNotFound or NotFound: it is not there.
func RecordDel(zone, name string, kind RecordKind, value string) Command {
	return record("dnsrecord_del", zone, name, map[string]any{string(kind): []string{value}})
}

// RecordDelAll deletes all records of a name. NotFound: there is none.
func RecordDelAll(zone, name string) Command {
	return record("dnsrecord_del", zone, name, map[string]any{"del_all": true})
}

// RecordShow reads the records of a name. The answer is a Record.
func RecordShow(zone, name string) Command {
	return record("dnsrecord_show", zone, name, nil)
}

// RecordFind looks records of one kind and value up in a zone; an empty value finds all names of the zone. The answer
// is Found[Record].
func RecordFind(zone string, kind RecordKind, value string, limit int) Command {
	options := map[string]any{}
	if value != "" {
		options[string(kind)] = value
	}
	command := find("dnsrecord_find", "", limit, options)
	command.args = []any{zone}
	return command
}

func record(command, zone, name string, options map[string]any) Command {
	return Command{name: command, args: []any{zone, name}, options: options, repeat: true}
}

func find(name, term string, limit int, options map[string]any) Command {
	if limit > 0 {
		options["sizelimit"] = limit
	}
	command := Command{name: name, options: options, repeat: true}
	if term != "" {
		command.args = []any{term}
	}
	return command
}

func nonEmpty(values map[string]string) map[string]any {
	options := map[string]any{}
	for name, value := range values {
		if value != "" {
			options[name] = value
		}
	}
	return options
}
