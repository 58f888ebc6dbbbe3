// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

// Rules say which names and services instances may have.
type Rules struct {
	Domain           string // DNS domain of the instances
	ProjectSubdomain bool   // names are HOST.PROJECT.DOMAIN
	NormalizeProject bool   // the project's name is made a DNS label; else one that is none is refused
	// Protected are host names, and patterns with * for any number of characters, that no instance may have and no service may be on.
	Protected []string
	// Projects holds the rules of projects, by name or ID; other projects have Default.
	Projects map[string]ProjectRules
	Default  ProjectRules
	// Description begins the description of each host entry; the instance's ID follows. Default "OpenStack instance".
	Description string
}

// ProjectRules say what the instances of a project may ask for. The zero value allows no host class, and services only on an
// instance's own names.
type ProjectRules struct {
	AllowedClasses []string // values for ipa_hostclass; "*" allows any
	ServiceHosts   []string // further hosts that services may be on: names, and patterns with *
	AnyServiceHost bool     // services may be on any host that is not protected, another instance's too
}
