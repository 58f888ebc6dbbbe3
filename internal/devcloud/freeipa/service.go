// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"fmt"
	"slices"
	"strings"
)

// service is one service entry.
type service struct {
	principal string // with realm
	id        string
	keytab    bool
	managedBy []string
}

// host returns the host part of the principal.
func (s *service) host() string {
	_, rest, _ := strings.Cut(s.principal, "/")
	fqdn, _, _ := strings.Cut(rest, "@")
	return fqdn
}

var serviceClasses = []string{
	"krbprincipal", "krbprincipalaux", "krbticketpolicyaux", "ipaobject", "ipaservice", "pkiuser", "ipakrbprincipal", "top",
}

// principalName completes "SERVICE/HOST" with the realm.
func (d *directory) principalName(given string) (string, *fail) {
	name, realm, qualified := strings.Cut(given, "@")
	if qualified && realm != d.realm {
		return "", realmMismatch()
	}
	kind, fqdn, ok := strings.Cut(name, "/")
	if !ok || kind == "" || fqdn == "" || strings.Contains(fqdn, "/") {
		return "", validationError("canonical_principal", "Service principal is required")
	}
	return kind + "/" + strings.ToLower(strings.TrimSuffix(fqdn, ".")) + "@" + d.realm, nil
}

func (d *directory) serviceBase(s *service) entry {
	return entry{"krbprincipalname": []string{s.principal}, "krbcanonicalname": []string{s.principal}}
}

func (c *call) findService() (*service, *fail) {
	principal, trouble := c.dir.principalName(c.arg(0))
	if trouble != nil {
		return nil, trouble
	}
	if s := c.dir.services[principal]; s != nil {
		return s, nil
	}
	return nil, notFound(principal + ": service not found")
}

func (c *call) serviceAdd() (entry, *fail) {
	principal, trouble := c.dir.principalName(c.arg(0))
	if trouble != nil {
		return nil, trouble
	}
	s := &service{principal: principal}
	fqdn := s.host()
	if c.dir.hosts[fqdn] == nil && !c.flag("skip_host_check") {
		return nil, notFound(fmt.Sprintf("The host '%s' does not exist to add a service to.", fqdn))
	}
	if !c.flag("force") && !c.dir.resolves(fqdn) {
		return nil, noAddressRecord(fqdn)
	}
	if !c.may("add", "service", "") {
		return nil, cannotAdd(c.dir.serviceDN(principal))
	}
	if c.dir.services[principal] != nil {
		return nil, duplicateNamed("service", principal)
	}
	if c.dir.hosts[fqdn] != nil {
		s.managedBy = []string{fqdn}
	}
	s.id = c.dir.newID()
	c.dir.services[principal] = s
	result := c.dir.serviceBase(s)
	result["objectclass"] = serviceClasses
	result["ipauniqueid"] = []string{s.id}
	result["managedby_host"] = s.managedBy
	result["dn"] = c.dir.serviceDN(principal)
	return entry{"result": result, "value": principal, "summary": fmt.Sprintf("Added service \"%s\"", principal)}, nil
}

// serviceAddHost adds hosts that manage the service. It never fails for a host: "failed" tells of those left out.
func (c *call) serviceAddHost() (entry, *fail) {
	s, trouble := c.findService()
	if trouble != nil {
		return nil, trouble
	}
	denied := c.deniedTo("service", "managedby", cannotWrite("managedBy", c.dir.serviceDN(s.principal)))
	find := func(given string) (string, string, string) {
		fqdn := strings.ToLower(given)
		if c.dir.hosts[fqdn] == nil {
			return "", fqdn, "no matching entry found"
		}
		return fqdn, fqdn, ""
	}
	managers, completed, failed := enlist(s.managedBy, texts(c.options["host"]), denied, find)
	slices.Sort(managers)
	s.managedBy = managers
	return c.managed(s, completed, failed), nil
}

func (c *call) serviceRemoveHost() (entry, *fail) {
	s, trouble := c.findService()
	if trouble != nil {
		return nil, trouble
	}
	completed, failed := 0, [][]string{}
	for _, given := range texts(c.options["host"]) {
		fqdn := strings.ToLower(given)
		switch {
		case !slices.Contains(s.managedBy, fqdn):
			failed = append(failed, []string{fqdn, "This entry is not a member"})
		case !c.may("write", "service", "managedby"):
			failed = append(failed, []string{fqdn, cannotWrite("managedBy", c.dir.serviceDN(s.principal)).message})
		default:
			s.managedBy = without(s.managedBy, fqdn)
			completed++
		}
	}
	return c.managed(s, completed, failed), nil
}

func (c *call) managed(s *service, completed int, failed [][]string) entry {
	result := c.dir.serviceBase(s)
	if len(s.managedBy) > 0 {
		result["managedby_host"] = s.managedBy
	}
	result["dn"] = c.dir.serviceDN(s.principal)
	return entry{"completed": completed, "failed": entry{"managedby": entry{"host": failed}}, "result": result}
}

func (c *call) serviceShow() (entry, *fail) {
	s, trouble := c.findService()
	if trouble != nil {
		return nil, trouble
	}
	result := c.dir.serviceBase(s)
	result["has_keytab"] = s.keytab
	if len(s.managedBy) > 0 {
		result["managedby_host"] = s.managedBy
	}
	if c.flag("all") {
		result["objectclass"] = serviceClasses
		result["ipakrbprincipalalias"] = []string{s.principal}
		result["ipauniqueid"] = []string{s.id}
		kerberosFlags(result)
	}
	if c.flag("all") && c.flag("raw") {
		c.dir.rawService(s, result)
	}
	result["dn"] = c.dir.serviceDN(s.principal)
	c.addRights(result, "service", permissionAttrs)
	if rights, shown := result["attributelevelrights"].(entry); shown && s.principal == c.principal {
		rights["krbprincipalkey"] = "swo" // without any permission, as seen on a real server
	}
	return entry{"result": result, "value": s.principal, "summary": nil}, nil
}

// rawService makes a view of a service what LDAP holds: whose member it is, directly or not, among it.
func (d *directory) rawService(s *service, e entry) {
	for lower, proper := range map[string]string{
		"objectclass": "objectClass", "ipauniqueid": "ipaUniqueID", "ipakrbprincipalalias": "ipaKrbPrincipalAlias",
	} {
		e[proper] = e[lower]
		delete(e, lower)
	}
	for _, computed := range []string{"ipakrbrequirespreauth", "ipakrbokasdelegate", "ipakrboktoauthasdelegate", "managedby_host"} {
		delete(e, computed)
	}
	e["has_keytab"] = []string{strings.ToUpper(fmt.Sprint(s.keytab))}
	managers := []string{}
	for _, host := range s.managedBy {
		managers = append(managers, d.hostDN(host))
	}
	e["managedby"] = managers
	if memberOf := d.memberOf(func(r *role) bool { return slices.Contains(r.services, s.principal) }); len(memberOf) > 0 {
		e["memberof"] = memberOf
	}
}

func (c *call) serviceFind() (entry, *fail) {
	canonical := ""
	for _, option := range []string{"krbcanonicalname", "krbprincipalname"} {
		if given := text(c.options[option]); given != "" {
			principal, trouble := c.dir.principalName(given)
			if trouble != nil {
				return nil, trouble
			}
			canonical = principal
		}
	}
	managers := texts(c.options["man_by_host"])
	var found []any
	for _, s := range sortedValues(c.dir.services) {
		fits := strings.Contains(s.principal, c.arg(0)) && (canonical == "" || s.principal == canonical)
		for _, manager := range managers {
			fits = fits && slices.Contains(s.managedBy, manager)
		}
		if !fits {
			continue
		}
		e := c.dir.serviceBase(s)
		e["has_keytab"] = s.keytab
		if c.flag("all") && len(s.managedBy) > 0 {
			e["managedby_host"] = s.managedBy
		}
		e["dn"] = c.dir.serviceDN(s.principal)
		found = append(found, e)
	}
	return c.listed(found, "service", "services"), nil
}

func (c *call) serviceDel() (entry, *fail) {
	var deleted []string
	failed := []string{}
	for _, given := range texts(c.args[0]) {
		principal, trouble := c.deleteService(given)
		if trouble == nil {
			deleted = append(deleted, principal)
			continue
		}
		if !c.flag("continue") || trouble.code != 4001 {
			return nil, trouble
		}
		failed = append(failed, principal)
	}
	return entry{
		"result": entry{"failed": failed}, "value": deleted,
		"summary": fmt.Sprintf("Deleted service \"%s\"", strings.Join(deleted, ",")),
	}, nil
}

// deleteService answers an unknown service to a caller who is no administrator with an ACIError without a reason, as
// the real server does: it asks the directory for the right to delete an entry that is not there.
func (c *call) deleteService(given string) (string, *fail) {
	principal, trouble := c.dir.principalName(given)
	if trouble != nil {
		return given, trouble
	}
	s := c.dir.services[principal]
	switch {
	case s != nil && s.host() == c.dir.master:
		return principal, validationError("principal", principal+" is required by the IPA master")
	case s == nil && !c.isAdmin():
		return principal, aciError("")
	case s == nil:
		return principal, notFound(principal + ": service not found")
	case !c.may("delete", "service", ""):
		return principal, cannotDelete(c.dir.serviceDN(principal))
	}
	delete(c.dir.services, principal)
	return principal, nil
}
