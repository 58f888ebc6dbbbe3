// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package metadata finds what Nova and Muster say to an instance: which one it
// is, where Muster is, its one-time token, and how to join FreeIPA.
//
// It looks in the places that an OpenStack instance has: the config drive (the
// disk with the label config-2), the metadata service at its link-local address,
// and what cloud-init kept of either. It writes nothing, keeps nothing, and
// never logs what it read: tokens are in it.
package metadata

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/muster-cloud/muster/internal/uuid"
)

// MaxSize is the most bytes that one document may have.
const MaxSize = 1 << 20

// maxDepth bounds how deep Muster's part may lie in what cloud-init kept.
const maxDepth = 12

// Errors of Find.
var (
	// ErrNone: there is no OpenStack metadata in any place. Both a cloud
	// without it and a network that is not up look like this.
	ErrNone = errors.New("no OpenStack metadata")
	// ErrNoMuster: there is metadata, but nothing of Muster's in it. Nova
	// leaves a service out that it could not reach.
	ErrNoMuster = errors.New("the vendordata has nothing from Muster")
)

// Instance is what an instance knows of itself.
type Instance struct {
	ID        string // 32 hexadecimal digits
	ProjectID string // the same; empty if nobody said
	Hostname  string
	Source    string // where it was found, for people

	Token    string // one-time, for the first certificates
	Endpoint string // the base address of Muster's calls for instances
	CA       string // PEM of the authority of Endpoint's certificate; empty: the system's
	UserCA   string // authorized_keys line of the project's user CA

	Joining Joining
}

// Joining is what FreeIPA's enrolment needs. All is empty if the instance is
// not to be enrolled.
type Joining struct {
	FQDN, Realm string
	OTP         string // empty once the host has joined, or while FreeIPA is away
	Refusal     string // why there is no enrolment
}

// target is what one service told Nova. Muster's own answer has all keys,
// Tatu's the first few; novajoin's the joining ones.
type target struct {
	Token    string `json:"token"`
	Endpoint string `json:"api_endpoint"`
	UserCA   string `json:"auth_pub_key_user"`
	CA       string `json:"api_ca"`

	ProjectID  string `json:"project_id"`
	InstanceID string `json:"instance_id"`

	FQDN    string `json:"hostname"`
	Realm   string `json:"krb_realm"`
	OTP     string `json:"ipaotp"`
	Refusal string `json:"ipa_error"`
}

func (t target) isMuster() bool { return t.Token != "" && t.Endpoint != "" }

// document is meta_data.json, as far as it matters.
type document struct {
	UUID      string `json:"uuid"`
	ProjectID string `json:"project_id"`
	Hostname  string `json:"hostname"`
}

// combine makes one of Nova's two documents.
func combine(metaData, vendorData []byte, source string) (Instance, error) {
	var doc document
	if err := json.Unmarshal(metaData, &doc); err != nil {
		return Instance{}, fmt.Errorf("%s: meta_data.json is not valid JSON of the kind that Nova writes", source)
	}
	var targets map[string]json.RawMessage
	if err := json.Unmarshal(vendorData, &targets); err != nil {
		return Instance{}, fmt.Errorf("%s: vendor_data2.json is not a JSON object", source)
	}
	var all []target
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		var t target
		// Other services may say whatever they like.
		if json.Unmarshal(targets[name], &t) == nil {
			all = append(all, t)
		}
	}
	return choose(doc, all, source)
}

// choose finds Muster's answer among those of all services. Of several it takes
// the one that says most; how to join FreeIPA may come from another one, where
// Nova still calls Muster by the addresses of both predecessors.
func choose(doc document, all []target, source string) (Instance, error) {
	candidates := slices.DeleteFunc(slices.Clone(all), func(t target) bool { return !t.isMuster() })
	if len(candidates) == 0 {
		return Instance{}, fmt.Errorf("%s: %w", source, ErrNoMuster)
	}
	own := slices.MaxFunc(candidates, func(a, b target) int { return cmp.Compare(a.says(), b.says()) })
	if own.OTP == "" && own.Refusal == "" {
		for _, t := range all {
			if t.FQDN != "" && t.Realm != "" {
				own.FQDN, own.Realm, own.OTP, own.Refusal = t.FQDN, t.Realm, t.OTP, t.Refusal
			}
		}
	}
	found := Instance{
		Hostname: doc.Hostname, Source: source, Token: own.Token, Endpoint: strings.TrimRight(own.Endpoint, "/"),
		CA: own.CA, UserCA: own.UserCA,
		Joining: Joining{FQDN: own.FQDN, Realm: own.Realm, OTP: own.OTP, Refusal: own.Refusal},
	}
	var err error
	if found.ID, err = uuid.Parse(cmp.Or(doc.UUID, own.InstanceID)); err != nil {
		return Instance{}, fmt.Errorf("%s: the instance's ID: %w", source, err)
	}
	if project := cmp.Or(own.ProjectID, doc.ProjectID); project != "" {
		if found.ProjectID, err = uuid.Parse(project); err != nil {
			return Instance{}, fmt.Errorf("%s: the project's ID: %w", source, err)
		}
	}
	return found, nil
}

// says counts what an answer of Muster's tells.
func (t target) says() int {
	n := 0
	for _, value := range []string{t.ProjectID, t.InstanceID, t.CA, t.OTP, t.Refusal, t.FQDN} {
		if value != "" {
			n++
		}
	}
	return n
}

// search finds Muster's answer wherever it lies in a JSON document, together
// with what the document says of the instance.
func search(data []byte, source string) (Instance, error) {
	var root any
	if err := json.Unmarshal(data, &root); err != nil {
		return Instance{}, fmt.Errorf("%s: not valid JSON", source)
	}
	var doc document
	var all []target
	walk(root, 0, func(object map[string]any) {
		fill(&doc.UUID, object, "uuid")
		fill(&doc.ProjectID, object, "project_id")
		fill(&doc.Hostname, object, "hostname")
		raw, err := json.Marshal(object)
		var t target
		if err == nil && json.Unmarshal(raw, &t) == nil && (t.isMuster() || t.Realm != "") {
			all = append(all, t)
		}
	})
	if doc.UUID == "" {
		walk(root, 0, func(object map[string]any) { fill(&doc.UUID, object, "instance_id") })
	}
	return choose(doc, all, source)
}

// fill takes a text from an object, if it has one and nothing is there yet.
func fill(into *string, object map[string]any, name string) {
	if text, ok := object[name].(string); ok && *into == "" {
		*into = text
	}
}

// walk visits all objects, in the same order each time.
func walk(value any, depth int, visit func(map[string]any)) {
	if depth > maxDepth {
		return
	}
	switch value := value.(type) {
	case map[string]any:
		visit(value)
		for _, name := range slices.Sorted(maps.Keys(value)) {
			if name != "meta" { // the instance's properties, in which its owner may write anything
				walk(value[name], depth+1, visit)
			}
		}
	case []any:
		for _, item := range value {
			walk(item, depth+1, visit)
		}
	}
}
