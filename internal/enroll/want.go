// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// The instance metadata that enrolment reads (novajoin's).
const (
	keyClass    = "ipa_hostclass"
	keyLocation = "ipa_host_location"

	prefixManaged  = "managed_service_" // SERVICE/HOST.DOMAIN
	prefixCompact  = "compact_service_" // NETWORKs of one service, a JSON list
	keyAllCompacts = "compact_services" // NETWORKs of all services, a JSON object of lists
)

const (
	maxServices  = 200     // of one instance; each is two commands, and a batch holds 500
	maxValue     = 1 << 16 // bytes of one metadata value; Nova allows 255
	maxOS        = 255
	maxComponent = 63 // of a service's name
)

// reserved are first components of Kerberos principals that are no service of an instance: the host itself, and the KDC's own.
var reserved = []string{"host", "krbtgt", "kadmin", "kiprop", "changepw"}

// want is what an instance should have in FreeIPA beside its own host entry. It is kept as JSON in the enrolment.
type want struct {
	Class    string    `json:"class,omitempty"`
	Location string    `json:"location,omitempty"`
	OS       string    `json:"os,omitempty"`
	Services []service `json:"services,omitempty"` // sorted, each once
}

// service is a Kerberos service that the instance manages.
type service struct {
	Name   string `json:"name"`
	Host   string `json:"host"`
	Shared bool   `json:"shared,omitempty"` // the host is not the instance's own: other instances may have services there
}

func (v service) principal() string { return v.Name + "/" + v.Host }

// hostKind tells hosts that are the instance's alone from those that instances share.
func (v service) hostKind() store.ObjectKind {
	if v.Shared {
		return store.ObjectServiceHost
	}
	return store.ObjectHost
}

// readWant reads an instance's metadata. An error names the key, and then nothing of the metadata counts.
func readWant(fqdn string, req Request) (want, error) {
	w := want{Class: req.Metadata[keyClass], Location: req.Metadata[keyLocation], OS: operatingSystem(req.OS)}
	if len(w.Location) > maxValue || !printable(w.Location) {
		return want{}, problem.InField(keyLocation, "holds a control character, or is too long")
	}
	for _, key := range slices.Sorted(maps.Keys(req.Metadata)) {
		value := req.Metadata[key]
		services, err := readServices(fqdn, key, value)
		if err != nil {
			return want{}, err
		}
		w.Services = append(w.Services, services...)
		if len(w.Services) > maxServices {
			return want{}, problem.InField(shown(key), "the instance asks for more than %d services", maxServices)
		}
	}
	w.Services = distinct(w.Services)
	return w, nil
}

// readServices reads one metadata value, in any of the three spellings. Other metadata says nothing.
func readServices(fqdn, key, value string) ([]service, error) {
	managed := strings.HasPrefix(key, prefixManaged)
	name, compact := strings.CutPrefix(key, prefixCompact)
	if !managed && !compact && key != keyAllCompacts {
		return nil, nil
	}
	if len(value) > maxValue {
		return nil, problem.InField(shown(key), "is longer than %d bytes", maxValue)
	}
	switch {
	case managed:
		return readManaged(fqdn, key, value)
	case compact:
		var networks []string
		if err := json.Unmarshal([]byte(value), &networks); err != nil {
			return nil, problem.InField(shown(key), `is not a JSON list of network names, such as ["internalapi"]`)
		}
		return compactServices(fqdn, key, name, networks)
	}
	var all map[string][]string
	if err := json.Unmarshal([]byte(value), &all); err != nil {
		return nil, problem.InField(key, `is not a JSON object of lists of network names, such as {"HTTP": ["internalapi"]}`)
	}
	var services []service
	for _, name := range slices.Sorted(maps.Keys(all)) {
		some, err := compactServices(fqdn, key, name, all[name])
		if err != nil {
			return nil, err
		}
		services = append(services, some...)
	}
	return services, nil
}

// readManaged reads SERVICE/HOST.DOMAIN.
func readManaged(fqdn, key, value string) ([]service, error) {
	name, host, ok := strings.Cut(value, "/")
	if !ok {
		return nil, problem.InField(shown(key), "%s is not of the form SERVICE/HOST.DOMAIN", quoted(value))
	}
	if err := checkService(key, name); err != nil {
		return nil, err
	}
	host = strings.TrimSuffix(lower(host), ".")
	if reason := badHost(host); reason != "" {
		return nil, problem.InField(shown(key), "%s: %s", quoted(value), reason)
	}
	return []service{{Name: name, Host: host, Shared: !isOwn(fqdn, host)}}, nil
}

// compactServices is one service on the instance's names in some networks.
func compactServices(fqdn, key, name string, networks []string) ([]service, error) {
	if err := checkService(key, name); err != nil {
		return nil, err
	}
	if len(networks) > maxServices {
		return nil, problem.InField(shown(key), "the instance asks for more than %d services", maxServices)
	}
	services := make([]service, 0, len(networks))
	for _, network := range networks {
		label := lower(network)
		if reason := badLabel(label); reason != "" {
			return nil, problem.InField(shown(key), "the network %s: %s", quoted(network), reason)
		}
		host := subHost(fqdn, label)
		if len(host) > maxFQDN {
			return nil, problem.InField(shown(key), "the host name %s in network %s is longer than %d characters", quoted(host), quoted(network), maxFQDN)
		}
		services = append(services, service{Name: name, Host: host})
	}
	return services, nil
}

// checkService refuses what is no service's name.
func checkService(key, name string) error {
	plain := strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	}) < 0
	if name == "" || len(name) > maxComponent || !plain {
		return problem.InField(shown(key), "%s is not the name of a service: 1 to %d ASCII letters, digits, '-', '_' and '.'",
			quoted(name), maxComponent)
	}
	if slices.Contains(reserved, strings.ToLower(name)) {
		return problem.New(problem.Forbidden, "%s: %s is not a service that an instance may have", shown(key), name)
	}
	return nil
}

// shown is a metadata key in a message.
func shown(key string) string { return strings.Trim(quoted(key), `"`) }

// operatingSystem makes the image's words fit.
func operatingSystem(os string) string {
	os = strings.TrimSpace(os)
	if len(os) > maxOS || !printable(os) {
		return ""
	}
	return os
}

func distinct(services []service) []service {
	slices.SortFunc(services, func(a, b service) int { return strings.Compare(a.principal(), b.principal()) })
	return slices.CompactFunc(services, func(a, b service) bool { return a.principal() == b.principal() })
}

// more returns what w has with the services of other added, and those added. Nothing is ever taken away by a later call.
func (w want) more(other want) (all, added want) {
	for _, v := range other.Services {
		if !slices.ContainsFunc(w.Services, func(had service) bool { return had.principal() == v.principal() }) {
			added.Services = append(added.Services, v)
		}
	}
	all = w
	all.Services = distinct(slices.Concat(w.Services, added.Services))
	return all, added
}

// hosts returns the hosts of the services but for the instance's own entry, each once.
func (w want) hosts(fqdn string) []service {
	var hosts []service
	seen := map[string]bool{fqdn: true}
	for _, v := range w.Services {
		if !seen[v.Host] {
			seen[v.Host] = true
			hosts = append(hosts, service{Host: v.Host, Shared: v.Shared})
		}
	}
	return hosts
}

// names are the host names that belong to the instance alone.
func (w want) names(fqdn string) []string {
	names := []string{fqdn}
	for _, host := range w.hosts(fqdn) {
		if !host.Shared {
			names = append(names, host.Host)
		}
	}
	return names
}

// objects are all entries that FreeIPA is to have.
func (w want) objects(fqdn string) []store.Object {
	objects := []store.Object{{Kind: store.ObjectHost, Name: fqdn}}
	for _, host := range w.hosts(fqdn) {
		objects = append(objects, store.Object{Kind: host.hostKind(), Name: host.Host})
	}
	for _, v := range w.Services {
		objects = append(objects, store.Object{Kind: store.ObjectService, Name: v.principal()})
	}
	return objects
}

func (w want) encode() (string, error) {
	text, err := json.Marshal(w)
	return string(text), err
}

func decodeWant(text string) (want, error) {
	var w want
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return w, fmt.Errorf("what the enrolment wants is damaged in the database: %w", err)
	}
	return w, nil
}
