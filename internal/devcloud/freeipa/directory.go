// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// directory is what LDAP holds on a real server. Server.mu guards it.
type directory struct {
	realm  string
	suffix string // dc=example,dc=test
	master string // the server's own host
	random io.Reader

	hosts       map[string]*host    // by FQDN
	services    map[string]*service // by canonical principal, with realm
	zones       map[string]*zone    // by absolute name: "example.test."
	permissions map[string]*permission
	privileges  map[string]*privilege
	roles       map[string]*role
	groups      map[string]*hostgroup
}

func newDirectory(cfg Config) *directory {
	d := &directory{
		realm:       cfg.Realm,
		suffix:      "dc=" + strings.ReplaceAll(cfg.Domain, ".", ",dc="),
		master:      cfg.Host,
		random:      cfg.Random,
		hosts:       map[string]*host{},
		services:    map[string]*service{},
		zones:       map[string]*zone{},
		permissions: builtinPermissions(),
		privileges:  map[string]*privilege{},
		roles:       map[string]*role{},
		groups:      map[string]*hostgroup{},
	}
	d.hosts[cfg.Host] = &host{
		fqdn: cfg.Host, principal: true, keytab: true, id: d.newID(), managedBy: []string{cfg.Host}, attrs: map[string][]string{},
	}
	d.groups["ipaservers"] = &hostgroup{cn: "ipaservers", description: "IPA server hosts", hosts: []string{cfg.Host}}
	for _, name := range []string{"HTTP", "ldap", "DNS"} {
		principal := name + "/" + cfg.Host + "@" + cfg.Realm
		d.services[principal] = &service{principal: principal, keytab: true, id: d.newID(), managedBy: []string{cfg.Host}}
	}
	home := newZone(cfg.Domain+".", cfg.Host, cfg.Realm, cfg.Now())
	home.dynamic = true
	d.zones[home.name] = home
	return d
}

func (d *directory) dn(parts ...string) string {
	return strings.Join(append(parts, d.suffix), ",")
}

func (d *directory) hostDN(fqdn string) string {
	return d.dn("fqdn="+fqdn, "cn=computers", "cn=accounts")
}

func (d *directory) serviceDN(principal string) string {
	return d.dn("krbprincipalname="+principal, "cn=services", "cn=accounts")
}

// newID makes a unique ID. Its digits are random, its shape is that of a real ipaUniqueID.
func (d *directory) newID() string {
	raw := make([]byte, 16)
	if _, err := io.ReadFull(d.random, raw); err != nil {
		panic(fmt.Sprintf("freeipa: no randomness: %v", err))
	}
	s := hex.EncodeToString(raw)
	return s[:8] + "-" + s[8:12] + "-11f1-" + s[16:20] + "-" + s[20:]
}

func (d *directory) newPassword() string {
	raw := make([]byte, 17)
	if _, err := io.ReadFull(d.random, raw); err != nil {
		panic(fmt.Sprintf("freeipa: no randomness: %v", err))
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// sortedValues returns the map's values in the order of their keys.
func sortedValues[V any](m map[string]V) []V {
	out := make([]V, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[key])
	}
	return out
}
