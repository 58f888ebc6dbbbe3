// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// zone is one DNS zone; its records are by name relative to it ("@" is the zone itself), then by attribute ("arecord").
type zone struct {
	name    string // absolute, lower case: "example.test."
	serial  int64
	master  string
	realm   string
	dynamic bool
	records map[string]map[string][]string
}

func newZone(name, master, realm string, now time.Time) *zone {
	return &zone{
		name: name, serial: now.Unix(), master: master + ".", realm: realm,
		records: map[string]map[string][]string{"@": {"nsrecord": {master + "."}}},
	}
}

// recordTypes are the kinds of records known, by attribute, with the option that gives the one part they have.
var recordTypes = map[string]struct{ label, part string }{
	"arecord":     {"A", "a_part_ip_address"},
	"aaaarecord":  {"AAAA", "aaaa_part_ip_address"},
	"ptrrecord":   {"PTR", "ptr_part_hostname"},
	"cnamerecord": {"CNAME", "cname_part_hostname"},
	"nsrecord":    {"NS", "ns_part_hostname"},
	"txtrecord":   {"TXT", "txt_part_data"},
	"srvrecord":   {"SRV", ""},
	"sshfprecord": {"SSHFP", ""},
}

func addressType(address netip.Addr) string {
	if address.Is4() {
		return "arecord"
	}
	return "aaaarecord"
}

func absolute(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, ".")) + "."
}

func dnsName(name string) entry { return entry{"__dns_name__": name} }

// zoneOf finds the zone of an absolute name by the longest match.
func (d *directory) zoneOf(name string) *zone {
	for name = absolute(name); name != "." && name != ""; _, name, _ = strings.Cut(name, ".") {
		if z := d.zones[name]; z != nil {
			return z
		}
	}
	return nil
}

// relative makes an absolute name relative to the zone.
func (z *zone) relative(name string) string {
	name = absolute(name)
	if name == z.name {
		return "@"
	}
	return strings.TrimSuffix(name, "."+z.name)
}

// resolves tells whether a host name has an address record here.
func (d *directory) resolves(fqdn string) bool {
	z := d.zoneOf(fqdn)
	if z == nil {
		return false
	}
	values := z.records[z.relative(fqdn)]
	return len(values["arecord"]) > 0 || len(values["aaaarecord"]) > 0
}

func (z *zone) add(name, kind, value string) {
	if z.records[name] == nil {
		z.records[name] = map[string][]string{}
	}
	if !slices.Contains(z.records[name][kind], value) {
		z.records[name][kind] = append(slices.Clone(z.records[name][kind]), value)
	}
}

// take removes a value and leaves the entry, be it without any.
func (z *zone) take(name, kind, value string) {
	left := without(z.records[name][kind], value)
	if len(left) > 0 {
		z.records[name][kind] = left
		return
	}
	delete(z.records[name], kind)
}

func (z *zone) remove(name, kind, value string) {
	z.take(name, kind, value)
	if len(z.records[name]) == 0 {
		delete(z.records, name)
	}
}

// reverseName returns the name of an address in in-addr.arpa or ip6.arpa (RFC 1035, 3.5; RFC 3596, 2.5).
func reverseName(address netip.Addr) string {
	var name strings.Builder
	raw := address.AsSlice()
	for i := len(raw) - 1; i >= 0; i-- {
		if address.Is4() {
			name.WriteString(strconv.Itoa(int(raw[i])) + ".")
		} else {
			fmt.Fprintf(&name, "%x.%x.", raw[i]&15, raw[i]>>4)
		}
	}
	if address.Is4() {
		return name.String() + "in-addr.arpa."
	}
	return name.String() + "ip6.arpa."
}

// addAddress adds an address record and, where asked and a zone for it exists, the record back to the name.
func (d *directory) addAddress(fqdn string, address netip.Addr, reverse bool) {
	home := d.zoneOf(fqdn)
	home.add(home.relative(fqdn), addressType(address), address.String())
	if back := d.zoneOf(reverseName(address)); reverse && back != nil {
		back.add(back.relative(reverseName(address)), "ptrrecord", absolute(fqdn))
	}
}

// removeAddresses removes a host's address and SSHFP records, and the records back to it. It reports whether there
// were any.
func (d *directory) removeAddresses(fqdn string) bool {
	home := d.zoneOf(fqdn)
	if home == nil {
		return false
	}
	found := false
	name := home.relative(fqdn)
	for _, kind := range []string{"arecord", "aaaarecord", "sshfprecord"} {
		for _, value := range home.records[name][kind] {
			found = true
			home.remove(name, kind, value)
			address, err := netip.ParseAddr(value)
			if err != nil {
				continue
			}
			if back := d.zoneOf(reverseName(address)); back != nil {
				back.remove(back.relative(reverseName(address)), "ptrrecord", absolute(fqdn))
			}
		}
	}
	return found
}

// findZone returns the zone that the first argument names. To one who may not read DNS there is none.
func (c *call) findZone() (*zone, *fail) {
	name := absolute(c.arg(0))
	if z := c.dir.zones[name]; z != nil && c.may("read", "dns", "") {
		return z, nil
	}
	return nil, notFound(name + ": DNS zone not found")
}

func (d *directory) zoneDN(z *zone) string { return d.dn("idnsname="+z.name, "cn=dns") }

func (d *directory) zoneView(z *zone) entry {
	policy := fmt.Sprintf("grant %[1]s krb5-self * A; grant %[1]s krb5-self * AAAA; grant %[1]s krb5-self * SSHFP;", z.realm)
	if strings.HasSuffix(z.name, ".arpa.") {
		policy = fmt.Sprintf("grant %s krb5-subdomain %s PTR;", z.realm, z.name)
	}
	contact := "hostmaster"
	if z.dynamic {
		contact = "hostmaster." + z.name
	}
	return entry{
		"idnsname": []any{dnsName(z.name)}, "idnssoamname": []any{dnsName(z.master)}, "idnssoarname": []any{dnsName(contact)},
		"idnssoaserial": []string{strconv.FormatInt(z.serial, 10)}, "idnssoarefresh": []string{"3600"},
		"idnssoaretry": []string{"900"}, "idnssoaexpire": []string{"1209600"}, "idnssoaminimum": []string{"3600"},
		"idnsallowquery": []string{"any;"}, "idnsallowtransfer": []string{"none;"}, "idnszoneactive": []bool{true},
		"idnsallowdynupdate": []bool{z.dynamic}, "idnsupdatepolicy": []string{policy},
		"nsrecord": z.records["@"]["nsrecord"], "dn": d.zoneDN(z),
	}
}

func (c *call) dnszoneAdd() (entry, *fail) {
	name := absolute(c.arg(0))
	z := newZone(name, c.dir.master, c.dir.realm, c.server.cfg.Now())
	if !c.may("add", "dns", "") {
		return nil, cannotAdd(c.dir.zoneDN(z))
	}
	if c.dir.zones[name] != nil {
		return nil, duplicateNamed("DNS zone", name)
	}
	c.dir.zones[name] = z
	// Recorded so: the zone stays although the realm's list of domains can't be written.
	if !c.isAdmin() && !strings.HasSuffix(name, ".arpa.") {
		return nil, cannotWrite("associatedDomain", c.dir.dn("cn=realm domains", "cn=ipa", "cn=etc"))
	}
	result := c.dir.zoneView(z)
	result["objectclass"] = []string{"top", "idnsrecord", "idnszone"}
	return entry{"result": result, "value": dnsName(name), "summary": nil}, nil
}

func (c *call) dnszoneShow() (entry, *fail) {
	z, trouble := c.findZone()
	if trouble != nil {
		return nil, trouble
	}
	result := c.dir.zoneView(z)
	c.addRights(result, "dns", recordAttributes)
	return entry{"result": result, "value": dnsName(z.name), "summary": nil}, nil
}

func (c *call) dnszoneFind() (entry, *fail) {
	var found []any
	for _, z := range sortedValues(c.dir.zones) {
		if name := text(c.options["idnsname"]); name != "" && absolute(name) != z.name {
			continue
		}
		if !c.may("read", "dns", "") || !strings.Contains(z.name, strings.ToLower(c.arg(0))) {
			continue
		}
		e := c.dir.zoneView(z)
		if c.flag("pkey_only") {
			e = entry{"idnsname": []any{dnsName(z.name)}, "dn": c.dir.zoneDN(z)}
		}
		found = append(found, e)
	}
	return c.listed(found, "", ""), nil
}
