// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"crypto/subtle"
	"fmt"
	"slices"
	"strings"
)

func (c *call) hostDel() (entry, *fail) {
	var deleted []string
	failed := []string{}
	answer := entry{}
	for _, given := range texts(c.args[0]) {
		fqdn := strings.ToLower(strings.TrimSuffix(given, "."))
		trouble := c.deleteHost(fqdn, answer)
		if trouble == nil {
			deleted = append(deleted, fqdn)
			continue
		}
		if !c.flag("continue") {
			return nil, trouble
		}
		failed = append(failed, fqdn)
	}
	answer["result"] = entry{"failed": failed}
	answer["value"] = deleted
	answer["summary"] = fmt.Sprintf("Deleted host \"%s\"", strings.Join(deleted, ","))
	return answer, nil
}

func (c *call) deleteHost(fqdn string, answer entry) *fail {
	if fqdn == c.dir.master {
		return validationError("hostname", "An IPA master host cannot be deleted or disabled")
	}
	if c.dir.hosts[fqdn] == nil {
		return notFound(fqdn + ": host not found")
	}
	if !c.may("delete", "host", "") {
		return cannotDelete(c.dir.hostDN(fqdn))
	}
	if c.flag("updatedns") && !c.dir.removeAddresses(fqdn) {
		const why = "No A, AAAA, SSHFP or PTR records found."
		addMessage(answer, 13020, "FailedToRemoveHostDNSRecords",
			fmt.Sprintf("DNS record(s) of host %s could not be removed. (%s)", fqdn, why), entry{"host": fqdn, "reason": why})
	}
	delete(c.dir.hosts, fqdn)
	for principal, s := range c.dir.services {
		s.managedBy = without(s.managedBy, fqdn)
		if s.host() == fqdn {
			delete(c.dir.services, principal)
		}
	}
	for _, other := range c.dir.hosts {
		other.managedBy = without(other.managedBy, fqdn)
	}
	for _, group := range c.dir.groups {
		group.hosts = without(group.hosts, fqdn)
	}
	return nil
}

func (c *call) hostDisable() (entry, *fail) {
	h, trouble := c.findHost()
	if trouble != nil {
		return nil, trouble
	}
	if h.fqdn == c.dir.master {
		return nil, validationError("hostname", "An IPA master host cannot be deleted or disabled")
	}
	done := false
	for _, s := range sortedValues(c.dir.services) {
		if s.host() == h.fqdn && s.keytab {
			if trouble := c.disableService(s); trouble != nil {
				return nil, trouble
			}
			done = true
		}
	}
	if !h.keytab {
		if done {
			return entry{"result": true, "value": h.fqdn, "summary": fmt.Sprintf("Disabled host \"%s\"", h.fqdn)}, nil
		}
		return nil, alreadyInactive()
	}
	if !c.may("write", "host", "krbprincipalkey") {
		return nil, cannotWrite("krbPrincipalKey", c.dir.hostDN(h.fqdn))
	}
	h.keytab = false
	return entry{"result": true, "value": h.fqdn, "summary": fmt.Sprintf("Disabled host \"%s\"", h.fqdn)}, nil
}

// serviceDisable makes a service's keytab invalid.
func (c *call) serviceDisable() (entry, *fail) {
	s, trouble := c.findService()
	switch {
	case trouble != nil:
		return nil, trouble
	case s.host() == c.dir.master:
		return nil, validationError("principal", s.principal+" is required by the IPA master")
	case !s.keytab:
		return nil, alreadyInactive()
	}
	if trouble := c.disableService(s); trouble != nil {
		return nil, trouble
	}
	return entry{"result": true, "value": s.principal, "summary": fmt.Sprintf("Disabled service \"%s\"", s.principal)}, nil
}

func (c *call) disableService(s *service) *fail {
	if !c.may("write", "service", "krbprincipalkey") {
		return cannotWrite("krbPrincipalKey", c.dir.serviceDN(s.principal))
	}
	s.keytab = false
	return nil
}

// join enrols a host (ipaserver's join command). The caller is the host itself, let in with its one-time password, or
// one who may manage host keytabs. The password is used up: a second time is refused at login.
func (c *call) join() (entry, *fail) {
	h, trouble := c.findHost()
	if trouble != nil {
		return nil, trouble
	}
	itself := c.principal == "host/"+h.fqdn+"@"+c.dir.realm && h.otp != ""
	if !itself && !c.may("write", "host", "krbprincipalkey") {
		return nil, aciError(fmt.Sprintf("Insufficient privileges to join host %s to the domain", h.fqdn))
	}
	for _, name := range []string{"nsosversion", "nshardwareplatform"} {
		if value := text(c.options[name]); value != "" {
			h.attrs[name] = []string{value}
		}
	}
	h.enrol()
	result := c.dir.detail(h)
	result["dn"] = c.dir.hostDN(h.fqdn)
	return entry{"result": result, "value": h.fqdn, "summary": fmt.Sprintf("Host \"%s\" joined", h.fqdn)}, nil
}

func (h *host) enrol() {
	h.otp, h.keytab, h.principal = "", true, true
}

// enrolWith enrols the host if the one-time password is its own and still waits.
func (h *host) enrolWith(otp string) bool {
	if h.otp == "" || subtle.ConstantTimeCompare([]byte(h.otp), []byte(otp)) != 1 {
		return false
	}
	h.enrol()
	return true
}

// without returns a new list: answers being written may still hold the old one.
func without(list []string, gone string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == gone })
}
