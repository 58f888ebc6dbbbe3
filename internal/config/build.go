// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// build turns what the sources said into the typed configuration.
func (l *loader) build() *Config {
	cfg := &Config{path: l.path, Warnings: l.warnings, files: l.files}
	for _, s := range l.sections {
		if !s.family {
			l.fill(cfg, s, s.name, "")
			continue
		}
		members := l.members[s.name]
		if len(members) == 0 {
			members = l.addStanding(s)
		}
		slices.Sort(members)
		for _, member := range members {
			l.fill(cfg, s, s.name+":"+member, member)
		}
	}
	if cfg.Debug {
		cfg.LogLevel = slog.LevelDebug
	}
	return cfg
}

func (l *loader) addStanding(s section) []string {
	var members []string
	for _, m := range s.standing {
		members = append(members, m.name)
		for option, text := range m.values {
			l.entries[name{s.name + ":" + m.name, option}] = entry{text: text}
		}
	}
	return members
}

// fill sets all fields of one section.
func (l *loader) fill(cfg *Config, s section, full, member string) {
	target := s.target(cfg, member)
	for _, o := range s.options {
		r := resolver{loader: l}
		v := r.resolve(s, name{full, o.name})
		set := setting{section: full, option: o, text: v.text, origin: v.origin,
			masked: v.tainted || s.isSecret(o)}
		cfg.settings = append(cfg.settings, set)
		message, hint := r.problem, r.hint
		if message == "" {
			message, hint = l.set(o, o.field(target), v.text)
		}
		if v.inherited && l.failed[name{s.inherits, o.name}] {
			l.failed[name{full, o.name}] = true // said already
		}
		if message != "" && !l.failed[name{full, o.name}] {
			l.failed[name{full, o.name}] = true
			l.fail(cfg.problem(full, o.name, message, hint))
		}
	}
}

// set converts text into the field and judges it by the option's limits.
func (l *loader) set(o option, field any, text string) (message, hint string) {
	if _, number := measure(field); number && strings.TrimFunc(text, isSpace) == "" {
		text = o.initial // as oslo.config, an empty number is none
	}
	if o.path {
		text = l.absolute(text)
	}
	if err := assign(field, text); err != nil {
		message, hint, _ = strings.Cut(err.Error(), "; ")
		return message, hint
	}
	if message, hint := o.outside(field); message != "" {
		return message, hint
	}
	return o.notChosen(field)
}

// outside judges a number by min and max.
func (o option) outside(field any) (message, hint string) {
	value, number := measure(field)
	if !number {
		return "", ""
	}
	if o.min != "" && value < limit(field, o.min) {
		return "too small", "write " + o.min + " or more"
	}
	if o.max != "" && value > limit(field, o.max) {
		return "too big", "write " + o.max + " or less"
	}
	return "", ""
}

// limit converts a limit of the table to the number that measure returns.
func limit(field any, text string) float64 {
	scratch := reflect.New(reflect.TypeOf(field).Elem()).Interface()
	if err := assign(scratch, text); err != nil {
		panic(fmt.Sprintf("config: bad limit %q in the table: %v", text, err))
	}
	n, _ := measure(scratch)
	return n
}

// notChosen judges a text, or each of a list, by the choices.
func (o option) notChosen(field any) (message, hint string) {
	var values []string
	switch f := field.(type) {
	case *string:
		values = []string{*f}
	case *[]string:
		values = *f
	}
	for _, v := range values {
		if len(o.choices) > 0 && !slices.Contains(o.choices, v) {
			return "not one of " + strings.Join(o.choices, ", "), didYouMean(v, o.choices, "choose from these")
		}
	}
	return "", ""
}

// resolver finds the text of an option, following references.
type resolver struct {
	loader  *loader
	open    []name // being resolved, to find circles
	steps   int    // references followed
	problem string
	hint    string
}

type resolved struct {
	text    string
	tainted bool // holds the value of a secret option
	origin  origin

	inherited bool
}

func (r *resolver) resolve(s section, at name) resolved {
	e, set := r.loader.entries[at]
	if !set && s.inherits != "" && !r.loader.excluded(at) {
		return r.inherit(s, at)
	}
	if !set {
		o, _ := s.option(at.option)
		e = entry{text: o.initial}
	}
	v := resolved{text: e.text, origin: e.origin}
	if e.literal || !strings.Contains(v.text, "$") {
		return v
	}
	if slices.Contains(r.open, at) {
		r.refuse("refers to itself, through "+at.option, "break the circle, or write $$ for a dollar sign")
		return v
	}
	r.open = append(r.open, at)
	size := 0
	v.text = reference.ReplaceAllStringFunc(strings.ReplaceAll(v.text, `\$`, "$$"), func(match string) string {
		m := reference.FindStringSubmatch(match)
		if match == "$$" {
			return "$"
		}
		text, tainted := r.follow(s, at, cmp.Or(m[1], m[2]))
		v.tainted = v.tainted || tainted
		size += len(text)
		if r.steps++; size > maxValue || r.steps > maxReferences {
			r.refuse("too long, or too many references in each other", "use fewer references")
			return ""
		}
		return text
	})
	r.open = r.open[:len(r.open)-1]
	return v
}

// reference is Python's string.Template with oslo.config's idpattern.
var reference = regexp.MustCompile(`\$(?:\$|([_a-zA-Z][._a-zA-Z0-9]*)|\{([_a-zA-Z][._a-zA-Z0-9]*)\})`)

const maxReferences = 1000 // in one value, and in what it refers to

func (r *resolver) refuse(problem, hint string) {
	if r.problem == "" {
		r.problem, r.hint = problem, hint
	}
}

// follow finds what `to` refers to: an option of the same section or else of
// [DEFAULT], or section.option.
func (r *resolver) follow(s section, at name, to string) (text string, tainted bool) {
	if r.problem != "" {
		return "", false
	}
	type target struct {
		section section
		name    name
	}
	targets := []target{{s, name{at.section, to}}, {r.loader.sections[0], name{"DEFAULT", to}}}
	if sec, opt, dotted := strings.Cut(to, "."); dotted {
		targets = targets[:0]
		for _, other := range r.loader.sections {
			if other.name == sec && !other.family {
				targets = append(targets, target{other, name{sec, opt}})
			}
		}
	}
	for _, t := range targets {
		if o, ok := t.section.option(t.name.option); ok {
			v := r.resolve(t.section, t.name)
			return v.text, v.tainted || t.section.isSecret(o)
		}
	}
	// Not repeated: in a password it is a piece of the password.
	r.refuse("$ refers to an option that is not there",
		"write $$ for a dollar sign; $option and ${section.option} refer to options")
	return "", false
}

// inherit takes an unset option from the section that s inherits from.
func (r *resolver) inherit(s section, at name) resolved {
	for _, other := range r.loader.sections {
		if other.name == s.inherits {
			v := r.resolve(other, name{other.name, at.option})
			v.inherited = true
			return v
		}
	}
	return resolved{}
}

// instead are the options that say the same thing in another way: where one
// of a list is set, its option is not inherited.
var instead = map[string][]string{
	"username":                      {"user_id", "application_credential_id"},
	"user_id":                       {"username", "application_credential_id"},
	"user_domain_name":              {"user_domain_id", "user_id", "application_credential_id"},
	"user_domain_id":                {"user_domain_name", "user_id", "application_credential_id"},
	"password":                      {"application_credential_secret", "application_credential_id"},
	"project_name":                  {"project_id", "application_credential_secret"},
	"project_id":                    {"project_name", "application_credential_secret"},
	"project_domain_name":           {"project_domain_id", "project_id", "application_credential_secret"},
	"project_domain_id":             {"project_domain_name", "project_id", "application_credential_secret"},
	"application_credential_id":     {"application_credential_name", "password"},
	"application_credential_name":   {"application_credential_id", "password"},
	"application_credential_secret": {"password"},
}

// excluded tells whether the section itself sets something instead of at.
func (l *loader) excluded(at name) bool {
	return slices.ContainsFunc(instead[at.option], func(other string) bool {
		_, set := l.entries[name{at.section, other}]
		return set
	})
}

// problem places a message at an option.
func (c *Config) problem(section, option, message, hint string) Problem {
	p := Problem{File: c.path, Section: section, Option: option, Message: message, Hint: hint}
	for _, s := range c.settings {
		if s.section == section && s.option.name == option && s.origin.file != "" {
			p.File, p.Line = s.origin.file, s.origin.line
		}
	}
	return p
}
