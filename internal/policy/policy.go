// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package policy decides who may do what, by rules in the language of
// oslo.policy, so that an operator writes for Muster the policy.yaml that the
// other OpenStack services read.
//
// Rules are parsed and linked once, into a tree that never changes. What
// oslo.policy finds only while it decides is an error when the rules are
// loaded: a rule that can't be read, a reference to a rule that isn't there, and
// references that go in a circle. A call that no rule speaks of is denied.
//
// The package never calls out: http: and https: checks are refused. It knows
// neither HTTP nor tokens; a caller of it describes who asks by Credentials and
// what is asked about by a Target.
//
// The language is that of python3-oslo.policy 4.0.0, and a test holds the
// decisions against that program's.
// https://docs.openstack.org/oslo.policy/latest/reference/api/oslo_policy.policy.html
package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// fallback is the rule that stands in for any that is not defined, where
// there is one of this name (oslo.policy's policy_default_rule).
const fallback = "default"

// Default is a documented rule that Muster asks for, or that its other
// defaults are made of.
type Default struct {
	Name        string
	Check       string // in the policy language
	Description string
	Operations  []Operation
	Scopes      []string // of the tokens it is meant for; a documentation only
}

// Operation is a call that a rule guards.
type Operation struct{ Method, Path string }

// Error is a fault in the rules. Load joins all that it finds (errors.Join).
type Error struct {
	File   string // empty: one of the defaults
	Line   int    // from 1; 0 where there is none
	Rule   string // may be empty
	Reason string
}

// Error names the place, the rule and the reason.
func (e *Error) Error() string {
	where := cmp.Or(e.File, "built-in policy")
	if e.Line > 0 {
		where = fmt.Sprintf("%s:%d", where, e.Line)
	}
	if e.Rule == "" {
		return where + ": " + e.Reason
	}
	return fmt.Sprintf("%s: rule %.80q: %s", where, e.Rule, e.Reason)
}

// rule is a named check and where it stands.
type rule struct {
	name  string
	file  string
	line  int
	check check
	refs  []*ruleCheck // the references within check
	state linkState
}

type linkState uint8

const (
	unvisited linkState = iota
	visiting
	linked
)

func (r *rule) fail(format string, args ...any) *Error {
	return &Error{File: r.file, Line: r.line, Rule: r.name, Reason: fmt.Sprintf(format, args...)}
}

// Enforcer holds a complete set of rules. It never changes: to reload, Load
// again and, if that succeeds, put the new Enforcer in place of the old one.
// All its methods may be called at once from many goroutines.
type Enforcer struct {
	rules    map[string]*rule
	defaults []Default
	warnings []string
}

// Load returns the defaults, overridden by the rules of a policy file. An empty
// path means no file.
//
// The error tells everything that is wrong, as joined *Error values. It wraps
// fs.ErrNotExist if there is no such file; whether that is an error is the
// caller's to say.
func Load(path string, defaults []Default) (*Enforcer, error) {
	var file []source
	if path != "" {
		var err error
		if file, err = readFile(path); err != nil {
			return nil, err
		}
	}
	return build(file, defaults)
}

// build parses the file's rules over the defaults, and links them.
func build(file []source, defaults []Default) (*Enforcer, error) {
	e := &Enforcer{rules: make(map[string]*rule, len(defaults)+len(file)), defaults: slices.Clone(defaults)}
	var faults []error
	for _, d := range defaults {
		if _, twice := e.rules[d.Name]; twice {
			faults = append(faults, &Error{Rule: d.Name, Reason: "defined twice"})
		}
		faults = append(faults, e.add(source{name: d.Name, text: d.Check}))
	}
	for _, s := range file {
		if r, twice := e.rules[s.name]; twice && r.file != "" {
			faults = append(faults, r.fail("defined again in line %d", s.line))
		}
		faults = append(faults, e.add(s))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if err := e.link(); err != nil {
		return nil, err
	}
	e.warnUnused()
	return e, nil
}

func (e *Enforcer) add(s source) error {
	r := &rule{name: s.name, file: s.file, line: s.line}
	e.rules[s.name] = r
	var err error
	if s.isList {
		r.check, err = parseList(s.list)
	} else {
		r.check, err = parseText(s.text)
	}
	if err != nil {
		return r.fail("%v", err)
	}
	r.refs = references(r.check, nil)
	return nil
}

// references collects the rule: checks of a tree.
func references(c check, refs []*ruleCheck) []*ruleCheck {
	switch c := c.(type) {
	case *ruleCheck:
		return append(refs, c)
	case notCheck:
		return references(c.inner, refs)
	case allOf:
		for _, inner := range c {
			refs = references(inner, refs)
		}
	case anyOf:
		for _, inner := range c {
			refs = references(inner, refs)
		}
	}
	return refs
}

// link points each reference to its rule, and finds those that have none and
// those that lead back to where they start.
func (e *Enforcer) link() error {
	var faults []error
	for _, r := range e.sorted() {
		for _, ref := range r.refs {
			to, found := e.rules[ref.name]
			if !found {
				to, found = e.rules[fallback]
				if found {
					e.warnings = append(e.warnings, r.fail("refers to rule:%s, which is not defined; %q decides instead",
						ref.name, fallback).Error())
				}
			}
			if !found {
				faults = append(faults, r.fail("refers to rule:%.80s, which is not defined", ref.name))
			}
			ref.to = to
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	for _, r := range e.sorted() {
		faults = append(faults, r.findCircle(nil))
	}
	return errors.Join(faults...)
}

// findCircle goes through the rules that r refers to. A circle is reported
// once, at the rule where it closes.
func (r *rule) findCircle(path []string) error {
	switch r.state {
	case linked:
		return nil
	case visiting:
		start := slices.Index(path, r.name)
		return r.fail("refers to itself: %s", strings.Join(append(path[start:], r.name), " -> "))
	}
	r.state = visiting
	defer func() { r.state = linked }()
	for _, ref := range r.refs {
		if err := ref.to.findCircle(append(path, r.name)); err != nil {
			return err
		}
	}
	return nil
}

// warnUnused tells of rules of the file that nothing asks for, which is how a
// misspelt name shows.
func (e *Enforcer) warnUnused() {
	used := map[string]bool{fallback: true}
	for _, d := range e.defaults {
		used[d.Name] = true
	}
	for _, r := range e.rules {
		for _, ref := range r.refs {
			used[ref.name] = true
		}
	}
	for _, r := range e.sorted() {
		if !used[r.name] {
			e.warnings = append(e.warnings,
				r.fail("Muster has no such rule, and no other refers to it; is the name right?").Error())
		}
	}
}

// sorted returns the rules by name, for an order that does not change.
func (e *Enforcer) sorted() []*rule {
	return slices.SortedFunc(maps.Values(e.rules), func(a, b *rule) int { return cmp.Compare(a.name, b.name) })
}

// Warnings returns what is worth telling to an operator and harms nothing:
// names that Muster does not know, and references that end at the rule
// "default".
func (e *Enforcer) Warnings() []string { return slices.Clone(e.warnings) }

// Allow says whether the rule of this name lets the caller act on the target.
// A name without a rule is decided by the rule "default", and denied if there
// is none.
func (e *Enforcer) Allow(name string, creds Credentials, target Target) bool {
	r, ok := e.rules[name]
	if !ok {
		if r, ok = e.rules[fallback]; !ok {
			return false
		}
	}
	return r.check.eval(creds, target) == allow
}
