// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// Standing is what FreeIPA tells a caller of its own rights. FreeIPA has no call that lists what somebody may do: it shows of the caller's own entry
// which roles, privileges and permissions it has, whoever made them, and of an entry which attributes the caller may write.
type Standing struct {
	Principal string // as FreeIPA names the caller's entry
	// Listed: the caller may see of what it is a member. Else nothing is known of the next three.
	Listed                  bool
	Admin                   bool // one of FreeIPA's administrators, who may do everything
	Privileges, Permissions []string
	// What may be written of the caller's own host, of its own entry if it is a service, and of a DNS zone. Nil: there was none to see it by.
	Host, Service, Zone Writable
}

// Writable are the attributes of an entry that the caller is shown, in lower case, and whether it may write them.
type Writable map[string]bool

// Standing asks for the caller's own standing. It changes nothing.
func (c *Client) Standing(ctx context.Context) (Standing, error) {
	object, name, err := c.whoAmI(ctx)
	if err != nil {
		return Standing{}, err
	}
	s := Standing{Principal: name}
	commands := []Command{effective(object+"_show", name, true), ZoneFind("", 1)}
	if _, host, ok := strings.Cut(name, "/"); ok && object == "service" {
		host, _, _ = strings.Cut(host, "@")
		commands = append(commands, effective("host_show", host, false))
	}
	results, err := c.Batch(ctx, commands...)
	if err != nil {
		return s, err
	}
	own, err := entryOf[rightsEntry](results[0])
	if err != nil {
		return s, err
	}
	s.read(own)
	if object == "service" {
		s.Service = own.writable()
	}
	for _, r := range results[2:] {
		host, err := entryOf[rightsEntry](r)
		if err != nil && !errors.Is(err, NotFound) {
			return s, err
		}
		s.Host = host.writable()
	}
	if errors.Is(results[1].Err, NotFound) {
		return s, nil
	}
	if results[1].Err != nil {
		return s, results[1].Err
	}
	zones, err := decodeFound[Zone](results[1].raw)
	if err != nil {
		return s, unreadable(results[1].Command)
	}
	if len(zones.Entries) == 0 {
		return s, nil
	}
	results, err = c.Batch(ctx, effective("dnszone_show", zones.Entries[0].Name, false))
	if err != nil {
		return s, err
	}
	zone, err := entryOf[rightsEntry](results[0])
	s.Zone = zone.writable()
	return s, err
}

// whoAmI returns the kind and the name of the caller's own entry.
func (c *Client) whoAmI(ctx context.Context) (object, name string, err error) {
	type me struct {
		Object    string   `json:"object"`
		Arguments []string `json:"arguments"`
	}
	who := Command{name: "whoami", repeat: true}
	answer, err := typed(ctx, c, who, func(raw json.RawMessage) (answer me, err error) {
		err = json.Unmarshal(raw, &answer)
		return answer, err
	})
	if err == nil && (len(answer.Arguments) == 0 || !slices.Contains([]string{"service", "user", "host"}, answer.Object)) {
		err = unreadable(who)
	}
	if err != nil {
		return "", "", err
	}
	return answer.Object, answer.Arguments[0], nil
}

// effective shows an entry with what the caller may do to it. raw: with all that it is a member of, be it by way of something else.
func effective(command, name string, raw bool) Command {
	return Command{name: command, args: []any{name}, options: map[string]any{"all": true, "rights": true, "raw": raw}, repeat: true}
}

// rightsEntry is what effective shows.
type rightsEntry struct {
	Rights   map[string]string `json:"attributelevelrights"`
	MemberOf values            `json:"memberof"`
}

// writable reads what the caller may write: "w" in the attribute's letters.
func (e rightsEntry) writable() Writable {
	if e.Rights == nil {
		return nil
	}
	w := make(Writable, len(e.Rights))
	for attribute, letters := range e.Rights {
		w[strings.ToLower(attribute)] = strings.Contains(letters, "w")
	}
	return w
}

// read takes over of what the caller's entry is a member of.
func (s *Standing) read(own rightsEntry) {
	s.Listed = strings.Contains(own.Rights["memberof"], "r") || len(own.MemberOf) > 0
	for _, dn := range own.MemberOf {
		name, place, _ := cutDN(dn)
		switch {
		case strings.HasPrefix(place, "cn=permissions,cn=pbac,"):
			s.Permissions = append(s.Permissions, name)
		case strings.HasPrefix(place, "cn=privileges,cn=pbac,"):
			s.Privileges = append(s.Privileges, name)
		case strings.HasPrefix(place, "cn=groups,cn=accounts,"):
			s.Admin = s.Admin || strings.EqualFold(name, "admins")
		}
	}
}

// cutDN takes the first name off a DN of the form "cn=NAME,PLACE", whose place is then in lower case (RFC 4514: a comma in a name has a
// backslash before it).
func cutDN(dn string) (name, place string, ok bool) {
	_, rest, ok := strings.Cut(dn, "=")
	for i := 0; ok && i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			i++
		case ',':
			return strings.ReplaceAll(rest[:i], `\`, ""), strings.ToLower(rest[i+1:]), true
		}
	}
	return "", "", false
}
