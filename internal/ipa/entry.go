// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// FreeIPA's reasons for leaving out a member that is there already, and one that is to go and is not there.
const (
	alreadyMember = "This entry is already a member"
	noMember      = "This entry is not a member"
)

// Host is a host entry. Times and certificates are left out.
type Host struct {
	FQDN        string
	ID          string // ipaUniqueID: another entry of the same name has another. HostFind does not tell it
	Description string
	UserClass   []string
	Location    string
	OSVersion   string
	HasPassword bool // a one-time password waits
	HasKeytab   bool // the host has enrolled
	ManagedBy   []string
	Groups      []string // host groups that it is directly in
}

// UnmarshalJSON reads an entry as host_add, host_mod, host_show and host_find give it.
func (h *Host) UnmarshalJSON(raw []byte) error {
	var e struct {
		FQDN        values `json:"fqdn"`
		ID          values `json:"ipauniqueid"`
		Description values `json:"description"`
		UserClass   values `json:"userclass"`
		Location    values `json:"nshostlocation"`
		OSVersion   values `json:"nsosversion"`
		HasPassword values `json:"has_password"`
		HasKeytab   values `json:"has_keytab"`
		ManagedBy   values `json:"managedby_host"`
		Groups      values `json:"memberof_hostgroup"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	*h = Host{
		FQDN: e.FQDN.first(), ID: e.ID.first(), Description: e.Description.first(), UserClass: e.UserClass, Location: e.Location.first(),
		OSVersion: e.OSVersion.first(), HasPassword: e.HasPassword.truth(), HasKeytab: e.HasKeytab.truth(),
		ManagedBy: e.ManagedBy, Groups: e.Groups,
	}
	return nil
}

// Service is a service entry.
type Service struct {
	Principal string // with realm
	ID        string // ipaUniqueID: another entry of the same name has another. ServiceFind does not tell it
	HasKeytab bool
	ManagedBy []string
}

// UnmarshalJSON reads an entry as the service commands give it.
func (s *Service) UnmarshalJSON(raw []byte) error {
	var e struct {
		Canonical values `json:"krbcanonicalname"`
		ID        values `json:"ipauniqueid"`
		Names     values `json:"krbprincipalname"`
		HasKeytab values `json:"has_keytab"`
		ManagedBy values `json:"managedby_host"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	*s = Service{Principal: e.Canonical.first(), ID: e.ID.first(), HasKeytab: e.HasKeytab.truth(), ManagedBy: e.ManagedBy}
	if s.Principal == "" {
		s.Principal = e.Names.first()
	}
	return nil
}

// Zone is a DNS zone.
type Zone struct {
	Name   string // absolute, with the dot at its end
	Active bool
}

// UnmarshalJSON reads an entry as dnszone_show and dnszone_find give it.
func (z *Zone) UnmarshalJSON(raw []byte) error {
	var e struct {
		Name   values `json:"idnsname"`
		Active values `json:"idnszoneactive"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	*z = Zone{Name: e.Name.first(), Active: e.Active.truth()}
	return nil
}

// Record is all records of one name in a zone.
type Record struct {
	Name string // relative to the zone; "@" is the zone itself
	A    []string
	AAAA []string
	PTR  []string

	// CNAME is one at most, and then there are no others (RFC 1034, 3.6.2). Without a dot at the
	// end it is relative to the zone.
	CNAME []string
}

// UnmarshalJSON reads an entry as the dnsrecord commands give it.
func (r *Record) UnmarshalJSON(raw []byte) error {
	var e struct {
		Name values `json:"idnsname"`
		A    values `json:"arecord"`
		AAAA values `json:"aaaarecord"`
		PTR  values `json:"ptrrecord"`

		CNAME values `json:"cnamerecord"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	*r = Record{Name: e.Name.first(), A: e.A, AAAA: e.AAAA, PTR: e.PTR, CNAME: e.CNAME}
	return nil
}

// Found is the answer to a find command.
type Found[E any] struct {
	Entries   []E
	Truncated bool // there are more than the limit
}

// Membership is the answer to a call that adds or removes members, such as service_add_host.
type Membership struct {
	Changed int
	Failed  []Member // those that were members already, or none, as wanted, are not among them
}

// enlists tells whether the answer is a Membership.
func (c Command) enlists() bool {
	switch c.name {
	case "service_add_host", "service_remove_host", "privilege_add_permission", "role_add_privilege", "role_add_member":
		return true
	}
	return false
}

// Err returns a *MemberError if something is not as the command wants it now, whether it was just changed or before.
func (m Membership) Err(command Command) error {
	if len(m.Failed) == 0 {
		return nil
	}
	return &MemberError{Command: command.name, Failed: m.Failed}
}

// outcome is the inner result object of an answer: {"result": ..., "value": ..., "summary": ...}.
type outcome struct {
	Result    json.RawMessage `json:"result"`
	Truncated bool            `json:"truncated"`
	Summary   string          `json:"summary"`
	Completed int             `json:"completed"`
	Failed    json.RawMessage `json:"failed"`
}

// decodeEntry reads the entry that host_show and its like answer.
func decodeEntry[E any](raw json.RawMessage) (E, error) {
	var answer outcome
	var e E
	if err := json.Unmarshal(raw, &answer); err != nil {
		return e, err
	}
	err := json.Unmarshal(answer.Result, &e)
	return e, err
}

// decodeFound reads what a find command answers.
func decodeFound[E any](raw json.RawMessage) (Found[E], error) {
	var answer outcome
	if err := json.Unmarshal(raw, &answer); err != nil {
		return Found[E]{}, err
	}
	found := Found[E]{Truncated: answer.Truncated}
	err := json.Unmarshal(answer.Result, &found.Entries)
	return found, err
}

// decodeMembership reads what service_add_host and its like answer.
func decodeMembership(raw json.RawMessage) (Membership, error) {
	var answer outcome
	if err := json.Unmarshal(raw, &answer); err != nil {
		return Membership{}, err
	}
	var failed map[string]map[string][][]string // pairs of name and reason, by attribute and by type of member
	if len(answer.Failed) > 0 {
		if err := json.Unmarshal(answer.Failed, &failed); err != nil {
			return Membership{}, err
		}
	}
	m := Membership{Changed: answer.Completed}
	for _, attribute := range slices.Sorted(maps.Keys(failed)) {
		for _, kind := range slices.Sorted(maps.Keys(failed[attribute])) {
			for _, pair := range failed[attribute][kind] {
				if member := leftOut(pair); member.Reason != alreadyMember && member.Reason != noMember {
					m.Failed = append(m.Failed, member)
				}
			}
		}
	}
	return m, nil
}

// leftOut reads a pair of name and reason. FreeIPA parts the two at the first ": ", which may be in the name:
// "System: Read Hosts".
func leftOut(pair []string) Member {
	whole := strings.Join(pair, ": ")
	if at := strings.LastIndex(whole, ": "); len(pair) == 2 && at >= 0 {
		return Member{Name: whole[:at], Reason: whole[at+len(": "):]}
	}
	return Member{Name: whole, Reason: "no reason given"}
}

// values is an attribute in any of the spellings that FreeIPA has for one: a string, number or truth value, an object
// {"__dns_name__": ...}, {"__base64__": ...} or {"__datetime__": ...}, or a list of these.
type values []string

// UnmarshalJSON reads any of the spellings. A form that is not known becomes an empty string, not an error.
func (v *values) UnmarshalJSON(raw []byte) error {
	var any any
	if err := json.Unmarshal(raw, &any); err != nil {
		return err
	}
	*v = nil
	switch x := any.(type) {
	case nil:
	case []interface{}:
		for _, item := range x {
			*v = append(*v, plain(item))
		}
	default:
		*v = values{plain(x)}
	}
	return nil
}

func plain(item any) string {
	switch x := item.(type) {
	case string:
		return x
	case bool:
		if x {
			return "TRUE"
		}
		return "FALSE"
	case map[string]any:
		for _, key := range []string{"__dns_name__", "__base64__", "__datetime__"} {
			if text, ok := x[key].(string); ok {
				return text
			}
		}
	case float64:
		text, _ := json.Marshal(x)
		return string(text)
	}
	return ""
}

func (v values) first() string {
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

func (v values) truth() bool { return strings.EqualFold(v.first(), "true") }
