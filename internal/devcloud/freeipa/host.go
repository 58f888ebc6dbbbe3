// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// host is one host entry.
type host struct {
	fqdn      string
	id        string
	attrs     map[string][]string // the attributes of hostAttributes that are set
	otp       string
	keytab    bool
	principal bool // a Kerberos principal: added without an OTP, or enrolled once
	managedBy []string
}

// hostAttributes are those that host_add and host_mod set as they are.
var hostAttributes = []string{
	"description", "userclass", "nsosversion", "nshostlocation", "nshardwareplatform", "l", "macaddress", "ipasshpubkey",
}

var hostLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// hostName brings a name into the form that FreeIPA stores: lower case, no trailing dot.
func hostName(name string) (string, *fail) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if !hostLabel.MatchString(label) || len(label) > 63 {
			return "", validationError("hostname", "invalid domain-name: only letters, numbers, '-' are allowed. "+
				"DNS label may not start or end with '-'")
		}
	}
	if len(labels) < 2 {
		return "", validationError("hostname", "invalid domain-name: not fully qualified")
	}
	return name, nil
}

func (h *host) objectClasses() []string {
	classes := []string{"ipaobject", "nshost", "ipahost", "pkiuser", "ipaservice"}
	if h.principal {
		classes = append(classes, "krbprincipalaux", "krbprincipal")
	}
	return append(classes, "ieee802device", "ipasshhost", "top", "ipaSshGroupOfPubKeys")
}

// base is what host_find tells of a host.
func (d *directory) base(h *host) entry {
	e := entry{"fqdn": []string{h.fqdn}}
	for name, values := range h.attrs {
		e[name] = values
	}
	if h.principal {
		principal := "host/" + h.fqdn + "@" + d.realm
		e["krbcanonicalname"] = []string{principal}
		e["krbprincipalname"] = []string{principal}
	}
	return e
}

// detail is what the other host commands tell.
func (d *directory) detail(h *host) entry {
	e := d.base(h)
	e["has_password"] = h.otp != ""
	e["has_keytab"] = h.keytab
	e["managedby_host"] = h.managedBy
	if groups := d.groupsOf(h.fqdn); len(groups) > 0 {
		e["memberof_hostgroup"] = groups
	}
	return e
}

func (d *directory) everything(h *host) entry {
	e := d.detail(h)
	e["objectclass"] = h.objectClasses()
	e["cn"] = []string{h.fqdn}
	label, _, _ := strings.Cut(h.fqdn, ".")
	e["serverhostname"] = []string{label}
	e["ipauniqueid"] = []string{h.id}
	kerberosFlags(e)
	var managing []string
	for _, other := range sortedValues(d.hosts) {
		if slices.Contains(other.managedBy, h.fqdn) {
			managing = append(managing, other.fqdn)
		}
	}
	if managing != nil {
		e["managing_host"] = managing
	}
	return e
}

func kerberosFlags(e entry) {
	e["ipakrbrequirespreauth"] = true
	e["ipakrbokasdelegate"] = false
	e["ipakrboktoauthasdelegate"] = false
}

func (c *call) findHost() (*host, *fail) {
	name := strings.ToLower(strings.TrimSuffix(c.arg(0), "."))
	if h := c.dir.hosts[name]; h != nil {
		return h, nil
	}
	return nil, notFound(name + ": host not found")
}

func (c *call) hostAdd() (entry, *fail) {
	fqdn, trouble := hostName(c.arg(0))
	if trouble != nil {
		return nil, trouble
	}
	address, trouble := c.hostAddress(fqdn)
	if trouble != nil {
		return nil, trouble
	}
	h := &host{fqdn: fqdn, attrs: map[string][]string{}, managedBy: []string{fqdn}, otp: text(c.options["userpassword"])}
	random := c.flag("random")
	if random {
		h.otp = c.dir.newPassword()
	}
	if h.otp != "" && !c.may("write", "host", "userpassword") {
		return nil, aciError("Insufficient 'add' privilege to the 'userPassword' attribute")
	}
	if !c.may("add", "host", "") {
		return nil, cannotAdd(c.dir.hostDN(fqdn))
	}
	if c.dir.hosts[fqdn] != nil {
		return nil, duplicateNamed("host", fqdn)
	}
	for _, name := range hostAttributes {
		if values := texts(c.options[name]); len(values) > 0 && values[0] != "" {
			h.attrs[name] = values
		}
	}
	h.principal = h.otp == ""
	h.id = c.dir.newID()
	c.dir.hosts[fqdn] = h
	c.dir.applyAutomember(h)
	if address.IsValid() {
		c.dir.addAddress(fqdn, address, !c.flag("no_reverse"))
	}
	result := c.dir.detail(h)
	result["objectclass"] = h.objectClasses()
	result["ipauniqueid"] = []string{h.id}
	result["dn"] = c.dir.hostDN(fqdn)
	if groups := c.dir.groupsOf(fqdn); len(groups) > 0 {
		result["memberofindirect_netgroup"] = groups
	}
	if random {
		result["randompassword"] = h.otp
	}
	return entry{"result": result, "value": fqdn, "summary": fmt.Sprintf("Added host \"%s\"", fqdn)}, nil
}

// hostAddress checks the option ip_address, or without it and without force that the DNS knows the host.
func (c *call) hostAddress(fqdn string) (netip.Addr, *fail) {
	given := text(c.options["ip_address"])
	if given == "" {
		if !c.flag("force") && !c.dir.resolves(fqdn) {
			return netip.Addr{}, noAddressRecord(fqdn)
		}
		return netip.Addr{}, nil
	}
	address, err := netip.ParseAddr(given)
	if err != nil {
		return netip.Addr{}, validationError("ip_address", "invalid IP address format")
	}
	home := c.dir.zoneOf(fqdn + ".")
	if home == nil {
		_, domain, _ := strings.Cut(fqdn, ".")
		return netip.Addr{}, notFound("DNS zone " + domain + ". not found")
	}
	for _, values := range home.records {
		if slices.Contains(values[addressType(address)], address.String()) {
			return netip.Addr{}, duplicate(fmt.Sprintf("IP address %s is already assigned in domain %s.", address, home.name))
		}
	}
	return address, nil
}

func (c *call) hostMod() (entry, *fail) {
	h, trouble := c.findHost()
	if trouble != nil {
		return nil, trouble
	}
	otp := text(c.options["userpassword"])
	random := c.flag("random")
	if random {
		otp = c.dir.newPassword()
	}
	if otp != "" && h.keytab {
		return nil, validationError("password", "Password cannot be set on enrolled host.")
	}
	changes := map[string][]string{}
	for _, name := range hostAttributes {
		if _, sent := c.options[name]; !sent {
			continue
		}
		values := slices.DeleteFunc(texts(c.options[name]), func(v string) bool { return v == "" })
		if !slices.Equal(values, h.attrs[name]) {
			changes[name] = values
		}
	}
	if otp == "" && len(changes) == 0 {
		return nil, emptyModlist()
	}
	dn := c.dir.hostDN(h.fqdn)
	if otp != "" && !c.may("write", "host", "userpassword") {
		return nil, cannotWrite("userPassword", dn)
	}
	for name := range changes {
		if !c.may("write", "host", name) {
			return nil, cannotWrite(name, dn)
		}
	}
	for name, values := range changes {
		if len(values) == 0 {
			delete(h.attrs, name)
			continue
		}
		h.attrs[name] = values
	}
	if otp != "" {
		h.otp = otp
	}
	result := c.dir.detail(h)
	if random {
		result["randompassword"] = otp
	}
	return entry{"result": result, "value": h.fqdn, "summary": fmt.Sprintf("Modified host \"%s\"", h.fqdn)}, nil
}

func (c *call) hostShow() (entry, *fail) {
	h, trouble := c.findHost()
	if trouble != nil {
		return nil, trouble
	}
	result := c.dir.detail(h)
	if c.flag("all") {
		result = c.dir.everything(h)
	}
	if c.flag("all") && c.flag("raw") {
		result = c.dir.rawHost(h)
	}
	result["dn"] = c.dir.hostDN(h.fqdn)
	c.addRights(result, "host", permissionAttrs)
	return entry{"result": result, "value": h.fqdn, "summary": nil}, nil
}

// rawHost tells a host as LDAP spells it.
func (d *directory) rawHost(h *host) entry {
	e := d.everything(h)
	for lower, proper := range map[string]string{
		"objectclass": "objectClass", "serverhostname": "serverHostName", "ipauniqueid": "ipaUniqueID",
	} {
		e[proper] = e[lower]
		delete(e, lower)
	}
	for _, computed := range []string{
		"ipakrbrequirespreauth", "ipakrbokasdelegate", "ipakrboktoauthasdelegate", "memberof_hostgroup",
	} {
		delete(e, computed)
	}
	for attribute, raw := range map[string]string{"managedby_host": "managedby", "managing_host": "managing"} {
		names, _ := e[attribute].([]string)
		delete(e, attribute)
		dns := make([]string, 0, len(names))
		for _, name := range names {
			dns = append(dns, d.hostDN(name))
		}
		e[raw] = dns
	}
	memberOf := []string{}
	for _, name := range d.groupsOf(h.fqdn) {
		memberOf = append(memberOf, d.dn("cn="+name, "cn=hostgroups", "cn=accounts"))
	}
	e["memberof"] = memberOf
	e["has_password"] = []string{strings.ToUpper(fmt.Sprint(h.otp != ""))}
	e["has_keytab"] = []string{strings.ToUpper(fmt.Sprint(h.keytab))}
	return e
}

func (c *call) hostFind() (entry, *fail) {
	var found []any
	for _, h := range sortedValues(c.dir.hosts) {
		if !c.hostMatches(h) {
			continue
		}
		e := c.dir.base(h)
		if c.flag("all") {
			e = c.dir.everything(h)
		}
		if c.flag("pkey_only") {
			e = entry{"fqdn": []string{h.fqdn}}
		}
		e["dn"] = c.dir.hostDN(h.fqdn)
		found = append(found, e)
	}
	return c.listed(found, "host", "hosts"), nil
}

func (c *call) hostMatches(h *host) bool {
	if want := text(c.options["fqdn"]); want != "" && !strings.EqualFold(want, h.fqdn) {
		return false
	}
	for _, name := range hostAttributes {
		if want := text(c.options[name]); want != "" && !slices.Contains(h.attrs[name], want) {
			return false
		}
	}
	for _, manager := range texts(c.options["man_by_host"]) {
		if !slices.Contains(h.managedBy, manager) {
			return false
		}
	}
	for _, group := range texts(c.options["in_hostgroup"]) {
		if !slices.Contains(c.dir.groupsOf(h.fqdn), group) {
			return false
		}
	}
	term := strings.ToLower(c.arg(0))
	if term == "" || strings.Contains(h.fqdn, term) {
		return true
	}
	for _, values := range h.attrs {
		for _, value := range values {
			if strings.Contains(strings.ToLower(value), term) {
				return true
			}
		}
	}
	return false
}

// listed makes a find command's answer: cut at sizelimit (default 100, 0 is none), with the count in words.
func (c *call) listed(found []any, one, many string) entry {
	limit := 100
	if given, ok := c.options["sizelimit"].(float64); ok {
		limit = int(given)
	}
	truncated := limit > 0 && len(found) > limit
	if truncated {
		found = found[:limit]
	}
	if found == nil {
		found = []any{}
	}
	answer := entry{"result": found, "count": len(found), "truncated": truncated, "summary": nil}
	if one != "" {
		answer["summary"] = fmt.Sprintf("%d %s matched", len(found), many)
		if len(found) == 1 {
			answer["summary"] = "1 " + one + " matched"
		}
	}
	if truncated {
		const why = "Configured size limit exceeded"
		addMessage(answer, 13017, "SearchResultTruncated", "Search result has been truncated: "+why, entry{"reason": why})
	}
	return answer
}
