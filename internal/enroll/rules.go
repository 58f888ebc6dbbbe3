// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/uuid"
)

// Rules say which names and services instances may have.
type Rules struct {
	Domain           string // DNS domain of the instances
	ProjectSubdomain bool   // names are HOST.PROJECT.DOMAIN
	NormalizeProject bool   // the project's name is made a DNS label; else one that is none is refused
	// Protected are host names, and patterns with * for any characters, that no instance may have and no service may be on. The
	// FreeIPA servers (Config.Servers) and ipa-ca.DOMAIN always are.
	Protected []string
	// Projects holds the rules of projects, by ID (32 hex digits) or name; other projects have Default. Names are unique only within a
	// domain of Keystone: see ProjectRules.DomainID.
	Projects map[string]ProjectRules
	Default  ProjectRules
	// Description begins the description of each host entry; the instance's ID follows. Default "OpenStack instance".
	Description string
}

// ProjectRules say what the instances of a project may ask for. The zero value allows no host class, and services only on an
// instance's own names.
type ProjectRules struct {
	DomainID       string   // the Keystone domain of a project given by name; "" means any
	AllowedClasses []string // values for ipa_hostclass; "*" allows any
	ServiceHosts   []string // further hosts that services may be on: names, and patterns with *; not those of other projects' instances
	AnyServiceHost bool     // services may be on any host that is not protected, another instance's too
}

const maxDescription = 128

// complete fills in defaults and refuses what can't be.
func (r Rules) complete() (Rules, error) {
	r.Domain = strings.Trim(strings.ToLower(r.Domain), ".")
	if r.Domain == "" {
		return r, errors.New("enrolment: the domain of the instances is missing")
	}
	for label := range strings.SplitSeq(r.Domain, ".") {
		if label == "" || len(label) > maxLabel || strings.IndexFunc(label, func(c rune) bool { return c > 0x7f || !inLabel(byte(c)) }) >= 0 {
			return r, fmt.Errorf("enrolment: %q is not a DNS domain", r.Domain)
		}
	}
	patterns := slices.Concat(r.Protected, r.Default.ServiceHosts)
	for _, project := range r.Projects {
		patterns = append(patterns, project.ServiceHosts...)
	}
	for _, pattern := range patterns {
		if reason := badPattern(pattern); reason != "" {
			return r, fmt.Errorf("enrolment: the name or pattern %q %s", pattern, reason)
		}
	}
	if r.Description == "" {
		r.Description = "OpenStack instance"
	}
	if len(r.Description) > maxDescription || !printable(r.Description) {
		return r, fmt.Errorf("enrolment: the description must be printable, and at most %d bytes long", maxDescription)
	}
	r.Protected = append(slices.Clone(r.Protected), "ipa-ca."+r.Domain)
	return r, nil
}

// of returns the rules of the project that asks. A name that looks like an ID finds nothing: it may be the ID of a project with more rights.
func (r Rules) of(req Request) ProjectRules {
	if rules, ok := r.Projects[req.ProjectID]; ok {
		return rules
	}
	rules, ok := r.Projects[req.ProjectName]
	_, noID := uuid.Parse(req.ProjectName)
	if !ok || noID == nil || (rules.DomainID != "" && rules.DomainID != req.ProjectDomainID) {
		return r.Default
	}
	return rules
}

// description marks a host entry as made for an instance.
func (r Rules) description(instanceID string) string { return r.Description + " " + instanceID }

// madeFor tells whether a host entry was made for an instance, by its description: an attempt that was cut short may not have recorded
// that it made it.
func madeFor(instanceID string, host ipa.Host) bool {
	return strings.HasSuffix(host.Description, " "+instanceID)
}

// class checks the host class that an instance asks for.
func (r Rules) class(class string, req Request) error {
	if class == "" {
		return nil
	}
	if req.ProjectName == "" {
		return problem.InField(keyClass, "the project's name is not known, so that its classes are not either")
	}
	if !printable(class) {
		return problem.InField(keyClass, "holds a control character")
	}
	allowed := r.of(req).AllowedClasses
	if !slices.Contains(allowed, class) && !slices.Contains(allowed, "*") {
		return problem.New(problem.Forbidden, "%s: the host class %s is not allowed in project %s", keyClass, quoted(class), quoted(req.ProjectName))
	}
	return nil
}

func printable(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) < 0
}
