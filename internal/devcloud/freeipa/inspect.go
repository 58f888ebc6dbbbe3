// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ErrInvalidCredentials is what a host gets that comes with a wrong one-time password, or with one that is used up.
var ErrInvalidCredentials = errors.New("SASL Bind failed: Invalid credentials")

// Host is a host entry as tests and the demo see it.
type Host struct {
	FQDN        string
	Attributes  map[string][]string // description, userclass, nshostlocation, nsosversion, ...
	HasPassword bool                // a one-time password waits
	HasKeytab   bool                // the host has enrolled
	ManagedBy   []string
	Groups      []string
}

// Service is a service entry.
type Service struct {
	Principal string // with realm
	HasKeytab bool
	ManagedBy []string
}

// Hosts returns all host entries by name.
func (s *Server) Hosts() []Host {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Host
	for _, h := range sortedValues(s.dir.hosts) {
		all = append(all, s.dir.snapshot(h))
	}
	return all
}

// Host returns one host entry.
func (s *Server) Host(fqdn string) (Host, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.dir.hosts[fqdn]
	if !ok {
		return Host{}, false
	}
	return s.dir.snapshot(h), true
}

func (d *directory) snapshot(h *host) Host {
	return Host{
		FQDN: h.fqdn, Attributes: maps.Clone(h.attrs), HasPassword: h.otp != "", HasKeytab: h.keytab,
		ManagedBy: slices.Clone(h.managedBy), Groups: d.groupsOf(h.fqdn),
	}
}

// Services returns all service entries by principal.
func (s *Server) Services() []Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Service
	for _, v := range sortedValues(s.dir.services) {
		all = append(all, Service{Principal: v.principal, HasKeytab: v.keytab, ManagedBy: slices.Clone(v.managedBy)})
	}
	return all
}

// Records returns the records of a zone by relative name ("@" is the zone itself) and attribute ("arecord", "ptrrecord").
// It returns nil if there is no such zone.
func (s *Server) Records(zoneName string) map[string]map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	z := s.dir.zones[absolute(zoneName)]
	if z == nil {
		return nil
	}
	all := map[string]map[string][]string{}
	for name, values := range z.records {
		all[name] = maps.Clone(values)
	}
	return all
}

// AddHost puts a host entry there as an administrator would, with the one-time password if it is not empty.
func (s *Server) AddHost(fqdn, otp string) error {
	options := map[string]any{"force": true}
	if otp != "" {
		options["userpassword"] = otp
	}
	return s.asAdmin("host_add", []any{fqdn}, options)
}

// AddService puts a service entry there, whose host must exist.
func (s *Server) AddService(principal string) error {
	return s.asAdmin("service_add", []any{principal}, map[string]any{"force": true})
}

// AddZone puts a DNS zone there.
func (s *Server) AddZone(name string) error {
	return s.asAdmin("dnszone_add", []any{name}, map[string]any{})
}

// AddRecord puts a record there under a name of a zone. Kind is an attribute, "cnamerecord" say.
func (s *Server) AddRecord(zone, name, kind, value string) error {
	return s.asAdmin("dnsrecord_add", []any{zone, name}, map[string]any{kind: []any{value}})
}

// Join enrols a host as ipa-join does on the machine: it takes the one-time password and gets its keytab. The password
// serves once; a wrong one, or a second use, is ErrInvalidCredentials.
func (s *Server) Join(fqdn, otp string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.dir.hosts[fqdn]; h == nil || !h.enrolWith(otp) {
		return ErrInvalidCredentials
	}
	return nil
}

// TakeKeytab gives a service its keytab, as ipa-getkeytab does for one of the hosts that manage it.
func (s *Server) TakeKeytab(principal string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, _ := s.dir.principalName(principal)
	found := s.dir.services[name]
	if found == nil {
		return fmt.Errorf("freeipa: no service %q", principal)
	}
	found.keytab = true
	return nil
}

// Replace deletes an entry of a host or a service and makes it anew under the same name, as an administrator may.
func (s *Server) Replace(name string) error {
	command := "host"
	if strings.Contains(name, "/") {
		command = "service"
	}
	if err := s.asAdmin(command+"_del", []any{name}, nil); err != nil {
		return err
	}
	return s.asAdmin(command+"_add", []any{name}, map[string]any{"force": true})
}

// Remove deletes a host or a service, as an administrator may.
func (s *Server) Remove(name string) error {
	if strings.Contains(name, "/") {
		return s.asAdmin("service_del", []any{name}, nil)
	}
	return s.asAdmin("host_del", []any{name}, nil)
}

// RemoveRecord deletes one value of a DNS record, of a kind such as "arecord", as an administrator may.
func (s *Server) RemoveRecord(zone, name, kind, value string) error {
	return s.asAdmin("dnsrecord_del", []any{zone, name}, map[string]any{kind: value})
}

// hostManagement are the permissions that an installer gives to the service that enrols instances.
var hostManagement = []string{
	"System: Add Hosts", "System: Remove Hosts", "Modify host password", "Modify host userclass",
	"Modify service managedBy attribute", "System: Add krbPrincipalName to a Host", "System: Add Services",
	"System: Remove Services", "System: Manage Host Keytab", "System: Modify Services", "System: Manage Service Keytab",
	"System: Read DNS Entries", "System: Remove DNS Entries", "System: Add DNS Entries", "System: Update DNS Entries",
	"Retrieve Certificates from the CA", "Revoke Certificate",
}

// GrantHostManagement gives a service principal ("nova/HOST") all rights that enrolment needs, as the installer does:
// entries for its host and itself if missing, the permissions, a privilege and a role. Repeating it is harmless.
func (s *Server) GrantHostManagement(principal string) error {
	_, fqdn, ok := strings.Cut(principal, "/")
	if !ok {
		return fmt.Errorf("freeipa: %q is no service principal", principal)
	}
	const name = "Nova Host Management"
	const roleName = "Nova Host Manager"
	writing := func(kind, attr string) map[string]any {
		return map[string]any{"ipapermright": "write", "type": kind, "attrs": attr}
	}
	steps := []struct {
		command string
		entry   string
		options map[string]any
	}{
		{"host_add", fqdn, map[string]any{"force": true}},
		{"service_add", principal, map[string]any{"force": true}},
		{"permission_add", "Modify host password", writing("host", "userpassword")},
		{"permission_add", "Write host certificate", writing("host", "usercertificate")},
		{"permission_add", "Modify host userclass", writing("host", "userclass")},
		{"permission_add", "Modify service managedBy attribute", writing("service", "managedby")},
		{"privilege_add", name, map[string]any{"description": name}},
		{"privilege_add_permission", name, map[string]any{"permission": anyList(hostManagement)}},
		{"role_add", roleName, map[string]any{"description": roleName}},
		{"role_add_privilege", roleName, map[string]any{"privilege": name}},
		{"role_add_member", roleName, map[string]any{"service": principal}},
	}
	for _, step := range steps {
		if err := s.asAdmin(step.command, []any{step.entry}, step.options); err != nil {
			return err
		}
	}
	return nil
}

// Forbid takes a permission out of all privileges. Allow puts it back.
func (s *Server) Forbid(permission string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.dir.privileges {
		p.permissions = without(p.permissions, permission)
	}
}

// Allow puts a permission into all privileges.
func (s *Server) Allow(permission string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.dir.privileges {
		p.permissions = append(without(p.permissions, permission), permission)
	}
}

// asAdmin runs a command with all rights. What is there already is no error.
func (s *Server) asAdmin(name string, args []any, options map[string]any) error {
	_, trouble := s.dispatch("admin@"+s.cfg.Realm, name, args, options, false)
	if trouble != nil && trouble.name != "DuplicateEntry" {
		return fmt.Errorf("freeipa: %s: %s", name, trouble.message)
	}
	return nil
}

func anyList(list []string) []any {
	out := make([]any, 0, len(list))
	for _, item := range list {
		out = append(out, item)
	}
	return out
}
