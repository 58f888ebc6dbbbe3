// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// findRecord returns the zone and the record's name in it, given relative or absolute.
func (c *call) findRecord() (*zone, string, *fail) {
	z, trouble := c.findZone()
	if trouble != nil {
		return nil, "", trouble
	}
	given := c.arg(1)
	if !strings.HasSuffix(given, ".") {
		return z, strings.ToLower(given), nil
	}
	if given = strings.ToLower(given); given != z.name && !strings.HasSuffix(given, "."+z.name) {
		return nil, "", validationError("idnsname",
			"out-of-zone data: record name must be a subdomain of the zone or a relative name")
	}
	return z, z.relative(given), nil
}

func (d *directory) recordDN(z *zone, name string) string {
	return d.dn("idnsname="+name, "idnsname="+z.name, "cn=dns")
}

func (z *zone) record(name string) entry {
	e := entry{"idnsname": []any{dnsName(name)}}
	for kind, values := range z.records[name] {
		e[kind] = values
	}
	return e
}

// recordOptions collects the records that the options give, by attribute.
func (c *call) recordOptions() map[string][]string {
	given := map[string][]string{}
	for kind, about := range recordTypes {
		values := texts(c.options[kind])
		if part := text(c.options[about.part]); about.part != "" && part != "" {
			values = append(values, part)
		}
		if len(values) > 0 {
			given[kind] = values
		}
	}
	if target := text(c.options["srv_part_target"]); target != "" {
		given["srvrecord"] = append(given["srvrecord"], strings.Join([]string{
			text(c.options["srv_part_priority"]), text(c.options["srv_part_weight"]), text(c.options["srv_part_port"]), target}, " "))
	}
	return given
}

func checkRecords(given map[string][]string) *fail {
	for kind, name := range map[string]string{"arecord": "a_ip_address", "aaaarecord": "aaaa_ip_address"} {
		for _, value := range given[kind] {
			if address, err := netip.ParseAddr(value); err != nil || addressType(address) != kind {
				return validationError(name, "invalid IP address format")
			}
		}
	}
	return nil
}

func (c *call) dnsrecordAdd() (entry, *fail) {
	given := c.recordOptions()
	if trouble := checkRecords(given); trouble != nil {
		return nil, trouble
	}
	z, name, trouble := c.findRecord()
	if trouble != nil {
		return nil, trouble
	}
	if len(given) == 0 {
		return nil, optionError("No options to add a specific record provided.\n"+
			"Command help may be consulted for all supported record types.", entry{})
	}
	old := z.records[name]
	if conflictsWithAlias(old, given) {
		return nil, validationError("cnamerecord",
			"CNAME record is not allowed to coexist with any other record (RFC 1034, section 3.6.2)")
	}
	news := false
	for kind, values := range given {
		for _, value := range values {
			news = news || !slices.Contains(old[kind], value)
		}
	}
	switch {
	case !news:
		return nil, emptyModlist()
	case old == nil && !c.may("add", "dns", ""):
		return nil, cannotAdd(c.dir.recordDN(z, name))
	case old != nil && !c.may("write", "dns", ""):
		return nil, cannotWrite(slices.Sorted(maps.Keys(given))[0], c.dir.recordDN(z, name))
	}
	for kind, values := range given {
		for _, value := range values {
			z.add(name, kind, value)
		}
	}
	if trouble := c.addReverse(z, name, given); trouble != nil {
		return nil, trouble
	}
	result := z.record(name)
	result["objectclass"] = []string{"top", "idnsrecord"}
	result["dn"] = c.dir.recordDN(z, name)
	return entry{"result": result, "value": dnsName(strings.ToLower(c.arg(1))), "summary": nil}, nil
}

func conflictsWithAlias(old, given map[string][]string) bool {
	kinds := map[string]bool{}
	for kind := range old {
		kinds[kind] = true
	}
	for kind := range given {
		kinds[kind] = true
	}
	return kinds["cnamerecord"] && len(kinds) > 1
}

// addReverse obeys a_extra_create_reverse and its sister. The address record stays where there is no reverse zone.
func (c *call) addReverse(z *zone, name string, given map[string][]string) *fail {
	for kind, option := range map[string]string{"arecord": "a_extra_create_reverse", "aaaarecord": "aaaa_extra_create_reverse"} {
		if !c.flag(option) {
			continue
		}
		for _, value := range given[kind] {
			address := netip.MustParseAddr(value)
			back := c.dir.zoneOf(reverseName(address))
			if back == nil {
				return nonFatal(fmt.Sprintf("Cannot create reverse record for \"%[1]s\": DNS reverse zone . for IP address %[1]s "+
					"is not managed by this server", address))
			}
			back.add(back.relative(reverseName(address)), "ptrrecord", strings.TrimPrefix(name+"."+z.name, "@."))
		}
	}
	return nil
}

func (c *call) dnsrecordShow() (entry, *fail) {
	z, name, trouble := c.findRecord()
	if trouble != nil {
		return nil, trouble
	}
	if z.records[name] == nil {
		return nil, notFound(name + ": DNS resource record not found")
	}
	result := z.record(name)
	result["dn"] = c.dir.recordDN(z, name)
	return entry{"result": result, "value": dnsName(strings.ToLower(c.arg(1))), "summary": nil}, nil
}

func (c *call) dnsrecordFind() (entry, *fail) {
	z, trouble := c.findZone()
	if trouble != nil {
		return nil, trouble
	}
	wanted := c.recordOptions()
	exact := strings.ToLower(text(c.options["idnsname"]))
	var found []any
	for _, name := range slices.Sorted(maps.Keys(z.records)) {
		fits := strings.Contains(name, strings.ToLower(c.arg(1))) && (exact == "" || exact == name)
		for kind, values := range wanted {
			for _, value := range values {
				fits = fits && slices.Contains(z.records[name][kind], value)
			}
		}
		if fits {
			e := z.record(name)
			e["dn"] = c.dir.recordDN(z, name)
			found = append(found, e)
		}
	}
	return c.listed(found, "", ""), nil
}

func (c *call) dnsrecordDel() (entry, *fail) {
	z, name, trouble := c.findRecord()
	if trouble != nil {
		return nil, trouble
	}
	given := c.recordOptions()
	switch old := z.records[name]; {
	case old == nil:
		return nil, notFound(name + ": DNS resource record not found")
	case len(given) == 0 && !c.flag("del_all"):
		return nil, optionError("Neither --del-all nor options to delete a specific record provided.\n"+
			"Command help may be consulted for all supported record types.", entry{})
	}
	for kind, values := range given {
		for _, value := range values {
			if !slices.Contains(z.records[name][kind], value) {
				return nil, valueNotFound(recordTypes[kind].label+" record", value)
			}
		}
	}
	if len(given) > 0 && !c.may("write", "dns", "") {
		return nil, cannotWrite(slices.Sorted(maps.Keys(given))[0], c.dir.recordDN(z, name))
	}
	for kind, values := range given {
		for _, value := range values {
			z.take(name, kind, value)
		}
	}
	if c.flag("del_all") || len(z.records[name]) == 0 {
		// Two steps, as on the real server: without the right to the second one, an entry without values stays.
		if !c.may("delete", "dns", "") {
			return nil, cannotDelete(c.dir.recordDN(z, name))
		}
		delete(z.records, name)
	}
	value := []any{dnsName(strings.ToLower(c.arg(1)))}
	if z.records[name] == nil {
		return entry{
			"result": entry{"failed": []string{}}, "value": value, "summary": fmt.Sprintf("Deleted record \"%s\"", name),
		}, nil
	}
	return entry{"result": z.record(name), "value": value, "summary": nil}, nil
}
