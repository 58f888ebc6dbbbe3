// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone

import (
	"regexp"
	"strings"
)

// AccessRule is a call that an application credential may be used for
// (https://docs.openstack.org/keystone/latest/user/application_credentials.html#access-rules).
type AccessRule struct {
	// Service is the type of a service in the catalogue.
	Service string `json:"service"`
	Method  string `json:"method"`
	// Path is that of the request. "*" and "{name}" stand for a text without a
	// slash, and "**" for any.
	Path string `json:"path"`
}

// Allows reports whether the rule is for a call of a service of this type.
func (r AccessRule) Allows(service, method, path string) bool {
	if r.Service != service || r.Method != method {
		return false
	}
	pattern, err := regexp.Compile(r.pattern())
	return err == nil && pattern.MatchString(path) // an error: the rule is not in UTF-8
}

// wildcards are what stands for something else in a rule's path.
var wildcards = regexp.MustCompile(`\*\*|\*|\{[^{}]*\}`)

// pattern is the path as a regular expression.
func (r AccessRule) pattern() string {
	var b strings.Builder
	rest := r.Path
	for _, at := range wildcards.FindAllStringIndex(r.Path, -1) {
		done := len(r.Path) - len(rest)
		b.WriteString(regexp.QuoteMeta(r.Path[done:at[0]]))
		if r.Path[at[0]:at[1]] == "**" {
			b.WriteString(".*")
		} else {
			b.WriteString("[^/]+")
		}
		rest = r.Path[at[1]:]
	}
	b.WriteString(regexp.QuoteMeta(rest))
	return `(?s)\A` + b.String() + `\z`
}
